/**
 * Nanoseconds that one datagram of a stranger costs in each table that he chooses the key of
 * (`stranger_tables.ts`): with keys that meet in one place of a table whose hash he knows but for the
 * seed, beside `random` keys, which it is to be within twice of; and `seed_known` shows what the table's
 * bounds leave to an attacker who knew the seed, too.
 */

import { isWanted, measure, type Report, type Selection, timed } from "./harness.ts";
import {
  meetingKeys,
  type OpenTable,
  STRANGER_TABLES,
  type StrangerTable,
} from "./stranger_tables.ts";
import { randomAddresses } from "./routes.ts";

/** Keys, and how often all are used in one measurement: at first they are new, then in the table. */
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
    // A measurement takes a millisecond: where others want the processor, too, the best one tells.
    const contestant = () => Math.min(...Array.from({ length: TIMES }, once));
    return [who, contestant] as const;
  });
  const { tegula, ...peers } = Object.fromEntries(contestants);
  report(await measure({ bench: "collide", case: name, unit: "ns/op", tegula, peers, runs }));
}

/** Uses all keys, as often as is measured. */
function useAll(table: OpenTable, keys: Int32Array): number {
  for (let round = 0; round < ROUNDS; round++) {
    for (let i = 0; i < keys.length; i++) table.use(keys[i]);
  }
  return Number(table.has(keys[0]));
}
