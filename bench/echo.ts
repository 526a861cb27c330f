// SPDX-License-Identifier: Apache-2.0
/**
 * `echo`: requests over a veth pair (`track.ts`), answered by Tegula in both placements and by its peers, one after
 * the other in each round. Each contestant has two figures: the requests answered in a second with 512 in flight,
 * and the round trip with one.
 *
 * Peers: `c_af_xdp` and `c_af_xdp_poll`, the same echo in C over AF_XDP, spinning and blocking in poll; `c_mmsg`,
 * C over a socket; `node`, `deno` and `bun` with their UDP sockets. `generator` is not an echo: it is the number of
 * requests that the generator can send if they are dropped, so no contestant can be faster.
 */

import { fileURLToPath } from "node:url";
import { Lab } from "../demo/lab.ts";
import { measureGrowth } from "./echo_growth.ts";
import { measureGarbage, measureIdle } from "./echo_idle.ts";
import { echoes, fetchBun, PORT } from "./echo_peers.ts";
import { interleave, isWanted, type Report, resultOf, type Selection } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { entrants, type PlacementCase, placementCases, samplesOf } from "./placements.ts";
import { buildPrograms } from "./programs.ts";
import { type Load, Track } from "./track.ts";

const WINDOW = 512;
const LOAD_MILLIS = 1000;
const ROUND_TRIP_MILLIS = 700;
const RUNS = 9;
const GENERATOR = "generator";

/** Figures of one turn of a contestant, as far as they were wanted. */
type Turn = Partial<Pick<Load, Field>>;
type Field = "kpps" | "p50" | "p99";

const CASES = placementCases<Field>("echo", [
  { ending: "", unit: "kpps", field: "kpps" },
  { ending: " rtt p50", unit: "ns/op", field: "p50" },
  { ending: " rtt p99", unit: "ns/op", field: "p99" },
]);

/** Runs the benchmark in namespaces of its own. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await fetchBun();
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** Loads an echo and measures its round trips, if the cases need them. */
async function turn(
  track: Track,
  start: readonly string[],
  cases: readonly PlacementCase<Field>[],
) {
  const needs = (isRate: boolean) => cases.some(({ field }) => (field === "kpps") === isRate);
  return await track.during(start, async (): Promise<Turn> => {
    const asked = { port: PORT, window: WINDOW, millis: LOAD_MILLIS };
    const { kpps } = needs(true) ? await track.load(asked) : {};
    if (!needs(false)) return { kpps };
    const { p50, p99 } = await track.load({ ...asked, window: 1, millis: ROUND_TRIP_MILLIS });
    return { kpps, p50, p99 };
  });
}

/** Tegula and its peers take turns. */
async function race(track: Track, report: Report, selection: Selection): Promise<void> {
  const cases = CASES.filter(({ name }) => isWanted(name, selection));
  if (cases.length === 0) return;
  const contestants = Object.entries(await echoes(track.programs))
    .map(([name, start]) => [name, () => turn(track, start, cases)] as const);
  const ceiling = () => track.ceiling({ port: PORT, millis: LOAD_MILLIS });
  const all = Object.fromEntries([...contestants, [GENERATOR, ceiling] as const]);
  const runs = selection.runs ?? RUNS;
  const turns = await interleave<Turn>(entrants(all, cases, selection), { runs, warmup: 0 });
  for (const each of cases) {
    const { name, unit } = each;
    report(resultOf({ bench: "echo", case: name, unit }, samplesOf(turns, each)));
  }
}

if (import.meta.main) {
  await inLaboratory(async (report, selection) => {
    await using lab = new Lab();
    const track = await Track.lay(lab, await buildPrograms());
    await race(track, report, selection);
    await measureGrowth(track, { report, selection, lab });
    await measureIdle(track, { report, selection });
    await measureGarbage(track, { report, selection });
  });
}
