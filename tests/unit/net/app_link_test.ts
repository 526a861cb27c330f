// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, u32, u8 } from "../../../ffi/region.ts";
import { AppLink, RECENT_PEERS_BYTES, requestsBytes } from "../../../tiles/net/app_link.ts";
import { makePackets, Packet, PAYLOAD_AT, Umem } from "../../../tiles/net/rings.ts";
import { RouteCache } from "../../../tiles/net/route_cache.ts";
import { RxBatch } from "../../../tiles/net/rx.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
  requestRing,
} from "../../../tiles/runtime/link.ts";
import { TILE_REGION_BYTES, TileRegion } from "../../../tiles/runtime/tile.ts";
import fc from "../property.ts";

const PEERS = { recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] };
const SHAPE: LinkShape = { depth: 8, payloadBytes: 256 };
const UMEM = { frames: 16, largeBuffers: 4 };

/** Both sides of an app's links. */
function room(shape = SHAPE) {
  const net = heapView(netLinkBytes(shape));
  const app = heapView(appLinkBytes(shape));
  const requests = heapView(requestsBytes(shape));
  const tile = heapView(TILE_REGION_BYTES);
  const umem = new Umem(heapView(16 * 2048 + 4 * 65_536), UMEM);
  const woken: number[] = [];
  const join = () =>
    new AppLink(
      { ...PEERS, ports: [7], net, app, requests, shape, tile, eventfd: 9 },
      {
        umem,
        cache: new RouteCache(heapView(256), 1),
        index: 0,
        wake: (eventfd) => woken.push(eventfd),
        seed: 1,
      },
    );
  return { net, app, tile, umem, link: join(), join, woken };
}

/** Hands a datagram over, from address 1 to 2, whose payload is at `offset`. Whether there was room. */
function push(link: AppLink, offset: number, length = 10, ports = 3): boolean {
  const batch = new RxBatch();
  batch.frames.set([5, 6]);
  batch.packets[Packet.offset] = offset;
  batch.packets[Packet.length] = length;
  batch.packets[Packet.peer] = 1;
  batch.packets[Packet.local] = 2;
  batch.packets[Packet.ports] = ports;
  batch.packets[Packet.interface] = 4;
  batch.packets[Packet.route] = -1;
  return link.push(batch, 0, 1) === 1;
}

Deno.test("a UMEM that is smaller than its shape is refused", () => {
  assert.throws(() => new Umem(heapView(16 * 2048), UMEM), RangeError);
});

Deno.test("a frame is given back from any offset in it, and a large buffer too", () => {
  const umem = new Umem(heapView(16 * 2048 + 4 * 65_536), UMEM);
  const frames = Array.from({ length: 16 }, () => umem.takeFrame());
  assert.deepEqual(frames.toSorted((a, b) => a - b), frames.map((_, i) => i * 2048));
  assert.equal(umem.takeFrame(), -1);
  umem.give(5 * 2048 + 320);
  assert.equal(umem.takeFrame(), 5 * 2048);
  const buffers = Array.from({ length: 4 }, () => umem.takeLarge());
  assert.equal(umem.takeLarge(), -1);
  umem.give(buffers[2] + 17);
  assert.equal(umem.takeLarge(), buffers[2]);
  assert.equal(umem.freeFrames, 0);
});

Deno.test("frames come back when the app has passed them, and not before", () => {
  const { net, app, umem, link } = room();
  const reader = new LinkConsumer(app, net, SHAPE);
  const frames = [umem.takeFrame(), umem.takeFrame(), umem.takeFrame()];
  for (const frame of frames) assert.ok(push(link, frame + 320));
  assert.equal(link.reclaim(), 0, "nothing is published");
  link.publish();
  assert.equal(link.reclaim(), 0, "nothing is passed");
  reader.release(2);
  assert.equal(link.reclaim(), 2);
  assert.equal(umem.freeFrames, 15);
  reader.release(1);
  assert.equal(link.reclaim(), 1);
  assert.equal(umem.freeFrames, 16);
  assert.equal(link.outstanding, 0);
});

