/**
 * Decoding of RTM_NEWLINK and RTM_DELLINK, and of RTM_NEWADDR and RTM_DELADDR: an interface and the
 * IPv4 addresses on it. Neither comes often, so names are decoded to strings here.
 *
 * @module
 */

import {
  INTERFACE_KINDS,
  type InterfaceAddress,
  type InterfaceKind,
  type InterfaceLink,
} from "../../netbase/interfaces.ts";
import * as nl from "./constants.ts";
import {
  attributeAddress,
  attributeLength,
  attributeString,
  attributeType,
  attributeU32,
  MalformedMessage,
  type MessageBytes,
  type MessageCursor,
  needPayload,
  padded,
  swap16,
} from "./message.ts";

const IFINFOMSG_BYTES = 16;
const IFADDRMSG_BYTES = 8;
/** Padded. */
const NETCONFMSG_BYTES = 4;
const ETH_ALEN = 6;
const ETH_P_8021Q = 0x8100;

/** What an interface is whose driver names no kind, by its ARPHRD_* number. */
const KIND_OF_HARDWARE: { readonly [hardware: number]: InterfaceKind } = {
  [nl.ARPHRD_ETHER]: "ethernet",
  [nl.ARPHRD_LOOPBACK]: "loopback",
};

/** An interface as a message tells it. Reused from one message to the next. */
export class LinkMessage implements InterfaceLink {
  /**
   * AF_UNSPEC; AF_BRIDGE when a bridge tells of its port, which is not about the interface itself.
   */
  family = 0;
  ifindex = 0;
  name = "";
  kind: InterfaceKind = "other";
  /** IFF_* flags. */
  flags = 0;
  mtu = 0;
  /** IF_OPER_* of RFC 2863. */
  operstate = 0;
  /**
   * Bytes 0 to 3 of its MAC address as they lie in memory, and bytes 4 and 5; 0: none of six bytes.
   */
  macHead = 0;
  macTail = 0;
  /** Index of the interface below, 0: none, or one in another namespace. */
  link = 0;
  /** Index of the bridge, bond or VRF that it is a port of; 0: none. */
  master = 0;
  vlanId = 0;
  /** 0x8100 or 0x88a8; 0: no VLAN device. */
  vlanProtocol = 0;
}

/** Reads a link message's body into `out`. Throws `MalformedMessage`. */
export function decodeLink(message: MessageCursor, out: LinkMessage): void {
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(IFINFOMSG_BYTES);
  out.family = bytes.u8[bodyAt];
  const hardware = bytes.u16[(bodyAt >>> 1) + 1];
  out.ifindex = bytes.u32[(bodyAt >>> 2) + 1];
  out.flags = bytes.u32[(bodyAt >>> 2) + 2];
  out.name = "";
  out.kind = KIND_OF_HARDWARE[hardware] ?? "other";
  out.mtu =
    out.master =
    out.link =
    out.operstate =
      0;
  out.vlanId =
    out.vlanProtocol =
    out.macHead =
    out.macTail =
      0;
  let elsewhere = false;
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.IFLA_IFNAME:
        out.name = attributeString(bytes, at, length);
        break;
      case nl.IFLA_MTU:
        out.mtu = attributeU32(bytes, at, length);
        break;
      case nl.IFLA_MASTER:
        out.master = attributeU32(bytes, at, length);
        break;
      case nl.IFLA_LINK:
        out.link = attributeU32(bytes, at, length);
        break;
      case nl.IFLA_LINK_NETNSID:
        elsewhere = true;
        break;
      case nl.IFLA_OPERSTATE:
        needPayload(length, 1);
        out.operstate = bytes.u8[at + 4];
        break;
      case nl.IFLA_ADDRESS:
        if (length !== nl.NLA_HDRLEN + ETH_ALEN) break;
        out.macHead = bytes.u32[(at >>> 2) + 1];
        out.macTail = bytes.u16[(at >>> 1) + 4];
        break;
      case nl.IFLA_LINKINFO:
        decodeLinkInfo(bytes, { at, length }, out);
    }
  }
  if (elsewhere) out.link = 0;
}

