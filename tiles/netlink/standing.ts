/**
 * What netbase says about an address that a net tile asks for: whether there is anything to ask.
 *
 * @module
 */

import { IFF_NOARP } from "../../netbase/interfaces.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { KIND_GROUP, RTN_UNICAST } from "../../netbase/route.ts";
import type { NeighborMap } from "./neighbor_map.ts";
import { Standing } from "./solicitor.ts";

/**
 * One of `Standing` for `address` (host order) on interface `ifindex`. It is on-link where a route
 * says so, or where it is a route's gateway, which with `onlink` no other route need lead to. Good
 * after `reader.refresh()`.
 */
export function neighborStanding(
  reader: NetbaseReader,
  gateways: NeighborMap<true>,
  { ifindex, address }: { ifindex: number; address: number },
): number {
  const { neighbors, interfaces } = reader;
  const known = neighbors.lookup(ifindex, address);
  if (known >= 0) return neighbors.refreshWanted(known) ? Standing.refresh : Standing.known;
  const device = interfaces.find(ifindex);
  if (device < 0 || !interfaces.isUp(device)) return Standing.offLink;
  if ((interfaces.flags(device) & IFF_NOARP) !== 0) return Standing.offLink;
  if (gateways.has(ifindex, address)) return Standing.gateway;
  return isOnLink(reader, ifindex, address) ? Standing.unknown : Standing.offLink;
}

function isOnLink({ fib, nextHops }: NetbaseReader, ifindex: number, address: number): boolean {
  const id = fib.lookup(address);
  if (id === 0) return false;
  const leadsThere = (hop: number) =>
    nextHops.kind(hop) === RTN_UNICAST && nextHops.ifindex(hop) === ifindex &&
    nextHops.gateway(hop) === 0;
  if (nextHops.kind(id) !== KIND_GROUP) return leadsThere(id);
  for (let i = 0; i < nextHops.memberCount(id); i++) {
    if (leadsThere(nextHops.memberId(id, i))) return true;
  }
  return false;
}
