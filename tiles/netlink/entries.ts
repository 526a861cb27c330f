// SPDX-License-Identifier: Apache-2.0
/**
 * Interfaces, routes and neighbours as `ip -j` prints them: with the same fields and values, in the
 * same order, and with the same omissions. This file also answers the status tile's requests.
 */

import type { View } from "../../ffi/region.ts";
import {
  IFF_LOOPBACK,
  IFF_RUNNING,
  IFF_UP,
  type InterfaceAddress,
  type InterfaceEntry,
  type InterfaceReader,
} from "../../netbase/interfaces.ts";
import { Sync } from "../../netbase/layout.ts";
import type { NeighborEntry } from "../../netbase/neighbors.ts";
import { decide, emptyDecision, type NetbaseReader } from "../../netbase/netbase.ts";
import type { Rib } from "../../netbase/rib.ts";
import * as route from "../../netbase/route.ts";
import { formatAddress, formatPrefix, type Route } from "../../netbase/route.ts";
import { Ask, ControlReader, MOST_ANSWER_BYTES, writeAnswer } from "../runtime/control.ts";
import type { Audit } from "./audit.ts";

/** Names of {@linkcode Sync}. */
export const SYNC_STATES: { readonly [state: number]: string } = {
  [Sync.empty]: "empty",
  [Sync.syncing]: "syncing",
  [Sync.synced]: "synced",
  [Sync.stale]: "stale",
};

/** One object of `ip -j`'s arrays. */
export type Entry = Record<string, unknown>;

/** An object as a line of JSON, with a newline. */
export function jsonLine(entry: object): string {
  return `${JSON.stringify(entry)}\n`;
}

