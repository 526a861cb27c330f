/**
 * Decoding of RTM_NEWNEIGH and RTM_DELNEIGH, and of the tables that neighbours are kept in
 * (RTM_NEWNEIGHTBL). Neighbours change often: they are read into one object that is used again.
 */

import type { NeighborEntry } from "../../netbase/neighbors.ts";
import * as nl from "./constants.ts";
import {
  attributeAddress,
  attributeLength,
  Attributes,
  attributeType,
  attributeU32,
  type MessageCursor,
  padded,
} from "./message.ts";

const ETH_ALEN = 6;
/** Kernel clock ticks of `struct nda_cacheinfo` in a second (USER_HZ). */
const TICKS_PER_SECOND = 100;

/** A neighbour as a message tells it. Reused from one message to the next. */
export class NeighborMessage implements NeighborEntry {
  ifindex = 0;
  /** NUD_* */
  state = 0;
  /** NTF_*, and NTF_EXT_* from the eighth bit on. */
  flags = 0;
  /** RTN_* of the address: unicast, or broadcast and multicast for what the kernel made itself. */
  type = 0;
  /** IPv4 address, host order. */
  address = 0;
  /** Whether there is a MAC address of six bytes. */
  hasMac = false;
  /** Bytes 0 to 3 of the MAC as they lie in memory, and bytes 4 and 5. */
  macHead = 0;
  macTail = 0;
  /** Milliseconds since it was last known to be reachable; -1: not told. */
  confirmedMillis = -1;
}

/**
 * Reads a neighbour message's body into `out`. False: not an IPv4 neighbour, or without an address,
 * or a proxy entry (NTF_PROXY), all of which come in the same group. Throws `MalformedMessage`.
 */
export function decodeNeighbor(message: MessageCursor, out: NeighborMessage): boolean {
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(nl.NDMSG_BYTES);
  const { u8, u16, u32 } = bytes;
  out.flags = u8[bodyAt + 10];
  if (u8[bodyAt] !== nl.AF_INET || (out.flags & nl.NTF_PROXY) !== 0) return false;
  out.ifindex = u32[(bodyAt >>> 2) + 1];
  out.state = u16[(bodyAt >>> 1) + 4];
  out.type = u8[bodyAt + 11];
  out.address = out.macHead = out.macTail = 0;
  out.hasMac = false;
  out.confirmedMillis = -1;
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.NDA_DST:
        out.address = attributeAddress(bytes, at, length);
        break;
      case nl.NDA_LLADDR:
        if (length !== nl.NLA_HDRLEN + ETH_ALEN) break;
        out.hasMac = true;
        out.macHead = u32[(at >>> 2) + 1];
        out.macTail = u16[(at >>> 1) + 4];
        break;
      case nl.NDA_CACHEINFO:
        out.confirmedMillis = attributeU32(bytes, at, length) * (1000 / TICKS_PER_SECOND);
        break;
      case nl.NDA_FLAGS_EXT:
        out.flags |= (attributeU32(bytes, at, length) & 0xff) << 8;
    }
  }
  return out.address !== 0;
}

/** A neighbour table, or the parameters of one interface in it, as a message tells it. */
export interface NeighborTableMessage {
  readonly name: string;
  /** 0 for the table itself and its defaults; else the interface that the parameters are of. */
  readonly ifindex: number;
  /**
   * Numbers of entries at which the kernel begins to collect, collects harder, refuses; 0: not
   * told.
   */
  readonly thresh1: number;
  readonly thresh2: number;
  readonly thresh3: number;
  /** Entries of all namespaces; -1: not told. */
  readonly entries: number;
  /** How long a confirmed neighbour stays REACHABLE, and STALE ones in use stay in DELAY. */
  readonly reachableMillis: number;
  readonly delayProbeMillis: number;
}

/** Reads a neighbour table message's body; null: not IPv4's. Throws `MalformedMessage`. */
export function decodeNeighborTable(message: MessageCursor): NeighborTableMessage | null {
  const attributes = Attributes.of(message, nl.NDTMSG_BYTES);
  if (message.bytes.u8[message.bodyAt] !== nl.AF_INET) return null;
  const parameters = attributes.nested(nl.NDTA_PARMS);
  // struct ndt_config: two 16-bit sizes, then how many entries there are.
  const config = attributes.u64(nl.NDTA_CONFIG);
  return {
    name: attributes.string(nl.NDTA_NAME),
    ifindex: parameters.u32(nl.NDTPA_IFINDEX),
    thresh1: attributes.u32(nl.NDTA_THRESH1),
    thresh2: attributes.u32(nl.NDTA_THRESH2),
    thresh3: attributes.u32(nl.NDTA_THRESH3),
    entries: attributes.has(nl.NDTA_CONFIG) ? Math.floor(config / 2 ** 32) : -1,
    reachableMillis: parameters.u64(nl.NDTPA_REACHABLE_TIME),
    delayProbeMillis: parameters.u64(nl.NDTPA_DELAY_PROBE_TIME),
  };
}
