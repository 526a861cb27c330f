// SPDX-License-Identifier: Apache-2.0
/**
 * A reader of the neighbour table in its own thread, for neighbors_concurrent_test.ts. It works like a
 * net tile: bursts of lookups, whose results are used until the end of the burst, then a quiescent
 * state. Addresses below `residents` are always present; the others come and go.
 */

/// <reference lib="deno.worker" />

import type { View } from "../../../ffi/region.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { TileRegion } from "../../../tiles/runtime/tile.ts";

/** The reader's setup. */
export interface ReaderTask {
  readonly netbase: View;
  readonly tile: View;
  readonly control: SharedArrayBuffer;
  readonly residents: number;
  readonly addresses: number;
}

/** Word of the control buffer that means stop; reader `i` counts its lookups in word 1 + i. */
export const STOP = 0;

/** The reader's results. */
export interface ReaderResult {
  readonly lookups: number;
  readonly hits: number;
  /** Residents that were not found. */
  readonly missed: number;
  /** MACs that belong to another address, or are half old and half new. */
  readonly torn: number;
}

/** Half of a MAC that matches only this other half and this address. */
export function macHeadOf(address: number, macTail: number): number {
  return (Math.imul(address + 1, 0x9e3779b1) ^ Math.imul(macTail + 1, 0x85ebca6b)) >>> 0;
}

const BURST = 64;

function run(task: ReaderTask, index: number): ReaderResult {
  const control = new Int32Array(task.control);
  const tile = new TileRegion(task.tile);
  const reader = new NetbaseReader(task.netbase);
  const { neighbors } = reader;
  const addresses = new Int32Array(BURST);
  const records = new Int32Array(BURST);
  let [lookups, hits, missed, torn, random] = [0, 0, 0, 0, 12345 + index];
  while (Atomics.load(control, STOP) === 0) {
    reader.refresh();
    for (let i = 0; i < BURST; i++) {
      random = Math.imul(random, 1664525) + 1013904223;
      // Half of the lookups are for residents, half for any address.
      const span = (random & 0x10000) === 0 ? task.residents : task.addresses;
      addresses[i] = (random >>> 8) % span;
      records[i] = neighbors.lookup(2, addresses[i]);
    }
    for (let i = 0; i < BURST; i++) {
      const record = records[i];
      if (record < 0) {
        if (addresses[i] < task.residents) missed++;
        continue;
      }
      hits++;
      const tail = neighbors.macTail(record);
      if (neighbors.macHead(record) !== macHeadOf(addresses[i], tail)) torn++;
    }
    lookups += BURST;
    Atomics.store(control, 1 + index, lookups >>> 10);
    tile.quiescent();
  }
  return { lookups, hits, missed, torn };
}

self.onmessage = (event: MessageEvent<{ task: ReaderTask; index: number }>) => {
  self.postMessage("ready");
  self.postMessage(run(event.data.task, event.data.index));
};
