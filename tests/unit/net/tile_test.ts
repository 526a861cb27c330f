// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { BURST } from "../../../ffi/shared.ts";
import { Address } from "../../../tiles/app/address.ts";
import { create, framesNeeded } from "../../../tiles/net/tile.ts";
import { ControlWriter } from "../../../tiles/runtime/control.ts";
import { NET } from "../../../tiles/runtime/counters.ts";
import fc from "../property.ts";
import { buildFrame } from "./frames.ts";
import { DEEP, DEEP_MILLIS, ETH0, FRAMES, ip, PEER_MAC, REQUEST, Room, SLOT } from "./room.ts";

const FD = 1007;

Deno.test("a UMEM too small for all rings, links and the ARP queue is refused", () => {
  const room = new Room();
  const { setup } = room;
  const needed = framesNeeded(setup);
  assert.throws(() =>
    create({
      setup: { ...setup, frames: needed - 1 },
      region: null as never,
      libraries: { tile: null as never, xsk: room.xsk, udp: room.udp },
      log() {},
      ask() {},
    }), RangeError);
});

Deno.test("fill rings are full from the start, and topped up while apps keep frames", () => {
  const room = new Room();
  const filled = () => Object.values(SLOT).map((slot) => room.xsk.rings(slot).fill.length);
  assert.deepEqual(filled(), [32, 32, 32]);
  for (let i = 0; i < 64; i++) room.receive(REQUEST);
  assert.deepEqual(filled(), [32, 32, 32]);
});

Deno.test("while a successor starts, and for a while at first, the kernel has all frames to receive", () => {
  const room = new Room({ isDeep: true });
  const filled = () => room.xsk.rings(SLOT.eth0).fill.length;
  const control = new ControlWriter(room.setup.control);
  /** Its requests pass, so that their frames come back. */
  const ask = (count: number) => {
    for (let i = 0; i < count; i++) {
      room.receive(REQUEST);
      room.apps[0].take();
    }
  };
  assert.equal(filled(), DEEP);
  room.pass(0);
  room.pass(DEEP_MILLIS);
  ask(DEEP);
  assert.equal(filled(), 32);

  control.changing = true;
  room.pass(DEEP_MILLIS);
  room.turn();
  assert.equal(filled(), DEEP);
  room.pass(DEEP_MILLIS);
  ask(DEEP);
  assert.equal(filled(), DEEP);

  control.changing = false;
  room.pass(1);
  room.turn();
  assert.equal(filled(), DEEP, "the start of a handover is not the end of it");
  room.pass(DEEP_MILLIS);
  ask(DEEP);
  assert.equal(filled(), 32);
});

Deno.test("during a handover requests wait in the rings for an app, but not for long", () => {
  const room = new Room({ isDeep: true });
  const [app] = room.apps;
  const waiting = () => room.xsk.rings(SLOT.eth0).rx.length;
  const { rx_drop_app_link_full } = NET.index;
  // Half of the link, and one.
  for (let i = 0; i < 33; i++) room.receive(REQUEST);
  for (let i = 0; i < 40; i++) room.receive({ ...REQUEST, destinationPort: 9 });
  assert.equal(waiting(), 40);
  assert.equal(app.take().length, 33);
  room.turn();
  assert.equal(waiting(), 0);
  assert.equal(room.apps[1].take().length, 40);

  for (let i = 0; i < 33; i++) room.receive(REQUEST);
  room.receive({ ...REQUEST, destinationPort: 9 });
  const end = performance.now() + 1000;
  while (waiting() > 0 && performance.now() < end) room.tile.turn();
  assert.equal(waiting(), 0, "an app that stands still costs itself, and no other app");
  for (let i = 0; i < 40; i++) room.receive(REQUEST);
  assert.equal(room.counters[rx_drop_app_link_full], 33 + 40 - 64);
  room.turn();
  assert.equal(room.apps[1].take().length, 1);
});

