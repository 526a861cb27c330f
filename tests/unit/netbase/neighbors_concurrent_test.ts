// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NUD_REACHABLE, NUD_STALE } from "../../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { TILE_REGION_BYTES, TileReader } from "../../../tiles/runtime/tile.ts";
import { macHeadOf, type ReaderResult, type ReaderTask, STOP } from "./neighbors_reader.ts";

const READERS = 2;
const RESIDENTS = 400;
const ADDRESSES = 4000;

/** What a run is to show, and how long it may take. */
interface Plan {
  /** Lookups that each reader is to make, in units of 1,024. */
  readonly lookups: number;
  readonly boundMillis: number;
  /** False: the writer is told of no readers, so it waits for none. */
  readonly protect: boolean;
}

/** One writer here, readers in threads of their own. */
async function run(plan: Plan): Promise<ReaderResult[]> {
  const netbase = heapView(NETBASE_BYTES);
  const control = new SharedArrayBuffer(4 * (1 + READERS));
  const tiles = Array.from({ length: READERS }, () => heapView(TILE_REGION_BYTES));
  const readers = plan.protect ? tiles.map((view) => new TileReader(view)) : [];
  const writer = new NetbaseWriter(netbase, { readers, neighborSlots: 64, seed: 77 });
  for (let address = 0; address < RESIDENTS; address++) set(writer, address, 0);
  const url = new URL("./neighbors_reader.ts", import.meta.url);
  const workers = tiles.map(() => new Worker(url, { type: "module" }));
  try {
    const ready = workers.map((worker) => once(worker));
    workers.forEach((worker, index) => {
      const task: ReaderTask = {
        ...{ netbase, tile: tiles[index], control, residents: RESIDENTS, addresses: ADDRESSES },
      };
      worker.postMessage({ task, index });
    });
    await Promise.all(ready);
    const results = workers.map((worker) => once(worker));
    const counts = new Int32Array(control);
    change(writer, plan, counts);
    Atomics.store(counts, STOP, 1);
    assert.equal(writer.neighbors.full, 0);
    return await Promise.all(results) as ReaderResult[];
  } finally {
    for (const worker of workers) worker.terminate();
  }
}

/** The next message of a worker. */
function once(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = (event) => reject(new Error(event.message));
  });
}

/** Changes the table in every way until each reader has looked often enough. */
function change(writer: NetbaseWriter, plan: Plan, counts: Int32Array): void {
  const end = performance.now() + plan.boundMillis;
  let random = 1;
  let strangers = 0;
  for (let round = 0; performance.now() < end; round++) {
    if (counts.subarray(1).every((_, i) => Atomics.load(counts, 1 + i) >= plan.lookups)) return;
    for (let i = 0; i < 256; i++) {
      random = Math.imul(random, 1664525) + 1013904223;
      const pick = random >>> 8;
      set(writer, pick % RESIDENTS, round);
      const stranger = RESIDENTS + (strangers++ % (ADDRESSES - RESIDENTS));
      // Long waves of more and of fewer strangers: the table grows, litters, and is cleaned.
      const more = (round & 64) === 0;
      if (more || i % 4 === 0) set(writer, stranger, round);
      else writer.neighbors.remove(2, stranger);
    }
    writer.commit();
    // A reader that the machine does not let run is waited for; the table would say that it is full.
    while (writer.waiting > 100_000 && performance.now() < end) writer.commit();
  }
}

function set(writer: NetbaseWriter, address: number, version: number): void {
  const macTail = version & 0xffff;
  const state = version % 3 === 0 ? NUD_STALE : NUD_REACHABLE;
  const macHead = macHeadOf(address, macTail);
  writer.neighbors.set({ ifindex: 2, address, state, flags: 0, macHead, macTail });
}

Deno.test("readers in other threads see no torn and miss no present neighbour in millions of lookups", async () => {
  const results = await run({ lookups: 8192, boundMillis: 240_000, protect: true });
  for (const { lookups, hits, missed, torn } of results) {
    assert.deepEqual({ missed, torn }, { missed: 0, torn: 0 });
    assert.ok(lookups > 8_000_000, `${lookups} lookups`);
    assert.ok(hits > lookups / 2);
  }
});

Deno.test("the same test notices when records are reused without waiting for readers", async () => {
  // Only if they run at once, or if one is interrupted at the wrong moment.
  for (let tries = 0; tries < 5; tries++) {
    const results = await run({ lookups: 4096, boundMillis: 40_000, protect: false });
    if (results.some(({ missed, torn }) => missed + torn > 0)) return;
  }
  assert.fail("nothing was missed or torn");
});
