// SPDX-License-Identifier: Apache-2.0
/**
 * Formats entries as `ip address`, `ip route` and `ip neighbour` do, from their JSON, so that both
 * formats agree.
 */

import type { Entry } from "../tiles/netlink/entries.ts";

/** Fields whose keyword is not their name. */
const KEYWORDS: Readonly<Record<string, string>> = {
  gateway: "via",
  protocol: "proto",
  prefsrc: "src",
};
const ROUTE = "tos nhid gateway dev table protocol scope prefsrc metric".split(" ");

function interfaceText(entry: Entry): string {
  const { ifindex, ifname, link, flags, mtu, master, operstate } = entry;
  const name = link === undefined ? ifname : `${ifname}@${link}`;
  const state = `mtu ${mtu}${master === undefined ? "" : ` master ${master}`} state ${operstate}`;
  const hasMac = entry.address !== undefined;
  const vlan = (entry.linkinfo as Entry | undefined)?.info_data as Entry | undefined;
  return [
    `${ifindex}: ${name}: <${(flags as string[]).join(",")}> ${state}`,
    `    link/${entry.link_type}${hasMac ? ` ${entry.address} brd ${entry.broadcast}` : ""}`,
    ...vlan === undefined ? [] : [`    vlan protocol ${vlan.protocol} id ${vlan.id}`],
    ...(entry.addr_info as Entry[]).map((address) => `    ${addressText(address)}`),
  ].join("\n");
}

function addressText(entry: Entry): string {
  const { local, address, prefixlen, broadcast, scope, secondary, label } = entry;
  const peer = address === undefined ? "" : ` peer ${address}`;
  const brd = broadcast === undefined ? "" : ` brd ${broadcast}`;
  const marks = `${secondary ? " secondary" : ""}${label === undefined ? "" : ` ${label}`}`;
  return `inet ${local}${peer}/${prefixlen}${brd} scope ${scope}${marks}`;
}

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
  return [...keywords(hop, ["gateway", "dev", "weight"]), ...flags].join(" ");
}

export function neighborText(entry: Entry): string {
  return [
    entry.dst,
    ...keywords(entry, ["dev", "lladdr"]),
    ...Object.keys(entry).filter((field) => entry[field] === null),
    ...entry.state as string[],
  ].join(" ");
}

/** The entry's values of these fields, each after its keyword. */
function keywords(entry: Entry, fields: readonly string[]): string[] {
  return fields.filter((field) => entry[field] !== undefined)
    .map((field) => `${KEYWORDS[field] ?? field} ${entry[field]}`);
}

/** How an entry of each kind is printed. */
export const TEXTS = { interfaces: interfaceText, routes: routeText, neighbors: neighborText };
