/**
 * Where the kernel goes by what it remembers and tells nobody: which of its ways it may take then.
 *
 * It shares flows out to the hops of a route when a link changes, not when
 * `ignore_routes_with_linkdown` does, so that a hop without carrier may go on being taken. And of
 * several default routes of equal metric it takes one by how their gateways fare, but alternates
 * between two that it has not heard of lately (`fib_select_default`, `fib_detect_death`).
 */

import { NextHopFlag } from "../../../netbase/layout.ts";
import { NUD_REACHABLE, NUD_VALID } from "../../../netbase/neighbors.ts";
import { KIND_GROUP, RT_TABLE_MAIN, RTNH_F_LINKDOWN } from "../../../netbase/route.ts";
import type { Mirrored } from "./kit.ts";

/** One way out. */
interface Way {
  readonly gateway: number;
  readonly ifindex: number;
}

/** Whether the kernel may go to `address` by `way`, which is another's than Tegula's. */
export function mayBeTaken(mirrored: Mirrored, address: number, way: Way): boolean {
  const { fib, nextHops, neighbors } = mirrored.reader;
  const best = mirrored.writer.rib.bestFor(address);
  if (best?.hops?.some((hop) => isLinkdown(hop) && isSame(hop, way)) === true) return true;
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

/** What goes to everyone goes by the hop's interface, not by its gateway. */
function isSame(own: Way, kernel: Way): boolean {
  return own.ifindex === kernel.ifindex &&
    (own.gateway === kernel.gateway || kernel.gateway === 0);
}

function isLinkdown({ flags }: { flags: number }): boolean {
  return (flags & RTNH_F_LINKDOWN) !== 0;
}
