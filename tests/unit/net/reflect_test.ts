// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { REFLECTED } from "../../../tiles/runtime/link.ts";
import { be, buildFrame, checksum, parseFrame } from "./frames.ts";
import { ANSWER, echo, known, PEER, PLACES, serve } from "./places.ts";
import { ETH0, ETH1, ip, MAC, REQUEST, Room, SLOT } from "./room.ts";
import fc from "../property.ts";

const FD = 1007;
const UDP = 14 + 20;
const STRANGER = ip("198.18.0.99");

/** `REQUEST` with another UDP checksum. */
function withChecksum(sum: number): Uint8Array {
  const frame = buildFrame(REQUEST);
  frame.set(be(sum, 2), UDP + 6);
  return frame;
}

/** What only the pseudo header sums to. */
function bareSum(): number {
  const frame = buildFrame(REQUEST);
  const length = be(8 + REQUEST.payload.length, 2);
  return 0xffff - checksum([...frame.subarray(UDP - 8, UDP), 0, 17, ...length]);
}

for (const place of PLACES) {
  Deno.test(`${place}: a request of any length goes back as it came, first and later`, async () => {
    const { room, run } = await serve(place, echo);
    const free = room.freeFrames();
    for (let length = 0; length <= 1472; length++) {
      const payload = new Uint8Array(length).map((_, i) => i * 7 + length);
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, payload }));
      run();
      assert.deepEqual(room.sent(ETH0), [{ ...ANSWER, payload }]);
      if (length % 100 === 0) room.pass(100);
    }
    run();
    assert.equal(room.freeFrames(), free);
    assert.equal(room.moved().tx_frames, 1473);
  });

  Deno.test(`${place}: padding after a request is not sent back`, async () => {
    const { room, run } = await serve(place, echo);
    for (let i = 0; i < 2; i++) {
      room.xsk.deliver(SLOT.eth0, Uint8Array.from([...buildFrame(REQUEST), 1, 2, 3, 4, 5]));
      run();
      assert.deepEqual(room.sent(ETH0), [ANSWER]);
    }
  });

  Deno.test(`${place}: tags, and another way back, are what the answer's route says`, async () => {
    const { room, run } = await serve(place, echo);
    const tags = [{ protocol: 0x8100, id: 100 }];
    const [source, destination] = [ip("203.0.113.2"), ip("203.0.113.1")];
    for (let i = 0; i < 2; i++) {
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, tags, source, destination }));
      run();
      const [frame] = room.sent(ETH0);
      assert.deepEqual([frame.tags, frame.source, frame.destination], [tags, destination, source]);
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, source: ip("198.19.0.2") }));
      run();
      assert.deepEqual(room.sent(ETH1), [{
        ...ANSWER,
        destination: ip("198.19.0.2"),
        sourceMac: MAC[ETH1],
      }]);
    }
  });

  Deno.test(`${place}: a UDP checksum that is right goes back right, and none as none`, async () => {
    for (const partialChecksums of [false, true]) {
      for (const trustChecksums of [false, true]) {
        const { room, run } = await serve(place, echo, { partialChecksums, trustChecksums });
        const answers = (bytes: Uint8Array) => {
          room.xsk.deliver(SLOT.eth0, bytes);
          run();
          return room.xsk.sent(SLOT.eth0).concat(room.xsk.sent(SLOT.eth0Second));
        };
        // The first to a peer goes the long way, later ones the short one.
        for (let i = 0; i < 2; i++) {
          assert.deepEqual(answers(buildFrame(REQUEST)).map(parseFrame), [ANSWER]);
        }
        if (partialChecksums) {
          assert.deepEqual(answers(withChecksum(bareSum())).map(parseFrame), [ANSWER]);
        }
        const [none] = answers(withChecksum(0));
        assert.deepEqual([...none.subarray(UDP + 6, UDP + 8)], [0, 0]);
        if (!trustChecksums) assert.deepEqual(answers(withChecksum(0xabcd)), []);
      }
    }
  });

  Deno.test(`${place}: answers leave in their order, the long way and the short one`, async () => {
    const { room, run } = await serve(place, echo, { partialChecksums: true });
    room.receive(REQUEST);
    run();
    room.sent(ETH0);
    // One in three has a bare sum, which takes the long way.
    const payloads = Array.from({ length: 9 }, (_, i) => REQUEST.payload.map((byte) => byte + i));
    payloads.forEach((payload, i) => {
      const frame = buildFrame({ ...REQUEST, payload });
      if (i % 3 === 1) frame.set(be(bareSum(), 2), UDP + 6);
      room.xsk.deliver(SLOT.eth0, frame);
    });
    run();
    assert.deepEqual(room.sent(ETH0), payloads.map((payload) => ({ ...ANSWER, payload })));
  });

  Deno.test(`${place}: a neighbour is refreshed by what is sent back to it, too`, async () => {
    const { room, run } = await serve(place, echo);
    const ask = () => {
      room.receive(REQUEST);
      run();
      assert.deepEqual(room.sent(ETH0), [ANSWER]);
      return room.solicited();
    };
    assert.deepEqual([ask(), ask()], [[], []]);
    room.writer.neighbors.wantRefresh(ETH0, PEER);
    room.pass(100);
    assert.deepEqual([ask(), ask()], [[[ETH0, PEER]], []]);
  });

  Deno.test(`${place}: a request that is sent back twice goes back twice`, async () => {
    const { room, run } = await serve(place, (requests, out) => {
      while (requests.next()) {
        out.reflect();
        out.reflect();
      }
    });
    for (let i = 0; i < 2; i++) {
      room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
      room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
      run();
      assert.deepEqual(room.sent(ETH0), [ANSWER, ANSWER, ANSWER, ANSWER]);
    }
    assert.equal(room.moved().tx_drop_invalid_descriptor, undefined);
  });

  Deno.test(`${place}: what comes by a kernel socket goes back, of any size, by one call for a burst`, async () => {
    const { room, run } = await serve(place, echo);
    let calls = 0;
    const { udp } = room;
    const send = udp.send.bind(udp);
    udp.send = (...args) => {
      calls++;
      return send(...args);
    };
    // 1,996 bytes are the most that a frame holds behind headers.
    const sizes = [0, 1, 1472, 1473, 1995, 1996, 1997, 2048, 65_507];
    for (const size of sizes) arrive(room, "tunnel kernel", new Uint8Array(size).fill(size));
    room.tile.wait(0);
    run();
    assert.deepEqual(
      udp.sent.map(({ payload }) => payload),
      sizes.map((size) => new Uint8Array(size).fill(size)),
    );
    // The room's large buffers let four come at a time.
    assert.ok(calls <= Math.ceil(sizes.length / 4), `${calls} calls`);
  });

  Deno.test(`${place}: a request from port 0 is not sent back, the long way or the short one`, async () => {
    const { room, run } = await serve(place, echo);
    const free = room.freeFrames();
    const ask = (sourcePort: number) => {
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, sourcePort }));
      run();
      return room.sent(ETH0).length;
    };
    assert.deepEqual([ask(0), ask(40_000), ask(40_000), ask(0)], [0, 1, 1, 0]);
    // In one burst with others, between and behind them.
    const ports = [40_000, 0, 40_001, 0];
    for (const sourcePort of ports) {
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, sourcePort }));
    }
    run();
    assert.deepEqual(room.sent(ETH0).map((frame) => frame.destinationPort), [40_000, 40_001]);
    assert.equal(room.moved().tx_drop_port_zero, 4);
    run();
    assert.equal(room.freeFrames(), free);
  });

  Deno.test(`${place}: whatever an app answers, all of it is right and no frame is lost or doubled`, async () => {
    const kinds = [
      "reflect",
      "reflect",
      "twice",
      "reply",
      "short",
      "both",
      "left",
      "throw",
      "none",
    ];
    const request = fc.record({
      from: fc.constantFrom("peer", "peer", "peer", "stranger", "tunnel", "kernel", "routed"),
      size: fc.oneof(fc.nat(60), fc.nat(1472), fc.constantFrom(269, 1473, 2048, 5000)),
      kind: fc.constantFrom(...kinds),
    });
    const step = fc.record({
      burst: fc.array(request, { maxLength: 6 }),
      pass: fc.constantFrom(0, 0, 0, 100, 5000),
      room: fc.constantFrom(Infinity, Infinity, 0, 1),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
        let acts: string[] = [];
        const { room, run } = await serve(place, (requests, out) => {
          while (requests.next()) {
            const kind = acts[requests.bytes[requests.offset]];
            if (kind === "none" || kind === "throw") {
              if (kind === "throw") throw new Error("on purpose");
              continue;
            }
            const { size } = requests;
            if (kind === "reply" || kind === "both") {
              const at = out.reserve(size);
              if (at >= 0) out.copy(at);
              if (at >= 0) out.reply(at, size);
            } else if (kind === "short") {
              const at = out.reserve(1);
              if (at >= 0) out.bytes[at] = requests.bytes[requests.offset];
              if (at >= 0) out.reply(at, 1);
            } else if (kind === "left") out.reserve(size);
            if (kind !== "reply" && kind !== "short") out.reflect();
            if (kind === "twice") out.reflect();
          }
        });
        const free = room.freeFrames();
        for (const { burst, pass, room: ring } of steps) {
          acts = burst.map(({ kind }) => kind);
          const payloads = burst.map(({ size }, i) => new Uint8Array(size + 1).fill(i));
          for (const slot of Object.values(SLOT)) room.xsk.rings(slot).room = ring;
          burst.forEach(({ from }, i) => arrive(room, from, payloads[i]));
          room.tile.wait(0);
          run();
          for (const slot of Object.values(SLOT)) room.xsk.rings(slot).room = Infinity;
          run();
          const sent = [...room.sent(ETH0), ...room.sent(ETH1), ...room.udp.sent.splice(0)];
          for (const { payload, sourcePort, destinationPort } of sent) {
            assert.deepEqual([sourcePort, destinationPort], [7, 40_000]);
            const asked = payloads[payload[0]];
            if (payload.length === 1 && acts[payload[0]] === "short") continue;
            assert.equal(Buffer.compare(payload, asked), 0, "it came back changed");
          }
          if (pass > 0) room.pass(pass);
        }
        room.pass(5000);
        room.tile.wait(0);
        run();
        run();
        const { accepted, accounted } = room.balance();
        assert.equal(accounted, accepted, "sent + dropped = accepted");
        assert.equal(room.freeFrames(), free);
        room.moved();
        arrive(room, "kernel", new Uint8Array(5000));
        room.tile.wait(0);
        run();
        assert.equal(room.moved().rx_delivered, 1, "large buffers come back, too");
      }),
      { numRuns: 300 },
    );
  });
}

