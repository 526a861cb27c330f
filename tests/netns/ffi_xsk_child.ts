/**
 * Takes the frames for 198.18.0.1:7 on the interface that the command line names, like an appliance
 * does, says so, and stays until it is killed.
 *
 * @module
 */

import { Filter, FILTER_BYTES } from "../../ffi/filter.ts";
import { libraryPath } from "../../ffi/paths.ts";
import { openRegions } from "../../ffi/region.ts";
import { openXsk, openXskSetup } from "../../ffi/xsk.ts";

const [ifname, ifindex, mac] = Deno.args;
const regions = openRegions(libraryPath("region"));
const setup = openXskSetup(libraryPath("xsk"));
const program = setup.load(Number(ifindex), 1);
const filter = new Filter(regions.mapShared(setup.filterFd(program), FILTER_BYTES));
filter.setMac(Uint8Array.fromHex(mac));
filter.setPort(7, true);
filter.add(0xc6120001);
const umem = setup.createUmem(regions.create("umem", 64 * 2048).writer, {
  frameBytes: 2048,
  headroom: 0,
  fill: 64,
  completion: 64,
});
const slot = setup.open(umem, {
  ifname,
  ifindex: Number(ifindex),
  queue: 0,
  mode: "copy",
  rx: 64,
  tx: 64,
});
const attached = setup.attach(program, "native");
if (slot < 0 || attached < 0) throw new Error(`open ${slot}, attach ${attached}`);
openXsk(libraryPath("xsk")).fill(slot, Uint32Array.from({ length: 64 }, (_, i) => i * 2048), 64);
setup.register(program, slot);
console.log("serving");
setInterval(() => {}, 1000);
