// SPDX-License-Identifier: Apache-2.0
/**
 * rtnetlink: names and numbers of the kernel's headers, the framing of messages and attributes,
 * decoders, the requests that Tegula sends, and the sockets.
 *
 * Netlink uses the host's byte order and aligns messages and attributes to four bytes, so a receive
 * buffer is read through three typed arrays that are made once. Every length is checked before a
 * read. IPv4 addresses are big-endian in messages and in host order elsewhere (198.18.0.1 is
 * 0xc6120001). Route and neighbour messages come by the million: they are decoded into objects that
 * the caller reuses. All other messages are rare, so their decoders return new objects.
 *
 * Constants have the kernel's names. Those of values in netbase are defined there: route types, scopes
 * and flags in `netbase/route.ts`, neighbour states in `netbase/neighbors.ts`, interface flags in
 * `netbase/interfaces.ts`.
 */

import { EBUSY, ENOBUFS, SystemError } from "../../ffi/library.ts";
import { NETLINK_TRUNCATED } from "../../ffi/shared.ts";
import type { NetlinkLibrary, NetlinkOptions } from "../../ffi/sockets.ts";
import type { InterfaceAddress, InterfaceLink } from "../../netbase/interfaces.ts";
import { emptyNeighbor, type NeighborEntry } from "../../netbase/neighbors.ts";
import {
  type Hop,
  NLM_F_CREATE,
  type Route,
  RT_SCOPE_UNIVERSE,
  RTN_BLACKHOLE,
} from "../../netbase/route.ts";

/** Address families (socket.h). */
const AF_UNSPEC = 0;
export const AF_INET = 2;

/** Message types of netlink itself (linux/netlink.h). */
const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

/** Bytes of `struct nlmsghdr`, and of `struct nlattr` alike. */
export const NLMSG_HDRLEN = 16;
const NLA_HDRLEN = 4;
/** Bytes of the family headers at the beginning of requests and messages. */
const IFINFOMSG_BYTES = 16;
const IFADDRMSG_BYTES = 8;
const RTMSG_BYTES = 12;
const NDMSG_BYTES = 12;
const NDTMSG_BYTES = 4;
const NHMSG_BYTES = 8;
const FIB_RULE_HDR_BYTES = 12;
/** Padded, as NETLINK_GET_STRICT_CHK requires. */
const NETCONFMSG_BYTES = 4;
/** Masks NLA_F_NESTED and NLA_F_NET_BYTEORDER out of an attribute's type. */
const NLA_TYPE_MASK = 0x3fff;

/** Flags of `nlmsg_flags` (linux/netlink.h). Those after NLM_F_DUMP apply to RTM_NEW… only. */
export const NLM_F_REQUEST = 0x1;
export const NLM_F_MULTI = 0x2;
export const NLM_F_ACK = 0x4;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_DUMP = 0x300;
export { NLM_F_CREATE };

/** Message types of rtnetlink (linux/rtnetlink.h). */
export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;
export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;
export const RTM_NEWNEIGH = 28;
export const RTM_DELNEIGH = 29;
const RTM_GETNEIGH = 30;
export const RTM_NEWRULE = 32;
export const RTM_DELRULE = 33;
const RTM_GETRULE = 34;
export const RTM_NEWNEIGHTBL = 64;
const RTM_GETNEIGHTBL = 66;
export const RTM_NEWNETCONF = 80;
export const RTM_DELNETCONF = 81;
const RTM_GETNETCONF = 82;
export const RTM_NEWNEXTHOP = 104;
export const RTM_DELNEXTHOP = 105;
const RTM_GETNEXTHOP = 106;

/** Multicast groups (enum rtnetlink_groups). NEXTHOP is beyond the bitmask of bind(2). */
export const RTNLGRP_LINK = 1;
export const RTNLGRP_NEIGH = 3;
export const RTNLGRP_IPV4_IFADDR = 5;
export const RTNLGRP_IPV4_ROUTE = 7;
export const RTNLGRP_IPV4_RULE = 8;
export const RTNLGRP_IPV4_NETCONF = 24;
export const RTNLGRP_NEXTHOP = 32;

/** Attributes of links (linux/if_link.h), of their IFLA_LINKINFO and of a VLAN's IFLA_INFO_DATA. */
export const IFLA_ADDRESS = 1;
export const IFLA_BROADCAST = 2;
export const IFLA_IFNAME = 3;
export const IFLA_MTU = 4;
export const IFLA_LINK = 5;
export const IFLA_MASTER = 10;
export const IFLA_OPERSTATE = 16;
export const IFLA_LINKINFO = 18;
export const IFLA_LINK_NETNSID = 37;
export const IFLA_INFO_KIND = 1;
export const IFLA_INFO_DATA = 2;
export const IFLA_VLAN_ID = 1;
export const IFLA_VLAN_PROTOCOL = 5;

/** Attributes and flags of addresses (linux/if_addr.h). */
export const IFA_ADDRESS = 1;
export const IFA_LOCAL = 2;
export const IFA_LABEL = 3;
export const IFA_BROADCAST = 4;
export const IFA_FLAGS = 8;
export const IFA_F_SECONDARY = 0x01;

/** Attributes of an interface's settings, and the two special indices (linux/netconf.h). */
const NETCONFA_IFINDEX = 1;
const NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN = 6;
export const NETCONFA_IFINDEX_ALL = -1;
export const NETCONFA_IFINDEX_DEFAULT = -2;

