// SPDX-License-Identifier: Apache-2.0
/** A net tile that takes over from another: after an orderly leave, after a kill, on old and new sockets. */

import assert from "node:assert/strict";
import { heapView, i32, u8, type View } from "../../../ffi/region.ts";
import { frameRecordBytes, RingsLost } from "../../../tiles/net/handover.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import { Descriptor, REFLECTED } from "../../../tiles/runtime/link.ts";
import fc from "../property.ts";
import { Killed } from "./fakes.ts";
import { buildFrame } from "./frames.ts";
import { ANSWER, known } from "./places.ts";
import { ETH0, FRAMES, ip, REQUEST, Room, SLOT } from "./room.ts";

const FD = 1007;
const FILLED = 96;
const SLOTS = Object.values(SLOT);
const peer = (i: number) => ip("198.18.0.2") + i;

/** A room whose peers are known, and the requests that its app has not passed. */
function quietRoom(options: ConstructorParameters<typeof Room>[0] = {}): Room {
  const room = new Room(options);
  known(room);
  return room;
}

/** From now on what is sent is off the transmit ring, and not on the completion ring. */
function hide(room: Room): void {
  for (const slot of SLOTS) Object.assign(room.xsk.rings(slot), { slow: 9, hides: true });
}

/** What may happen to a host with a net tile. */
const traffic = [
  { weight: 6, arbitrary: fc.record({ receive: fc.constantFrom(7, 7, 9, 53, 80) }) },
  { weight: 1, arbitrary: fc.record({ junk: fc.uint8Array({ maxLength: 100 }) }) },
  { weight: 4, arbitrary: fc.record({ answer: fc.nat(20) }) },
  { weight: 3, arbitrary: fc.record({ reflect: fc.nat(66) }) },
  { weight: 2, arbitrary: fc.record({ take: fc.nat(1) }) },
  { weight: 1, arbitrary: fc.record({ resolve: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ full: fc.nat(40) }) },
  { weight: 1, arbitrary: fc.record({ slow: fc.nat(8) }) },
  { weight: 1, arbitrary: fc.record({ pass: fc.nat(4000) }) },
  { weight: 1, arbitrary: fc.record({ socket: fc.nat(3000) }) },
] as const;
/** The world around a tile, and what it has counted itself. */
class World {
  readonly room = new Room();
  came = 0;
  taken = 0;
  published = 0;

  step(step: Partial<Record<string, number | Uint8Array>>): void {
    const { room } = this;
    const of = (name: string) => step[name] as number;
    if ("receive" in step) this.deliver(buildFrame({ ...REQUEST, destinationPort: of("receive") }));
    else if ("junk" in step) this.deliver(step.junk as Uint8Array);
    else if ("answer" in step) {
      this.publish(() => room.apps[0].answer({ destination: peer(of("answer")) }));
    } else if ("reflect" in step) this.publish(() => room.apps[0].raw([of("reflect"), REFLECTED]));
    else if ("take" in step) this.taken += room.apps[of("take")].take().length;
    else if ("resolve" in step) room.neighbor(peer(of("resolve")));
    else if ("full" in step) room.xsk.rings(SLOT.eth0).room = of("full");
    else if ("slow" in step) room.xsk.rings(SLOT.eth0).slow = of("slow");
    else if ("pass" in step) room.pass(of("pass"));
    else if ("socket" in step) {
      this.came++;
      room.udp.arrive(FD, { ...REQUEST, payload: new Uint8Array(of("socket")) });
      room.tile.wait(0);
    }
  }

  deliver(frame: Uint8Array): void {
    if (this.room.xsk.deliver(SLOT.eth0, frame)) this.came++;
  }

  publish(answer: () => void): void {
    this.published++;
    answer();
  }

  /** Lets everything go; what is not in the fill rings is free then. */
  rest(): void {
    const { room } = this;
    for (const slot of SLOTS) Object.assign(room.xsk.rings(slot), { room: Infinity, slow: 0 });
    for (let i = 0; i < 3; i++) {
      room.tile.wait(0);
      room.turn();
      for (const app of room.apps) this.taken += app.take().length;
      room.pass(10_000);
    }
    room.turn();
    assert.equal(room.xsk.owned.size, FILLED, "three full fill rings");
    assert.equal(room.freeFrames(), FRAMES - FILLED);
  }
}

