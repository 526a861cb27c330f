import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { heapView } from "../../ffi/view.ts";
import type { App } from "../../tiles/app/contract.ts";
import { METRICS_BYTES } from "../../tiles/app/metrics.ts";
import { makeService } from "../../tiles/app/service.ts";
import { PAYLOAD_AT } from "../../tiles/net/frame.ts";
import { HEARD_BYTES } from "../../tiles/net/heard.ts";
import { InlineApp } from "../../tiles/net/inline_app.ts";
import { makeRows, Row, ROW_SHIFT } from "../../tiles/net/rows.ts";
import type { Transmitter } from "../../tiles/net/transmit.ts";
import { Umem } from "../../tiles/net/umem.ts";
import { APP } from "../../tiles/runtime/counters.ts";

const [FRAMES, FRAME_BYTES, LARGE] = [32, 2048, 4];

/** An app in a net tile that has nothing else, with a transmitter that only takes note. */
async function room(app: App) {
  const umem = new Umem(heapView(FRAMES * FRAME_BYTES + LARGE * 65_536), {
    frameBytes: FRAME_BYTES,
    frames: FRAMES,
    largeBuffers: LARGE,
  });
  const counters = new Float64Array(16);
  const setup = {
    ...{ name: "app", module: "", ports: [7], served: [7], options: {} },
    ...{ metrics: heapView(METRICS_BYTES), region: heapView(4096) },
    ...{ heard: heapView(HEARD_BYTES), heardElsewhere: [], sendTo: [] },
  };
  const service = await makeService({ default: () => app }, setup, { counters, log() {} });
  const rows = makeRows();
  const sent: { payload: Uint8Array; ports: number; inPlace: boolean }[] = [];
  const transmitter = {
    rows,
    sendFrames(_app: unknown, _index: number, count: number) {
      for (let i = 0; i < count; i++) {
        const row = i << ROW_SHIFT;
        const [offset, length] = [rows[row + Row.offset], rows[row + Row.length]];
        const inPlace = offset === rows[row + Row.frame] + PAYLOAD_AT;
        const payload = umem.bytes.slice(offset, offset + length);
        sent.push({ payload, ports: rows[row + Row.ports] >>> 0, inPlace });
        umem.give(rows[row + Row.frame]);
      }
    },
  } as unknown as Transmitter;
  const inline = new InlineApp(setup, { service, counters, index: 0, umem, transmitter });
  /** A datagram comes in. */
  function receive(payload: Uint8Array): void {
    const frame = payload.length < 1500 ? umem.takeFrame() : umem.takeLarge();
    umem.bytes.set(payload, frame);
    assert.ok(inline.link.pushOne(frame, payload.length, 1, 2, (4000 << 16) | 7, 0, 0, 0));
  }
  function run(): void {
    inline.link.publish();
    inline.run();
    inline.link.reclaim();
  }
  return { umem, counters, sent, receive, run };
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
        assert.equal(ports, ((7 << 16) | 4000) >>> 0);
      }
      assert.deepEqual([umem.freeFrames, umem.freeLarge], [FRAMES, LARGE]);
    }
    assert.equal(counters[APP.index.requests], bursts.flat().length);
  }));
});

Deno.test("what is reserved and not sent is taken back, and nothing is sent twice", async () => {
  const { umem, sent, receive, run, counters } = await room({
    receive(requests, out) {
      while (requests.next()) {
        out.reserve(10);
        out.reserve(3000);
        const at = out.reserve(8);
        out.bytes.fill(5, at, at + 8);
        out.reply(at, 8);
        out.reply(at, 8);
      }
    },
  });
  receive(new Uint8Array(4));
  run();
  assert.deepEqual(sent.map(({ payload }) => [...payload]), [new Array(8).fill(5)]);
  assert.deepEqual([umem.freeFrames, umem.freeLarge], [FRAMES, LARGE]);
  assert.equal(counters[APP.index.answer_no_room], 1);
});

Deno.test("without a free frame there is no room, and that is counted", async () => {
  const { umem, sent, receive, run, counters } = await room(echo);
  receive(new Uint8Array(4));
  while (umem.takeFrame() >= 0);
  run();
  assert.equal(sent.length, 0);
  assert.equal(counters[APP.index.answer_no_room], 1);
});