Deno.test("of thousands of kernel sockets all that have something are heard, each time", () => {
  const ports = Array.from({ length: 4096 }, (_, i) => 5000 + i);
  const room = new Room({ ports: [ports] });
  // More than are looked at together.
  const asked = [...ports.slice(0, 50), ...ports.slice(-50)];
  for (const round of [1, 2]) {
    const datagram = { source: ip("127.0.0.1"), destination: ip("127.0.0.1"), sourcePort: round };
    for (const destinationPort of asked) {
      const payload = new Uint8Array(round);
      room.udp.arrive(1000 + destinationPort, { ...datagram, destinationPort, payload });
    }
    const heard: number[] = [];
    for (let turns = 0; turns < 10; turns++) {
      room.tile.wait(0);
      room.tile.turn();
      heard.push(...room.apps[0].take().map(({ ports }) => ports));
    }
    assert.deepEqual(heard.toSorted((a, b) => a - b), asked.map((port) => round << 16 | port));
  }
});

Deno.test("more kernel sockets that stay busy than one look finds are all served", () => {
  const ports = Array.from({ length: BURST + 1 }, (_, i) => 5000 + i);
  const room = new Room({ ports: [ports] });
  const { udp } = room;
  const ENOUGH = 10 * BURST;
  for (const port of ports) {
    const datagram = { ...REQUEST, destinationPort: port, payload: new Uint8Array(1) };
    for (let i = 0; i < ENOUGH; i++) udp.arrive(1000 + port, datagram);
  }
  const bursts = new Map<number, number>();
  const receive = udp.receive.bind(udp);
  udp.receive = (fd, ...rest) => {
    bursts.set(fd, (bursts.get(fd) ?? 0) + 1);
    return receive(fd, ...rest);
  };
  room.tile.wait(0);
  for (let turns = 0; turns < 4; turns++) room.tile.turn();
  assert.deepEqual([...bursts.keys()].sort(), ports.map((port) => 1000 + port));
  for (const [fd, count] of bursts) assert.ok(count >= 3, `${fd}: ${count} of 4 turns`);
});

Deno.test("a datagram from a kernel socket reaches its app and its answer goes back", () => {
  const room = new Room();
  const datagram = {
    source: ip("127.0.0.1"),
    destination: ip("127.0.0.1"),
    sourcePort: 5000,
    destinationPort: 7,
    payload: new TextEncoder().encode("by loopback"),
  };
  room.udp.arrive(FD, datagram);
  room.tile.wait(0);
  room.turn();
  const [received] = room.apps[0].take();
  assert.deepEqual(received, {
    source: datagram.source,
    destination: datagram.destination,
    ports: 5000 * 0x10000 + 7,
    ifindex: 1,
    payload: datagram.payload,
  });
  room.answer({
    source: received.destination,
    destination: received.source,
    destinationPort: 5000,
    payload: received.payload,
  });
  assert.deepEqual(room.udp.sent.map(({ payload }) => payload), [datagram.payload]);
  assert.deepEqual(room.moved(), { rx_socket: 1, rx_delivered: 1, tx_accepted: 1, tx_socket: 1 });
});

Deno.test("what a full link has no room for is counted, and its frame or buffer is free again", () => {
  const room = new Room();
  const free = room.freeFrames();
  const { depth } = room.apps[0].setup.shape;
  for (let i = 0; i < depth; i++) room.receive(REQUEST);
  room.moved();
  // More of each kind than there are large buffers.
  const sizes = Array.from({ length: 24 }, (_, i) => i % 2 === 0 ? 40 : 5000);
  for (const size of sizes) room.udp.arrive(FD, { ...REQUEST, payload: new Uint8Array(size) });
  room.tile.wait(0);
  room.turn();
  assert.deepEqual(room.moved(), { rx_socket: sizes.length, rx_drop_app_link_full: sizes.length });
  assert.equal(room.apps[0].take().length, depth);
  room.turn();
  assert.equal(room.freeFrames(), free);
  room.udp.arrive(FD, { ...REQUEST, payload: new Uint8Array(5000) });
  room.tile.wait(0);
  room.turn();
  assert.equal(room.apps[0].take().length, 1);
});

Deno.test("kernel sockets are looked at while the tile is busy with frames", () => {
  const room = new Room();
  room.udp.arrive(FD, { ...REQUEST, payload: Uint8Array.of(1) });
  for (let i = 0; i < 40; i++) {
    room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, destinationPort: 9 }));
    room.tile.turn();
  }
  assert.equal(room.apps[0].take().length, 1);
});

