/**
 * Decoding of RTM_NEWLINK and RTM_DELLINK, and of RTM_NEWADDR and RTM_DELADDR: an interface and the
 * IPv4 addresses on it. Neither comes often, so names are decoded to strings here.
 */

import type { InterfaceAddress, InterfaceLink } from "../../netbase/interfaces.ts";
import * as nl from "./constants.ts";
import { Attributes, MalformedMessage, type MessageCursor } from "./message.ts";

/**
 * Reads a link message's body; null when a bridge tells of its port, which is not about the interface
 * itself. Throws `MalformedMessage`.
 */
export function decodeLink(message: MessageCursor): InterfaceLink | null {
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = new Attributes().of(message, nl.IFINFOMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_UNSPEC) return null;
  const link = {
    ifindex: u32[(bodyAt >>> 2) + 1],
    name: attributes.string(nl.IFLA_IFNAME),
    flags: u32[(bodyAt >>> 2) + 2],
    mtu: attributes.u32(nl.IFLA_MTU),
    operstate: attributes.payload(nl.IFLA_OPERSTATE, 1)?.[0] ?? 0,
    macHead: 0,
    macTail: 0,
    // That of another namespace says nothing here.
    link: attributes.has(nl.IFLA_LINK_NETNSID) ? 0 : attributes.u32(nl.IFLA_LINK),
    master: attributes.u32(nl.IFLA_MASTER),
    ...decodeVlan(attributes.nested(nl.IFLA_LINKINFO)),
  };
  attributes.mac(nl.IFLA_ADDRESS, link);
  const broadcast = { macHead: 0, macTail: 0 };
  attributes.mac(nl.IFLA_BROADCAST, broadcast);
  const { macHead: broadcastHead, macTail: broadcastTail } = broadcast;
  const hasBroadcast = broadcastHead !== 0 || broadcastTail !== 0;
  return { ...link, ...(hasBroadcast && { broadcastHead, broadcastTail }) };
}

/** What a VLAN device's IFLA_LINKINFO says; `vlanProtocol` 0: it is none. */
function decodeVlan(info: Attributes): { vlanId: number; vlanProtocol: number } {
  if (info.string(nl.IFLA_INFO_KIND) !== "vlan" || !info.has(nl.IFLA_INFO_DATA)) {
    return { vlanId: 0, vlanProtocol: 0 };
  }
  const vlan = info.nested(nl.IFLA_INFO_DATA);
  const [low, high] = vlan.payload(nl.IFLA_VLAN_ID, 2) ?? [0, 0];
  // Big-endian; 802.1Q where it is not told.
  const [first, second] = vlan.payload(nl.IFLA_VLAN_PROTOCOL, 2) ?? [0x81, 0x00];
  return { vlanId: (low | high << 8) & 0xfff, vlanProtocol: first << 8 | second };
}

/** An address, and the interface that it is on. */
export interface AddressMessage extends InterfaceAddress {
  readonly ifindex: number;
}

/** Reads an address message's body; null: not IPv4. Throws `MalformedMessage`. */
export function decodeAddress(message: MessageCursor): AddressMessage | null {
  const { bytes: { u8, u32 }, bodyAt } = message;
  const attributes = new Attributes().of(message, nl.IFADDRMSG_BYTES);
  if (u8[bodyAt] !== nl.AF_INET) return null;
  const prefixLength = u8[bodyAt + 1];
  if (prefixLength > 32) throw new MalformedMessage(`an address /${prefixLength}`);
  const address = attributes.address(nl.IFA_ADDRESS);
  const flags = attributes.u32(nl.IFA_FLAGS, u8[bodyAt + 2]);
  const label = attributes.string(nl.IFA_LABEL);
  return {
    ifindex: u32[(bodyAt >>> 2) + 1],
    local: attributes.address(nl.IFA_LOCAL) || address,
    address,
    prefixLength,
    broadcast: attributes.address(nl.IFA_BROADCAST),
    scope: u8[bodyAt + 3],
    secondary: (flags & nl.IFA_F_SECONDARY) !== 0,
    ...(label !== "" && { label }),
  };
}

/** What an interface's settings say of routes; null: nothing of that. Throws `MalformedMessage`. */
export function decodeSettings(
  message: MessageCursor,
): { ifindex: number; ignoreLinkdown: boolean | null } {
  const attributes = new Attributes().of(message, nl.NETCONFMSG_BYTES);
  const ignores = nl.NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN;
  return {
    ifindex: attributes.u32(nl.NETCONFA_IFINDEX) | 0,
    ignoreLinkdown: attributes.has(ignores) ? attributes.u32(ignores) !== 0 : null,
  };
}
