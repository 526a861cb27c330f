/**
 * Decoding of RTM_NEWNEXTHOP and RTM_DELNEXTHOP (next-hop objects and groups of them) and of
 * RTM_NEWRULE and RTM_DELRULE (policy rules): what stands between a route and where it leads. Both
 * are few and change seldom.
 */

import * as nl from "./constants.ts";
import { Attributes, MalformedMessage, type MessageCursor } from "./message.ts";

const NEXTHOP_GRP_BYTES = 8;

/** A member of a next-hop group: another object's id, and its weight from 1 on. */
export interface GroupMember {
  readonly id: number;
  readonly weight: number;
}

/** A next-hop object as a message tells it. Made anew for each, since it is kept. */
export interface NextHopMessage {
  readonly id: number;
  /** RTNH_F_* */
  readonly flags: number;
  readonly ifindex: number;
  readonly gateway: number;
  readonly blackhole: boolean;
  /** An IPv6 gateway, an encapsulation, or an entry for bridges. */
  readonly unsupported: boolean;
  readonly group: readonly GroupMember[] | null;
}

/** Reads a next-hop message's body. Throws `MalformedMessage`. */
export function decodeNextHop(message: MessageCursor): NextHopMessage {
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = new Attributes().of(message, nl.NHMSG_BYTES);
  const id = attributes.u32(nl.NHA_ID);
  if (id === 0) throw new MalformedMessage("a next hop without an id");
  const family = u8[bodyAt];
  // A group's family is AF_UNSPEC, and its members say for themselves what they are.
  const isOther = family !== nl.AF_INET && family !== nl.AF_UNSPEC;
  const group = attributes.payload(nl.NHA_GROUP);
  return {
    id,
    flags: u32[(bodyAt >>> 2) + 1],
    ifindex: attributes.u32(nl.NHA_OIF),
    gateway: isOther ? 0 : attributes.address(nl.NHA_GATEWAY),
    blackhole: attributes.has(nl.NHA_BLACKHOLE),
    unsupported: isOther || attributes.has(nl.NHA_ENCAP) || attributes.has(nl.NHA_FDB),
    group: group && decodeMembers(group),
  };
}

/** The `struct nexthop_grp`s of a group: id, weight − 1 in two bytes (the high one since 6.12). */
function decodeMembers(bytes: Uint8Array): GroupMember[] {
  if (bytes.length === 0 || bytes.length % NEXTHOP_GRP_BYTES !== 0) {
    throw new MalformedMessage(`a next-hop group of ${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return Array.from({ length: bytes.length / NEXTHOP_GRP_BYTES }, (_, i) => ({
    id: view.getUint32(i * NEXTHOP_GRP_BYTES, true),
    weight: view.getUint16(i * NEXTHOP_GRP_BYTES + 4, true) + 1,
  }));
}

/** A policy rule as a message tells it. */
export interface RuleMessage {
  readonly priority: number;
  readonly table: number;
  /** FR_ACT_* */
  readonly action: number;
  /** Whether it holds for some traffic only. */
  readonly selective: boolean;
}

/** Reads a rule message's body; null: not IPv4's. Throws `MalformedMessage`. */
export function decodeRule(message: MessageCursor): RuleMessage | null {
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = new Attributes().of(message, nl.FIB_RULE_HDR_BYTES);
  if (u8[bodyAt] !== nl.AF_INET) return null;
  // Always sent; all ones means "no".
  const suppresses = [nl.FRA_SUPPRESS_IFGROUP, nl.FRA_SUPPRESS_PREFIXLEN]
    .some((type) => attributes.u32(type, 0xffffffff) !== 0xffffffff);
  return {
    priority: attributes.u32(nl.FRA_PRIORITY),
    table: attributes.u32(nl.FRA_TABLE, u8[bodyAt + 4]),
    action: u8[bodyAt + 7],
    // Lengths of destination and source prefix, tos, or a rule turned round; or whatever else.
    selective: u8[bodyAt + 1] !== 0 || u8[bodyAt + 2] !== 0 || u8[bodyAt + 3] !== 0 ||
      (u32[(bodyAt >>> 2) + 2] & nl.FIB_RULE_INVERT) !== 0 || suppresses ||
      attributes.types.some((type) => !UNSELECTIVE.includes(type)),
  };
}

/** Attributes that every rule may have. */
const UNSELECTIVE: readonly number[] = [
  ...[nl.FRA_PRIORITY, nl.FRA_TABLE, nl.FRA_PROTOCOL, nl.FRA_PAD],
  ...[nl.FRA_SUPPRESS_IFGROUP, nl.FRA_SUPPRESS_PREFIXLEN],
];
