// SPDX-License-Identifier: Apache-2.0
/**
 * Routes as in rtnetlink, in the kernel's own numbers. The codec fills a {@linkcode Route}, the RIB
 * stores it, `show` prints it. And IPv4 addresses and prefixes as text.
 */

/** Routing tables that Tegula mirrors (rtnetlink(7), `enum rt_class_t`). */
export const RT_TABLE_MAIN = 254;
export const RT_TABLE_LOCAL = 255;

/** Route types (`rtm_type`, linux/rtnetlink.h). `RTN_UNSPEC` represents "no route". */
export const RTN_UNSPEC = 0;
export const RTN_UNICAST = 1;
export const RTN_LOCAL = 2;
export const RTN_BROADCAST = 3;
export const RTN_MULTICAST = 5;
export const RTN_BLACKHOLE = 6;
export const RTN_UNREACHABLE = 7;
export const RTN_PROHIBIT = 8;
export const RTN_THROW = 9;

/** Whether a route type refuses packets: blackhole, unreachable, prohibit, throw. */
export function isRefusal(type: number): boolean {
  return type >= RTN_BLACKHOLE && type <= RTN_THROW;
}

/** Next hop kinds beyond the kernel's route types. A group has members, one of which a flow uses. */
export const KIND_GROUP = 32;
/** A route that the kernel can use and Tegula cannot (IPv6 next hop, encapsulation, …). */
export const KIND_UNSUPPORTED = 33;
/** A route for which netbase has no room (`layout.ts`): its packets are dropped, never misrouted. */
export const KIND_OVERFLOW = 34;

/** Route scopes (`rtm_scope`). */
export const RT_SCOPE_UNIVERSE = 0;
export const RT_SCOPE_LINK = 253;
export const RT_SCOPE_HOST = 254;

/** Next hop flags (`rtm_flags`, `rtnh_flags`). */
export const RTNH_F_DEAD = 1;
export const RTNH_F_PERVASIVE = 2;
export const RTNH_F_ONLINK = 4;
export const RTNH_F_OFFLOAD = 8;
export const RTNH_F_LINKDOWN = 16;
export const RTNH_F_UNRESOLVED = 32;
export const RTNH_F_TRAP = 64;

/** Flags that the kernel changes itself, mostly without an event: not part of a route's identity. */
export const RTNH_DYNAMIC_FLAGS = RTNH_F_DEAD | RTNH_F_OFFLOAD | RTNH_F_LINKDOWN |
  RTNH_F_UNRESOLVED | RTNH_F_TRAP;

/** `nlmsg_flags` of RTM_NEWROUTE events: the position of a route among its equals. */
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_APPEND = 0x800;

/** One hop of a multipath route. Gateway in host order, 0: on-link. `weight` is `rtnh_hops` + 1. */
export interface Hop {
  gateway: number;
  ifindex: number;
  weight: number;
  /** RTNH_F_* of this hop. */
  flags: number;
}

/** A route's attributes beyond its key. Routes with equal attributes share them in the RIB. */
export interface RouteAttributes {
  /** RTN_* */
  type: number;
  /** RT_SCOPE_* */
  scope: number;
  /** RTPROT_* */
  protocol: number;
  /** RTNH_F_* and RTM_F_* as in `rtm_flags` */
  flags: number;
  /** RTA_PREFSRC, host order; 0: none */
  source: number;
  /** RTA_GATEWAY, host order; 0: on-link. Not used with `hops`. */
  gateway: number;
  /** RTA_OIF; 0: none. Not used with `hops`. */
  ifindex: number;
  /** RTAX_MTU; 0: none */
  mtu: number;
  /** RTA_NH_ID; 0: none */
  nextHopId: number;
  /** RTA_MULTIPATH, in the kernel's order; null: a single next hop */
  hops: readonly Hop[] | null;
  /** Tegula cannot use the next hop. */
  unsupported: boolean;
}

/** A route: its key and its attributes. Mutable, so that a decoder can reuse one. */
export interface Route extends RouteAttributes {
  /** RTA_TABLE, 32 bits */
  table: number;
  /** Host order, bits beyond the prefix zero. */
  destination: number;
  /** 0 to 32 */
  prefixLength: number;
  tos: number;
  /** RTA_PRIORITY, the metric */
  priority: number;
}

/** An empty route of table `main`, to be filled. */
export function emptyRoute(): Route {
  return {
    table: RT_TABLE_MAIN,
    destination: 0,
    prefixLength: 0,
    tos: 0,
    priority: 0,
    type: RTN_UNICAST,
    scope: RT_SCOPE_UNIVERSE,
    protocol: 0,
    flags: 0,
    source: 0,
    gateway: 0,
    ifindex: 0,
    mtu: 0,
    nextHopId: 0,
    hops: null,
    unsupported: false,
  };
}

/** `0xc6120001` as `"198.18.0.1"`. */
export function formatAddress(address: number): string {
  return `${address >>> 24}.${address >>> 16 & 255}.${address >>> 8 & 255}.${address & 255}`;
}

/** A prefix as iproute2 prints it: `default`, a bare address for /32, else with its length. */
export function formatPrefix(destination: number, prefixLength: number): string {
  if (prefixLength === 0 && destination === 0) return "default";
  return prefixLength === 32
    ? formatAddress(destination)
    : `${formatAddress(destination)}/${prefixLength}`;
}

/** The address of `text` in dotted decimals; -1: it is none, such as 010.0.0.1, which `ip` reads as octal. */
export function parseAddress(text: string): number {
  if (/(^|\.)0\d/.test(text)) return -1;
  const digits = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)?.slice(1).map(Number);
  if (digits === undefined || digits.some((byte) => byte > 255)) return -1;
  return digits.reduce((address, byte) => address * 256 + byte, 0);
}

/** `"198.51.100.0/24"`, or a bare address, as signed words; null: it is not a prefix. */
export function parsePrefix(text: string): { address: number; mask: number } | null {
  const [address, length = "32", ...more] = text.split("/");
  const right = /^\d{1,2}$/.test(length) && Number(length) <= 32 && more.length === 0;
  if (!right || parseAddress(address) < 0) return null;
  const mask = (2 ** 32 - 2 ** (32 - Number(length))) | 0;
  return { address: parseAddress(address) & mask, mask };
}
