// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { emptyRoute, NLM_F_CREATE, type Route } from "../../../netbase/route.ts";
import { TILE_REGION_BYTES, TileReader } from "../../../tiles/runtime/tile.ts";
import { ip } from "../netbase_kernel.ts";
import type { FibResult, FibTask } from "./fib_reader.ts";

const FIRST = ip("198.18.0.0");
const ADDRESSES = 4096;

function route(destination: number, prefixLength: number): Route {
  const told = { gateway: destination, source: prefixLength };
  return { ...emptyRoute(), destination, prefixLength, ...told, ifindex: 2 };
}

/** Routes of 2^(32 - length) addresses each that together cover all that is looked up. */
function tiling(length: number): Route[] {
  const span = 2 ** (32 - length);
  return Array.from({ length: ADDRESSES / span }, (_, i) => route(FIRST + i * span, length));
}

/** States that each cover every address, and have nothing in common. */
const STATES: Route[][] = [
  [route(0, 0)],
  [route(ip("198.18.0.0"), 15)],
  tiling(20),
  tiling(24),
  tiling(26),
  [...tiling(30), route(ip("198.18.0.0"), 16)],
];

/** The next message of a worker. */
function once(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = (event) => reject(new Error(event.message));
  });
}

Deno.test("a covered address is never without its route while all routes are replaced", async () => {
  const netbase = heapView(NETBASE_BYTES);
  const tile = heapView(TILE_REGION_BYTES);
  const control = new SharedArrayBuffer(8);
  const writer = new NetbaseWriter(netbase, { readers: [new TileReader(tile)], seed: 5 });
  for (const one of STATES[0]) writer.rib.add(one, NLM_F_CREATE);
  writer.commit();
  const worker = new Worker(new URL("./fib_reader.ts", import.meta.url), {
    type: "module",
  });
  try {
    const ready = once(worker);
    const task: FibTask = { netbase, tile, control, first: FIRST, addresses: ADDRESSES };
    worker.postMessage(task);
    await ready;
    const result = once(worker);
    const counts = new Int32Array(control);
    const end = performance.now() + 240_000;
    let rounds = 0;
    const isEnough = () => rounds > 20 && Atomics.load(counts, 1) >= 8192;
    for (; !isEnough() && performance.now() < end; rounds++) {
      replaceAll(writer, STATES[rounds % STATES.length], rounds % 2 === 0);
    }
    Atomics.store(counts, 0, 1);
    const { lookups, uncovered, wrong } = await result as FibResult;
    assert.ok(lookups > 8_000_000 && rounds > 20, `${lookups} lookups, ${rounds} rounds`);
    assert.deepEqual({ uncovered, wrong }, { uncovered: 0, wrong: 0 });
    assert.equal(writer.fib.overflow, 0);
  } finally {
    worker.terminate();
  }
});

function isSamePrefix(a: Route, b: Route): boolean {
  return a.destination === b.destination && a.prefixLength === b.prefixLength;
}

/** Goes over to other routes, by mark and sweep or by one event after the other. */
function replaceAll(writer: NetbaseWriter, routes: Route[], bySync: boolean): void {
  if (bySync) {
    writer.rib.beginSync();
    for (const one of routes) writer.rib.addFromDump(one);
    writer.rib.endSync();
  } else {
    const old = [...writer.rib.routes()];
    for (const one of routes) {
      writer.rib.add(one, NLM_F_CREATE);
      writer.commit();
    }
    for (const one of old) {
      if (routes.every((other) => !isSamePrefix(one, other))) writer.rib.remove(one);
    }
  }
  writer.commit();
}
