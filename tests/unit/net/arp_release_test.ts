// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import * as route from "../../../netbase/route.ts";
import { ARP_QUEUE_LIMITS, ARP_QUEUE_MILLIS, REMIND_MILLIS } from "../../../tiles/net/arp_queue.ts";
import { ETH0, ETH1, FRAMES, ip, PEER_MAC, REQUEST, Room } from "./room.ts";
import fc from "../property.ts";

const PEER = REQUEST.source;
const GATEWAY = ip("198.18.0.254");

/** A payload that says which datagram it is. */
function numbered(i: number): Uint8Array {
  return Uint8Array.of(i >>> 8, i & 0xff);
}

/** The numbers of the datagrams that left by an interface. */
function numbers(room: Room, ifindex = ETH0): number[] {
  return room.sent(ifindex).map(({ payload }) => payload[0] * 256 + payload[1]);
}

Deno.test("the first answers to a new peer wait for its address and then leave in order", () => {
  const room = new Room();
  for (let i = 0; i < 5; i++) room.answer({ payload: numbered(i) });
  assert.deepEqual(numbers(room), []);
  assert.deepEqual(room.solicited(), [[ETH0, PEER]]);
  assert.deepEqual(room.moved(), { tx_accepted: 5, tx_queued: 5, solicits: 1 });
  room.neighbor(PEER);
  room.apps[0].answer({ payload: numbered(5) });
  room.turn();
  assert.deepEqual(numbers(room), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_frames: 6 });
});

Deno.test("what waits leaves before what is newer, even if the neighbour appears in between", () => {
  const room = new Room();
  room.answer({ payload: numbered(0) });
  // Netbase has the neighbour already, but the generation has not moved yet.
  const { macHead, macTail } = { macHead: 0xccbbaa02, macTail: 0xeedd };
  room.writer.neighbors.set({
    ifindex: ETH0,
    address: PEER,
    state: 2,
    flags: 0,
    macHead,
    macTail,
  });
  room.answer({ payload: numbered(1) });
  assert.deepEqual(numbers(room), [0, 1]);
});

Deno.test("what waits too long is dropped, counted, and its frame is free again", () => {
  const room = new Room();
  room.answer({});
  room.pass(ARP_QUEUE_MILLIS - 1);
  assert.deepEqual(room.moved(), { tx_accepted: 1, tx_queued: 1, solicits: 2 });
  assert.equal(room.tile.nextDue!(room.now), 1);
  room.pass(1);
  assert.deepEqual(room.moved(), { tx_drop_neighbor_unresolved: 1 });
  assert.equal(room.tile.nextDue!(room.now), -1);
  room.neighbor(PEER);
  room.turn();
  assert.deepEqual(numbers(room), []);
});

Deno.test("one neighbour holds a few datagrams, a gateway many, and all together are bounded", () => {
  const room = new Room();
  for (let i = 0; i < 40; i++) room.answer({});
  assert.deepEqual(room.moved(), {
    tx_accepted: 40,
    tx_queued: ARP_QUEUE_LIMITS.perNeighbor,
    tx_drop_arp_queue_full: 40 - ARP_QUEUE_LIMITS.perNeighbor,
    solicits: 1,
  });
  for (let i = 0; i < 400; i++) room.answer({ destination: ip("8.8.8.8") + i });
  const { tx_queued } = room.moved();
  assert.equal(tx_queued, ARP_QUEUE_LIMITS.total / 2);
  room.pass(ARP_QUEUE_MILLIS);
  assert.equal(room.freeFrames(), FRAMES - room.xsk.owned.size, "all their frames are free again");
});

Deno.test("a flood of strangers does not cost a gateway's or a returning peer's datagrams", () => {
  const room = new Room();
  const returning = ip("198.18.0.200");
  room.answer({ destination: returning });
  room.pass(ARP_QUEUE_MILLIS);
  // Within the time that it is remembered for: it was asked for again just now.
  room.answer({ destination: returning, payload: numbered(1) });
  room.answer({ destination: ip("8.8.8.8"), payload: numbered(2) });
  room.route({ destination: ip("10.0.0.0"), prefixLength: 8, ifindex: ETH0, scope: 253 });
  for (let i = 0; i < 3000; i++) room.answer({ destination: ip("10.0.0.0") + i * 77 });
  room.neighbor(returning);
  room.neighbor(GATEWAY);
  room.turn();
  assert.deepEqual(numbers(room).toSorted(), [1, 2]);
  const { accepted, accounted } = room.balance();
  assert.equal(
    accepted - accounted,
    ARP_QUEUE_LIMITS.total - 2,
    "the rest of the queue is strangers",
  );
});

Deno.test("what waits for a gateway leaves by another way when the route moves", () => {
  const room = new Room();
  room.neighbor(ip("198.19.0.2"), { ifindex: ETH1 });
  room.answer({ destination: ip("8.8.8.8"), source: 0, payload: numbered(3) });
  room.route({
    destination: ip("8.8.8.8"),
    prefixLength: 32,
    gateway: ip("198.19.0.2"),
    ifindex: ETH1,
  });
  room.turn();
  const [frame] = room.sent(ETH1);
  assert.equal(frame.source, ip("198.19.0.1"), "with the source of the new way");
  assert.deepEqual(frame.destinationMac, PEER_MAC);
});

Deno.test("what waits is dropped by the route's reason when that turns into a blackhole", () => {
  const room = new Room();
  room.answer({ destination: ip("8.8.8.8") });
  room.moved();
  room.route({ type: route.RTN_BLACKHOLE, destination: ip("8.8.8.8"), prefixLength: 32 });
  room.turn();
  assert.deepEqual(room.moved(), { tx_drop_blackhole: 1 });
});

