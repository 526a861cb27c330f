// SPDX-License-Identifier: Apache-2.0
/**
 * `dns`: the dns app over a veth pair (`track.ts`) and a name server in C with the same zone: NSD, else Knot.
 * `dns` is the number of queries answered in a second with 512 in flight. `dns cpu` is the processor time of the
 * server's process for each query: all threads and children, user mode and kernel. `dns inline` is the app inside
 * the net tile. `dns nxdomain` and `dns wildcard` ask for made-up names, each a new one, that do not exist, or
 * exist by a wildcard.
 *
 * Before the timing, dig has got the same answers from all servers, and dnsperf an answer to each question.
 */

import { strict as assert } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Lab } from "../demo/lab.ts";
import { nameServers } from "./dns_servers.ts";
import {
  madeUpQuestions,
  ORIGIN,
  queryFile,
  type Question,
  questions,
  zoneFile,
} from "./dns_zone.ts";
import { interleave, isWanted, type Report, resultOf, type Selection } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { entrants, placementCases, samplesOf } from "./placements.ts";
import { processorSeconds } from "./processes.ts";
import { buildPrograms } from "./programs.ts";
import { ADDRESS, Track } from "./track.ts";

const PORT = 53;
const WINDOW = 512;
const LOAD_MILLIS = 1500;
const RUNS = 9;
const GENERATOR = "generator";
const START_TRIES = 100;
/** Files with the questions: text for dnsperf, and queries for the generator. */
const [TEXT, QUERIES] = ["/run/questions.txt", "/run/queries"];
/** Made-up names: the file with the queries, and the name above them. */
const MADE_UP = {
  nxdomain: ["/run/nxdomain", ORIGIN],
  wildcard: ["/run/wildcard", `any.${ORIGIN}`],
} as const;
/** What dig asks all servers: a host, an alias, a name that does not exist, a type that a host lacks. */
const CHECKED = [
  ...["host7 A", "host7 AAAA", "host7 MX", "host7 TXT", "nohost7 A", "x.any A", "host7 SRV"],
];

/**
 * Figures of one turn: thousands of queries a second, nanoseconds of processor time for each, and thousands
 * of queries a second for made-up names.
 */
interface Turn {
  readonly kqps?: number;
  readonly cpu?: number;
  readonly nxdomain?: number;
  readonly wildcard?: number;
}

const CASES = placementCases<keyof Turn>("dns", [
  { ending: "", unit: "kqps", field: "kqps" },
  { ending: " cpu", unit: "ns/op", field: "cpu" },
  { ending: " nxdomain", unit: "kqps", field: "nxdomain" },
  { ending: " wildcard", unit: "kqps", field: "wildcard" },
]);

/** Runs the benchmark in namespaces of its own. */
export function run(report: Report, selection: Selection): Promise<void> {
  return runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** A server's answers to {@linkcode CHECKED}, and to all questions of the load. */
async function answersOf(track: Track): Promise<string[]> {
  const options = "+tries=1 +timeout=3 +noall +comments +answer +authority +noedns";
  const said: string[] = [];
  for (const question of CHECKED) {
    const [name, type] = question.split(" ");
    const command = `dig @${ADDRESS} ${options} ${name}.${ORIGIN} ${type}`;
    const text = await track.ask(command.split(" "));
    // Without the query's ID and optional records.
    said.push(text.replace(/, id: \d+/, "").replace(/, ADDITIONAL: \d+/, ""));
  }
  const counted = await track.ask(["dnsperf", "-s", ADDRESS, "-d", TEXT, "-n", "1", "-q", "50"]);
  assert.match(counted, /Queries completed: .*\(100\.00%\)/, counted);
  said.push(counted.match(/Response codes: .*/)![0]);
  return said;
}

/** Waits until a server answers. */
async function isReady(track: Track): Promise<void> {
  const command = `dig @${ADDRESS} +tries=1 +timeout=1 +short ${ORIGIN} SOA`.split(" ");
  for (let i = 0; i < START_TRIES; i++) {
    if (/^ns1\./.test(await track.ask(command).catch(() => ""))) return;
    await delay(100);
  }
  throw new Error("a name server did not start");
}

/** Loads a name server to measure the figures `wanted`. */
async function turn(
  track: Track,
  start: readonly string[],
  wanted: ReadonlySet<keyof Turn>,
): Promise<Turn> {
  const asked = { port: PORT, window: WINDOW, millis: LOAD_MILLIS };
  return await track.during(start, async ({ pid }) => {
    const figures: { -readonly [Figure in keyof Turn]: number } = {};
    if (wanted.has("kqps") || wanted.has("cpu")) {
      const before = processorSeconds(pid);
      const { kpps, answered, warm_up } = await track.load({ ...asked, queries: QUERIES });
      const seconds = processorSeconds(pid) - before;
      figures.kqps = kpps;
      figures.cpu = seconds * 1e9 / (answered + warm_up);
    }
    for (const figure of ["nxdomain", "wildcard"] as const) {
      if (!wanted.has(figure)) continue;
      const [queries] = MADE_UP[figure];
      figures[figure] = (await track.load({ ...asked, queries })).kpps;
    }
    return figures;
  }, { isReady: () => isReady(track) });
}

async function writeQuestions(all: readonly Question[]): Promise<void> {
  await Deno.writeTextFile(TEXT, all.map(({ name, type }) => `${name} ${type}\n`).join(""));
  await Deno.writeFile(QUERIES, queryFile(all));
  for (const [path, name] of Object.values(MADE_UP)) {
    await Deno.writeFile(path, queryFile(madeUpQuestions(name)));
  }
}

/** The benchmark itself, inside the laboratory. */
async function inside(report: Report, selection: Selection): Promise<void> {
  await using lab = new Lab();
  const track = await Track.lay(lab, await buildPrograms());
  await writeQuestions(questions());
  const servers = Object.entries(await nameServers(zoneFile()));
  const said: string[][] = [];
  for (const [, start] of servers) {
    said.push(
      await track.during(start, () => answersOf(track), { isReady: () => isReady(track) }),
    );
  }
  for (const each of said) assert.deepEqual(each, said[0]);
  const ceiling = async () => {
    const { kpps } = await track.ceiling({ port: PORT, millis: LOAD_MILLIS, queries: QUERIES });
    return { kqps: kpps };
  };
  const wanted = new Set(
    CASES.filter(({ name }) => isWanted(name, selection)).map(({ field }) => field),
  );
  const contestants = Object.fromEntries([
    ...servers.map(([name, start]) => [name, () => turn(track, start, wanted)] as const),
    [GENERATOR, ceiling] as const,
  ]);
  const runs = selection.runs ?? RUNS;
  const turns = await interleave<Turn>(entrants(contestants, CASES, selection), {
    runs,
    warmup: 0,
  });
  for (const each of CASES) {
    const { name, unit } = each;
    if (!isWanted(name, selection)) continue;
    report(resultOf({ bench: "dns", case: name, unit }, samplesOf(turns, each)));
  }
}

if (import.meta.main) await inLaboratory(inside);
