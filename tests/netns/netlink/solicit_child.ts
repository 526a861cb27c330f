// SPDX-License-Identifier: Apache-2.0
/**
 * Run without CAP_NET_ADMIN by `tile_test.ts`: has the kernel resolve a neighbour and waits
 * until it is known. Arguments: interface and address.
 */

import { NeighborSocket } from "../../../tiles/netlink/neighbor_resolver.ts";
import { addr, indexOf, library, Mirrored, turnUntil } from "./kit.ts";

const [name, address] = [Deno.args[0], addr(Deno.args[1])];
const ifindex = indexOf(name);
using mirrored = new Mirrored().sync();
const socket = new NeighborSocket(library, console.log);
if (!socket.solicit(ifindex, address)) throw new Error("not asked");
turnUntil(mirrored, () => mirrored.reader.neighbors.lookup(ifindex, address) >= 0);
console.log(`resolved, privileged: ${socket.privileged}`);
socket.close();