Deno.test("over orderly handovers no frame is lost or doubled, and every datagram is accounted for", () => {
  const step = fc.oneof(...traffic, { weight: 4, arbitrary: fc.constant({ handOver: 1 }) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200, size: "max" }), (steps) => {
      const world = new World();
      const { room } = world;
      for (const step of steps) {
        if ("handOver" in step) room.handOver();
        else world.step(step);
        // The fake rings fail when a frame is given to the kernel that it has already.
        room.tile.turn();
      }
      world.rest();
      const { received, accounted, delivered } = room.received();
      assert.equal(received, world.came);
      assert.equal(accounted, received, "delivered + dropped = received");
      assert.equal(delivered, world.taken);
      const sending = room.balance();
      assert.equal(sending.accepted, world.published);
      assert.equal(sending.accounted, world.published, "sent + dropped = accepted");
      const sent = SLOTS.flatMap((slot) => room.xsk.sent(slot)).length;
      assert.equal(room.counters[NET.index.tx_frames], sent);
    }),
    { numRuns: 40 },
  );
});

Deno.test("a tile that is killed in any call to the kernel leaves every frame to its successor", () => {
  const step = fc.oneof(...traffic, {
    weight: 4,
    arbitrary: fc.record({ calls: fc.nat(30), isOrderly: fc.boolean() }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200, size: "max" }), (steps) => {
      const world = new World();
      const { room } = world;
      const survive = (act: () => void) => {
        try {
          act();
        } catch (error) {
          if (!(error instanceof Killed)) throw error;
          room.xsk.callsLeft = Infinity;
          room.handOver({ isKilled: true });
        }
      };
      for (const step of steps) {
        if (!("calls" in step)) survive(() => world.step(step as never));
        else if (step.isOrderly) survive(() => room.handOver());
        else room.xsk.callsLeft = step.calls;
        survive(() => room.tile.turn());
      }
      room.xsk.callsLeft = Infinity;
      world.rest();
    }),
    { numRuns: 40 },
  );
});

Deno.test("what apps were asked is theirs to answer and to send back under the next tile", () => {
  for (const ports of [[[7]], [[7], [9, 53]]]) {
    const room = quietRoom({ ports });
    const [app] = room.apps;
    for (let i = 0; i < 3; i++) room.receive(REQUEST);
    room.handOver();
    room.turn();
    const { words } = app.consumer;
    const place = (i: number) => (app.consumer.slot(i) - app.consumer.slot(0)) >>> 3;
    assert.equal(
      words[app.consumer.slot(0) + Descriptor.length] & 0xffff,
      REQUEST.payload.length,
    );
    app.raw([place(0), REFLECTED]);
    // By the number of the request that it answers; its own addresses do not count.
    app.raw([0, 0, 1, 2, (7 << 16) | 9, place(1) + 1]);
    room.turn();
    const sent = room.sent(ETH0);
    assert.deepEqual(sent[0], ANSWER);
    assert.deepEqual(sent[1], { ...ANSWER, payload: new Uint8Array() });
    app.raw([place(0), REFLECTED]);
    room.turn();
    assert.equal(room.counters[NET.index.tx_drop_invalid_descriptor], 1, "it was sent back before");
    app.take();
    room.turn();
    assert.equal(room.freeFrames(), FRAMES - FILLED);
  }
});

Deno.test("what waits for a neighbour or for room is dropped for its usual reason when a tile leaves", () => {
  const room = quietRoom();
  room.answer({ destination: peer(5) });
  for (const slot of SLOTS) room.xsk.rings(slot).room = 0;
  room.apps[0].answer({});
  room.tile.turn();
  room.moved();
  room.handOver();
  assert.deepEqual(room.moved(), { tx_drop_neighbor_unresolved: 1, tx_drop_ring_full: 1 });
  assert.equal(room.counters[NET.index.frames_free], FRAMES - FILLED);
});

Deno.test("frames of an app that no longer exists are free", () => {
  const room = quietRoom();
  room.receive({ ...REQUEST, destinationPort: 9 });
  room.receive(REQUEST);
  room.handOver({ apps: [room.apps[0]] });
  assert.equal(room.freeFrames(), FRAMES - FILLED - 1);
  room.apps[0].take();
  room.turn();
  assert.equal(room.freeFrames(), FRAMES - FILLED);
});

