/**
 * What netbase says about an address that a net tile asks for: whether there is anything to ask. A
 * flood comes through here at line rate, so what most of it is, an address that is not on-link, is
 * told first.
 */

import { IFF_NOARP } from "../../netbase/interfaces.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { KIND_GROUP, RTN_UNICAST } from "../../netbase/route.ts";
import { NTF_KEPT } from "./constants.ts";
import type { NeighborMap } from "./neighbor_map.ts";

/** Where an address stands. */
export const Standing = {
  /** Not on-link there, or not an address that has a MAC. */
  offLink: 0,
  /** On-link and not known. */
  unknown: 1,
  /** On-link, not known, and the gateway of a route. */
  gateway: 2,
  /** Known, and to be confirmed soon. */
  refresh: 3,
  /** Known, or kept by somebody who asks for it. */
  known: 4,
} as const;

/** Who is a gateway on which interface; true: on-link though no prefix says so. */
type Gateways = NeighborMap<boolean>;

/**
 * One of `Standing` for `address` (host order) on interface `ifindex`. It is on-link where a route
 * says so, or where it is the gateway of a route with `onlink`. Good after `reader.refresh()`.
 */
export function neighborStanding(
  reader: NetbaseReader,
  gateways: Gateways,
  ifindex: number,
  address: number,
): number {
  if (!isOnLink(reader, ifindex, address) && gateways.get(ifindex, address) !== true) {
    return Standing.offLink;
  }
  const { neighbors, interfaces } = reader;
  const record = neighbors.find(ifindex, address);
  if (record >= 0) {
    const usable = (neighbors.state(record) & NUD_VALID) !== 0;
    if (usable) return neighbors.refreshWanted(record) ? Standing.refresh : Standing.known;
    if ((neighbors.flags(record) & NTF_KEPT) !== 0) return Standing.known;
  }
  const device = interfaces.find(ifindex);
  if (device < 0 || !interfaces.isUp(device)) return Standing.offLink;
  if ((interfaces.flags(device) & IFF_NOARP) !== 0) return Standing.offLink;
  return gateways.has(ifindex, address) ? Standing.gateway : Standing.unknown;
}

function isOnLink({ fib, nextHops }: NetbaseReader, ifindex: number, address: number): boolean {
  const id = fib.lookup(address);
  if (id === 0) return false;
  if (nextHops.kind(id) !== KIND_GROUP) return leadsThere(nextHops, id, ifindex);
  for (let i = 0; i < nextHops.memberCount(id); i++) {
    if (leadsThere(nextHops, nextHops.memberId(id, i), ifindex)) return true;
  }
  return false;
}

function leadsThere(nextHops: NetbaseReader["nextHops"], id: number, ifindex: number): boolean {
  return nextHops.ifindex(id) === ifindex && nextHops.gateway(id) === 0 &&
    nextHops.kind(id) === RTN_UNICAST;
}
