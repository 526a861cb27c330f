// SPDX-License-Identifier: Apache-2.0
/**
 * The writer of `lan.ts` in its thread. It gives one neighbour after another a new MAC address, in batches like those
 * of a netlink tile, evenly spread over time.
 */

/// <reference lib="deno.worker" />

import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { TileReader } from "../tiles/runtime/tile.ts";
import {
  CHANGES_PER_SECOND,
  furnish,
  type LanSetup,
  NEIGHBOR_SLOTS,
  NEIGHBORS,
  setNeighbor,
  Task,
  Word,
} from "./lan.ts";

/** Changes that are committed together. */
const BATCH = 64;
const INTERVAL_MILLIS = 1000 / CHANGES_PER_SECOND;

self.onmessage = ({ data: { netbase, tile, control } }: MessageEvent<LanSetup>) => {
  const readers = [new TileReader(tile)];
  const writer = new NetbaseWriter(netbase, { readers, neighborSlots: NEIGHBOR_SLOTS, seed: 1 });
  furnish(writer);
  self.postMessage("ready");
  const words = new Int32Array(control);
  for (let task; (task = Atomics.load(words, Word.task)) !== Task.end;) {
    if (task === Task.rest) Atomics.wait(words, Word.task, Task.rest);
    else change(writer, words);
  }
};

/**
 * Changes neighbours until it is told to stop, and sleeps between batches. A spinning writer would slow
 * the reader down through shared parts of the processor.
 */
function change(writer: NetbaseWriter, words: Int32Array): void {
  const begin = performance.now();
  for (let batch = 1; Atomics.load(words, Word.task) === Task.change; batch++) {
    for (let i = 0; i < BATCH; i++) {
      const made = Atomics.add(words, Word.changes, 1);
      setNeighbor(writer, made % NEIGHBORS, Math.floor(made / NEIGHBORS) + 1);
    }
    writer.commit();
    const wait = begin + batch * BATCH * INTERVAL_MILLIS - performance.now();
    if (wait > 0) Atomics.wait(words, Word.task, Task.change, wait);
  }
}