/** Attributes of routes (linux/rtnetlink.h), and the one metric that Tegula uses. */
export const RTA_DST = 1;
export const RTA_OIF = 4;
export const RTA_GATEWAY = 5;
export const RTA_PRIORITY = 6;
export const RTA_PREFSRC = 7;
export const RTA_METRICS = 8;
export const RTA_MULTIPATH = 9;
export const RTA_TABLE = 15;
export const RTA_VIA = 18;
const RTA_ENCAP = 22;
export const RTA_NH_ID = 30;
export const RTAX_MTU = 2;

/** `rtm_protocol` of markers (master/announcer.ts): a number that neither the kernel nor a daemon uses. */
export const RTPROT_TEGULA = 153;
/** The table of the markers, unless the configuration names another. */
export const MARKER_TABLE = 5353;

/**
 * Flags of `rtm_flags`: an entry of the route cache; report the table of the route; return the matching
 * route, not the result of the lookup.
 */
export const RTM_F_CLONED = 0x200;
export const RTM_F_LOOKUP_TABLE = 0x1000;
export const RTM_F_FIB_MATCH = 0x2000;

/** Attributes of neighbours (linux/neighbour.h). */
export const NDA_DST = 1;
export const NDA_LLADDR = 2;
export const NDA_CACHEINFO = 3;
const NDA_FLAGS_EXT = 15;

/** Flags of `ndm_flags` (linux/neighbour.h); NTF_EXT_* are above those eight bits, as in the kernel. */
export const NTF_USE = 0x01;
const NTF_PROXY = 0x08;
export const NTF_EXT_LEARNED = 0x10;
const NTF_MANAGED = 0x100;
/** Flags of an entry that a control plane, or the kernel on its behalf, maintains. */
export const NTF_KEPT = NTF_EXT_LEARNED | NTF_MANAGED;

/** Attributes of neighbour tables and their NDTA_PARMS (linux/neighbour.h). */
const NDTA_THRESH3 = 4;
const NDTA_CONFIG = 5;
const NDTA_PARMS = 6;
const NDTA_STATS = 7;
/** In struct ndt_stats: the last of its 64-bit counters, ndts_table_fulls. */
const TABLE_FULLS_AT = 80;
const NDTPA_IFINDEX = 1;
const NDTPA_REACHABLE_TIME = 3;
const NDTPA_DELAY_PROBE_TIME = 7;

/** Attributes of next-hop objects (linux/nexthop.h). */
export const NHA_ID = 1;
export const NHA_GROUP = 2;
const NHA_BLACKHOLE = 4;
const NHA_OIF = 5;
const NHA_GATEWAY = 6;
const NHA_ENCAP = 8;
const NHA_FDB = 11;

/** Attributes of policy rules (linux/fib_rules.h). */
const FRA_PRIORITY = 6;
const FRA_SUPPRESS_IFGROUP = 13;
const FRA_SUPPRESS_PREFIXLEN = 14;
const FRA_TABLE = 15;
const FRA_PAD = 18;
const FRA_PROTOCOL = 21;
export const FR_ACT_TO_TBL = 1;
const FIB_RULE_INVERT = 0x2;

/** The codec's only error: a message that the kernel cannot have sent. */
export class MalformedMessage extends Error {
  override readonly name = "MalformedMessage";
}

/** Reverses the byte order of a 32-bit word. */
function swap32(word: number): number {
  return (word << 24 | (word & 0xff00) << 8 | word >>> 8 & 0xff00 | word >>> 24) >>> 0;
}

/** Iterates over the messages of a datagram. Fields are the header's; the body is from `bodyAt` to `end`. */
export class MessageCursor {
  /** The whole buffer, in the three widths in which it is read. */
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  type = 0;
  flags = 0;
  sequence = 0;
  port = 0;
  bodyAt = 0;
  end = 0;
  #nextAt = 0;
  #limit = 0;

  /** Throws RangeError if the memory is not aligned to four bytes. */
  constructor(bytes: Uint8Array) {
    this.u8 = bytes;
    this.u16 = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 1);
    this.u32 = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
  }

  /** Starts at the datagram of `length` bytes at `offset`, a multiple of four. */
  begin(offset: number, length: number): void {
    this.#nextAt = offset;
    this.#limit = Math.min(offset + length, this.u8.length);
  }

  /** Advances to the next message; false after the last. Throws `MalformedMessage`. */
  next(): boolean {
    const at = this.#nextAt;
    const left = this.#limit - at;
    if (left <= 0) return false;
    // After an error there is no next message.
    this.#nextAt = this.#limit;
    if (left < NLMSG_HDRLEN) {
      throw new MalformedMessage(`${left} bytes are too few for a netlink header`);
    }
    const { u16, u32 } = this;
    const length = u32[at >>> 2];
    if (length < NLMSG_HDRLEN || length > left) {
      throw new MalformedMessage(`a netlink message of ${length} bytes in ${left}`);
    }
    this.type = u16[(at >>> 1) + 2];
    this.flags = u16[(at >>> 1) + 3];
    this.sequence = u32[(at >>> 2) + 2];
    this.port = u32[(at >>> 2) + 3];
    this.bodyAt = at + NLMSG_HDRLEN;
    this.end = at + length;
    this.#nextAt = at + ((length + 3) & ~3);
    return true;
  }

  /** The error of an NLMSG_ERROR or NLMSG_DONE: -errno, or 0. Throws `MalformedMessage`. */
  get error(): number {
    this.attributesAt(4);
    return this.u32[this.bodyAt >>> 2] | 0;
  }

  /** Offset of the attributes after a family header of `headerBytes`. Throws `MalformedMessage`. */
  attributesAt(headerBytes: number): number {
    const at = this.bodyAt + headerBytes;
    if (at > this.end) {
      throw new MalformedMessage(
        `message type ${this.type} has ${this.end - this.bodyAt} bytes, not ${headerBytes}`,
      );
    }
    return at;
  }
}

