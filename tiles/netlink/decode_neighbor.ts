/**
 * Decoding of RTM_NEWNEIGH and RTM_DELNEIGH, and of the tables that neighbours are kept in
 * (RTM_NEWNEIGHTBL). Neighbours change often: they are read into one object that is used again.
 */

import { emptyNeighbor, type NeighborEntry } from "../../netbase/neighbors.ts";
import * as nl from "./constants.ts";
import { Attributes, type MessageCursor } from "./message.ts";

/** Kernel clock ticks of `struct nda_cacheinfo` in a second (USER_HZ). */
const TICKS_PER_SECOND = 100;

/** A neighbour as a message tells it. Reused from one message to the next. */
export interface NeighborMessage extends NeighborEntry {
  /** RTN_* of the address: unicast, or broadcast and multicast for what the kernel made itself. */
  type: number;
  /** Whether there is a MAC address of six bytes. */
  hasMac: boolean;
  /** Milliseconds since it was last known to be reachable; -1: not told. */
  confirmedMillis: number;
}

/** A message with nothing in it, to be filled. */
export function emptyNeighborMessage(): NeighborMessage {
  return { ...emptyNeighbor(), type: 0, hasMac: false, confirmedMillis: -1 };
}

/** Those of the message at hand. */
const attributes = new Attributes();

/**
 * Reads a neighbour message's body into `out`. False: not an IPv4 neighbour, or without an address,
 * or a proxy entry (NTF_PROXY), all of which come in the same group. Throws `MalformedMessage`.
 */
export function decodeNeighbor(message: MessageCursor, out: NeighborMessage): boolean {
  const { bytes: { u8, u16, u32 }, bodyAt } = message;
  attributes.of(message, nl.NDMSG_BYTES);
  const flags = u8[bodyAt + 10];
  if (u8[bodyAt] !== nl.AF_INET || (flags & nl.NTF_PROXY) !== 0) return false;
  out.ifindex = u32[(bodyAt >>> 2) + 1];
  out.state = u16[(bodyAt >>> 1) + 4];
  out.flags = flags | (attributes.u32(nl.NDA_FLAGS_EXT) & 0xff) << 8;
  out.type = u8[bodyAt + 11];
  out.address = attributes.address(nl.NDA_DST);
  out.hasMac = attributes.mac(nl.NDA_LLADDR, out);
  out.confirmedMillis = attributes.has(nl.NDA_CACHEINFO)
    ? attributes.u32(nl.NDA_CACHEINFO) * (1000 / TICKS_PER_SECOND)
    : -1;
  return out.address !== 0;
}

/** A neighbour table, or the parameters of one interface in it, as a message tells it. */
export interface NeighborTableMessage {
  /** 0 for the table itself and its defaults; else the interface that the parameters are of. */
  readonly ifindex: number;
  /** Number of entries at which the kernel refuses more (gc_thresh3); 0: not told. */
  readonly capacity: number;
  /** Entries of all namespaces; -1: not told. */
  readonly entries: number;
  /** How long a confirmed neighbour stays REACHABLE, and STALE ones in use stay in DELAY. */
  readonly reachableMillis: number;
  readonly delayProbeMillis: number;
}

/** Reads a neighbour table message's body; null: not IPv4's. Throws `MalformedMessage`. */
export function decodeNeighborTable(message: MessageCursor): NeighborTableMessage | null {
  const table = new Attributes().of(message, nl.NDTMSG_BYTES);
  if (message.bytes.u8[message.bodyAt] !== nl.AF_INET) return null;
  const parameters = table.nested(nl.NDTA_PARMS);
  return {
    ifindex: parameters.u32(nl.NDTPA_IFINDEX),
    capacity: table.u32(nl.NDTA_THRESH3),
    // struct ndt_config: two 16-bit sizes, then how many entries there are.
    entries: table.has(nl.NDTA_CONFIG) ? Math.floor(table.u64(nl.NDTA_CONFIG) / 2 ** 32) : -1,
    reachableMillis: parameters.u64(nl.NDTPA_REACHABLE_TIME),
    delayProbeMillis: parameters.u64(nl.NDTPA_DELAY_PROBE_TIME),
  };
}
