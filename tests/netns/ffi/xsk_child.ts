// SPDX-License-Identifier: Apache-2.0
/**
 * Takes the frames for 198.18.0.1:7 on the interface that the command line names, like an appliance
 * does, says so, and stays until it is killed.
 */

import { openRegions } from "../../../ffi/region.ts";
import { FILTER_BYTES } from "../../../ffi/shared.ts";
import { openXsk, openXskSetup } from "../../../ffi/xsk.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import { createRegion } from "../../region.ts";

const [ifindex, mac] = Deno.args;
const regions = openRegions();
const setup = openXskSetup();
const memory = createRegion(regions, "umem", 64 * 2048).writer;
const program = setup.load(1);
const filter = new Filter(regions.mapShared(program.filter, FILTER_BYTES));
filter.setMac(Uint8Array.fromHex(mac));
filter.setPorts([7]);
filter.add(0xc6120001);
const fd = setup.prepare(memory, { frameBytes: 2048, headroom: 0, ring: 64 });
const xsk = openXsk();
const slot = xsk.adopt(fd, memory, 64);
const bound = setup.bind(fd, { ifindex: Number(ifindex), queue: 0, mode: "copy" });
const attached = setup.attach(program, Number(ifindex), "native");
if (slot < 0 || bound < 0 || attached < 0) throw new Error(`${slot}, ${bound}, ${attached}`);
xsk.fill(slot, Uint32Array.from({ length: 64 }, (_, i) => i * 2048), 64);
setup.register(program, 0, fd);
console.log("serving");
setInterval(() => {}, 1000);
