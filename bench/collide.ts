// SPDX-License-Identifier: Apache-2.0
/**
 * Nanoseconds that a stranger's datagram costs in each table whose key the stranger chooses
 * (`stranger_tables.ts`). The keys collide if the seed is guessed wrong but the hash is known; beside them are
 * `random` keys, of which the cost is to be at most doubled. `seed_known` has keys that collide with the right
 * seed: what the bounds of the table leave.
 */

import { isWanted, measure, type Report, type Selection, timed } from "./harness.ts";
import {
  meetingKeys,
  type OpenTable,
  STRANGER_TABLES,
  type StrangerTable,
} from "./stranger_tables.ts";
import { randomAddresses } from "./routes.ts";

/** Keys, and how often each is used in one measurement. The first time they are not in the table yet. */
const KEYS = 1024;
const ROUNDS = 64;
const TIMES = 8;
const SEED = 0x5eed;

/** Measures all tables that are wanted. */
export async function run(report: Report, selection: Selection = {}): Promise<void> {
  for (const table of STRANGER_TABLES) {
    if (isWanted(table.name, selection)) await measureTable(table, report, selection);
  }
}

async function measureTable(
  table: StrangerTable,
  report: Report,
  { runs = 9 }: Selection,
): Promise<void> {
  const { name, place, known } = table;
  const keys = {
    tegula: meetingKeys(known, KEYS),
    random: Int32Array.from(randomAddresses(KEYS)),
    ...(place && { seed_known: meetingKeys(place(SEED), KEYS) }),
  };
  const contestants = Object.entries(keys).map(([who, theirs]) => {
    const once = () => {
      const made = table.make(SEED);
      return timed(KEYS * ROUNDS, () => useAll(made, theirs))() as number;
    };
    // A measurement takes a millisecond, so the best one is without other processes on the processor.
    const contestant = () => Math.min(...Array.from({ length: TIMES }, once));
    return [who, contestant] as const;
  });
  const { tegula, ...peers } = Object.fromEntries(contestants);
  report(await measure({ bench: "collide", case: name, unit: "ns/op", tegula, peers, runs }));
}

/** Uses all keys `TIMES` times. */
function useAll(table: OpenTable, keys: Int32Array): number {
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < keys.length; i++) table.use(keys[i]);
  }
  return Number(table.has(keys[0]));
}
