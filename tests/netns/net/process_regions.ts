// SPDX-License-Identifier: Apache-2.0
/** The regions of a running appliance, as the kernel has them mapped: read, and never touched. */

import { strict as assert } from "node:assert";
import { heapView, u8, type View } from "../../../ffi/region.ts";

/** A copy of the first `bytes` of region `name` of a process. */
export function readRegion(pid: number, name: string, bytes: number): View {
  const maps = Deno.readTextFileSync(`/proc/${pid}/maps`);
  const region = maps.match(new RegExp(`^([0-9a-f]+)-.*/memfd:tegula ${name} \\(deleted\\)`, "m"));
  assert.ok(region, `a region ${name}`);
  using memory = Deno.openSync(`/proc/${pid}/mem`);
  memory.seekSync(parseInt(region[1], 16), Deno.SeekMode.Start);
  const view = heapView(bytes);
  assert.equal(memory.readSync(u8(view)), bytes);
  return view;
}
