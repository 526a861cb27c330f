// SPDX-License-Identifier: Apache-2.0
/**
 * The text that `ip` prints for entries, made from their JSON, so that both say the same.
 */

import type { Entry } from "../tiles/netlink/entries.ts";

/** A field that is printed as a keyword and its value. */
type Keyword = readonly [field: string, keyword: string];

const ROUTE: readonly Keyword[] = [
  ...[["tos", "tos"], ["nhid", "nhid"], ["gateway", "via"], ["dev", "dev"]] as const,
  ...[["table", "table"], ["protocol", "proto"], ["scope", "scope"]] as const,
  ...[["prefsrc", "src"], ["metric", "metric"]] as const,
];

/** Formats an interface as `ip address` does. */
export function interfaceText(entry: Entry): string {
  const { ifindex, ifname, link, flags, mtu, master, operstate } = entry;
  const name = link === undefined ? ifname : `${ifname}@${link}`;
  const state = `mtu ${mtu}${master === undefined ? "" : ` master ${master}`} state ${operstate}`;
  const hasMac = entry.address !== undefined;
  return [
    `${ifindex}: ${name}: <${(flags as string[]).join(",")}> ${state}`,
    `    link/${entry.link_type}${hasMac ? ` ${entry.address} brd ${entry.broadcast}` : ""}`,
    ...vlanLines(entry),
    ...(entry.addr_info as Entry[]).map((address) => `    ${addressText(address)}`),
  ].join("\n");
}

function vlanLines({ linkinfo }: Entry): string[] {
  if (linkinfo === undefined) return [];
  const { protocol, id } = (linkinfo as Entry).info_data as Entry;
  return [`    vlan protocol ${protocol} id ${id}`];
}

function addressText(entry: Entry): string {
  const { local, address, prefixlen, broadcast, scope, secondary, label } = entry;
  const peer = address === undefined ? "" : ` peer ${address}`;
  const brd = broadcast === undefined ? "" : ` brd ${broadcast}`;
  const marks = `${secondary ? " secondary" : ""}${label === undefined ? "" : ` ${label}`}`;
  return `inet ${local}${peer}/${prefixlen}${brd} scope ${scope}${marks}`;
}

/** Formats a route as `ip route` does. */
export function routeText(entry: Entry): string {
  const metrics = (entry.metrics as { mtu: number }[] | undefined) ?? [];
  const words = [
    ...entry.type === undefined ? [] : [entry.type],
    entry.dst,
    ...keywords(entry, ROUTE),
    ...entry.flags as string[],
    ...metrics.map(({ mtu }) => `mtu ${mtu}`),
    ...entry.unsupported === true ? ["unsupported"] : [],
  ];
  const hops = (entry.nexthops as Entry[] | undefined) ?? [];
  return [words.join(" "), ...hops.map((hop) => `\tnexthop ${hopText(hop)}`)].join("\n");
}

/** Formats a next hop of a multipath route, without the word `nexthop`. */
function hopText(hop: Entry): string {
  const flags = (hop.flags as string[] | undefined) ?? [];
  return [...keywords(hop, [["gateway", "via"], ["dev", "dev"], ["weight", "weight"]]), ...flags]
    .join(" ");
}

/** Formats a neighbour as `ip neighbour` does. */
export function neighborText(entry: Entry): string {
  return [
    entry.dst,
    ...keywords(entry, [["dev", "dev"], ["lladdr", "lladdr"]]),
    ...Object.keys(entry).filter((field) => entry[field] === null),
    ...entry.state as string[],
  ].join(" ");
}

/** Formats the fields that the entry has. */
function keywords(entry: Entry, fields: readonly Keyword[]): string[] {
  return fields.filter(([field]) => entry[field] !== undefined)
    .map(([field, keyword]) => `${keyword} ${entry[field]}`);
}