Deno.test("datagrams of every size come through, the largest in buffers of their own", () => {
  const room = new Room();
  for (const size of [0, 1, 2047, 2048, 2049, 9000, 65_507]) {
    const payload = new Uint8Array(size).map((_, i) => i * 3 + size);
    room.udp.arrive(FD, { ...REQUEST, payload });
    room.tile.wait(0);
    room.turn();
    const [received] = room.apps[0].take();
    assert.deepEqual(received.payload, payload, `${size} bytes`);
    room.turn();
  }
});

Deno.test("an app that keeps large datagrams loses more of them, and no other app does", () => {
  const room = new Room();
  const large = { ...REQUEST, payload: new Uint8Array(5000) };
  for (let i = 0; i < 20; i++) room.udp.arrive(FD, large);
  room.tile.wait(0);
  room.turn();
  const { rx_delivered, rx_drop_no_buffer } = room.moved();
  assert.equal(rx_delivered + rx_drop_no_buffer, 20);
  assert.ok(rx_delivered >= 1 && rx_drop_no_buffer >= 1);
  room.udp.arrive(1009, { ...large, destinationPort: 9 });
  room.tile.wait(0);
  room.turn();
  assert.equal(room.apps[1].take().length, 1);
  assert.equal(room.apps[0].take().length, rx_delivered);
  room.turn();
  room.udp.arrive(FD, large);
  room.tile.wait(0);
  room.turn();
  assert.equal(room.apps[0].take().length, 1, "what it gave back can be used again");
});

Deno.test("broadcasts and odd sources from a kernel socket reach nobody", () => {
  const room = new Room();
  room.udp.arrive(FD, { ...REQUEST, destination: ip("198.18.0.255") });
  room.udp.arrive(FD, { ...REQUEST, destination: ip("255.255.255.255") });
  room.udp.arrive(FD, { ...REQUEST, source: ip("198.18.0.255") });
  room.udp.arrive(FD, { ...REQUEST, source: 0 });
  room.tile.wait(0);
  room.turn();
  assert.deepEqual(room.moved(), { rx_socket: 4, rx_drop_not_local: 2, rx_drop_invalid_source: 2 });
});

Deno.test("before it sleeps the tile sees an answer that waits, and frames that wait for room", () => {
  const room = new Room();
  assert.equal(room.tile.pending(), false);
  room.apps[0].answer({});
  assert.equal(room.tile.pending(), true);
  room.neighbor(REQUEST.source);
  for (const slot of Object.values(SLOT)) room.xsk.rings(slot).room = 0;
  room.tile.turn();
  assert.equal(room.tile.pending(), true, "a frame is queued");
  assert.equal(room.tile.drained!(), false);
  for (const slot of Object.values(SLOT)) room.xsk.rings(slot).room = Infinity;
  room.turn();
  assert.equal(room.tile.pending(), false);
  assert.equal(room.tile.drained!(), true);
});

Deno.test("a tile has drained when apps have passed what they were given, and no sooner", () => {
  const room = new Room();
  room.receive(REQUEST);
  assert.equal(room.tile.pending(), false);
  assert.equal(room.tile.drained!(), false, "an answer may come");
  room.apps[0].take();
  assert.equal(room.tile.drained!(), true);
});

Deno.test("before it sleeps the tile sees that netbase has moved on for who waits, and only then", () => {
  const room = new Room();
  room.neighbor(ip("198.18.0.9"));
  assert.equal(room.tile.pending(), false, "nobody waits");
  room.apps[0].answer({});
  room.turn();
  assert.equal(room.tile.pending(), false, "its neighbour is unknown as before");
  room.neighbor(REQUEST.source);
  assert.equal(room.tile.pending(), true);
  room.turn();
  assert.equal(room.sent(ETH0).length, 1);
  assert.equal(room.tile.pending(), false);
});

Deno.test("requests of other apps are published before an app inside the tile runs, which may hang", async () => {
  const seen: number[] = [];
  const room = await Room.inline((requests) => {
    while (requests.next()) seen.push(room.apps[0].consumer.available());
  }, { ports: [[8]] });
  const deliver = (destinationPort: number) =>
    room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, destinationPort }));
  deliver(8);
  deliver(7);
  deliver(8);
  room.turn();
  assert.deepEqual(seen, [2]);
});