Deno.test("a full link refuses, and an app that stops keeps no more than its depth", () => {
  const { umem, link } = room();
  let given = 0;
  while (push(link, umem.takeFrame())) given++;
  assert.equal(given, SHAPE.depth);
});

Deno.test("a restarted app passes what its predecessor left, so that its frames come back", () => {
  const { net, app, umem, link } = room();
  new LinkConsumer(app, net, SHAPE);
  for (let i = 0; i < 5; i++) push(link, umem.takeFrame());
  link.publish();
  new LinkConsumer(app, net, SHAPE, { skip: true });
  assert.equal(link.reclaim(), 5);
  assert.equal(umem.freeFrames, 16);
});

Deno.test("on a link that others have used, nothing is taken back that was never given out", () => {
  const net = heapView(netLinkBytes(SHAPE));
  const app = heapView(appLinkBytes(SHAPE));
  u32(net)[0] = 5;
  const umem = new Umem(heapView(16 * 2048 + 4 * 65_536), UMEM);
  const link = new AppLink(
    {
      ...PEERS,
      ports: [7],
      net,
      app,
      requests: heapView(requestsBytes(SHAPE)),
      shape: SHAPE,
      tile: heapView(4096),
      eventfd: 9,
    },
    { umem, cache: new RouteCache(heapView(256), 1), index: 0, wake() {}, seed: 1 },
  );
  push(link, umem.takeFrame());
  link.publish();
  assert.equal(link.reclaim(), 0);
  new LinkConsumer(app, net, SHAPE).release(6);
  assert.equal(link.reclaim(), 1);
  assert.equal(umem.freeFrames, 16);
});

Deno.test("an app that sleeps is woken once for what was published", () => {
  const { tile, umem, link, woken } = room();
  push(link, umem.takeFrame());
  link.publish();
  assert.deepEqual(woken, [], "it was awake");
  new TileRegion(tile).fallAsleep();
  link.publish();
  assert.deepEqual(woken, [], "nothing new");
  push(link, umem.takeFrame());
  link.publish();
  push(link, umem.takeFrame());
  link.publish();
  assert.deepEqual(woken, [9]);
});

Deno.test("whatever an app writes into its cursors, no frame comes back twice or too early", () => {
  const step = fc.oneof(
    fc.record({ push: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ passed: fc.oneof(fc.nat(20), fc.nat(0xffffffff)) }),
    fc.record({ claimed: fc.oneof(fc.nat(20), fc.nat(0xffffffff)) }),
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
    const { app, umem, link } = room();
    const words = u32(app);
    const out = new Set<number>();
    for (const step of steps) {
      if ("push" in step) {
        for (let i = 0; i < step.push; i++) {
          const frame = umem.takeFrame();
          if (frame < 0) break;
          assert.ok(!out.has(frame), "the frame was out already");
          if (push(link, frame)) out.add(frame);
          else umem.give(frame);
        }
        link.publish();
      } else if ("passed" in step) words[16] = step.passed;
      else words[0] = step.claimed;
      assert.ok(link.answers.available() <= SHAPE.depth);
      const before = link.outstanding;
      const back = link.reclaim();
      assert.equal(link.outstanding, before - back);
      assert.equal(umem.freeFrames, 16 - link.outstanding, "free or out, nothing else");
      // Which ones came back: those that are free now.
      const free = Array.from({ length: umem.freeFrames }, () => umem.takeFrame());
      for (const frame of free) out.delete(frame);
      assert.equal(out.size, link.outstanding);
      for (const frame of free) umem.give(frame);
    }
    assert.ok(link.corrupt >= 0);
  }));
});

Deno.test("what an app has passed comes back when the answers it gave before that were taken", () => {
  const { net, app, umem, link } = room();
  const reader = new LinkConsumer(app, net, SHAPE);
  const producer = new LinkProducer(app, net, SHAPE);
  const answer = () => {
    producer.push();
    producer.publish();
  };
  for (let i = 0; i < SHAPE.depth; i++) push(link, umem.takeFrame());
  link.publish();
  answer();
  answer();
  reader.release(SHAPE.depth);
  assert.equal(link.reclaim(), 0, "one of them could send a request back");
  assert.equal(push(link, umem.takeFrame()), false, "what is not back keeps its place");
  link.release(1);
  answer();
  assert.equal(link.reclaim(), 0);
  link.release(1);
  assert.equal(link.reclaim(), SHAPE.depth, "the third was given after that");
});

