// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { TILE_REGION_BYTES, TileReader, TileRegion, Waker } from "../../../tiles/runtime/tile.ts";

function tileWithWaker() {
  const view = heapView(TILE_REGION_BYTES);
  const wakes = { count: 0 };
  const waker = new Waker(new TileReader(view), () => wakes.count++);
  return { view, region: new TileRegion(view), waker, wakes };
}

Deno.test("published() wakes a tile once per sleep, and not at all while it is awake", () => {
  const { region, waker, wakes } = tileWithWaker();
  waker.published();
  assert.equal(wakes.count, 0, "it never slept");
  for (let sleep = 1; sleep <= 3; sleep++) {
    region.fallAsleep();
    for (let i = 0; i < 3; i++) waker.published();
    assert.equal(wakes.count, sleep);
    region.awake();
    waker.published();
    assert.equal(wakes.count, sleep, "it is awake");
  }
});

Deno.test("each of a tile's producers wakes it by itself", () => {
  const { view, region, waker, wakes } = tileWithWaker();
  const other = new Waker(new TileReader(view), () => wakes.count++);
  region.fallAsleep();
  waker.published();
  other.published();
  assert.equal(wakes.count, 2);
});

Deno.test("the successor of a tile that ended asleep is seen awake and asleep as it is", () => {
  const { view, region, waker, wakes } = tileWithWaker();
  region.fallAsleep();
  waker.published();
  const successor = new TileRegion(view);
  const seen = new TileReader(view);
  successor.fallAsleep();
  assert.equal(seen.asleep, true);
  waker.published();
  assert.equal(wakes.count, 2, "its sleep is another than its predecessor's");
  successor.awake();
  assert.equal(seen.asleep, false);
});

Deno.test("the burst counter moves with every quiescent state, and goes on where a predecessor was", () => {
  const view = heapView(TILE_REGION_BYTES);
  const seen = new TileReader(view);
  new TileRegion(view).quiescent();
  const before = seen.burst;
  new TileRegion(view).quiescent();
  assert.equal(seen.burst, before + 1);
});
