// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { heapView } from "../../../ffi/region.ts";
import { Address } from "../../../tiles/app/address.ts";
import type { Answers, App } from "../../../tiles/app/contract.ts";
import { makeService } from "../../../tiles/app/host.ts";
import { METRICS_BYTES } from "../../../tiles/app/regions.ts";
import { RECENT_PEERS_BYTES } from "../../../tiles/net/app_link.ts";
import { InlineApp } from "../../../tiles/net/inline_app.ts";
import { LOOK_UP, Packet, PACKET_SHIFT, PAYLOAD_AT, Umem } from "../../../tiles/net/rings.ts";
import { RouteCache } from "../../../tiles/net/route_cache.ts";
import { RxBatch } from "../../../tiles/net/rx.ts";
import type { Transmitter } from "../../../tiles/net/tx.ts";
import { APP } from "../../../tiles/runtime/counters.ts";
import fc from "../property.ts";

const [FRAMES, FRAME_BYTES, LARGE] = [128, 2048, 4];

/** An app in a net tile that has nothing else, with a transmitter that only takes note. */
async function room(app: App) {
  const umem = new Umem(heapView(FRAMES * FRAME_BYTES + LARGE * 65_536), {
    frames: FRAMES,
    largeBuffers: LARGE,
  });
  const counters = new Float64Array(16);
  const setup = {
    ...{ name: "app", module: "", ports: [7], served: [7], options: {} },
    ...{ metrics: heapView(METRICS_BYTES), region: heapView(4096) },
    ...{ recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] },
  };
  const logged: string[] = [];
  const service = await makeService({ default: () => app }, setup, {
    counters,
    log: (line) => logged.push(line),
  });
  const batch = new RxBatch();
  const { packets: answers } = new RxBatch();
  const sent: { payload: Uint8Array; ports: number; inPlace: boolean; frame: number }[] = [];
  /** The transmit ring, which has room for so many. */
  const ring = { room: Infinity };
  const transmitter = {
    packets: answers,
    get room() {
      return ring.room;
    },
    send(_from: unknown, count: number) {
      ring.room -= count;
      for (let i = 0; i < count; i++) {
        const p = i << PACKET_SHIFT;
        const [offset, length] = [answers[p + Packet.offset], answers[p + Packet.length]];
        const frame = answers[p + Packet.frame];
        const inPlace = offset === frame + PAYLOAD_AT;
        const payload = umem.bytes.slice(offset, offset + length);
        sent.push({ payload, ports: answers[p + Packet.ports] >>> 0, inPlace, frame });
        umem.give(offset);
      }
    },
  } as unknown as Transmitter;
  const cache = new RouteCache(heapView(256), 1);
  const parts = { service, counters, index: 0, umem, batch, cache, transmitter, seed: 1 };
  const inline = new InlineApp(setup, parts);
  let waiting = 0;
  /** A datagram comes in, its payload at `at` in a frame if it fits there. Returns the frame. */
  function receive(payload: Uint8Array, at = 0): number {
    const frame = payload.length + at <= FRAME_BYTES ? umem.takeFrame() : umem.takeLarge();
    const offset = frame + (umem.isLarge(frame) ? 0 : at);
    umem.bytes.set(payload, offset);
    const { packets } = batch;
    const p = waiting << PACKET_SHIFT;
    packets.fill(0, p, p + (1 << PACKET_SHIFT));
    packets[p + Packet.offset] = offset;
    packets[p + Packet.length] = payload.length;
    packets[p + Packet.peer] = 1;
    packets[p + Packet.local] = 2;
    packets[p + Packet.ports] = (4000 << 16) | 7;
    packets[p + Packet.route] = LOOK_UP;
    assert.equal(inline.push(batch, waiting, waiting + 1), ++waiting);
    return frame;
  }
  function run(): void {
    waiting = 0;
    inline.run();
  }
  return { umem, counters, logged, sent, receive, run, inline, ring };
}

const echo: App = {
  receive(requests, out) {
    while (requests.next()) {
      const at = out.reserve(requests.size);
      if (at < 0) continue;
      out.copy(at);
      out.reply(at, requests.size);
    }
  },
};

