/**
 * Nanoseconds per lookup in the tables that net tiles read, and route changes per second into them.
 * Lookups are independent, over an array of addresses, as a burst of packets brings them.
 *
 * @module
 */

import { heapView, type View } from "../ffi/view.ts";
import type { FibReader } from "../netbase/fib.ts";
import { FIB_CELLS, NETBASE_BYTES } from "../netbase/layout.ts";
import { type NeighborReader, NUD_REACHABLE } from "../netbase/neighbors.ts";
import { NetbaseReader, NetbaseWriter } from "../netbase/netbase.ts";
import { emptyRoute, NLM_F_CREATE, NLM_F_REPLACE } from "../netbase/route.ts";
import { measure, type Report, timed } from "./harness.ts";
import { coveredAddresses, defaultRoute, fillRoute, prefixes, randomAddresses } from "./routes.ts";

/** Sizes of table. */
const SIZES = [10, 1000, 100_000, 1_000_000];
/** Addresses that fit the caches, and rounds over them in one measurement. */
const HOT = 1024;
const HOT_ROUNDS = 4096;
/** Addresses that one call looks up. */
const BULK = 1024;
/** Addresses that do not fit them. */
const COLD = 1 << 22;
/** Neighbours, in a table of so many slots, and lookups in one measurement. */
const NEIGHBORS = 1024;
const NEIGHBOR_SLOTS = 4096;
const NEIGHBOR_LOOKUPS = 1 << 21;
/** Route changes in one measurement, committed in batches such as a netlink tile makes. */
const CHANGES = 200_000;
const BATCH = 64;

/** Measures all cases. */
export async function run(report: Report): Promise<void> {
  for (const size of SIZES) await measureFib(report, size);
  await measureNeighbors(report);
  await measureChanges(report);
}

/** A netbase with a default route and `table`'s routes. */
function netbaseWith(table: Uint32Array): { view: View; writer: NetbaseWriter } {
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, {
    readers: [],
    neighborSlots: NEIGHBOR_SLOTS,
    seed: 0x5eed,
  });
  writer.rib.add(defaultRoute(), NLM_F_CREATE);
  const route = emptyRoute();
  for (let i = 0; i < table.length / 2; i++) {
    writer.rib.add(fillRoute(route, table, i), NLM_F_CREATE);
  }
  writer.commit();
  return { view, writer };
}

async function measureFib(report: Report, size: number): Promise<void> {
  const table = prefixes(size);
  const { fib } = new NetbaseReader(netbaseWith(table).view);
  const flat = new Uint16Array(FIB_CELLS).fill(1);
  const hot = coveredAddresses(table, HOT);
  const cold = randomAddresses(COLD);
  report(
    await measure({
      ...{ bench: "netbase", case: `fib hot ${size}`, unit: "ns/op" },
      tegula: timed(HOT * HOT_ROUNDS, () => lookUp(fib, hot, HOT_ROUNDS)),
      peers: { bare_load: timed(HOT * HOT_ROUNDS, () => load(flat, hot, HOT_ROUNDS)) },
    }),
  );
  report(
    await measure({
      ...{ bench: "netbase", case: `fib random ${size}`, unit: "ns/op" },
      tegula: timed(COLD, () => lookUp(fib, cold, 1)),
      peers: { bare_load: timed(COLD, () => load(flat, cold, 1)) },
    }),
  );
}

/**
 * Looks all addresses up, a bulk at a time: a short function that V8 compiles as a whole, as it does a
 * tile's, and not from the middle of a loop that runs for seconds.
 */
function lookUp(fib: FibReader, addresses: Uint32Array, rounds: number): number {
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < addresses.length; i += BULK) sum += lookUpBulk(fib, addresses, i, i + BULK);
  }
  return sum;
}

function lookUpBulk(fib: FibReader, addresses: Uint32Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum = (sum + fib.lookup(addresses[i])) | 0;
  return sum;
}

/** What no table can do without: one load at random from a table of the same size. */
function load(table: Uint16Array, addresses: Uint32Array, rounds: number): number {
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < addresses.length; i += BULK) sum += loadBulk(table, addresses, i, i + BULK);
  }
  return sum;
}

function loadBulk(table: Uint16Array, addresses: Uint32Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum = (sum + table[addresses[i] >>> 8]) | 0;
  return sum;
}

async function measureNeighbors(report: Report): Promise<void> {
  const { view, writer } = netbaseWith(new Uint32Array(0));
  const first = 0xc6120000;
  for (let i = 0; i < NEIGHBORS; i++) {
    const mac = { macHead: i, macTail: i & 0xffff };
    writer.neighbors.set({
      ifindex: 2,
      address: first + i,
      state: NUD_REACHABLE,
      flags: 0,
      ...mac,
    });
  }
  const { neighbors } = new NetbaseReader(view);
  const present = Uint32Array.from(randomAddresses(4096), (random) => first + random % NEIGHBORS);
  const absent = Uint32Array.from(present, (address) => address + NEIGHBORS);
  for (const [name, addresses] of [["hit", present], ["miss", absent]] as const) {
    report(
      await measure({
        ...{ bench: "netbase", case: `neighbor ${name}`, unit: "ns/op" },
        tegula: timed(NEIGHBOR_LOOKUPS, () => resolve(neighbors, addresses)),
      }),
    );
  }
}

/** Looks neighbours up and takes their MACs, as `resolve.ts` does. */
function resolve(neighbors: NeighborReader, addresses: Uint32Array): number {
  let sum = 0;
  for (let i = 0; i < NEIGHBOR_LOOKUPS; i++) {
    const record = neighbors.lookup(2, addresses[i & 4095]);
    if (record >= 0) sum = (sum + neighbors.macHead(record) + neighbors.macTail(record)) | 0;
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

/** Gives routes all over the table another gateway. */
function change(writer: NetbaseWriter, table: Uint32Array, shift: number): void {
  const route = emptyRoute();
  for (let i = 0; i < CHANGES; i++) {
    const pick = Math.imul(i, 0x9e3779b1) >>> 12;
    writer.rib.add(fillRoute(route, table, pick % (table.length / 2), shift), NLM_F_REPLACE);
    if (i % BATCH === 0) writer.commit();
  }
  writer.commit();
}