Deno.test("an app inside answers at ports of its own, and sends from them", async () => {
  const room = await Room.inline((requests, out) => {
    while (requests.next()) {
      if (requests.destinationPort === 17) out.reflect();
      const at = out.reserve(4);
      out.send({ address: requests.sourceAddress, port: 9000, sourcePort: 17 }, at, 4);
    }
  }, { ownPorts: [17] });
  room.neighbor(REQUEST.source);
  for (const destinationPort of [7, 17]) room.receive({ ...REQUEST, destinationPort });
  const sent = room.sent(ETH0);
  assert.deepEqual(sent.map(({ sourcePort }) => sourcePort), [17, 17, 17]);
});

Deno.test("after a sleep a tick of an app inside goes by what netbase has become", async () => {
  const to = { address: new Address(REQUEST.source), port: 40_000, sourcePort: 7 };
  const room = await Room.inline({
    receive: (requests) => void requests.next(),
    tickMillis: 10,
    tick: (out) => out.send(to, out.reserve(4), 4),
  });
  // What the tick's answer goes by is then in the cache.
  room.neighbor(REQUEST.source);
  room.receive(REQUEST);
  // There was a tick at the start, too, when this process is younger than the room's clock.
  room.sent(ETH0);
  function ticked(): number[][] {
    room.pass(performance.now() + 1000);
    room.turn();
    return room.sent(ETH0).map(({ destinationMac }) => [...destinationMac]);
  }
  assert.deepEqual(ticked(), [[...PEER_MAC]]);
  const mac = [2, 1, 1, 1, 1, 1];
  room.neighbor(REQUEST.source, { mac });
  assert.deepEqual(ticked(), [mac]);
});

Deno.test("no frame is lost or used twice, whatever comes, goes, waits and stays", () => {
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ receive: fc.constantFrom(7, 9, 53, 80) }) },
    { weight: 3, arbitrary: fc.record({ junk: fc.uint8Array({ maxLength: 100 }) }) },
    { weight: 4, arbitrary: fc.record({ answer: fc.nat(20) }) },
    { weight: 2, arbitrary: fc.record({ take: fc.nat(1) }) },
    { weight: 1, arbitrary: fc.record({ resolve: fc.nat(20) }) },
    { weight: 1, arbitrary: fc.record({ room: fc.nat(40) }) },
    { weight: 1, arbitrary: fc.record({ pass: fc.nat(4000) }) },
    { weight: 1, arbitrary: fc.record({ socket: fc.nat(3000) }) },
  );
  const peer = (i: number) => ip("198.18.0.2") + i;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: "max" }), (steps) => {
      const room = new Room();
      for (const step of steps) {
        if ("receive" in step) {
          room.receive({ ...REQUEST, destinationPort: step.receive });
        } else if ("junk" in step) room.receive(step.junk);
        else if ("answer" in step) room.answer({ destination: peer(step.answer) });
        else if ("take" in step) room.apps[step.take].take();
        else if ("resolve" in step) room.neighbor(peer(step.resolve));
        else if ("room" in step) room.xsk.rings(SLOT.eth0).room = step.room;
        else if ("pass" in step) room.pass(step.pass);
        else {
          room.udp.arrive(FD, { ...REQUEST, payload: new Uint8Array(step.socket) });
          room.tile.wait(0);
        }
        // The fake rings fail when a frame is given to the kernel that it has already.
        room.tile.turn();
      }
      // Everything let go: what is not in the fill rings is free.
      for (const slot of Object.values(SLOT)) room.xsk.rings(slot).room = Infinity;
      for (const app of room.apps) app.take();
      room.turn();
      room.pass(10_000);
      room.turn();
      for (const app of room.apps) app.take();
      room.turn();
      room.turn();
      assert.equal(room.xsk.owned.size, 96, "three full fill rings");
      assert.equal(room.freeFrames(), FRAMES - 96);
      const { accepted, accounted } = room.balance();
      assert.equal(accounted, accepted);
    }),
    { numRuns: 60 },
  );
});

Deno.test("with everything known an answer leaves in the same turn as it was published", () => {
  const room = new Room();
  room.neighbor(REQUEST.source);
  room.tile.turn();
  room.apps[0].answer({});
  room.tile.turn();
  assert.equal(room.sent(ETH0).length, 1);
});