Deno.test("on sockets that were opened anew all frames are free but those out with apps", () => {
  for (const isKilled of [false, true]) {
    const room = quietRoom();
    for (const slot of SLOTS) room.xsk.rings(slot).slow = 9;
    room.answer({});
    room.receive(REQUEST);
    room.handOver({ isKilled, isCold: true });
    assert.equal(room.xsk.owned.size, FILLED);
    assert.equal(room.freeFrames(), FRAMES - FILLED - 1);
  }
});

Deno.test("an orderly handover needs to see no frame that a driver has", () => {
  const room = quietRoom();
  const { fill, posted } = room.xsk.rings(SLOT.eth0);
  posted.push(...fill.splice(0, 20));
  hide(room);
  room.answer({});
  room.handOver();
  assert.equal(room.freeFrames(), FRAMES - FILLED - 1);
  room.receive(REQUEST);
  assert.equal(room.apps[0].take().length, 1);
});

Deno.test("after a kill the rings are lost where the kernel keeps frames that are in none", () => {
  const room = quietRoom();
  const rings = room.xsk.rings(SLOT.eth0);
  rings.posted.push(rings.fill.shift()!);
  assert.throws(() => room.handOver({ isKilled: true }), RingsLost);
  rings.fill.unshift(rings.posted.shift()!);
  hide(room);
  room.answer({});
  assert.throws(() => room.handOver({ isKilled: true }), RingsLost);
  room.handOver({ isKilled: true, isCold: true });
  assert.equal(room.freeFrames(), FRAMES - FILLED);
});

Deno.test("after a kill what the kernel is sending and receiving is waited for", () => {
  const room = quietRoom();
  const rings = room.xsk.rings(SLOT.eth0);
  hide(room);
  room.answer({});
  room.answer({});
  rings.posted.push(...rings.fill.splice(0, 2));
  const cursors = room.xsk.cursors.bind(room.xsk);
  let polls = 0;
  room.xsk.cursors = (slot, out) => {
    if (++polls > 12) {
      if (rings.posted.length > 0) room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
      else room.xsk.rings(slot).slow = 0;
    }
    cursors(slot, out);
  };
  room.handOver({ isKilled: true });
  room.turn();
  assert.equal(room.apps[0].take().length, 2);
  room.turn();
  assert.equal(room.xsk.owned.size, FILLED);
  assert.equal(room.freeFrames(), FRAMES - FILLED);
});

Deno.test("after a kill frames that travel between two rings are seen in one of them", () => {
  const room = quietRoom();
  const rings = room.xsk.rings(SLOT.eth0);
  const visible = room.xsk.visible.bind(room.xsk);
  let looks = 0;
  room.xsk.visible = (slot, out) => {
    // The kernel takes a frame just before each look at this socket, and fills it some time later.
    if (slot === SLOT.eth0 && looks++ === 1) rings.posted.push(rings.fill.shift()!);
    return visible(slot, out);
  };
  room.handOver({ isKilled: true });
  assert.equal(looks, 2);
  assert.equal(room.freeFrames(), FRAMES - FILLED);
  room.receive(REQUEST);
  assert.equal(room.apps[0].take().length, 1);
});

Deno.test("a frame is one app's alone, whatever is written of the requests that are out", () => {
  const room = quietRoom();
  for (let i = 0; i < 4; i++) room.receive(REQUEST);
  room.tile.relinquish!();
  // Offsets of the payloads of requests that are out, four words each behind 64 bytes.
  const words = i32(room.setup.apps[0].requests);
  words[20] = words[16];
  words[24] = 0x7fff_0000;
  room.handOver({ isKilled: true });
  assert.equal(room.freeFrames(), FRAMES - FILLED - 2);
  room.apps[0].take();
  room.turn();
  assert.equal(room.freeFrames(), FRAMES - FILLED);
});

Deno.test("an app that keeps large datagrams has no larger share of them under the next tile", () => {
  const room = quietRoom();
  const large = { ...REQUEST, payload: new Uint8Array(5000) };
  const arrive = (count: number) => {
    for (let i = 0; i < count; i++) room.udp.arrive(FD, large);
    room.tile.wait(0);
    room.turn();
  };
  arrive(20);
  const { rx_delivered: kept } = room.moved();
  room.handOver();
  arrive(1);
  assert.deepEqual(room.moved(), { rx_socket: 1, rx_drop_no_buffer: 1 });
  assert.equal(room.apps[0].take().length, kept);
  room.turn();
  arrive(20);
  assert.equal(room.moved().rx_delivered, kept);
});

