// SPDX-License-Identifier: Apache-2.0
/**
 * Where the kernel's choice depends on a history that netlink does not tell: which ways out it may take
 * then.
 *
 * The kernel distributes flows over the hops of a route when the route is made, when a link of its hops
 * changes, and when one of these gets an address, but not when `ignore_routes_with_linkdown` changes.
 * So a hop without carrier may still be taken although it is marked dead. Of several default routes of
 * equal metric, the kernel takes one by the state of their gateways, but alternates between two that
 * it has not heard of lately (`fib_select_default`, `fib_detect_death`).
 */

import { NextHopFlag } from "../../../netbase/layout.ts";
import { NUD_REACHABLE, NUD_VALID } from "../../../netbase/neighbors.ts";
import { KIND_GROUP, RT_TABLE_MAIN, RTNH_F_LINKDOWN } from "../../../netbase/route.ts";
import type { Mirrored } from "./kit.ts";

/** Index of the loopback device in every namespace. */
export const LOOPBACK = 1;

/** One way out. */
interface Way {
  readonly gateway: number;
  readonly ifindex: number;
}

/** Whether the kernel may go to `address` by `way`, which is another's than Tegula's. */
export function mayBeTaken(mirrored: Mirrored, address: number, way: Way): boolean {
  const { fib, nextHops, neighbors } = mirrored.reader;
  if (linkdownHops(mirrored, address).some((hop) => isSame(hop, way))) return true;
  const id = fib.lookup(address);
  const isOrdered = id !== 0 && nextHops.kind(id) === KIND_GROUP &&
    (nextHops.flags(id) & NextHopFlag.ordered) !== 0;
  const isThis = (other: Way) => isSame(other, way);
  // The kernel's choice does not care whether a link without carrier is to be ignored.
  const down = [...mirrored.writer.rib.routesCovering(0)].filter((route) =>
    route.table === RT_TABLE_MAIN && route.prefixLength === 0 && isLinkdown(route)
  );
  if (down.some(isThis)) return isOrdered;
  if (!isOrdered) return false;
  const members = Array.from({ length: nextHops.memberCount(id) }, (_, i) => {
    const member = nextHops.memberId(id, i);
    const [gateway, ifindex] = [nextHops.gateway(member), nextHops.ifindex(member)];
    const record = neighbors.find(ifindex, gateway);
    return { gateway, ifindex, state: record < 0 ? NUD_REACHABLE : neighbors.state(record) };
  });
  const living = members.filter(({ state }) => (state & NUD_VALID) !== 0);
  if (living.length === 0 || down.length > 0) return members.some(isThis);
  return living.slice(0, living[0].state === NUD_REACHABLE ? 1 : 2).some(isThis);
}

/**
 * Whether the kernel may refuse a source in 127.0.0.0/8 where Tegula sends by loopback. It refuses such
 * a source (EINVAL) when the hop that it takes is another than loopback's, and does not say which.
 */
export function mayBeRefused(mirrored: Mirrored, address: number): boolean {
  return linkdownHops(mirrored, address).some(({ ifindex }) => ifindex !== LOOPBACK);
}

function linkdownHops({ writer }: Mirrored, address: number): readonly (Way & { flags: number })[] {
  return (writer.rib.bestFor(address)?.hops ?? []).filter(isLinkdown);
}

/** What goes to everyone goes by the hop's interface, not by its gateway. */
function isSame(own: Way, kernel: Way): boolean {
  return own.ifindex === kernel.ifindex &&
    (own.gateway === kernel.gateway || kernel.gateway === 0);
}

function isLinkdown({ flags }: { flags: number }): boolean {
  return (flags & RTNH_F_LINKDOWN) !== 0;
}
