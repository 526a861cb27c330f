// SPDX-License-Identifier: Apache-2.0
/**
 * A reader of netbase in a thread of its own, as a net tile is one, for `daemons_test.ts`: looks up
 * addresses that the kernel has a route to at every moment, again and again, and counts.
 */

/// <reference lib="deno.worker" />

import type { View } from "../../../ffi/region.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { RTN_UNICAST } from "../../../netbase/route.ts";
import { TileRegion } from "../../../tiles/runtime/tile.ts";

/** What the reader is given. */
export interface ReaderTask {
  readonly netbase: View;
  readonly tile: View;
  /** Word 0: not 0 ends it. Word 1: how often it has been through all addresses. */
  readonly control: SharedArrayBuffer;
  readonly addresses: Uint32Array;
}

/** What the reader found. */
export interface ReaderResult {
  readonly lookups: number;
  /** Lookups that found no route, or none that leads anywhere. */
  readonly failures: number;
}

const BURST = 64;

function run({ netbase, tile, control, addresses }: ReaderTask): ReaderResult {
  const words = new Int32Array(control);
  const region = new TileRegion(tile);
  const reader = new NetbaseReader(netbase);
  let [lookups, failures] = [0, 0];
  while (Atomics.load(words, 0) === 0) {
    for (let first = 0; first < addresses.length; first += BURST) {
      reader.refresh();
      const end = Math.min(first + BURST, addresses.length);
      for (let i = first; i < end; i++) {
        const id = reader.fib.lookup(addresses[i]);
        if (id === 0 || reader.nextHops.kind(id) !== RTN_UNICAST) failures++;
      }
      lookups += end - first;
      region.quiescent();
    }
    Atomics.add(words, 1, 1);
  }
  return { lookups, failures };
}

self.onmessage = (event: MessageEvent<ReaderTask>) => {
  self.postMessage("ready");
  self.postMessage(run(event.data));
};