Deno.test("a request that is sent back is the answer's, once, and does not come back", () => {
  const { net, app, umem, link } = room();
  const reader = new LinkConsumer(app, net, SHAPE);
  const [packets, frame, large] = [makePackets(), umem.takeFrame(), umem.takeLarge()];
  link.largeOut = 1;
  push(link, frame + 320, 10, (3 << 16) | 7);
  push(link, large, 5000, (3 << 16) | 7);
  link.publish();
  for (const place of [2, 7, 8, 0xffffffff]) {
    assert.equal(link.takeRequest(place, packets, 0), false, `nothing is out at ${place}`);
  }
  assert.ok(link.takeRequest(0, packets, 0));
  assert.deepEqual([...packets.subarray(0, 5)], [frame + 320, 10, 1, 2, (3 << 16) | 7]);
  assert.ok(link.takeRequest(1, packets, 0));
  assert.deepEqual([packets[Packet.offset], packets[Packet.length]], [large, 5000]);
  assert.equal(link.largeOut, 0);
  assert.equal(link.takeRequest(0, packets, 0), false, "it is not there any more");
  reader.release(2);
  assert.equal(link.reclaim(), 2);
  assert.deepEqual([umem.freeFrames, umem.freeLarge], [15, 3]);
  assert.equal(link.takeRequest(1, packets, 0), false);
});

Deno.test("cursors that cannot be true are counted", () => {
  const { app, umem, link } = room();
  const words = u32(app);
  words[0] = 1000;
  assert.equal(link.answers.available(), 0);
  assert.equal(link.corrupt, 1);
  words[0] = 0;
  push(link, umem.takeFrame());
  link.publish();
  words[16] = 77;
  assert.equal(link.reclaim(), 0);
  assert.equal(link.corrupt, 2);
});

Deno.test("an honest app's answers are seen", () => {
  const { net, app, link } = room();
  const producer = new LinkProducer(app, net, SHAPE);
  producer.push();
  producer.publish();
  assert.equal(link.answers.available(), 1);
});

Deno.test("copies that an app has not passed are never overwritten, whatever sizes come and go", () => {
  const shape = { ...SHAPE, requestBytes: 256 };
  const step = fc.record({ size: fc.nat(300), passed: fc.nat(3), isTakenOver: fc.boolean() });
  fc.assert(fc.property(fc.array(step, { maxLength: 100, size: "max" }), (steps) => {
    const made = room(shape);
    const { net, app, umem } = made;
    let { link } = made;
    const reader = new LinkConsumer(app, net, shape);
    const memory = u8(requestRing(net, shape)!);
    const expected: Uint8Array[] = [];
    steps.forEach(({ size, passed, isTakenOver }, i) => {
      const offset = umem.takeFrame() + PAYLOAD_AT;
      const payload = umem.bytes.subarray(offset, offset + size).fill(i + 1);
      if (push(link, offset, size)) expected.push(payload.slice());
      else {
        assert.ok(expected.length > 0 || size > 252, "there is room");
        umem.give(offset);
      }
      link.publish();
      const seen = expected.map((_, waiting) => {
        const at = reader.slot(waiting);
        const begin = reader.words[at + Descriptor.offset];
        assert.ok(begin + reader.words[at + Descriptor.length] <= 256);
        return memory.slice(begin, begin + reader.words[at + Descriptor.length]);
      });
      assert.deepEqual(seen, expected);
      const done = Math.min(passed, expected.length);
      reader.release(done);
      expected.splice(0, done);
      if (isTakenOver) {
        link = made.join();
        link.resume(() => true);
      }
      link.reclaim();
    });
    assert.equal(umem.freeFrames, 16 - expected.length);
  }));
});