Deno.test("a record counts once: after a kill that follows, frames are where the rings say", () => {
  const room = quietRoom();
  room.handOver();
  const frames = room.xsk.rings(SLOT.eth0).fill.slice();
  for (let i = 0; i < 5; i++) room.receive(REQUEST);
  assert.notDeepEqual(room.xsk.rings(SLOT.eth0).fill, frames);
  room.handOver({ isKilled: true });
  assert.equal(room.freeFrames(), FRAMES - FILLED - 5);
});

Deno.test("a record that does not fit what the kernel has is not gone by", () => {
  const room = quietRoom();
  room.tile.relinquish!();
  u8(room.setup.record).subarray(64).fill(0xff);
  assert.throws(() => room.handOver({ isKilled: true }), RingsLost);
});

Deno.test("sockets that cannot be mapped are lost before anything else is touched", () => {
  const room = quietRoom();
  room.xsk.adopt = () => -95;
  assert.throws(() => room.handOver(), (error) => error instanceof RingsLost);
});

Deno.test("until its turn a tile touches nothing that another may be using", async () => {
  const lasting = (room: Room): View[] => [
    ...[room.region, room.setup.umem, room.setup.record],
    ...room.setup.apps.flatMap((
      { net, app, requests, recentPeers },
    ) => [net, app, requests, recentPeers]),
    ...room.setup.inline!.flatMap((
      { region, metrics, recentPeers },
    ) => [region, metrics, recentPeers]),
  ];
  const inline = await Room.inline({
    receive(requests, out) {
      // What it has reserved is not sent, and is its own until the tile leaves.
      while (requests.next()) out.reserve(1400);
    },
  });
  for (const room of [quietRoom(), inline]) {
    room.receive(REQUEST);
    const before = lasting(room).map((view) => u8(view).slice());
    room.xsk.callsLeft = 0;
    await room.handOverInTurn(() => {
      assert.deepEqual(lasting(room).map((view) => u8(view).slice()), before);
      room.xsk.callsLeft = Infinity;
    });
    for (const app of room.apps) app.take();
    room.turn();
    assert.equal(room.freeFrames(), FRAMES - FILLED);
  }
});

Deno.test("an app may still send to whom its predecessor tile heard from", () => {
  const room = quietRoom({ sendTo: [] });
  room.receive(REQUEST);
  room.handOver();
  room.answer({});
  assert.equal(room.sent(ETH0).length, 1);
  room.answer({ destination: peer(9) });
  assert.equal(room.counters[NET.index.tx_drop_unsolicited], 1);
});

Deno.test("what the kernel and links have counted goes on, on old sockets and on new ones", () => {
  const room = quietRoom();
  const totals = new Map<number, bigint>();
  const follow = () => {
    room.xsk.statistics = (slot: number, out: BigUint64Array) => {
      out[0] = totals.get(slot) ?? 0n;
      return 0;
    };
  };
  const counted = () => {
    room.pass(100);
    return [NET.index.xdp_rx_drop_kernel, NET.index.link_corrupt].map((i) => room.counters[i]);
  };
  follow();
  totals.set(SLOT.eth0, 5n);
  room.apps[0].raw([]);
  new Uint32Array(room.apps[0].region.buffer)[0] += 1000;
  room.turn();
  const [dropped, corrupt] = counted();
  assert.equal(dropped, 5);
  assert.ok(corrupt > 0);
  new Uint32Array(room.apps[0].region.buffer)[0] -= 1000;
  room.turn();
  const before = counted();
  room.handOver();
  totals.set(SLOT.eth0, 7n);
  assert.deepEqual(counted(), [7, before[1]]);
  room.tile.relinquish!();
  totals.clear();
  room.handOver({ isKilled: true, isCold: true });
  follow();
  assert.deepEqual(counted(), [7, before[1]]);
  totals.set(SLOT.eth1, 2n);
  assert.deepEqual(counted(), [9, before[1]]);
});

Deno.test("a record too small for its frames is refused", () => {
  const { setup } = new Room();
  const room = new Room();
  room.setup = { ...setup, record: heapView(frameRecordBytes(FRAMES) - 8) };
  assert.throws(() => room.handOver({ isCold: true }), RangeError);
});
