/**
 * The requests that Tegula sends to rtnetlink: dumps of what it mirrors, the question for one
 * route, and the asking for a neighbour. Everything that can change something in the kernel is in
 * this file.
 */

import * as nl from "./constants.ts";
import type { MessageWriter } from "./message.ts";

/**
 * What can be dumped: the request's type and the size of its family header. With
 * NETLINK_GET_STRICT_CHK the header has to be the right one, and zero but for what is asked.
 */
export const DUMPS = {
  links: { type: nl.RTM_GETLINK, headerBytes: nl.IFINFOMSG_BYTES, family: nl.AF_UNSPEC },
  addresses: { type: nl.RTM_GETADDR, headerBytes: nl.IFADDRMSG_BYTES, family: nl.AF_INET },
  nextHops: { type: nl.RTM_GETNEXTHOP, headerBytes: nl.NHMSG_BYTES, family: nl.AF_UNSPEC },
  routes: { type: nl.RTM_GETROUTE, headerBytes: nl.RTMSG_BYTES, family: nl.AF_INET },
  neighbors: { type: nl.RTM_GETNEIGH, headerBytes: nl.NDMSG_BYTES, family: nl.AF_INET },
  rules: { type: nl.RTM_GETRULE, headerBytes: nl.FIB_RULE_HDR_BYTES, family: nl.AF_INET },
  settings: { type: nl.RTM_GETNETCONF, headerBytes: nl.NETCONFMSG_BYTES, family: nl.AF_INET },
  neighborTables: { type: nl.RTM_GETNEIGHTBL, headerBytes: nl.NDTMSG_BYTES, family: nl.AF_INET },
} as const;

/** One of {@linkcode DUMPS}. */
export type DumpKind = keyof typeof DUMPS;

/** Writes the request for a dump of `kind`; returns its length. */
export function writeDump(writer: MessageWriter, kind: DumpKind, sequence: number): number {
  const { type, headerBytes, family } = DUMPS[kind];
  writer.begin({ type, flags: nl.NLM_F_REQUEST | nl.NLM_F_DUMP, sequence });
  writer.u8(family);
  for (let i = 1; i < headerBytes; i++) writer.u8(0);
  return writer.finish();
}

/** What to ask about with `writeGetRoute`. Addresses in host order. */
export interface RouteQuestion {
  readonly address: number;
  /** Source address; 0: none. */
  readonly source?: number;
  /** Ask for the route that matches, with all its hops, not for what would be done by it. */
  readonly fibMatch?: boolean;
}

/** Writes RTM_GETROUTE for one address; returns its length. */
export function writeGetRoute(
  writer: MessageWriter,
  { address, source = 0, fibMatch = false }: RouteQuestion,
  sequence: number,
): number {
  writer.begin({ type: nl.RTM_GETROUTE, flags: nl.NLM_F_REQUEST, sequence });
  writer.u8(nl.AF_INET).u8(32).u8(source === 0 ? 0 : 32).u8(0); // family, lengths, tos
  writer.u8(0).u8(0).u8(0).u8(0); // table, protocol, scope, type
  // Without RTM_F_LOOKUP_TABLE the answer says `main` whichever table it came from.
  writer.u32(nl.RTM_F_LOOKUP_TABLE | (fibMatch ? nl.RTM_F_FIB_MATCH : 0));
  writer.address(nl.RTA_DST, address);
  if (source !== 0) writer.address(nl.RTA_SRC, source);
  return writer.finish();
}

/** A neighbour by what identifies it. The address in host order. */
export interface NeighborName {
  readonly ifindex: number;
  readonly address: number;
}

/**
 * Writes RTM_NEWNEIGH with NTF_USE, which makes the kernel resolve or confirm a neighbour as if it
 * had a packet for it (`ip neigh add dev IF ADDR use`); returns its length. The kernel answers only
 * when it refuses. Needs CAP_NET_ADMIN.
 */
export function writeUseNeighbor(writer: MessageWriter, neighbor: NeighborName): number {
  writer.begin({ type: nl.RTM_NEWNEIGH, flags: nl.NLM_F_REQUEST | nl.NLM_F_CREATE });
  return writeNeighbor(writer, neighbor, nl.NTF_USE);
}

/**
 * Writes RTM_DELNEIGH; returns its length. For entries that exist only because Tegula asked and
 * nobody answered: the kernel's table, which all namespaces share, gets the room back at once.
 */
export function writeDeleteNeighbor(writer: MessageWriter, neighbor: NeighborName): number {
  writer.begin({ type: nl.RTM_DELNEIGH, flags: nl.NLM_F_REQUEST });
  return writeNeighbor(writer, neighbor, 0);
}

/** Finishes a message about a neighbour, with its NTF_* flags. */
function writeNeighbor(
  writer: MessageWriter,
  { ifindex, address }: NeighborName,
  flags: number,
): number {
  writer.u8(nl.AF_INET).u8(0).u16(0).u32(ifindex).u16(0).u8(flags).u8(0);
  return writer.address(nl.NDA_DST, address).finish();
}