Deno.test("answers are built where frames have their payload, and no frame is lost", async () => {
  const size = fc.oneof(fc.nat(1472), fc.constantFrom(1996, 1997, 65_507));
  const bursts = fc.array(fc.array(size, { minLength: 1, maxLength: 3 }), { maxLength: 5 });
  await fc.assert(fc.asyncProperty(bursts, async (bursts) => {
    const { umem, sent, receive, run, counters } = await room(echo);
    for (const burst of bursts) {
      const payloads = burst.map((size, i) => new Uint8Array(size).fill(i + 1));
      for (const payload of payloads) receive(payload);
      run();
      // One that found no large buffer free is missing.
      for (const { payload, ports, inPlace } of sent.splice(0)) {
        const same = payloads.some((each) => Buffer.compare(each, payload) === 0);
        assert.ok(same, `${payload.length} bytes came back changed`);
        assert.equal(inPlace, payload.length <= FRAME_BYTES - PAYLOAD_AT);
        assert.equal(ports, ((4000 << 16) | 7) >>> 0);
      }
      assert.deepEqual([umem.freeFrames, umem.freeLarge], [FRAMES, LARGE]);
    }
    assert.equal(counters[APP.index.requests], bursts.flat().length);
  }));
});

Deno.test("a short answer leaves in the frame of its request, right before the payload", async () => {
  const { umem, sent, receive, run } = await room(echo);
  const frame = receive(new Uint8Array(18).fill(3), 320);
  const other = receive(new Uint8Array(269).fill(4), 320);
  run();
  assert.deepEqual(sent.map(({ payload }) => payload.length), [18, 269]);
  // 18 bytes before the payload, rounded down to a word.
  assert.equal(sent[0].frame + PAYLOAD_AT, frame + 320 - 20);
  assert.notEqual(umem.frameAt(sent[1].frame), other, "there is room for 268 bytes and no more");
  assert.ok(sent.every(({ inPlace }) => inPlace));
  assert.equal(umem.freeFrames, FRAMES);
});

Deno.test("however many answers an app gives, what it reads stays as it came, and no frame is lost", async () => {
  const step = fc.record({
    size: fc.oneof(fc.nat(40), fc.nat(1990), fc.constantFrom(268, 269, 1996, 3000)),
    kind: fc.constantFrom("reply", "reply", "send", "late", "shifted", "leave", "again"),
  });
  const plan = fc.array(fc.record({ times: fc.constantFrom(1, 1, 70), steps: fc.array(step) }));
  const to = { address: new Address(1), port: 9, sourcePort: 7 };
  await fc.assert(fc.asyncProperty(plan, async (requests) => {
    const { umem, sent, receive, run, logged } = await room({
      receive(datagrams, out) {
        let late = -1;
        let lateSize = 0;
        for (const { times, steps } of requests) {
          assert.ok(datagrams.next());
          if (late >= 0) out.reply(late, lateSize);
          late = -1;
          for (let time = 0; time < times; time++) {
            for (const { size, kind } of steps) {
              const at = out.reserve(size);
              const { bytes, offset } = datagrams;
              const length = datagrams.size;
              if (at >= 0) bytes.fill(0xee, at + (kind === "shifted" ? 3 : 0), at + size);
              const read = bytes.subarray(offset, offset + length);
              assert.ok(read.every((byte) => byte === 0x11), "the request was written over");
              if (at < 0) continue;
              if (kind === "shifted") bytes.fill(0, at, at + Math.min(3, size));
              late = kind === "late" ? at : -1;
              lateSize = size;
              if (kind === "reply") out.reply(at, size);
              else if (kind === "send") out.send(to, at, size);
              else if (kind === "again") { for (let i = 0; i < 3; i++) out.send(to, at, size); }
              else if (kind === "shifted" && size > 4) out.reply(at + 3, size - 3);
            }
          }
        }
      },
    });
    for (const _ of requests) receive(new Uint8Array(100).fill(0x11), 320);
    run();
    assert.deepEqual(logged, [], "what the app asserts");
    for (const { payload, frame } of sent) {
      assert.ok(payload.every((byte) => byte === 0xee), `an answer in ${frame} was written over`);
    }
    // What is reserved last and not sent is the app's.
    assert.ok(umem.freeFrames + umem.freeLarge >= FRAMES + LARGE - 1);
  }));
});

