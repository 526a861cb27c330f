// SPDX-License-Identifier: Apache-2.0
/**
 * Shared by the tests of netbase: a netbase in memory, readers whose quiescent states the test
 * controls, random routes, and a text form of a reader's answers that can be compared.
 */

import assert from "node:assert/strict";
import { heapView, type View } from "../../ffi/region.ts";
import type { InterfaceAddress, InterfaceLink } from "../../netbase/interfaces.ts";
import { NETBASE_BYTES, NextHopFlag } from "../../netbase/layout.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import {
  type Hop,
  KIND_GROUP,
  type Route,
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
  RTN_BLACKHOLE,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_THROW,
  RTN_UNICAST,
  RTN_UNREACHABLE,
  RTNH_F_DEAD,
  RTNH_F_LINKDOWN,
} from "../../netbase/route.ts";
import { withAddress, withoutAddress } from "../../netbase/tables_writer.ts";
import { routeTo, type Verb } from "./netbase_kernel.ts";
import fc from "./property.ts";

/** A reader of netbase whose quiescent states the test controls. */
export class StandingReader {
  burst = 0;
  asleep = false;
}

/** A fresh netbase with its writer, one reader, and the list of readers known to the writer. */
export function makeRoom(neighborSlots = 64): {
  view: View;
  writer: NetbaseWriter;
  reader: NetbaseReader;
  standing: StandingReader;
} {
  const view = heapView(NETBASE_BYTES);
  const standing = new StandingReader();
  const writer = new NetbaseWriter(view, { readers: [standing], neighborSlots, seed: 0x5eed });
  return { view, writer, reader: new NetbaseReader(view), standing };
}

/** Adds or changes an interface and keeps its addresses. False: no room. */
export function setLink({ interfaces }: Pick<NetbaseWriter, "interfaces">, link: InterfaceLink) {
  const addresses = interfaces.get(link.ifindex)?.addresses ?? [];
  return interfaces.put({ ...link, addresses });
}

/** Adds or changes an address in the kernel's order. False: no such interface, or no room. */
export function setAddress(
  { interfaces }: Pick<NetbaseWriter, "interfaces">,
  ifindex: number,
  address: InterfaceAddress,
): boolean {
  const entry = interfaces.get(ifindex);
  return entry !== null &&
    interfaces.put({ ...entry, addresses: withAddress(entry.addresses, address) });
}

/** Removes an address. False: there is none. */
export function removeAddress(
  { interfaces }: Pick<NetbaseWriter, "interfaces">,
  ifindex: number,
  address: InterfaceAddress,
): boolean {
  const entry = interfaces.get(ifindex);
  const addresses = withoutAddress(entry?.addresses ?? [], address);
  if (entry === null || addresses.length === entry.addresses.length) return false;
  return interfaces.put({ ...entry, addresses });
}

/** Commits until nothing waits for the reader any more. */
export function settle(writer: NetbaseWriter, standing: StandingReader): void {
  writer.commit();
  for (let bursts = 0; writer.pending; bursts++) {
    assert.ok(bursts < 6, "a few bursts are enough");
    standing.burst++;
    writer.commit();
  }
}

/** A reader's answer for `address`, gateway by gateway. */
export function answerOf(reader: NetbaseReader, address: number): string {
  return describe(reader, reader.fib.lookup(address));
}

/** A next hop as text. */
export function describe(reader: NetbaseReader, id: number): string {
  if (id === 0) return "none";
  const { nextHops } = reader;
  const kind = nextHops.kind(id);
  if (kind === RTN_THROW) return "none";
  if (kind >= RTN_BLACKHOLE && kind < RTN_THROW) return `refuse ${kind}`;
  if (kind !== KIND_GROUP) return one(nextHops, id);
  // There are no neighbours here, so the first of several default routes is chosen.
  if ((nextHops.flags(id) & NextHopFlag.ordered) !== 0) {
    return one(nextHops, nextHops.memberId(id, 0));
  }
  const members = Array.from({ length: nextHops.memberCount(id) }, (_, i) => {
    return `${one(nextHops, nextHops.memberId(id, i))}*${nextHops.memberWeight(id, i)}`;
  });
  return members.join(" + ");
}

function one(nextHops: NetbaseReader["nextHops"], id: number): string {
  const way = `${nextHops.gateway(id)}%${nextHops.ifindex(id)}`;
  return `${nextHops.kind(id)} ${way} from ${nextHops.source(id)} mtu ${nextHops.mtu(id)}`;
}

