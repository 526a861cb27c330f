/**
 * Decoding of RTM_NEWLINK and RTM_DELLINK, and of RTM_NEWADDR and RTM_DELADDR: an interface and the
 * IPv4 addresses on it. Neither comes often, so names are decoded to strings here.
 */

import {
  INTERFACE_KINDS,
  type InterfaceAddress,
  type InterfaceKind,
  type InterfaceLink,
} from "../../netbase/interfaces.ts";
import * as nl from "./constants.ts";
import { Attributes, MalformedMessage, type MessageCursor } from "./message.ts";

const ETH_ALEN = 6;

/** What an interface is whose driver names no kind, by its ARPHRD_* number. */
const KIND_OF_HARDWARE: { readonly [hardware: number]: InterfaceKind } = {
  [nl.ARPHRD_ETHER]: "ethernet",
  [nl.ARPHRD_LOOPBACK]: "loopback",
};

/**
 * Reads a link message's body; null when a bridge tells of its port, which is not about the interface
 * itself. Throws `MalformedMessage`.
 */
export function decodeLink(message: MessageCursor): InterfaceLink | null {
  const { bytes: { u8, u16, u32 }, bodyAt } = message;
  const attributes = Attributes.of(message, nl.IFINFOMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_UNSPEC) return null;
  const mac = attributes.payload(nl.IFLA_ADDRESS) ?? [];
  // None of another length.
  const [a, b, c, d, e, f] = mac.length === ETH_ALEN ? mac : [0, 0, 0, 0, 0, 0];
  return {
    ifindex: u32[(bodyAt >>> 2) + 1],
    name: attributes.string(nl.IFLA_IFNAME),
    flags: u32[(bodyAt >>> 2) + 2],
    mtu: attributes.u32(nl.IFLA_MTU),
    operstate: attributes.payload(nl.IFLA_OPERSTATE, 1)?.[0] ?? 0,
    macHead: (a | b << 8 | c << 16 | d << 24) >>> 0,
    macTail: e | f << 8,
    // That of another namespace says nothing here.
    link: attributes.has(nl.IFLA_LINK_NETNSID) ? 0 : attributes.u32(nl.IFLA_LINK),
    master: attributes.u32(nl.IFLA_MASTER),
    ...(attributes.has(nl.IFLA_LINKINFO)
      ? decodeInfo(attributes.nested(nl.IFLA_LINKINFO))
      : { kind: KIND_OF_HARDWARE[u16[(bodyAt >>> 1) + 1]] ?? "other", ...NO_VLAN }),
  };
}

const NO_VLAN = { vlanId: 0, vlanProtocol: 0 };

/** The kind of an interface, and what IFLA_INFO_DATA says, which depends on the kind. */
function decodeInfo(info: Attributes) {
  const name = info.string(nl.IFLA_INFO_KIND);
  const kind = INTERFACE_KINDS.find((known) => known === name) ?? "other";
  if (kind !== "vlan" || !info.has(nl.IFLA_INFO_DATA)) return { kind, ...NO_VLAN };
  const vlan = info.nested(nl.IFLA_INFO_DATA);
  const [low, high] = vlan.payload(nl.IFLA_VLAN_ID, 2) ?? [0, 0];
  // Big-endian; 802.1Q where it is not told.
  const [first, second] = vlan.payload(nl.IFLA_VLAN_PROTOCOL, 2) ?? [0x81, 0x00];
  return { kind, vlanId: (low | high << 8) & 0xfff, vlanProtocol: first << 8 | second };
}

/** An address, and the interface that it is on. */
export interface AddressMessage extends InterfaceAddress {
  readonly ifindex: number;
}

/** Reads an address message's body; null: not IPv4. Throws `MalformedMessage`. */
export function decodeAddress(message: MessageCursor): AddressMessage | null {
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = Attributes.of(message, nl.IFADDRMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_INET) return null;
  const prefixLength = u8[bodyAt + 1];
  if (prefixLength > 32) throw new MalformedMessage(`an address /${prefixLength}`);
  const address = attributes.address(nl.IFA_ADDRESS);
  const flags = attributes.u32(nl.IFA_FLAGS, u8[bodyAt + 2]);
  return {
    ifindex: u32[(bodyAt >>> 2) + 1],
    local: attributes.address(nl.IFA_LOCAL) || address,
    address,
    prefixLength,
    broadcast: attributes.address(nl.IFA_BROADCAST),
    scope: u8[bodyAt + 3],
    secondary: (flags & nl.IFA_F_SECONDARY) !== 0,
  };
}

/** What an interface's settings say of routes; null: nothing of that. Throws `MalformedMessage`. */
export function decodeSettings(
  message: MessageCursor,
): { ifindex: number; ignoreLinkdown: boolean | null } {
  const attributes = Attributes.of(message, nl.NETCONFMSG_BYTES);
  const ignores = nl.NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN;
  return {
    ifindex: attributes.u32(nl.NETCONFA_IFINDEX) | 0,
    ignoreLinkdown: attributes.has(ignores) ? attributes.u32(ignores) !== 0 : null,
  };
}
