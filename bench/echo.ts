/**
 * `echo`: requests over a veth pair (`track.ts`), answered by Tegula in both placements and by what it
 * stands beside, one after the other in each round. Two figures a contestant: how many requests a second
 * are answered with 512 in flight, and the round trip with one.
 *
 * Peers: `c_af_xdp` and `c_af_xdp_poll`, the same echo in C over AF_XDP, spinning and blocking in
 * poll; `c_mmsg`, C over a socket; `node`, `deno`, `bun`, their UDP sockets. `generator` is no echo but
 * what the generator sends when its requests are dropped unanswered: no contestant can be faster.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { Lab } from "../cli/lab.ts";
import { measureGrowth } from "./echo_growth.ts";
import { measureGarbage, measureIdle } from "./echo_idle.ts";
import { echoes, fetchBun, INLINE, PORT } from "./echo_peers.ts";
import {
  interleave,
  isWanted,
  type Report,
  resultOf,
  type Samples,
  type Selection,
  TEGULA,
  type Unit,
} from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { buildPrograms } from "./programs.ts";
import { type Load, Track } from "./track.ts";

const WINDOW = 512;
const LOAD_MILLIS = 1000;
const ROUND_TRIP_MILLIS = 700;
const RUNS = 9;
const GENERATOR = "generator";

/** What one turn of one contestant gives: of what was wanted. */
type Turn = Partial<Pick<Load, "kpps" | "p50" | "p99">>;

/** One case: a figure of the turns of `own`, beside that of the others' turns. */
interface EchoCase {
  readonly name: string;
  readonly unit: Unit;
  readonly field: keyof Turn;
  readonly own: string;
}

const CASES: readonly EchoCase[] = [TEGULA, INLINE].flatMap((own) => {
  const name = own.replace(TEGULA, "echo");
  return [
    { name, unit: "kpps", field: "kpps", own },
    { name: `${name} rtt p50`, unit: "ns/op", field: "p50", own },
    { name: `${name} rtt p99`, unit: "ns/op", field: "p99", own },
  ] as const;
});

/** Runs the benchmark in namespaces of its own. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await fetchBun();
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** Loads an echo and measures its round trips, as far as the cases need them. */
async function turn(track: Track, start: readonly string[], cases: readonly EchoCase[]) {
  const needs = (isRate: boolean) => cases.some(({ field }) => (field === "kpps") === isRate);
  return await track.during(start, async (): Promise<Turn> => {
    const asked = { port: PORT, window: WINDOW, millis: LOAD_MILLIS };
    const { kpps } = needs(true) ? await track.load(asked) : {};
    if (!needs(false)) return { kpps };
    const { p50, p99 } = await track.load({ ...asked, window: 1, millis: ROUND_TRIP_MILLIS });
    return { kpps, p50, p99 };
  });
}

/** The samples of one case. */
function samplesOf({ field, own }: EchoCase, turns: ReadonlyMap<string, readonly Turn[]>): Samples {
  const samples = new Map<string, number[]>();
  for (const [name, all] of turns) {
    const figures = all.flatMap((turn) => turn[field] ?? []);
    const isOther = name !== own && (name === TEGULA || name === INLINE);
    if (figures.length > 0 && !isOther) samples.set(name === own ? TEGULA : name, figures);
  }
  return samples;
}

/** All contestants take turns, those that the cases are about and those beside them. */
async function race(track: Track, report: Report, selection: Selection): Promise<void> {
  const cases = CASES.filter(({ name }) => isWanted(name, selection));
  if (cases.length === 0) return;
  const { peers } = selection;
  const wanted = (name: string) =>
    name === TEGULA || name === INLINE
      ? cases.some(({ own }) => own === name)
      : peers === undefined || peers.includes(name);
  const contestants = Object.entries(await echoes(track.programs))
    .map(([name, start]) => [name, () => turn(track, start, cases)] as const);
  const ceiling = () => track.ceiling({ port: PORT, millis: LOAD_MILLIS });
  const turns = await interleave<Turn>(
    Object.fromEntries(
      [...contestants, [GENERATOR, ceiling] as const].filter(([name]) => wanted(name)),
    ),
    { runs: selection.runs ?? RUNS, warmup: 0 },
  );
  for (const each of cases) {
    report(
      resultOf({ bench: "echo", case: each.name, unit: each.unit }, samplesOf(each, turns)),
    );
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