Deno.test("a request stays as it came while hundreds of answers to it are dropped", async () => {
  const { receive, run, umem, logged } = await room({
    receive(datagrams, out) {
      assert.ok(datagrams.next());
      const { bytes, offset, size } = datagrams;
      for (let i = 0; i < 300; i++) {
        const at = out.reserve(i === 0 ? 8 : 1500);
        bytes.fill(0xee, at, at + (i === 0 ? 8 : 1500));
        out.reply(at, 8);
        assert.ok(bytes.subarray(offset, offset + size).every((byte) => byte === 0x11), `${i}`);
      }
      assert.ok(datagrams.next());
      for (const size of [-8, -1, 1e10]) {
        const at = out.reserve(size);
        assert.ok(at < datagrams.offset - 320 || at > datagrams.offset + 1000, `room for ${size}`);
      }
    },
  });
  receive(new Uint8Array(100).fill(0x11), 320);
  receive(new Uint8Array(100).fill(0x11), 320);
  run();
  assert.deepEqual(logged, [], "what the app asserts");
  assert.ok(umem.freeFrames >= FRAMES - 1);
});

Deno.test("what is reserved and not sent is taken back, and what is sent again is a copy", async () => {
  let last = -1;
  const { umem, sent, receive, run, counters, inline } = await room({
    receive(requests, out) {
      while (requests.next()) {
        out.reserve(10);
        out.reserve(3000);
        const at = out.reserve(8);
        out.bytes.fill(5, at, at + 8);
        out.reply(at, 8);
        out.reply(at, 8);
        assert.throws(() => out.reply(at, 7), /8 bytes at \d+ were sent: only these can be/);
        last = at;
      }
    },
    tick: (out) => out.send({ address: new Address(1), port: 9, sourcePort: 7 }, last, 8),
  });
  receive(new Uint8Array(4));
  run();
  inline.clock(Infinity);
  assert.deepEqual(sent.map(({ payload }) => [...payload]), Array(2).fill(new Array(8).fill(5)));
  assert.notEqual(sent[0].frame, sent[1].frame);
  assert.deepEqual([umem.freeFrames, umem.freeLarge], [FRAMES, LARGE]);
  assert.equal(counters[APP.index.tx_drop_reply_link_full], 1);
});

Deno.test("what found no room on the transmit ring goes on when there is some, and nothing is dropped", async () => {
  let next = 0;
  const goOn = (out: Answers) => {
    while (next < 300 && out.room > 0) {
      const at = out.reserve(1);
      out.bytes[at] = next++;
      out.send({ address: new Address(1), port: 9, sourcePort: 7 }, at, 1);
    }
  };
  const app = { receive() {}, tick: goOn, drain: goOn };
  const { umem, sent, run, inline, counters, ring } = await room(app);
  ring.room = 100;
  inline.clock(Infinity);
  assert.equal(sent.length, 100);
  assert.equal(inline.nextDue(0), 1, "it looks for room soon");
  ring.room = 63;
  run();
  assert.equal(sent.length, 100, "so little is not worth a call");
  for (const total of [200, 300, 300]) {
    ring.room = 100;
    run();
    assert.equal(sent.length, total);
  }
  assert.deepEqual(sent.map(({ payload }) => payload[0]), sent.map((_, i) => i & 0xff));
  assert.notEqual(inline.nextDue(0), 1, "all is done");
  assert.equal(umem.freeFrames, FRAMES);
  assert.equal(counters[APP.index.tx_drop_reply_link_full], 0);
});

Deno.test("without a free frame there is no room, and that is counted", async () => {
  const { umem, sent, receive, run, counters } = await room(echo);
  receive(new Uint8Array(4));
  while (umem.takeFrame() >= 0);
  run();
  assert.equal(sent.length, 0);
  assert.equal(counters[APP.index.tx_drop_reply_link_full], 1);
});

Deno.test("any frame that is free is room for what is sent unasked, the first of the UMEM too", async () => {
  const { umem, sent, inline } = await room({
    receive() {},
    tick(out) {
      const at = out.reserve(1000);
      if (at >= 0) out.send({ address: new Address(1), port: 9, sourcePort: 7 }, at, 1000);
    },
  });
  while (umem.takeFrame() >= 0);
  umem.give(0);
  inline.clock(performance.now() + 60_000);
  assert.deepEqual(sent.map(({ frame }) => frame), [0]);
});