/** Where an attribute lies, header included. */
interface Attribute {
  readonly at: number;
  readonly length: number;
}

function decodeLinkInfo(bytes: MessageBytes, outer: Attribute, out: LinkMessage): void {
  const end = outer.at + outer.length;
  let kind = "";
  let data: Attribute | null = null;
  for (let at = outer.at + nl.NLA_HDRLEN, length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    const type = attributeType(bytes, at);
    if (type === nl.IFLA_INFO_KIND) kind = attributeString(bytes, at, length);
    else if (type === nl.IFLA_INFO_DATA) data = { at, length };
  }
  out.kind = INTERFACE_KINDS.find((known) => known === kind) ?? "other";
  // What IFLA_INFO_DATA means depends on the kind, which need not come first.
  if (kind === "vlan" && data !== null) decodeVlan(bytes, data, out);
}

function decodeVlan(bytes: MessageBytes, outer: Attribute, out: LinkMessage): void {
  const end = outer.at + outer.length;
  out.vlanProtocol = ETH_P_8021Q;
  for (let at = outer.at + nl.NLA_HDRLEN, length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    const type = attributeType(bytes, at);
    if (type !== nl.IFLA_VLAN_ID && type !== nl.IFLA_VLAN_PROTOCOL) continue;
    needPayload(length, 2);
    const value = bytes.u16[(at + nl.NLA_HDRLEN) >>> 1];
    if (type === nl.IFLA_VLAN_ID) out.vlanId = value & 0xfff;
    else out.vlanProtocol = swap16(value);
  }
}

/** An address of an interface as a message tells it. Addresses in host order, 0: not there. */
export class AddressMessage implements InterfaceAddress {
  ifindex = 0;
  /** The interface's own address. */
  local = 0;
  /** The same, or the other end of a point-to-point link: what the prefix is of. */
  address = 0;
  prefixLength = 0;
  broadcast = 0;
  /** RT_SCOPE_* */
  scope = 0;
  secondary = false;
}

/** Reads an address message's body into `out`. False: not IPv4. Throws `MalformedMessage`. */
export function decodeAddress(message: MessageCursor, out: AddressMessage): boolean {
  const { bytes, bodyAt, end } = message;
  let at = message.attributesAt(IFADDRMSG_BYTES);
  if (bytes.u8[bodyAt] !== nl.AF_INET) return false;
  out.prefixLength = bytes.u8[bodyAt + 1];
  if (out.prefixLength > 32) throw new MalformedMessage(`an address /${out.prefixLength}`);
  let flags = bytes.u8[bodyAt + 2];
  out.scope = bytes.u8[bodyAt + 3];
  out.ifindex = bytes.u32[(bodyAt >>> 2) + 1];
  out.local = out.address = out.broadcast = 0;
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    switch (attributeType(bytes, at)) {
      case nl.IFA_LOCAL:
        out.local = attributeAddress(bytes, at, length);
        break;
      case nl.IFA_ADDRESS:
        out.address = attributeAddress(bytes, at, length);
        break;
      case nl.IFA_BROADCAST:
        out.broadcast = attributeAddress(bytes, at, length);
        break;
      case nl.IFA_FLAGS:
        flags = attributeU32(bytes, at, length);
    }
  }
  out.secondary = (flags & nl.IFA_F_SECONDARY) !== 0;
  if (out.local === 0) out.local = out.address;
  return true;
}

/** What an interface's settings say of routes; null: nothing of that. Throws `MalformedMessage`. */
export function decodeSettings(
  message: MessageCursor,
): { ifindex: number; ignoreLinkdown: boolean | null } {
  const { bytes, end } = message;
  let ignoreLinkdown = null;
  let ifindex = 0;
  let at = message.attributesAt(NETCONFMSG_BYTES);
  for (let length = 0; at < end; at += padded(length)) {
    length = attributeLength(bytes, at, end);
    const type = attributeType(bytes, at);
    if (type === nl.NETCONFA_IFINDEX) ifindex = attributeU32(bytes, at, length) | 0;
    else if (type === nl.NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN) {
      ignoreLinkdown = attributeU32(bytes, at, length) !== 0;
    }
  }
  return { ifindex, ignoreLinkdown };
}
