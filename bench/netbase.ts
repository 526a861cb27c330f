// SPDX-License-Identifier: Apache-2.0
/**
 * Nanoseconds per lookup in the tables that net tiles read, and route changes per second. Lookups are independent, over
 * an array of addresses in bulks of 32, like those of a burst of packets.
 *
 * Peers: `bare_load`, one random load from a table of the same size, which every table needs; DPDK's `rte_fib` and
 * `rte_lpm`; the same neighbour table in C (`neighbors.ts`).
 */

import { heapView, type View } from "../ffi/region.ts";
import type { FibReader, NextHopReader } from "../netbase/fib.ts";
import { NETBASE_BYTES, TBL24_CELLS } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { emptyRoute, NLM_F_CREATE, NLM_F_REPLACE } from "../netbase/route.ts";
import { type Case, isWanted, measure, type Report, type Selection, timed } from "./harness.ts";
import { buildDpdkPeer, LookupPeer } from "./lookup_peer.ts";
import { measureLookups } from "./memory_lookups.ts";
import { measureNeighbors } from "./neighbors.ts";
import { coveredAddresses, defaultRoute, fillRoute, prefixes, randomAddresses } from "./routes.ts";

/** Sizes of table. */
const SIZES = [10, 1000, 100_000, 1_000_000];
/** Addresses that fit the caches, and rounds over them in one measurement. */
const HOT = 1024;
const HOT_ROUNDS = 4096;
/** Addresses that do not fit them. */
const COLD = 1 << 22;
/** Addresses of one call, and of one turn of its loop. */
const BULK = 32;
const STRIDE = 8;
/** Route changes in one measurement, and in each commit, like those of a netlink tile. */
const CHANGES = 200_000;
const BATCH = 64;

/** Measures all cases that are wanted. */
export async function run(report: Report, selection: Selection = {}): Promise<void> {
  const dpdk = await buildDpdkPeer();
  for (const size of SIZES) {
    const cases = [`fib hot ${size}`, `fib random ${size}`];
    if (cases.some((name) => isWanted(name, selection))) await measureFib(report, size, dpdk);
  }
  await measureNeighbors(report, selection);
  await measureLookups(report, selection);
  if (isWanted("route apply 1000000", selection)) await measureChanges(report);
}

/** A netbase with a default route and `table`'s routes. */
function netbaseWith(table: Uint32Array): { view: View; writer: NetbaseWriter } {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 0x5eed });
  writer.rib.add(defaultRoute(), NLM_F_CREATE);
  const route = emptyRoute();
  for (let i = 0; i < table.length / 2; i++) {
    writer.rib.add(fillRoute(route, table, i), NLM_F_CREATE);
  }
  writer.commit();
  return { view, writer };
}

/** The same routes for DPDK: destination, length and number of the next hop. */
function routesOf(table: Uint32Array): Uint32Array {
  const route = emptyRoute();
  const out = new Uint32Array(3 + table.length / 2 * 3);
  out[2] = nextHopOf(defaultRoute().gateway);
  for (let i = 0; i < table.length / 2; i++) {
    const { destination, prefixLength, gateway } = fillRoute(route, table, i);
    out.set([destination, prefixLength, nextHopOf(gateway)], 3 + 3 * i);
  }
  return out;
}

function nextHopOf(gateway: number): number {
  return gateway & 0xffff;
}

/** Measures hot and random addresses in a table of `size` routes. */
async function measureFib(report: Report, size: number, dpdk: string | null): Promise<void> {
  const table = prefixes(size);
  const { fib, nextHops } = new NetbaseReader(netbaseWith(table).view);
  const flat = new Uint16Array(TBL24_CELLS).fill(1);
  const sets = [
    { name: "hot", addresses: coveredAddresses(table, HOT), rounds: HOT_ROUNDS },
    { name: "random", addresses: randomAddresses(COLD), rounds: 1 },
  ];
  const files = [routesOf(table), ...sets.map(({ addresses }) => addresses)];
  await using peer = dpdk === null ? null : await LookupPeer.start(dpdk, files);
  for (const [i, { name, addresses, rounds }] of sets.entries()) {
    const operations = addresses.length * rounds;
    const peers: Case["peers"] = {
      bare_load: timed(operations, () => load(flat, addresses, rounds)),
      ...(peer !== null && dpdkPeers(peer, `${i} ${rounds}`, sumOf(fib, nextHops, addresses))),
    };
    report(
      await measure({
        ...{ bench: "netbase", case: `fib ${name} ${size}`, unit: "ns/op", peers },
        tegula: timed(operations, () => lookUp(fib, addresses, rounds)),
      }),
    );
  }
}