/** The expected answer for a route, in the same form. */
export function expectedOf(route: Route | null): string {
  if (route === null || route.type === RTN_THROW) return "none";
  if (route.type >= RTN_BLACKHOLE && route.type < RTN_THROW) return `refuse ${route.type}`;
  const words = (hop: { gateway: number; ifindex: number }) =>
    `${route.type} ${hop.gateway}%${hop.ifindex} from ${route.source} mtu ${route.mtu}`;
  if (route.hops === null) return words(route);
  const alive = route.hops.filter((hop) => (hop.flags & RTNH_F_DEAD) === 0);
  if (alive.length === 1) return words(alive[0]);
  return alive.map((hop) => `${words(hop)}*${hop.weight}`).join(" + ");
}

/** One command in a random history. */
export type Command =
  | { readonly do: Verb; readonly route: Route }
  | { readonly do: "delete"; readonly pick: number }
  | { readonly do: "silently"; readonly verb: Verb; readonly route: Route; readonly pick: number }
  | { readonly do: "resync" | "commit" | "look" | "quiesce" };

const PREFIXES = [
  ...Array.from({ length: 33 }, (_, length) => nested(length)),
  ...["0.0.0.0/8", "128.0.0.0/1", "198.18.0.0/15", "198.19.0.0/16", "198.18.1.0/24"],
  ...["198.18.0.0/28", "198.18.0.16/28", "198.18.0.129/32", "198.18.2.0/23", "255.255.255.255/32"],
];

/** Prefixes of every length over 198.18.0.77. */
function nested(length: number): string {
  const address = 0xc612004d;
  const masked = length === 0 ? 0 : (address & (-1 << (32 - length))) >>> 0;
  return `${[24, 16, 8, 0].map((shift) => (masked >>> shift) & 0xff).join(".")}/${length}`;
}

/** Addresses at and next to the edges of all those prefixes. */
export const PROBES: number[] = [
  ...new Set(
    PREFIXES.flatMap((prefix) => {
      const { destination, prefixLength } = routeTo(prefix);
      const end = destination + 2 ** (32 - prefixLength);
      return [destination - 1, destination, destination + 1, end - 1, end];
    }).filter((address) => address >= 0 && address < 2 ** 32),
  ),
];

const hop: fc.Arbitrary<Hop> = fc.record({
  gateway: fc.constantFrom(0, 1, 2, 3),
  ifindex: fc.constantFrom(2, 3),
  weight: fc.integer({ min: 1, max: 4 }),
  flags: fc.constantFrom(0, 0, 0, RTNH_F_DEAD, RTNH_F_LINKDOWN),
});

/** Only a few, so that routes often collide. */
const MEETING = ["0.0.0.0/0", "198.18.0.0/15", "198.18.0.0/24", "198.18.0.77/32"];

/** A random route to one of few prefixes, with few values for every field, so that routes collide. */
export const anyRoute: fc.Arbitrary<Route> = fc.record({
  to: fc.oneof(fc.constantFrom(...PREFIXES), fc.constantFrom(...MEETING)),
  table: fc.constantFrom(RT_TABLE_MAIN, RT_TABLE_MAIN, RT_TABLE_LOCAL),
  tos: fc.constantFrom(0, 0, 0, 0, 16),
  priority: fc.constantFrom(0, 0, 100),
  type: fc.constantFrom(
    ...[RTN_UNICAST, RTN_UNICAST, RTN_UNICAST, RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST],
    ...[RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_THROW],
  ),
  flags: fc.constantFrom(0, 0, 0, RTNH_F_DEAD, RTNH_F_LINKDOWN),
  source: fc.constantFrom(0, 0, 9),
  mtu: fc.constantFrom(0, 0, 1400),
  way: hop,
  hops: fc.option(fc.array(hop, { minLength: 2, maxLength: 4 }), { freq: 4 }),
}).map(({ to, way, hops, ...rest }) => {
  const several = rest.type === RTN_UNICAST ? hops : null;
  const single = several === null ? { gateway: way.gateway, ifindex: way.ifindex } : {};
  return routeTo(to, { ...rest, ...single, hops: several });
});

/** A random history. */
export const anyHistory: fc.Arbitrary<Command[]> = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constantFrom<Verb>("add", "add", "append", "prepend", "replace"),
        route: anyRoute,
      }),
    },
    { weight: 4, arbitrary: fc.record({ do: fc.constant("delete" as const), pick: fc.nat() }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant("silently" as const),
        verb: fc.constantFrom<Verb>("append", "prepend", "replace"),
        route: anyRoute,
        pick: fc.nat(),
      }),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constantFrom("resync", "commit", "commit", "look", "quiesce"),
      }),
    },
  ),
  { maxLength: 80 },
) as fc.Arbitrary<Command[]>;