export function padded(length: number): number {
  return (length + 3) & ~3;
}

/** Slots for attributes by type. Higher types, which are never read, share the last slot. */
const SLOTS = 64;
const ETH_ALEN = 6;
const text = new TextDecoder();

/** A message's attributes by type; the last counts, a missing one is 0. Throws `MalformedMessage`. */
class Attributes {
  #bytes!: MessageCursor;
  /** Offset of each attribute's header; 0: missing. */
  readonly #offsets = new Uint32Array(SLOTS);
  /** The types that are present, `#count` of them. */
  readonly #seen = new Uint8Array(SLOTS);
  #count = 0;

  /** Reads the attributes of a message after a family header of `headerBytes`. */
  of(message: MessageCursor, headerBytes: number): this {
    return this.within(message, message.attributesAt(headerBytes), message.end);
  }

  /** Reads the attributes from offset `at` to `end`. */
  within(bytes: MessageCursor, at: number, end: number): this {
    this.#bytes = bytes;
    const offsets = this.#offsets;
    const seen = this.#seen;
    // Clearing only these takes half as long as filling the array.
    for (let i = 0; i < this.#count; i++) offsets[seen[i]] = 0;
    this.#count = 0;
    const { u16 } = bytes;
    for (let offset = at, length = 0; offset < end; offset += padded(length)) {
      const left = end - offset;
      length = left < NLA_HDRLEN ? 0 : u16[offset >>> 1];
      if (length < NLA_HDRLEN || length > left) {
        throw new MalformedMessage(`an attribute of ${length} bytes in ${left}`);
      }
      let type = u16[(offset >>> 1) + 1] & NLA_TYPE_MASK;
      if (type >= SLOTS) type = SLOTS - 1;
      if (offsets[type] === 0) seen[this.#count++] = type;
      offsets[type] = offset;
    }
    return this;
  }

  get types(): number[] {
    return [...this.#seen.subarray(0, this.#count)];
  }

  has(type: number): boolean {
    return this.#offsets[type] !== 0;
  }

  u32(type: number, otherwise = 0): number {
    return this.has(type) ? this.#bytes.u32[this.#payload(type, 4) >>> 2] : otherwise;
  }

  /** An IPv4 address, host order. */
  address(type: number): number {
    return swap32(this.u32(type));
  }

  /** A 64-bit number, exact up to 2⁵³. */
  u64(type: number): number {
    if (!this.has(type)) return 0;
    const at = this.#payload(type, 8) >>> 2;
    return this.#bytes.u32[at] + this.#bytes.u32[at + 1] * 2 ** 32;
  }

  /** Reads a MAC address into `out`. False, and zeros, unless the attribute has six bytes. */
  mac(type: number, out: { macHead: number; macTail: number }): boolean {
    const { u16, u32 } = this.#bytes;
    const at = this.#offsets[type];
    const isMac = at !== 0 && u16[at >>> 1] === NLA_HDRLEN + ETH_ALEN;
    out.macHead = isMac ? u32[(at >>> 2) + 1] : 0;
    out.macTail = isMac ? u16[(at >>> 1) + 4] : 0;
    return isMac;
  }

  /** Text up to its first zero byte. */
  string(type: number): string {
    const bytes = this.payload(type) ?? new Uint8Array(0);
    const zero = bytes.indexOf(0);
    return text.decode(zero < 0 ? bytes : bytes.subarray(0, zero));
  }

  /** The payload, at least `least` bytes; null: missing. */
  payload(type: number, least = 0): Uint8Array | null {
    if (!this.has(type)) return null;
    return this.#bytes.u8.subarray(this.#payload(type, least), this.#end(type));
  }

  /** Start and end of the payload of an attribute that is present. */
  extent(type: number): { at: number; end: number } {
    return { at: this.#payload(type, 0), end: this.#end(type) };
  }

  /** Reads the attributes nested in one into `into`; none if it is missing. */
  nested(type: number, into = new Attributes()): Attributes {
    const { at, end } = this.has(type) ? this.extent(type) : { at: 0, end: 0 };
    return into.within(this.#bytes, at, end);
  }

  /** Offset of the payload of an attribute that is present, at least `least` bytes. */
  #payload(type: number, least: number): number {
    const at = this.#offsets[type];
    const bytes = this.#bytes.u16[at >>> 1] - NLA_HDRLEN;
    if (bytes < least) throw new MalformedMessage(`an attribute of ${bytes} bytes, not ${least}`);
    return at + NLA_HDRLEN;
  }

  #end(type: number): number {
    const at = this.#offsets[type];
    return at + this.#bytes.u16[at >>> 1];
  }
}

/** Writes a message: `begin`, the family header, the attributes, `finish`. RangeError: it does not fit. */
export class MessageWriter {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #data: DataView;
  #at = 0;

  constructor(capacity = 256) {
    this.bytes = new Uint8Array(capacity);
    this.#data = new DataView(this.bytes.buffer);
  }

  begin({ type, flags, sequence = 0 }: { type: number; flags: number; sequence?: number }): this {
    this.#at = 0;
    return this.u32(0).u16(type).u16(flags).u32(sequence).u32(0);
  }

  u8(value: number): this {
    this.#data.setUint8(this.#at, value);
    this.#at += 1;
    return this;
  }

  u16(value: number): this {
    this.#data.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#data.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  /** Writes an attribute that is a 32-bit word. */
  word(type: number, value: number): this {
    return this.u16(NLA_HDRLEN + 4).u16(type).u32(value);
  }

  /** Writes an attribute that is an IPv4 address, given in host order. */
  address(type: number, address: number): this {
    return this.word(type, swap32(address));
  }

  /** Fills in the message's length, and returns it. */
  finish(): number {
    this.#data.setUint32(0, this.#at, true);
    return this.#at;
  }
}

/** Decodes RTM_NEWLINK or RTM_DELLINK; null: a bridge's message about its port. Throws `MalformedMessage`. */
export function decodeLink(message: MessageCursor): InterfaceLink | null {
  const { u8, u32, bodyAt } = message;
  const attributes = new Attributes().of(message, IFINFOMSG_BYTES);
  if (u8[bodyAt] !== AF_UNSPEC) return null;
  const link = {
    ifindex: u32[(bodyAt >>> 2) + 1],
    name: attributes.string(IFLA_IFNAME),
    flags: u32[(bodyAt >>> 2) + 2],
    mtu: attributes.u32(IFLA_MTU),
    operstate: attributes.payload(IFLA_OPERSTATE, 1)?.[0] ?? 0,
    macHead: 0,
    macTail: 0,
    // An index in another namespace is meaningless here.
    link: attributes.has(IFLA_LINK_NETNSID) ? 0 : attributes.u32(IFLA_LINK),
    master: attributes.u32(IFLA_MASTER),
    ...decodeVlan(attributes.nested(IFLA_LINKINFO)),
  };
  attributes.mac(IFLA_ADDRESS, link);
  const broadcast = { macHead: 0, macTail: 0 };
  attributes.mac(IFLA_BROADCAST, broadcast);
  return { ...link, broadcastHead: broadcast.macHead, broadcastTail: broadcast.macTail };
}

/** Decodes IFLA_LINKINFO; `vlanProtocol` is 0 unless it is a VLAN device's. */
function decodeVlan(info: Attributes): { vlanId: number; vlanProtocol: number } {
  if (info.string(IFLA_INFO_KIND) !== "vlan" || !info.has(IFLA_INFO_DATA)) {
    return { vlanId: 0, vlanProtocol: 0 };
  }
  const vlan = info.nested(IFLA_INFO_DATA);
  const [low, high] = vlan.payload(IFLA_VLAN_ID, 2) ?? [0, 0];
  // Big-endian; 802.1Q if missing.
  const [first, second] = vlan.payload(IFLA_VLAN_PROTOCOL, 2) ?? [0x81, 0x00];
  return { vlanId: (low | high << 8) & 0xfff, vlanProtocol: first << 8 | second };
}

export interface AddressMessage extends InterfaceAddress {
  readonly ifindex: number;
}

/** Decodes RTM_NEWADDR or RTM_DELADDR; null: not IPv4. Throws `MalformedMessage`. */
export function decodeAddress(message: MessageCursor): AddressMessage | null {
  const { u8, u32, bodyAt } = message;
  const attributes = new Attributes().of(message, IFADDRMSG_BYTES);
  if (u8[bodyAt] !== AF_INET) return null;
  const prefixLength = u8[bodyAt + 1];
  if (prefixLength > 32) throw new MalformedMessage(`an address /${prefixLength}`);
  const address = attributes.address(IFA_ADDRESS);
  const flags = attributes.u32(IFA_FLAGS, u8[bodyAt + 2]);
  const label = attributes.string(IFA_LABEL);
  return {
    ifindex: u32[(bodyAt >>> 2) + 1],
    local: attributes.address(IFA_LOCAL) || address,
    address,
    prefixLength,
    broadcast: attributes.address(IFA_BROADCAST),
    scope: u8[bodyAt + 3],
    secondary: (flags & IFA_F_SECONDARY) !== 0,
    ...(label !== "" && { label }),
  };
}

/** Decodes RTM_NEWNETCONF or RTM_DELNETCONF; null: it lacks `ignore_routes_with_linkdown`. */
export function decodeSettings(
  message: MessageCursor,
): { ifindex: number; ignoreLinkdown: boolean | null } {
  const attributes = new Attributes().of(message, NETCONFMSG_BYTES);
  const ignores = NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN;
  return {
    ifindex: attributes.u32(NETCONFA_IFINDEX) | 0,
    ignoreLinkdown: attributes.has(ignores) ? attributes.u32(ignores) !== 0 : null,
  };
}

const RTNEXTHOP_BYTES = 8;

/** Reused for all route and neighbour messages: their attributes, and those nested in one of them. */
const attributes = new Attributes();
const inner = new Attributes();

/**
 * Decodes RTM_NEWROUTE or RTM_DELROUTE into `out`. Only a multipath route allocates, for its hops.
 * False: not IPv4. Throws `MalformedMessage`. `out.unsupported` is set for a next hop that Tegula
 * cannot use: an IPv6 gateway, or an encapsulation. One such hop makes the whole multipath route
 * unsupported, because flows would be spread differently than by the kernel.
 */
export function decodeRoute(message: MessageCursor, out: Route): boolean {
  const { u8, u32, bodyAt } = message;
  attributes.of(message, RTMSG_BYTES);
  if (u8[bodyAt] !== AF_INET) return false;
  out.prefixLength = u8[bodyAt + 1];
  out.tos = u8[bodyAt + 3];
  out.table = attributes.u32(RTA_TABLE, u8[bodyAt + 4]);
  out.protocol = u8[bodyAt + 5];
  out.scope = u8[bodyAt + 6];
  out.type = u8[bodyAt + 7];
  out.flags = u32[(bodyAt >>> 2) + 2];
  out.destination = attributes.address(RTA_DST);
  out.priority = attributes.u32(RTA_PRIORITY);
  out.source = attributes.address(RTA_PREFSRC);
  out.ifindex = attributes.u32(RTA_OIF);
  out.nextHopId = attributes.u32(RTA_NH_ID);
  out.mtu = attributes.has(RTA_METRICS) ? attributes.nested(RTA_METRICS, inner).u32(RTAX_MTU) : 0;
  out.unsupported = !decodeGateway(attributes, out);
  out.hops = attributes.has(RTA_MULTIPATH) ? decodeHops(message, out) : null;
  checkPrefix(out);
  return true;
}

/** Throws if a prefix is too long, or has bits set after its length. */
function checkPrefix({ prefixLength, destination }: Route): void {
  const inside = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
  if (prefixLength > 32 || (destination & ~inside) !== 0) {
    throw new MalformedMessage(`prefix ${destination.toString(16)}/${prefixLength}`);
  }
}

/** Decodes the hops of a multipath route: `struct rtnexthop`s, each with its own attributes. */
function decodeHops(bytes: MessageCursor, route: Route): Hop[] {
  const hops: Hop[] = [];
  const { at: first, end } = attributes.extent(RTA_MULTIPATH);
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

/** Decodes the gateway of a route or hop. False: Tegula cannot use it. */
function decodeGateway(of: Attributes, out: Hop | Route): boolean {
  out.gateway = of.address(RTA_GATEWAY);
  // `struct rtvia`: the 16-bit family, then the address.
  const via = of.payload(RTA_VIA, 2);
  if (via !== null) {
    if ((via[0] | via[1] << 8) !== AF_INET || via.length < 6) return false;
    out.gateway = (via[2] << 24 | via[3] << 16 | via[4] << 8 | via[5]) >>> 0;
  }
  return !of.has(RTA_ENCAP);
}

/** Clock ticks of `struct nda_cacheinfo` in a second (USER_HZ). */
const TICKS_PER_SECOND = 100;

/** A neighbour as in a message. Reused from one message to the next. */
export interface NeighborMessage extends NeighborEntry {
  /** RTN_* of the address: broadcast and multicast for entries that the kernel makes itself. */
  type: number;
  /** Whether there is a MAC address of six bytes. */
  hasMac: boolean;
  /** Milliseconds since the last confirmation; -1: unknown. */
  confirmedMillis: number;
}

export function emptyNeighborMessage(): NeighborMessage {
  return { ...emptyNeighbor(), type: 0, hasMac: false, confirmedMillis: -1 };
}

/** Decodes RTM_NEWNEIGH or RTM_DELNEIGH. False: IPv6, a proxy, or without address. Throws `MalformedMessage`. */
export function decodeNeighbor(message: MessageCursor, out: NeighborMessage): boolean {
  const { u8, u16, u32, bodyAt } = message;
  attributes.of(message, NDMSG_BYTES);
  const flags = u8[bodyAt + 10];
  if (u8[bodyAt] !== AF_INET || (flags & NTF_PROXY) !== 0) return false;
  out.ifindex = u32[(bodyAt >>> 2) + 1];
  out.state = u16[(bodyAt >>> 1) + 4];
  out.flags = flags | (attributes.u32(NDA_FLAGS_EXT) & 0xff) << 8;
  out.type = u8[bodyAt + 11];
  out.address = attributes.address(NDA_DST);
  out.hasMac = attributes.mac(NDA_LLADDR, out);
  out.confirmedMillis = attributes.has(NDA_CACHEINFO)
    ? attributes.u32(NDA_CACHEINFO) * (1000 / TICKS_PER_SECOND)
    : -1;
  return out.address !== 0;
}

/** The neighbour table, or the parameters of one interface in it, as in a message. */
export type NeighborTableMessage = NonNullable<ReturnType<typeof decodeNeighborTable>>;

/** Decodes RTM_NEWNEIGHTBL; null: not IPv4. Throws `MalformedMessage`. */
export function decodeNeighborTable(message: MessageCursor) {
  const table = new Attributes().of(message, NDTMSG_BYTES);
  if (message.u8[message.bodyAt] !== AF_INET) return null;
  const parameters = table.nested(NDTA_PARMS);
  const stats = table.has(NDTA_STATS) ? table.extent(NDTA_STATS) : { at: 0, end: 0 };
  const hasRefused = stats.end - stats.at >= TABLE_FULLS_AT + 8;
  return {
    /** The interface of the parameters; 0: the table itself and its defaults. */
    ifindex: parameters.u32(NDTPA_IFINDEX),
    /** Number of entries at which the kernel refuses more (gc_thresh3); 0: unknown. */
    capacity: table.u32(NDTA_THRESH3),
    /** Entries of all namespaces; -1: unknown. In struct ndt_config after two 16-bit sizes. */
    entries: table.has(NDTA_CONFIG) ? Math.floor(table.u64(NDTA_CONFIG) / 2 ** 32) : -1,
    /** How often the kernel has refused an entry for lack of room, modulo 2³²; -1: unknown. */
    refused: hasRefused ? message.u32[(stats.at + TABLE_FULLS_AT) >>> 2] : -1,
    /** How long a neighbour stays REACHABLE after a confirmation, and in DELAY. */
    reachableMillis: parameters.u64(NDTPA_REACHABLE_TIME),
    delayProbeMillis: parameters.u64(NDTPA_DELAY_PROBE_TIME),
  };
}

const NEXTHOP_GRP_BYTES = 8;

/** A next-hop object as in a message. */
export type NextHopMessage = ReturnType<typeof decodeNextHop>;

/** Decodes RTM_NEWNEXTHOP or RTM_DELNEXTHOP. Throws `MalformedMessage`. */
export function decodeNextHop(message: MessageCursor) {
  const { u8, u32, bodyAt } = message;
  const attributes = new Attributes().of(message, NHMSG_BYTES);
  const id = attributes.u32(NHA_ID);
  if (id === 0) throw new MalformedMessage("a next hop without an id");
  const family = u8[bodyAt];
  // A group's family is AF_UNSPEC; its members have their own.
  const isOther = family !== AF_INET && family !== AF_UNSPEC;
  const group = attributes.payload(NHA_GROUP);
  return {
    id,
    /** RTNH_F_* */
    flags: u32[(bodyAt >>> 2) + 1],
    ifindex: attributes.u32(NHA_OIF),
    gateway: isOther ? 0 : attributes.address(NHA_GATEWAY),
    blackhole: attributes.has(NHA_BLACKHOLE),
    /** An IPv6 gateway, an encapsulation, or an entry for bridges. */
    unsupported: isOther || attributes.has(NHA_ENCAP) || attributes.has(NHA_FDB),
    group: group && decodeMembers(group),
  };
}

/** The members of a group, from `struct nexthop_grp`s: id, weight − 1 in two bytes. */
function decodeMembers(bytes: Uint8Array) {
  if (bytes.length === 0 || bytes.length % NEXTHOP_GRP_BYTES !== 0) {
    throw new MalformedMessage(`a next-hop group of ${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return Array.from({ length: bytes.length / NEXTHOP_GRP_BYTES }, (_, i) => ({
    id: view.getUint32(i * NEXTHOP_GRP_BYTES, true),
    weight: view.getUint16(i * NEXTHOP_GRP_BYTES + 4, true) + 1,
  }));
}

/** Decodes RTM_NEWRULE or RTM_DELRULE; null: not IPv4. Throws `MalformedMessage`. */
export function decodeRule(message: MessageCursor) {
  const { u8, u32, bodyAt } = message;
  const attributes = new Attributes().of(message, FIB_RULE_HDR_BYTES);
  if (u8[bodyAt] !== AF_INET) return null;
  // Always present; all ones mean "no".
  const suppresses = [FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN]
    .some((type) => attributes.u32(type, 0xffffffff) !== 0xffffffff);
  return {
    priority: attributes.u32(FRA_PRIORITY),
    table: attributes.u32(FRA_TABLE, u8[bodyAt + 4]),
    /** FR_ACT_* */
    action: u8[bodyAt + 7],
    /** Whether it matches only some traffic: by prefixes, TOS, an inverted rule, or any other selector. */
    selective: u8[bodyAt + 1] !== 0 || u8[bodyAt + 2] !== 0 || u8[bodyAt + 3] !== 0 ||
      (u32[(bodyAt >>> 2) + 2] & FIB_RULE_INVERT) !== 0 || suppresses ||
      attributes.types.some((type) => !UNSELECTIVE.includes(type)),
  };
}

/** Attributes of rules that do not select traffic. */
const UNSELECTIVE: readonly number[] = [
  ...[FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL, FRA_PAD],
  ...[FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN],
];

/** The kinds of dumps. NETLINK_GET_STRICT_CHK checks the size of the request's family header. */
export const DUMPS = {
  links: { type: RTM_GETLINK, headerBytes: IFINFOMSG_BYTES, family: AF_UNSPEC },
  addresses: { type: RTM_GETADDR, headerBytes: IFADDRMSG_BYTES, family: AF_INET },
  nextHops: { type: RTM_GETNEXTHOP, headerBytes: NHMSG_BYTES, family: AF_UNSPEC },
  routes: { type: RTM_GETROUTE, headerBytes: RTMSG_BYTES, family: AF_INET },
  neighbors: { type: RTM_GETNEIGH, headerBytes: NDMSG_BYTES, family: AF_INET },
  rules: { type: RTM_GETRULE, headerBytes: FIB_RULE_HDR_BYTES, family: AF_INET },
  settings: { type: RTM_GETNETCONF, headerBytes: NETCONFMSG_BYTES, family: AF_INET },
  neighborTables: { type: RTM_GETNEIGHTBL, headerBytes: NDTMSG_BYTES, family: AF_INET },
} as const;

export type DumpKind = keyof typeof DUMPS;

/** Writes the request for a dump; returns its length. */
export function writeDump(writer: MessageWriter, kind: DumpKind, sequence: number): number {
  const { type, headerBytes, family } = DUMPS[kind];
  writer.begin({ type, flags: NLM_F_REQUEST | NLM_F_DUMP, sequence });
  writer.u8(family);
  for (let i = 1; i < headerBytes; i++) writer.u8(0);
  return writer.finish();
}

/**
 * Writes RTM_GETROUTE for the route that matches an address (host order), with all its hops, instead of
 * the result of the lookup; returns its length.
 */
export function writeGetRoute(writer: MessageWriter, address: number, sequence: number): number {
  writer.begin({ type: RTM_GETROUTE, flags: NLM_F_REQUEST, sequence });
  writer.u8(AF_INET).u8(32).u8(0).u8(0); // family, lengths, tos
  writer.u8(0).u8(0).u8(0).u8(0); // table, protocol, scope, type
  // Without RTM_F_LOOKUP_TABLE the reply contains `main` for every table.
  return writer.u32(RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH).address(RTA_DST, address).finish();
}

/** A marker's table and prefix. The address is in host order. */
export interface Marker {
  readonly table: number;
  readonly address: number;
  readonly length: number;
}

/**
 * Writes RTM_NEWROUTE or RTM_DELROUTE for a marker; or, with `address` and `length` 0, RTM_GETROUTE
 * for all routes of the marker's table, which needs NETLINK_GET_STRICT_CHK. Returns its length.
 */
export function writeMarker(
  writer: MessageWriter,
  { table, address, length }: Marker,
  header: { readonly type: number; readonly flags: number; readonly sequence: number },
): number {
  writer.begin({ ...header, flags: NLM_F_REQUEST | header.flags });
  writer.u8(AF_INET).u8(length).u8(0).u8(0); // family, lengths, tos
  writer.u8(0).u8(RTPROT_TEGULA).u8(RT_SCOPE_UNIVERSE).u8(RTN_BLACKHOLE).u32(0);
  if (length > 0) writer.address(RTA_DST, address);
  return writer.word(RTA_TABLE, table).finish();
}

/** The key of a neighbour. The address is in host order. */
export interface NeighborKey {
  readonly ifindex: number;
  readonly address: number;
}

/**
 * Writes RTM_NEWNEIGH with NTF_USE, which makes the kernel resolve or confirm a neighbour as for its
 * own packet, or RTM_DELNEIGH, for an entry that only such a request created. Returns its length.
 */
export function writeNeighbor(
  writer: MessageWriter,
  type: typeof RTM_NEWNEIGH | typeof RTM_DELNEIGH,
  { ifindex, address }: NeighborKey,
): number {
  const [create, use] = type === RTM_NEWNEIGH ? [NLM_F_CREATE, NTF_USE] : [0, 0];
  writer.begin({ type, flags: NLM_F_REQUEST | create });
  writer.u8(AF_INET).u8(0).u16(0).u32(ifindex).u16(0).u8(use).u8(0);
  return writer.address(NDA_DST, address).finish();
}

/*
 * Netlink sockets: datagrams are received in bursts, and each message in them is passed to a handler.
 * The monitor socket, the socket for requests and the socket for solicits are of this kind. `Dumper`
 * makes requests, one at a time, on its own socket, so that no event comes between.
 */

/** Room for a datagram of 32 KiB, padded so that slots do not share sets of the first-level cache. */
const SLOT_BYTES = 32_768 + 256;

/** Result of `receive` if the kernel dropped events for lack of room; more may be queued. */
export const OVERRUN = -1;

export interface MessageHandler {
  /** One message; valid only during the call. */
  message(message: MessageCursor): void;
  /** A message that the codec rejected, or a datagram that is too large. */
  malformed(reason: string): void;
}

export class NetlinkSocket {
  readonly fd: number;
  /** The port id, which is in replies to this socket. */
  readonly port: number;
  readonly #library: NetlinkLibrary;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #lengths: Uint32Array<ArrayBuffer>;
  readonly #cursor: MessageCursor;

  /** `burst`: datagrams per `receive`, at most 64. Throws SystemError. */
  constructor(
    library: NetlinkLibrary,
    { burst, ...options }: NetlinkOptions & { readonly burst: number },
  ) {
    this.#library = library;
    this.fd = library.open(options);
    this.port = library.portId(this.fd);
    this.#buffer = new Uint8Array(burst * SLOT_BYTES);
    this.#lengths = new Uint32Array(burst);
    this.#cursor = new MessageCursor(this.#buffer);
  }

  /** Passes a burst's messages to `handler`. Returns how many datagrams, or OVERRUN. Throws SystemError. */
  receive(handler: MessageHandler): number {
    const count = this.#library.receive(this.fd, this.#buffer, this.#lengths, SLOT_BYTES);
    if (count === -ENOBUFS) return OVERRUN;
    if (count < 0) throw new SystemError("read a netlink socket", count);
    for (let i = 0; i < count; i++) {
      const length = this.#lengths[i];
      if (length === NETLINK_TRUNCATED) handler.malformed("a datagram larger than 32 KiB");
      else this.#handle(i * SLOT_BYTES, length, handler);
    }
    return count;
  }

  #handle(offset: number, length: number, handler: MessageHandler): void {
    const cursor = this.#cursor;
    cursor.begin(offset, length);
    for (;;) {
      try {
        if (!cursor.next()) return;
        handler.message(cursor);
      } catch (error) {
        if (!(error instanceof MalformedMessage)) throw error;
        handler.malformed(error.message);
      }
    }
  }

  /** Sends the first `length` bytes of `bytes`. Returns 0 or -errno. */
  send(bytes: Uint8Array, length: number): number {
    return Math.min(0, this.#library.send(this.fd, bytes, length));
  }

  close(): void {
    this.#library.close(this.fd);
  }
}

/** Datagrams of a dump per turn: some two thousand routes. */
const DUMP_BURST = 4;
/** The kernel writes a dump's next datagram when one is read, so few need room. */
const DUMP_BUFFER = 1 << 20;

export type DumpEnd =
  | "done"
  /** The table changed during the dump (NLM_F_DUMP_INTR). */
  | "interrupted"
  /** A message was malformed or missing. */
  | "damaged"
  /** The kernel replied with an error, or lacks the requested feature. */
  | "refused";

export interface ReplyHandler {
  /** One reply; valid only during the call. */
  reply(message: MessageCursor): void;
  /** No more replies come. `errno`, positive, is the reason for a refusal; `now` is the time of the turn. */
  done(end: DumpEnd, errno: number, now: number): void;
}

/** Makes requests, such as dumps and route lookups, one at a time. */
export class Dumper implements MessageHandler {
  /** Whether replies are outstanding. Until they have come no request can be made. */
  busy = false;
  readonly #socket: NetlinkSocket;
  readonly #writer = new MessageWriter();
  #sequence = 0;
  /** Null for an abandoned request. */
  #handler: ReplyHandler | null = null;
  #next: readonly DumpKind[] = [];
  #end: DumpEnd | null = null;
  /** Why a request that completes is not "done". */
  #flaw: DumpEnd | null = null;
  #errno = 0;

  /** Throws SystemError. */
  constructor(library: NetlinkLibrary) {
    this.#socket = new NetlinkSocket(library, {
      groups: [],
      receiveBuffer: DUMP_BUFFER,
      strict: true,
      burst: DUMP_BURST,
    });
  }

  get fd(): number {
    return this.#socket.fd;
  }

  /** Begins dumps, one after the other until one fails. False: the dumper is busy. */
  dump([kind, ...next]: readonly DumpKind[], handler: ReplyHandler): boolean {
    const begun = this.request((writer, sequence) => writeDump(writer, kind, sequence), handler);
    if (begun) this.#next = next;
    return begun;
  }

  /** Makes any request. `write` returns its length. False: the dumper is busy. */
  request(
    write: (writer: MessageWriter, sequence: number) => number,
    handler: ReplyHandler,
  ): boolean {
    if (this.busy) return false;
    this.#sequence = (this.#sequence + 1) >>> 0;
    const length = write(this.#writer, this.#sequence);
    if (this.#socket.send(this.#writer.bytes, length) < 0) return false;
    this.busy = true;
    this.#handler = handler;
    this.#next = [];
    this.#end = this.#flaw = null;
    this.#errno = 0;
    return true;
  }

  /** Abandons the request. The dumper stays `busy` until turns have read the remaining replies. */
  abandon(): void {
    this.#handler = null;
  }

  /** Takes a burst of replies; returns how much was done. Once the queue is empty, no more come. */
  turn(now = performance.now()): number {
    if (!this.busy) return 0;
    const count = this.#socket.receive(this);
    if (count === OVERRUN) this.#flaw = "damaged";
    if (this.#end === null && count === 0) this.#end = "damaged";
    if (this.#end !== null) this.#conclude(this.#end, now);
    return Math.max(1, count);
  }

  #conclude(end: DumpEnd, now: number): void {
    const handler = this.#handler;
    this.busy = false;
    this.#handler = null;
    if (handler === null) return;
    const goesOn = end === "done" && this.#next.length > 0;
    if (!goesOn) handler.done(end, this.#errno, now);
    else if (!this.dump(this.#next, handler)) handler.done("damaged", 0, now);
  }

  message(message: MessageCursor): void {
    if (!this.busy || message.sequence !== this.#sequence) return;
    if (message.port !== this.#socket.port) return;
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) this.#flaw ??= "interrupted";
    switch (message.type) {
      case NLMSG_DONE:
      case NLMSG_ERROR:
        this.#finish(-message.error);
        break;
      case NLMSG_NOOP:
        break;
      default:
        this.#handler?.reply(message);
        // A reply that is not part of a dump is the only one.
        if ((message.flags & NLM_F_MULTI) === 0) this.#finish(0);
    }
  }

  malformed(_reason: string): void {
    this.#flaw = "damaged";
  }

  #finish(errno: number): void {
    this.#errno = errno;
    if (errno === 0) this.#end = this.#flaw ?? "done";
    else this.#end = errno === EBUSY ? "damaged" : "refused";
  }

  close(): void {
    this.#socket.close();
  }
}
