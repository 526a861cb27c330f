/**
 * Decoding of RTM_NEWROUTE and RTM_DELROUTE into the form that the RIB takes. This is the message
 * that comes by the million, so it is read into one object that is used again and again; only a
 * multipath route allocates, for its hops.
 */

import type { Hop, Route } from "../../netbase/route.ts";
import * as nl from "./constants.ts";
import { Attributes, MalformedMessage, type MessageCursor, padded } from "./message.ts";

const RTNEXTHOP_BYTES = 8;

/** Those of the message at hand, and those inside one of them. */
const attributes = new Attributes();
const inner = new Attributes();

/**
 * Reads a route message's body into `out`, which is used again and again. False: not IPv4. Throws
 * `MalformedMessage`. `out.unsupported` says that a way out is of a kind that Tegula cannot take:
 * an IPv6 gateway, an encapsulation. A multipath route with one such hop is unsupported as a whole,
 * or flows would be spread otherwise than the kernel spreads them.
 */
export function decodeRoute(message: MessageCursor, out: Route): boolean {
  const { bytes: { u8, u32 }, bodyAt } = message;
  attributes.of(message, nl.RTMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_INET) return false;
  out.prefixLength = u8[bodyAt + 1];
  out.tos = u8[bodyAt + 3];
  out.table = attributes.u32(nl.RTA_TABLE, u8[bodyAt + 4]);
  out.protocol = u8[bodyAt + 5];
  out.scope = u8[bodyAt + 6];
  out.type = u8[bodyAt + 7];
  out.flags = u32[(bodyAt >>> 2) + 2];
  out.destination = attributes.address(nl.RTA_DST);
  out.priority = attributes.u32(nl.RTA_PRIORITY);
  out.source = attributes.address(nl.RTA_PREFSRC);
  out.ifindex = attributes.u32(nl.RTA_OIF);
  out.nextHopId = attributes.u32(nl.RTA_NH_ID);
  out.mtu = attributes.has(nl.RTA_METRICS)
    ? attributes.nested(nl.RTA_METRICS, inner).u32(nl.RTAX_MTU)
    : 0;
  out.unsupported = !decodeGateway(attributes, out);
  out.hops = attributes.has(nl.RTA_MULTIPATH) ? decodeHops(message, out) : null;
  checkPrefix(out);
  return true;
}

/** Throws for a prefix that no kernel sends: too long, or with bits set behind its length. */
function checkPrefix({ prefixLength, destination }: Route): void {
  const inside = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
  if (prefixLength > 32 || (destination & ~inside) !== 0) {
    throw new MalformedMessage(`prefix ${destination.toString(16)}/${prefixLength}`);
  }
}

/** The `struct rtnexthop`s with attributes of their own that make up a multipath route. */
function decodeHops({ bytes }: MessageCursor, route: Route): Hop[] {
  const hops: Hop[] = [];
  const { at: first, end } = attributes.extent(nl.RTA_MULTIPATH);
  for (let at = first, length = 0; at < end; at += padded(length)) {
    const left = end - at;
    length = left < RTNEXTHOP_BYTES ? 0 : bytes.u16[at >>> 1];
    if (length < RTNEXTHOP_BYTES || length > left) {
      throw new MalformedMessage(`a next hop of ${length} bytes in ${left}`);
    }
    const hop = {
      gateway: 0,
      ifindex: bytes.u32[(at >>> 2) + 1],
      weight: bytes.u8[at + 3] + 1,
      flags: bytes.u8[at + 2],
    };
    inner.within(bytes, at + RTNEXTHOP_BYTES, at + length);
    if (!decodeGateway(inner, hop)) route.unsupported = true;
    hops.push(hop);
  }
  return hops;
}

/** Reads by whom a route or a hop of it leads. False: it leads where Tegula cannot go. */
function decodeGateway(of: Attributes, way: Hop | Route): boolean {
  way.gateway = of.address(nl.RTA_GATEWAY);
  // A `struct rtvia`: the 16-bit family, and behind it the address.
  const via = of.payload(nl.RTA_VIA, 2);
  if (via !== null) {
    if ((via[0] | via[1] << 8) !== nl.AF_INET || via.length < 6) return false;
    way.gateway = (via[2] << 24 | via[3] << 16 | via[4] << 8 | via[5]) >>> 0;
  }
  return !of.has(nl.RTA_ENCAP);
}
