/**
 * Decoding of RTM_NEWNEXTHOP and RTM_DELNEXTHOP (next-hop objects and groups of them) and of
 * RTM_NEWRULE and RTM_DELRULE (policy rules): what stands between a route and where it leads. Both
 * are few and change seldom.
 *
 * @module
 */

import * as nl from "./constants.ts";
import {
  attributeAddress,
  attributeLength,
  attributeType,
  attributeU32,
  MalformedMessage,
  type MessageBytes,
  type MessageCursor,
  padded,
} from "./message.ts";

const NHMSG_BYTES = 8;
const NEXTHOP_GRP_BYTES = 8;
const FIB_RULE_HDR_BYTES = 12;

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
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(NHMSG_BYTES);
  const family = bytes.u8[bodyAt];
  const nextHop = {
    id: 0,
    flags: bytes.u32[(bodyAt >>> 2) + 1],
    ifindex: 0,
    gateway: 0,
    blackhole: false,
    // A group's family is AF_UNSPEC, and its members say for themselves what they are.
    unsupported: family !== nl.AF_INET && family !== nl.AF_UNSPEC,
    group: null as GroupMember[] | null,
  };
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.NHA_ID:
        nextHop.id = attributeU32(bytes, at, length);
        break;
      case nl.NHA_OIF:
        nextHop.ifindex = attributeU32(bytes, at, length);
        break;
      case nl.NHA_GATEWAY:
        if (!nextHop.unsupported) nextHop.gateway = attributeAddress(bytes, at, length);
        break;
      case nl.NHA_BLACKHOLE:
        nextHop.blackhole = true;
        break;
      case nl.NHA_ENCAP:
      case nl.NHA_FDB:
        nextHop.unsupported = true;
        break;
      case nl.NHA_GROUP:
        nextHop.group = decodeMembers(bytes, at, length);
    }
  }
  if (nextHop.id === 0) throw new MalformedMessage("a next hop without an id");
  return nextHop;
}

/** The `struct nexthop_grp`s of a group: id, weight − 1 in two bytes (the high one since 6.12). */
function decodeMembers({ u8, u32 }: MessageBytes, at: number, length: number): GroupMember[] {
  const bytes = length - nl.NLA_HDRLEN;
  if (bytes === 0 || bytes % NEXTHOP_GRP_BYTES !== 0) {
    throw new MalformedMessage(`a next-hop group of ${bytes} bytes`);
  }
  const members: GroupMember[] = [];
  for (let from = at + nl.NLA_HDRLEN; from < at + length; from += NEXTHOP_GRP_BYTES) {
    members.push({ id: u32[from >>> 2], weight: (u8[from + 4] | u8[from + 5] << 8) + 1 });
  }
  return members;
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
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(FIB_RULE_HDR_BYTES);
  const { u8, u32 } = bytes;
  if (u8[bodyAt] !== nl.AF_INET) return null;
  const rule = {
    priority: 0,
    table: u8[bodyAt + 4],
    action: u8[bodyAt + 7],
    // Lengths of destination and source prefix, tos, or a rule turned round.
    selective: u8[bodyAt + 1] !== 0 || u8[bodyAt + 2] !== 0 || u8[bodyAt + 3] !== 0 ||
      (u32[(bodyAt >>> 2) + 2] & nl.FIB_RULE_INVERT) !== 0,
  };
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.FRA_PRIORITY:
        rule.priority = attributeU32(bytes, at, length);
        break;
      case nl.FRA_TABLE:
        rule.table = attributeU32(bytes, at, length);
        break;
      case nl.FRA_PROTOCOL:
      case nl.FRA_PAD:
        break;
      case nl.FRA_SUPPRESS_IFGROUP:
      case nl.FRA_SUPPRESS_PREFIXLEN:
        // Always sent; all ones means "no".
        if (attributeU32(bytes, at, length) !== 0xffffffff) rule.selective = true;
        break;
      default:
        rule.selective = true;
    }
  }
  return rule;
}