Deno.test("what waits goes by the kernel when the route moves to an interface that is not ours", () => {
  const room = new Room();
  const destination = ip("8.8.8.8");
  const free = room.freeFrames();
  room.answer({ destination, payload: numbered(4) });
  assert.equal(room.freeFrames(), free - 1, "it waits in a frame");
  room.route({ destination, prefixLength: 32, gateway: ip("192.0.2.9"), ifindex: 5 });
  room.turn();
  assert.deepEqual(room.udp.sent.map(({ payload, fd }) => [fd, ...payload]), [[1007, 0, 4]]);
  assert.equal(room.freeFrames(), free, "whose frame is free when the kernel has it");
});

Deno.test("what waits and no longer fits the route's MTU is left to the kernel, or dropped as such", () => {
  for (const kernelSockets of [true, false]) {
    const room = new Room({ kernelSockets });
    const to = { destination: ip("8.8.8.8"), prefixLength: 32, gateway: GATEWAY, ifindex: ETH0 };
    const payloads = [73, 72].map((length) => new Uint8Array(length).fill(length));
    for (const payload of payloads) room.answer({ destination: to.destination, payload });
    assert.deepEqual(room.moved(), { tx_accepted: 2, tx_queued: 2, solicits: 1 });
    room.route({ ...to, mtu: 100 });
    room.neighbor(GATEWAY);
    room.turn();
    assert.deepEqual(room.sent(ETH0).map(({ payload }) => payload), [payloads[1]]);
    assert.deepEqual(
      room.udp.sent.map(({ payload }) => payload),
      kernelSockets ? [payloads[0]] : [],
    );
    const counter = kernelSockets ? "tx_socket" : "tx_drop_exceeds_mtu";
    assert.deepEqual(room.moved(), { tx_frames: 1, [counter]: 1 });
  }
});

Deno.test("who is waited for is asked for again after a while, in case nobody heard", () => {
  const room = new Room();
  room.answer({});
  assert.deepEqual(room.solicited(), [[ETH0, PEER]]);
  assert.equal(room.tile.nextDue!(room.now), REMIND_MILLIS);
  room.pass(REMIND_MILLIS);
  assert.deepEqual(room.solicited(), [[ETH0, PEER]]);
});

Deno.test("a neighbour that was found and lost again is asked for at once", () => {
  const room = new Room();
  room.answer({});
  room.neighbor(PEER);
  room.turn();
  room.writer.neighbors.remove(ETH0, PEER);
  room.writer.commit();
  room.answer({});
  assert.deepEqual(room.solicited(), [[ETH0, PEER], [ETH0, PEER]]);
});

Deno.test("what waits goes on waiting, for the new gateway, when that is unknown too", () => {
  const room = new Room();
  const destination = ip("8.8.8.8");
  room.answer({ destination, payload: numbered(1) });
  room.pass(500);
  room.route({ destination, prefixLength: 32, gateway: ip("198.19.0.9"), ifindex: ETH1 });
  room.turn();
  assert.deepEqual(room.solicited(), [[ETH0, GATEWAY], [ETH1, ip("198.19.0.9")]]);
  room.pass(ARP_QUEUE_MILLIS - 501);
  assert.equal(room.tile.nextDue!(room.now), 1, "its time goes on from the start");
  room.neighbor(ip("198.19.0.9"), { ifindex: ETH1 });
  room.turn();
  assert.deepEqual(numbers(room, ETH1), [1]);
});

Deno.test("when the tile closes, what waits is counted", () => {
  const room = new Room();
  room.answer({});
  room.tile.close!();
  const { accepted, accounted } = room.balance();
  assert.equal(accounted, accepted);
});

Deno.test("answers, neighbours, routes and time in any order: sent + dropped + held = accepted", () => {
  const peers = Array.from({ length: 6 }, (_, i) => ip("198.18.0.2") + i);
  const far = ip("8.8.8.8");
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ to: fc.constantFrom(...peers, far, ip("127.0.0.1")) }) },
    { weight: 2, arbitrary: fc.record({ resolves: fc.constantFrom(...peers, GATEWAY) }) },
    { weight: 1, arbitrary: fc.record({ vanishes: fc.constantFrom(...peers, GATEWAY) }) },
    { weight: 1, arbitrary: fc.record({ blackhole: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ passes: fc.nat(4000) }) },
  );
  const blackhole = {
    ...route.emptyRoute(),
    type: route.RTN_BLACKHOLE,
    destination: far,
    prefixLength: 32,
  };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
      const room = new Room();
      const order = new Map<number, number[]>();
      steps.forEach((step, i) => {
        if ("to" in step) room.answer({ destination: step.to, payload: numbered(i) });
        else if ("resolves" in step) room.neighbor(step.resolves);
        else if ("vanishes" in step) {
          room.writer.neighbors.remove(ETH0, step.vanishes);
          room.writer.commit();
        } else if ("passes" in step) room.pass(step.passes);
        else if (step.blackhole) room.route(blackhole);
        else {
          room.writer.rib.remove(blackhole);
          room.writer.commit();
        }
        room.turn();
        for (const { destination, payload } of room.sent(ETH0)) {
          const list = order.get(destination) ?? [];
          list.push(payload[0] * 256 + payload[1]);
          order.set(destination, list);
        }
      });
      for (const list of order.values()) {
        assert.deepEqual(list, list.toSorted((a, b) => a - b), "in order for each destination");
      }
      room.pass(10_000);
      const { accepted, accounted } = room.balance();
      assert.equal(accounted, accepted);
    }),
    { numRuns: 60 },
  );
});