Deno.test("own tile: a request that an app does not have, or sent back, ends in one counter", () => {
  const room = new Room({ ports: [[7]] });
  known(room);
  const [app] = room.apps;
  const refused = (place: number) => {
    app.raw([place, REFLECTED]);
    room.turn();
    assert.deepEqual(
      room.moved(),
      { tx_accepted: 1, tx_drop_invalid_descriptor: 1 },
      `place ${place}`,
    );
  };
  refused(0);
  room.receive(REQUEST);
  room.moved();
  for (const place of [1, 63, 64, 0x8000_0000, 0xffff_ffff]) refused(place);
  // Addresses and ports that the app names beside it are nobody's.
  app.raw([0, REFLECTED, 1, 2, 3]);
  room.turn();
  assert.deepEqual(room.sent(ETH0), [ANSWER]);
  room.moved();
  refused(0);
  app.take();
  room.turn();
  refused(0);
  room.receive(REQUEST);
  app.take();
  room.turn();
  room.moved();
  refused(1);
  assert.deepEqual(room.sent(ETH0), []);
});

Deno.test("own tile: whatever an app writes, no frame is lost or doubled, and all is counted", () => {
  const act = fc.oneof(
    fc.record({ place: fc.oneof(fc.nat(8), fc.nat(70), fc.nat(0xffffffff)) }),
    fc.record({ place: fc.nat(8) }),
    fc.record({ answered: fc.oneof(fc.nat(8), fc.nat(70), fc.nat(0xffffffff)) }),
    fc.constantFrom("receive", "receive", "take", "turn", "flood", "stranger"),
  );
  fc.assert(
    fc.property(fc.array(act, { maxLength: 80, size: "max" }), (acts) => {
      const room = new Room({ ports: [[7]] });
      known(room);
      const [app] = room.apps;
      const free = room.freeFrames();
      for (const act of acts) {
        if (act === "receive") room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
        else if (act === "stranger") {
          room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, source: STRANGER }));
        } else if (act === "take") app.take();
        else if (act === "turn") room.tile.turn();
        else if (act !== "flood") {
          app.raw("place" in act ? [act.place, REFLECTED] : [0, 4, 0, 0, 0, act.answered]);
        } else for (let i = 0; i < 60; i++) app.raw([i & 7, i & 8 ? REFLECTED : 0, 0, 0, 0x70007]);
      }
      room.turn();
      app.take();
      room.turn();
      room.pass(5000);
      room.turn();
      assert.equal(room.freeFrames(), free);
      const { accepted, accounted } = room.balance();
      assert.equal(accounted, accepted, "sent + dropped = accepted");
    }),
    { numRuns: 500 },
  );
});

/** A request comes in from somewhere. Payloads that no frame holds come by the kernel's socket. */
function arrive(room: Room, from: string, payload: Uint8Array): void {
  const [name, by] = from.split(" ");
  const source = { stranger: STRANGER, tunnel: ip("192.0.2.9"), routed: ip("198.19.0.2") }[name] ??
    PEER;
  if (name === "kernel" || by === "kernel" || payload.length > 1472) {
    room.udp.arrive(FD, { ...REQUEST, source, payload });
  } else room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, source, payload }));
}
