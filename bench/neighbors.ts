// SPDX-License-Identifier: Apache-2.0
/**
 * Nanoseconds per lookup of a neighbour and its MAC address, in a quiet table and in one that a second thread changes
 * 100,000 times a second, beside the same table in C; and likewise from an address to a finished header
 * (`resolution.ts`).
 */

import { slice, u32, type View } from "../ffi/region.ts";
import { slotsBaseOf, slotsLog2Of } from "../netbase/hash_table.ts";
import { Header, NEIGHBOR_TABLE } from "../netbase/layout.ts";
import type { NeighborReader } from "../netbase/neighbors.ts";
import {
  type Contestant,
  isWanted,
  measure,
  type Report,
  type Selection,
  timed,
} from "./harness.ts";
import { CHANGES_PER_SECOND, FIRST_NEIGHBOR, IFINDEX, Lan, NEIGHBORS } from "./lan.ts";
import { buildNeighborPeer, LookupPeer } from "./lookup_peer.ts";
import { Resolution } from "./resolution.ts";
import { randomAddresses } from "./routes.ts";

/** Addresses, and how often each is looked up in one measurement. */
const ADDRESSES = 4096;
const ROUNDS = 2048;
const LOOKUPS = ADDRESSES * ROUNDS;
/** Lookups of one burst of a net tile. */
const BURST = 64;
// V8 folds a module's own constants into the code, but not imported ones.
const ON_INTERFACE = IFINDEX;

/** Measures all cases that are wanted. */
export async function measureNeighbors(report: Report, selection: Selection): Promise<void> {
  const names = ["neighbor hit", "neighbor miss", "neighbor hit writer"];
  const wanted = (name: string) => isWanted(name, selection);
  if (![...names, "resolve hot", "resolve writer"].some(wanted)) return;
  using lan = await Lan.lay();
  const present = Uint32Array.from(
    randomAddresses(ADDRESSES),
    (random) => FIRST_NEIGHBOR + random % NEIGHBORS,
  );
  const absent = present.map((address) => address + NEIGHBORS);
  if (names.some(wanted)) await measureTable(report, lan, [present, absent]);
  if (wanted("resolve hot") || wanted("resolve writer")) await measureResolve(report, lan, present);
}

async function measureTable(
  report: Report,
  lan: Lan,
  [present, absent]: readonly [Uint32Array, Uint32Array],
): Promise<void> {
  const files = [tableOf(lan.view), present, absent];
  await using peer = await LookupPeer.start(await buildNeighborPeer(), files);
  const hit = timed(LOOKUPS, () => lookUp(lan, present));
  const c = async (file: number, changes: number) => {
    const { nanoseconds, witness } = await peer.ask(`${file} ${ROUNDS} ${changes}`);
    const expected = file === 0 ? ADDRESSES : 0;
    if (witness !== expected) {
      throw new Error(`in C ${witness} neighbours, not ${expected}, were found`);
    }
    return nanoseconds;
  };
  const cases: readonly [name: string, tegula: Contestant, c: Contestant][] = [
    ["neighbor hit", hit, () => c(0, 0)],
    ["neighbor miss", timed(LOOKUPS, () => lookUp(lan, absent)), () => c(1, 0)],
    ["neighbor hit writer", lan.whileChanging(hit), () => c(0, CHANGES_PER_SECOND)],
  ];
  for (const [name, tegula, c] of cases) {
    report(await measure({ bench: "netbase", case: name, unit: "ns/op", tegula, peers: { c } }));
  }
}

/** The table for C: log2 of its slots, the hash's key, the interface, the slots, and twice as many records. */
function tableOf(view: View): Uint32Array {
  const published = u32(view)[Header.neighborTable];
  const [log2, seed] = [slotsLog2Of(published), published >>> 6];
  const multipliers = u32(view).subarray(Header.hash, Header.hash + 2);
  const base = slotsBaseOf(published, NEIGHBOR_TABLE);
  const slots = u32(view).subarray(base, base + (1 << log2));
  const recordsBytes = 2 * NEIGHBORS * NEIGHBOR_TABLE.recordWords * 4;
  const records = u32(slice(view, NEIGHBOR_TABLE.recordsAt, recordsBytes));
  return Uint32Array.from([log2, seed, ...multipliers, IFINDEX, ...slots, ...records]);
}

/** Looks up all addresses repeatedly, a burst at a time. */
function lookUp(lan: Lan, addresses: Uint32Array): number {
  let sum = 0;
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < ADDRESSES; i += BURST) {
      lan.turn();
      sum = (sum + lookUpBurst(lan.reader.neighbors, addresses, i)) | 0;
    }
  }
  return sum;
}

/** Looks neighbours up and takes their MACs, as `route_cache.ts` does. */
function lookUpBurst(neighbors: NeighborReader, addresses: Uint32Array, from: number): number {
  let sum = 0;
  const end = (from + BURST) | 0;
  for (let i = from; i < end; i++) {
    const record = neighbors.lookup(ON_INTERFACE, addresses[i]);
    if (record >= 0) sum = (sum + neighbors.macHead(record) + neighbors.macTail(record)) | 0;
  }
  return sum;
}

async function measureResolve(report: Report, lan: Lan, addresses: Uint32Array): Promise<void> {
  const resolution = new Resolution(lan);
  const words = Int32Array.from(addresses);
  const resolve = timed(LOOKUPS, () => {
    let sum = 0;
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; i < ADDRESSES; i += BURST) sum += resolution.burst(words, i, BURST);
    }
    return sum;
  });
  for (
    const [name, tegula] of [["hot", resolve], ["writer", lan.whileChanging(resolve)]] as const
  ) {
    report(await measure({ bench: "netbase", case: `resolve ${name}`, unit: "ns/op", tegula }));
  }
}