/** IFF_* in the order in which iproute2 names them (print_link_flags). */
const LINK_FLAGS: readonly (readonly [number, string])[] = [
  [0x8, "LOOPBACK"],
  [0x2, "BROADCAST"],
  [0x10, "POINTOPOINT"],
  [0x1000, "MULTICAST"],
  [0x80, "NOARP"],
  [0x200, "ALLMULTI"],
  [0x100, "PROMISC"],
  [0x400, "MASTER"],
  [0x800, "SLAVE"],
  [0x4, "DEBUG"],
  [0x8000, "DYNAMIC"],
  [0x4000, "AUTOMEDIA"],
  [0x2000, "PORTSEL"],
  [0x20, "NOTRAILERS"],
  [0x1, "UP"],
  [0x10000, "LOWER_UP"],
  [0x20000, "DORMANT"],
  [0x40000, "ECHO"],
];
const OPERSTATES = ["UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"];
/** RT_SCOPE_* (/usr/share/iproute2/rt_scopes). */
const SCOPES: { readonly [scope: number]: string } = {
  ...{ 0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere" },
};
/** RTN_* (iproute2's rtnl_rtntype_n2a); the first is for no route. At the end Tegula's own types. */
const TYPES: { readonly [type: number]: string } = {
  ...["none", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable"],
  ...{ 8: "prohibit", 9: "throw" },
  [route.KIND_UNSUPPORTED]: "unsupported",
  [route.KIND_OVERFLOW]: "overflow",
};
/** Protocol of routes that an administrator added by hand. `ip` omits it. */
const RTPROT_BOOT = 3;
/** RTPROT_* (/usr/share/iproute2/rt_protos). */
const PROTOCOLS: { readonly [protocol: number]: string } = {
  ...{ 1: "redirect", 2: "kernel", 4: "static", 8: "gated", 9: "ra", 10: "mrt" },
  ...{ 11: "zebra", 12: "bird", 13: "babel", 14: "dnrouted", 15: "xorp", 16: "ntk", 17: "dhcp" },
  ...{ 18: "keepalived", 42: "babel", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip" },
  192: "eigrp",
};
const HOP_FLAGS: readonly (readonly [number, string])[] = [
  [route.RTNH_F_DEAD, "dead"],
  [route.RTNH_F_ONLINK, "onlink"],
  [route.RTNH_F_PERVASIVE, "pervasive"],
  [route.RTNH_F_OFFLOAD, "offload"],
  [route.RTNH_F_TRAP, "trap"],
  [route.RTNH_F_LINKDOWN, "linkdown"],
  [route.RTNH_F_UNRESOLVED, "unresolved"],
];
/** NUD_*, from bit 0 on. */
const NEIGHBOR_STATES = [
  ...["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"],
].map((name, bit) => [1 << bit, name] as const);
/** NTF_* that iproute2 shows, each as a field without a value. */
const NEIGHBOR_FLAGS: readonly (readonly [number, string])[] = [
  [0x80, "router"],
  [0x10, "extern_learn"],
  [0x20, "offload"],
];

function typeName(type: number): string {
  return TYPES[type] ?? String(type);
}

/** The same as `ip -j address`, IPv4 only. */
export function interfaceEntries({ interfaces }: NetbaseReader): Entry[] {
  const nameOf = interfaceNames(interfaces);
  return interfaces.all().map((each) => interfaceEntry(each, { nameOf, interfaces }));
}

/** One entry. `interfaces` must contain the interface below it, or its peer. */
export function interfaceEntry(
  each: InterfaceEntry,
  { nameOf, interfaces }: { nameOf: (ifindex: number) => string; interfaces: InterfaceReader },
): Entry {
  const { flags, link, master, macHead, macTail, broadcastHead = 0, broadcastTail = 0 } = each;
  const other = link === 0 ? -1 : interfaces.find(link);
  const otherDown = other >= 0 && (interfaces.flags(other) & IFF_UP) === 0;
  const noCarrier = (flags & IFF_UP) !== 0 && (flags & IFF_RUNNING) === 0;
  const { vlanId: id, vlanProtocol } = each;
  const protocol = vlanProtocol === 0x88a8 ? "802.1ad" : "802.1Q";
  const isEthernet = macHead !== 0 || macTail !== 0;
  const isLoopback = (flags & IFF_LOOPBACK) !== 0;
  return {
    ifindex: each.ifindex,
    ...(link !== 0 && { link: nameOf(link) }),
    ifname: each.name,
    flags: [
      ...noCarrier ? ["NO-CARRIER"] : [],
      ...namesOf(LINK_FLAGS, flags),
      ...otherDown ? ["M-DOWN"] : [],
    ],
    mtu: each.mtu,
    ...(master !== 0 && { master: nameOf(master) }),
    operstate: OPERSTATES[each.operstate] ?? "UNKNOWN",
    link_type: isLoopback ? "loopback" : isEthernet ? "ether" : "none",
    ...((isEthernet || isLoopback) && {
      address: formatMac(each),
      broadcast: formatMac({ macHead: broadcastHead, macTail: broadcastTail }),
    }),
    ...(vlanProtocol !== 0 && { linkinfo: { info_kind: "vlan", info_data: { protocol, id } } }),
    addr_info: each.addresses.map(addressEntry),
  };
}

function addressEntry(each: InterfaceAddress): Entry {
  const { local, address, broadcast, label } = each;
  return {
    family: "inet",
    local: formatAddress(local),
    ...(address !== local && { address: formatAddress(address) }),
    prefixlen: each.prefixLength,
    ...(broadcast !== 0 && { broadcast: formatAddress(broadcast) }),
    scope: scopeName(each.scope),
    ...(each.secondary && { secondary: true }),
    ...(label !== undefined && { label }),
  };
}

/** A route as in `ip -j route show table all`. Without spreading, as a full table has a million routes. */
export function routeEntry(each: Route, nameOf: (ifindex: number) => string): Entry {
  const { type, hops, protocol } = each;
  const entry: Entry = {};
  if (type !== route.RTN_UNICAST) entry.type = typeName(type);
  entry.dst = formatPrefix(each.destination, each.prefixLength);
  if (each.tos !== 0) entry.tos = `0x${each.tos.toString(16).padStart(2, "0")}`;
  if (each.nextHopId !== 0) entry.nhid = each.nextHopId;
  if (hops === null && each.gateway !== 0) entry.gateway = formatAddress(each.gateway);
  if (hops === null && each.ifindex !== 0) entry.dev = nameOf(each.ifindex);
  if (each.table !== route.RT_TABLE_MAIN) entry.table = "local";
  if (protocol !== RTPROT_BOOT) entry.protocol = PROTOCOLS[protocol] ?? String(protocol);
  if (each.scope !== route.RT_SCOPE_UNIVERSE) entry.scope = scopeName(each.scope);
  if (each.source !== 0) entry.prefsrc = formatAddress(each.source);
  if (each.priority !== 0) entry.metric = each.priority;
  entry.flags = namesOf(HOP_FLAGS, each.flags & 0xff);
  if (each.mtu !== 0) entry.metrics = [{ mtu: each.mtu }];
  if (hops !== null) {
    entry.nexthops = hops.map((hop) => ({
      ...(hop.gateway !== 0 && { gateway: formatAddress(hop.gateway) }),
      dev: nameOf(hop.ifindex),
      weight: hop.weight,
      flags: namesOf(HOP_FLAGS, hop.flags),
    }));
  }
  if (each.unsupported) entry.unsupported = true;
  return entry;
}

/** The decision of netbase, in the form of `ip -j route get`. Addresses in host order; `source` 0: none. */
export function decisionEntry(reader: NetbaseReader, destination: number, source: number): Entry {
  const { nextHops } = reader;
  const nameOf = interfaceNames(reader.interfaces);
  const decision = emptyDecision();
  const kind = decide(reader, destination, source, 0, decision);
  const dst = formatAddress(destination);
  const type = typeName(kind);
  if (kind === route.RTN_UNSPEC) return { dst, type };
  const hop = (gateway: number, ifindex: number) => ({
    ...(gateway !== 0 && { gateway: formatAddress(gateway) }),
    ...(ifindex !== 0 && { dev: nameOf(ifindex) }),
  });
  const { group } = decision;
  return {
    dst,
    type,
    ...(group === 0 && hop(decision.gateway, decision.ifindex)),
    ...(decision.source !== 0 && { prefsrc: formatAddress(decision.source) }),
    ...(decision.mtu !== 0 && { mtu: decision.mtu }),
    ...(group !== 0 && {
      nexthops: Array.from({ length: nextHops.memberCount(group) }, (_, i) => {
        const id = nextHops.memberId(group, i);
        const weight = nextHops.memberWeight(group, i);
        return { ...hop(nextHops.gateway(id), nextHops.ifindex(id)), weight };
      }),
    }),
  };
}

/** The same as `ip -j neighbour`. */
export function neighborEntries({ interfaces, neighbors }: NetbaseReader): Entry[] {
  const nameOf = interfaceNames(interfaces);
  const all: NeighborEntry[] = [];
  neighbors.forEach((neighbor) => all.push({ ...neighbor }));
  all.sort((a, b) => a.ifindex - b.ifindex || a.address - b.address);
  return all.map((neighbor) => neighborEntry(neighbor, nameOf));
}

export function neighborEntry(
  neighbor: Readonly<NeighborEntry>,
  nameOf: (ifindex: number) => string,
): Entry {
  const hasMac = neighbor.macHead !== 0 || neighbor.macTail !== 0;
  const marks = namesOf(NEIGHBOR_FLAGS, neighbor.flags).map((name) => [name, null]);
  return {
    dst: formatAddress(neighbor.address),
    dev: nameOf(neighbor.ifindex),
    ...(hasMac && { lladdr: formatMac(neighbor) }),
    ...Object.fromEntries(marks),
    state: namesOf(NEIGHBOR_STATES, neighbor.state),
  };
}

/** Names of interfaces by index, each looked up once. */
export function interfaceNames(interfaces: InterfaceReader): (ifindex: number) => string {
  const names = new Map(
    interfaces.records().map((record) => [interfaces.ifindex(record), interfaces.name(record)]),
  );
  return (ifindex) => names.get(ifindex) ?? `if${ifindex}`;
}

function scopeName(scope: number): string {
  return SCOPES[scope] ?? String(scope);
}

function namesOf(names: readonly (readonly [number, string])[], flags: number): string[] {
  if (flags === 0) return [];
  return names.filter(([flag]) => (flags & flag) !== 0).map(([, name]) => name);
}

function formatMac({ macHead, macTail }: { macHead: number; macTail: number }): string {
  return [macHead, macHead >>> 8, macHead >>> 16, macHead >>> 24, macTail, macTail >>> 8]
    .map((byte) => (byte & 255).toString(16).padStart(2, "0")).join(":");
}

/*
 * Answers the status tile's requests for data that is only in this tile's heap: all routes, an audit.
 * Requests come through the control region, one at a time. Answers go to the snapshot region: a line of
 * JSON about the answer, then its lines. Routes are sent in pages, so that events need not wait.
 */

/** Lines of one page: some milliseconds of work. */
const PAGE_LINES = 2048;
/** Characters of a page, up to three bytes each, with room for the head. */
const PAGE_CHARACTERS = Math.floor(MOST_ANSWER_BYTES / 3) - 128;

/** The head of a page of routes; `next` has the arguments of the request for the next page. */
export interface RoutesPage {
  readonly next: readonly number[] | null;
  readonly count: number;
}

/** Answers requests from now on. `control` is read-only. */
export function answerer({ control, snapshot, rib, reader, audit }: {
  readonly control: View;
  readonly snapshot: View;
  readonly rib: Rib;
  readonly reader: NetbaseReader;
  readonly audit: Audit;
}): { isAsked(): boolean; turn(): number } {
  const requests = new ControlReader(control);
  let answered = requests.requestNumber;
  const isAsked = () => requests.requestNumber !== answered;
  return {
    isAsked,
    /** Answers a request. Returns how much was done. */
    turn() {
      if (!isAsked()) return 0;
      const { number, kind, arguments: words } = requests.request;
      answered = number;
      const answer = (head: object, lines = "") =>
        writeAnswer(snapshot, number, `${JSON.stringify(head)}\n${lines}`);
      if (kind === Ask.routes) {
        const { lines, ...head } = routesPage(rib, interfaceNames(reader.interfaces), words);
        answer(head, lines);
      } else if (kind === Ask.audit) audit.request(answer);
      return 1;
    },
  };
}

/** Routes from a prefix on, without the first `skipped` of that prefix. */
function routesPage(
  rib: Rib,
  nameOf: (ifindex: number) => string,
  [prefix, length, skipped]: readonly number[],
): RoutesPage & { lines: string } {
  let at = { prefix, length, count: 0 };
  let [lines, count] = ["", 0];
  for (const route of rib.routes({ prefix, length })) {
    const { destination, prefixLength } = route;
    if (destination !== at.prefix || prefixLength !== at.length) {
      at = { prefix: destination, length: prefixLength, count: 0 };
    }
    if (destination !== prefix || prefixLength !== length || at.count >= skipped) {
      const line = JSON.stringify(routeEntry(route, nameOf));
      const isFull = count === PAGE_LINES || lines.length + line.length > PAGE_CHARACTERS;
      if (isFull && count > 0) {
        return { lines, count, next: [at.prefix, at.length, at.count] };
      }
      lines += `${line}\n`;
      count++;
    }
    at.count++;
  }
  return { lines, count, next: null };
}
