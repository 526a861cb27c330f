/**
 * Decoding of RTM_NEWROUTE and RTM_DELROUTE into the form that the RIB takes. This is the message
 * that comes by the million, so it is read into one object that is used again and again; only a
 * multipath route allocates, for its hops.
 */

import type { Hop, Route } from "../../netbase/route.ts";
import * as nl from "./constants.ts";
import {
  attributeAddress,
  attributeLength,
  attributeType,
  attributeU32,
  MalformedMessage,
  type MessageBytes,
  type MessageCursor,
  needPayload,
  padded,
} from "./message.ts";

const RTNEXTHOP_BYTES = 8;

/**
 * Reads a route message's body into `out`, which is used again and again. False: not IPv4. Throws
 * `MalformedMessage`. `out.unsupported` says that a way out is of a kind that Tegula cannot take:
 * an IPv6 gateway, an encapsulation. A multipath route with one such hop is unsupported as a whole,
 * or flows would be spread otherwise than the kernel spreads them.
 */
export function decodeRoute(message: MessageCursor, out: Route): boolean {
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(nl.RTMSG_BYTES);
  const { u8, u32 } = bytes;
  if (u8[bodyAt] !== nl.AF_INET) return false;
  out.prefixLength = u8[bodyAt + 1];
  out.tos = u8[bodyAt + 3];
  out.table = u8[bodyAt + 4];
  out.protocol = u8[bodyAt + 5];
  out.scope = u8[bodyAt + 6];
  out.type = u8[bodyAt + 7];
  out.flags = u32[(bodyAt >>> 2) + 2];
  out.destination =
    out.priority =
    out.source =
    out.gateway =
      0;
  out.ifindex = out.mtu = out.nextHopId = 0;
  out.hops = null;
  out.unsupported = false;
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.RTA_TABLE:
        out.table = attributeU32(bytes, at, length);
        break;
      case nl.RTA_DST:
        out.destination = attributeAddress(bytes, at, length);
        break;
      case nl.RTA_PRIORITY:
        out.priority = attributeU32(bytes, at, length);
        break;
      case nl.RTA_PREFSRC:
        out.source = attributeAddress(bytes, at, length);
        break;
      case nl.RTA_OIF:
        out.ifindex = attributeU32(bytes, at, length);
        break;
      case nl.RTA_GATEWAY:
        out.gateway = attributeAddress(bytes, at, length);
        break;
      case nl.RTA_METRICS:
        out.mtu = decodeMtu(bytes, at, length);
        break;
      case nl.RTA_NH_ID:
        out.nextHopId = attributeU32(bytes, at, length);
        break;
      case nl.RTA_MULTIPATH:
        out.hops = decodeHops({ bytes, at, length }, out);
        break;
      case nl.RTA_VIA:
        if (viaIsIpv4(bytes, at, length)) out.gateway = viaAddress(bytes, at);
        else out.unsupported = true;
        break;
      case nl.RTA_ENCAP:
        out.unsupported = true;
    }
  }
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

/** RTAX_MTU among the metrics nested at `at`; 0: none. */
function decodeMtu(bytes: MessageBytes, outer: number, outerLength: number): number {
  const end = outer + outerLength;
  let mtu = 0;
  for (let at = outer + nl.NLA_HDRLEN, length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    if (attributeType(bytes, at) === nl.RTAX_MTU) mtu = attributeU32(bytes, at, length);
  }
  return mtu;
}

/** The `struct rtnexthop`s with attributes of their own that make up a multipath route. */
function decodeHops(
  { bytes, at: outer, length: outerLength }: { bytes: MessageBytes; at: number; length: number },
  route: Route,
): Hop[] {
  const hops: Hop[] = [];
  const end = outer + outerLength;
  for (let at = outer + nl.NLA_HDRLEN, length = 0; at < end; at += padded(length)) {
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
    if (!decodeGateway({ bytes, at: at + RTNEXTHOP_BYTES, end: at + length }, hop)) {
      route.unsupported = true;
    }
    hops.push(hop);
  }
  return hops;
}

/** Reads a hop's own attributes. False: it leads where Tegula cannot go. */
function decodeGateway(
  { bytes, at: first, end }: { bytes: MessageBytes; at: number; end: number },
  hop: Hop,
): boolean {
  let supported = true;
  for (let at = first, length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.RTA_GATEWAY:
        hop.gateway = attributeAddress(bytes, at, length);
        break;
      case nl.RTA_VIA:
        if (viaIsIpv4(bytes, at, length)) hop.gateway = viaAddress(bytes, at);
        else supported = false;
        break;
      case nl.RTA_ENCAP:
        supported = false;
    }
  }
  return supported;
}

/** Whether the `struct rtvia` at `at` names an IPv4 gateway. */
function viaIsIpv4({ u16 }: MessageBytes, at: number, length: number): boolean {
  needPayload(length, 2);
  return u16[(at >>> 1) + 2] === nl.AF_INET && length >= nl.NLA_HDRLEN + 6;
}

/** The IPv4 gateway of the `struct rtvia` at `at`: behind its 16-bit family, so not aligned. */
function viaAddress({ u8 }: MessageBytes, at: number): number {
  return (u8[at + 6] << 24 | u8[at + 7] << 16 | u8[at + 8] << 8 | u8[at + 9]) >>> 0;
}