function dpdkPeers(peer: LookupPeer, what: string, expected: number): Case["peers"] {
  const ask = async (table: string) => {
    const { nanoseconds, witness } = await peer.ask(`${table} ${what}`);
    if (witness !== expected) throw new Error(`rte_${table} found other routes than netbase`);
    return nanoseconds;
  };
  return { rte_fib: () => ask("fib"), rte_lpm: () => ask("lpm") };
}

/** The sum of the numbers of all next hops. */
function sumOf(fib: FibReader, nextHops: NextHopReader, addresses: Uint32Array): number {
  return addresses.reduce((sum, to) => sum + nextHopOf(nextHops.gateway(fib.lookup(to))), 0);
}

/**
 * Looks up all addresses, a bulk at a time. It is short so that V8 compiles it as a whole, as it does a tile's
 * functions, and not from the middle of a long loop.
 */
function lookUp(fib: FibReader, addresses: Uint32Array, rounds: number): number {
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < addresses.length; i += BULK) sum += lookUpBulk(fib, addresses, i);
  }
  return sum;
}

/** Unrolled, because V8 does not unroll, and a turn of a loop costs as much as a lookup. */
function lookUpBulk(fib: FibReader, addresses: Uint32Array, from: number): number {
  let sum = 0;
  for (let i = from; i < from + BULK; i += STRIDE) {
    sum = (sum + fib.lookup(addresses[i]) + fib.lookup(addresses[i | 1]) +
      fib.lookup(addresses[i | 2]) + fib.lookup(addresses[i | 3]) +
      fib.lookup(addresses[i | 4]) + fib.lookup(addresses[i | 5]) +
      fib.lookup(addresses[i | 6]) + fib.lookup(addresses[i | 7])) | 0;
  }
  return sum;
}

/** One load: the least that a table needs. */
function load(table: Uint16Array, addresses: Uint32Array, rounds: number): number {
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < addresses.length; i += BULK) sum += loadBulk(table, addresses, i);
  }
  return sum;
}

function loadBulk(table: Uint16Array, addresses: Uint32Array, from: number): number {
  let sum = 0;
  for (let i = from; i < from + BULK; i += STRIDE) {
    sum = (sum + table[addresses[i] >>> 8] + table[addresses[i | 1] >>> 8] +
      table[addresses[i | 2] >>> 8] + table[addresses[i | 3] >>> 8] +
      table[addresses[i | 4] >>> 8] + table[addresses[i | 5] >>> 8] +
      table[addresses[i | 6] >>> 8] + table[addresses[i | 7] >>> 8]) | 0;
  }
  return sum;
}

async function measureChanges(report: Report): Promise<void> {
  const table = prefixes(1_000_000);
  const { writer } = netbaseWith(table);
  let shift = 0;
  report(
    await measure({
      ...{ bench: "netbase", case: "route apply 1000000", unit: "events/s" },
      tegula: () => {
        shift++;
        const begin = performance.now();
        change(writer, table, shift);
        return CHANGES / (performance.now() - begin) * 1000;
      },
    }),
  );
}

/** Changes the gateways of routes throughout the table. */
function change(writer: NetbaseWriter, table: Uint32Array, shift: number): void {
  const route = emptyRoute();
  for (let i = 0; i < CHANGES; i++) {
    const pick = Math.imul(i, 0x9e3779b1) >>> 12;
    writer.rib.add(fillRoute(route, table, pick % (table.length / 2), shift), NLM_F_REPLACE);
    if (i % BATCH === 0) writer.commit();
  }
  writer.commit();
}
