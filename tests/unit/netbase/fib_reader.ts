// SPDX-License-Identifier: Apache-2.0
/**
 * A reader of the FIB in its own thread, for fib_concurrent_test.ts. Every address that it looks up is
 * always covered by a route whose gateway is its prefix and whose source address is the prefix's
 * length.
 */

/// <reference lib="deno.worker" />

import type { View } from "../../../ffi/region.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { TileRegion } from "../../../tiles/runtime/tile.ts";

/** The reader's setup. */
export interface FibTask {
  readonly netbase: View;
  readonly tile: View;
  readonly control: SharedArrayBuffer;
  readonly first: number;
  readonly addresses: number;
}

/** The reader's results. */
export interface FibResult {
  readonly lookups: number;
  /** "No route" for a covered address. */
  readonly uncovered: number;
  /** Next hops of a route that does not cover the address. */
  readonly wrong: number;
}

const BURST = 64;

function run(task: FibTask): FibResult {
  const control = new Int32Array(task.control);
  const tile = new TileRegion(task.tile);
  const reader = new NetbaseReader(task.netbase);
  const ids = new Int32Array(BURST);
  const addresses = new Float64Array(BURST);
  let [lookups, uncovered, wrong, random] = [0, 0, 0, 12345];
  while (Atomics.load(control, 0) === 0) {
    reader.refresh();
    for (let i = 0; i < BURST; i++) {
      random = Math.imul(random, 1664525) + 1013904223;
      addresses[i] = task.first + (random >>> 8) % task.addresses;
      ids[i] = reader.fib.lookup(addresses[i]);
    }
    for (let i = 0; i < BURST; i++) {
      const beyond = addresses[i] - reader.nextHops.gateway(ids[i]);
      const span = 2 ** (32 - reader.nextHops.source(ids[i]));
      if (ids[i] === 0) uncovered++;
      else if (beyond < 0 || beyond >= span) wrong++;
    }
    lookups += BURST;
    Atomics.store(control, 1, lookups >>> 10);
    tile.quiescent();
  }
  return { lookups, uncovered, wrong };
}

self.onmessage = (event: MessageEvent<FibTask>) => {
  self.postMessage("ready");
  self.postMessage(run(event.data));
};
