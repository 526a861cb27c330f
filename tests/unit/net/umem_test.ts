// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { Umem } from "../../../tiles/net/rings.ts";

const SHAPE = { frames: 4, largeBuffers: 2 };
const LARGE_BYTES = 65_536;

function makeUmem(): Umem {
  return new Umem(heapView(4 * 2048 + 2 * LARGE_BYTES), SHAPE);
}

Deno.test("each frame and each buffer is handed out once, and none where there is none", () => {
  const umem = makeUmem();
  const frames = Array.from({ length: 6 }, () => umem.takeFrame());
  assert.deepEqual(new Set(frames.slice(0, 4)), new Set([0, 2048, 4096, 6144]));
  assert.deepEqual(frames.slice(4), [-1, -1]);
  const large = Array.from({ length: 4 }, () => umem.takeLarge());
  assert.deepEqual(new Set(large.slice(0, 2)), new Set([8192, 8192 + LARGE_BYTES]));
  assert.deepEqual(large.slice(2), [-1, -1]);
  assert.deepEqual([umem.freeFrames, umem.freeLarge], [0, 0]);
  assert.equal(umem.takeFrames(new Uint32Array(4), 4), 0);
});

Deno.test("a frame or a buffer comes back by any offset in it, and can be taken again", () => {
  const umem = makeUmem();
  while (umem.takeFrame() >= 0);
  while (umem.takeLarge() >= 0);
  umem.give(2048 + 100);
  umem.give(8192 + LARGE_BYTES + 7);
  assert.deepEqual([umem.freeFrames, umem.freeLarge], [1, 1]);
  assert.deepEqual([umem.takeFrame(), umem.takeLarge()], [2048, 8192 + LARGE_BYTES]);
  umem.giveFrames(Uint32Array.of(9999, 300, 6144 + 2047), 1, 3);
  assert.deepEqual([umem.takeFrame(), umem.takeFrame(), umem.takeFrame()], [6144, 0, -1]);
});

Deno.test("memory that is too small for its shape is refused", () => {
  const view = heapView(4 * 2048 + 2 * LARGE_BYTES - 1);
  assert.throws(() => new Umem(view, SHAPE), RangeError);
});
