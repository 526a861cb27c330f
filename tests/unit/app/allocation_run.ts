// SPDX-License-Identifier: Apache-2.0
/**
 * Prints how many bytes V8 allocates for a datagram that passes a net tile and an app, in both directions. Arguments
 * are a `PathShape` in JSON, and the number of bytes that counts as nothing. V8's new space has to be so large that nothing is collected meanwhile: then the heap in use
 * grows by exactly what is allocated.
 */

import { frameCount } from "../../../bench/path_host.ts";
import { Path, type PathShape } from "../../../bench/path_tiles.ts";
import { heapView } from "../../../ffi/region.ts";
import { ROUTE_CACHE_BYTES } from "../../../tiles/net/route_cache.ts";
import { umemBytes } from "../../../tiles/runtime/plan.ts";

const DATAGRAMS = 100_000;
/** In a round three times as many datagrams pass. After some rounds V8 has compiled everything. */
const MOST_ROUNDS = 20;

const shape: PathShape = JSON.parse(Deno.args[0]);
const nothing = Number(Deno.args[1]);
const path = await Path.make({
  ...shape,
  memory: {
    umem: heapView(umemBytes(frameCount())),
    routeCache: heapView(ROUTE_CACHE_BYTES),
  },
});

/** Bytes that are allocated while so many datagrams pass. */
function allocated(datagrams: number): number {
  const before = Deno.memoryUsage().heapUsed;
  path.run(datagrams);
  return Deno.memoryUsage().heapUsed - before;
}

let each = Infinity;
for (let [round, quiet] = [0, 0]; round < MOST_ROUNDS && quiet < 2; round++) {
  // What a run allocates however long it is does not count.
  const once = allocated(DATAGRAMS);
  each = (allocated(2 * DATAGRAMS) - once) / DATAGRAMS;
  quiet = Math.abs(each) < nothing ? quiet + 1 : 0;
}
console.log(each.toFixed(3));
