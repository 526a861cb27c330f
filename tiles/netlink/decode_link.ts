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
import { Attributes, MalformedMessage, type MessageCursor } from "./message.ts";

const IFINFOMSG_BYTES = 16;
const IFADDRMSG_BYTES = 8;
/** Padded. */
const NETCONFMSG_BYTES = 4;
const ETH_ALEN = 6;

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
  const { bytes: { u8, u16, u32 }, bodyAt } = message;
  const attributes = Attributes.of(message, IFINFOMSG_BYTES);
  out.family = u8[bodyAt];
  out.ifindex = u32[(bodyAt >>> 2) + 1];
  out.flags = u32[(bodyAt >>> 2) + 2];
  out.name = attributes.string(nl.IFLA_IFNAME);
  out.mtu = attributes.u32(nl.IFLA_MTU);
  out.master = attributes.u32(nl.IFLA_MASTER);
  // That of another namespace says nothing here.
  out.link = attributes.has(nl.IFLA_LINK_NETNSID) ? 0 : attributes.u32(nl.IFLA_LINK);
  out.operstate = attributes.payload(nl.IFLA_OPERSTATE, 1)?.[0] ?? 0;
  const mac = attributes.payload(nl.IFLA_ADDRESS) ?? [];
  const [a, b, c, d, e, f] = mac.length === ETH_ALEN ? mac : [0, 0, 0, 0, 0, 0];
  out.macHead = (a | b << 8 | c << 16 | d << 24) >>> 0;
  out.macTail = e | f << 8;
  const info = attributes.nested(nl.IFLA_LINKINFO);
  const kind = info.string(nl.IFLA_INFO_KIND);
  out.kind = attributes.has(nl.IFLA_LINKINFO)
    ? INTERFACE_KINDS.find((known) => known === kind) ?? "other"
    : KIND_OF_HARDWARE[u16[(bodyAt >>> 1) + 1]] ?? "other";
  // What IFLA_INFO_DATA means depends on the kind.
  const isVlan = kind === "vlan" && info.has(nl.IFLA_INFO_DATA);
  const vlan = info.nested(isVlan ? nl.IFLA_INFO_DATA : -1);
  const [low, high] = vlan.payload(nl.IFLA_VLAN_ID, 2) ?? [0, 0];
  out.vlanId = (low | high << 8) & 0xfff;
  // Big-endian.
  const [first, second] = vlan.payload(nl.IFLA_VLAN_PROTOCOL, 2) ?? [0x81, 0x00];
  out.vlanProtocol = isVlan ? first << 8 | second : 0;
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
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = Attributes.of(message, IFADDRMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_INET) return false;
  out.prefixLength = u8[bodyAt + 1];
  if (out.prefixLength > 32) throw new MalformedMessage(`an address /${out.prefixLength}`);
  out.scope = u8[bodyAt + 3];
  out.ifindex = u32[(bodyAt >>> 2) + 1];
  out.address = attributes.address(nl.IFA_ADDRESS);
  out.local = attributes.address(nl.IFA_LOCAL) || out.address;
  out.broadcast = attributes.address(nl.IFA_BROADCAST);
  out.secondary = (attributes.u32(nl.IFA_FLAGS, u8[bodyAt + 2]) & nl.IFA_F_SECONDARY) !== 0;
  return true;
}

/** What an interface's settings say of routes; null: nothing of that. Throws `MalformedMessage`. */
export function decodeSettings(
  message: MessageCursor,
): { ifindex: number; ignoreLinkdown: boolean | null } {
  const attributes = Attributes.of(message, NETCONFMSG_BYTES);
  const ignores = nl.NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN;
  return {
    ifindex: attributes.u32(nl.NETCONFA_IFINDEX) | 0,
    ignoreLinkdown: attributes.has(ignores) ? attributes.u32(ignores) !== 0 : null,
  };
}
