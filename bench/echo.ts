/**
 * `echo`: requests over a veth pair, answered by Tegula and by what it stands beside, one after the
 * other in each round. The load generator (C, AF_XDP) has one core, the echo the other. Two figures a
 * contestant: how many requests a second are answered with 512 in flight, and the round trip with one.
 *
 *     generator  g0 198.18.0.1/24 ───── e0 198.18.0.2/24  echo on UDP port 7
 *       requests from 198.19.0.0/20                       198.19.0.0/16 via 198.18.0.1
 *
 * Peers: `c_af_xdp` and `c_af_xdp_poll`, the same echo in C over AF_XDP, spinning and blocking in
 * poll; `c_mmsg`, C over a socket; `node`, `deno`, their UDP sockets. `generator` is no echo but what
 * the generator sends when its requests are dropped unanswered: no contestant can be faster.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import {
  Lab,
  laboratoryCommand,
  type LabProcess,
  missingForLaboratory,
  type Namespace,
} from "../cli/lab.ts";
import { linesOf } from "../cli/lines.ts";
import { selfCommand } from "../cli/self.ts";
import { interleave, type Report, resultOf, type Samples, TEGULA, type Unit } from "./harness.ts";
import { buildPrograms, type Programs } from "./programs.ts";

const ADDRESS = "198.18.0.2";
const PORT = "7";
const WINDOW = 512;
const LOAD_MILLIS = 1000;
const ROUND_TRIP_MILLIS = 700;
const RUNS = 5;
/** Processors of the generator and of the echo. */
const GENERATOR_CPU = "0";
const ECHO_CPU = "1";

/** What the generator prints. Round trips, in nanoseconds, are there when one was in flight. */
interface Load {
  readonly answered: number;
  readonly mismatched: number;
  readonly kpps: number;
  readonly p50?: number;
  readonly p99?: number;
}

/** What one turn of one contestant gives. */
type Turn = Pick<Load, "kpps" | "p50" | "p99">;

/** How an echo is started in its namespace. */
type Start = readonly string[];

/** Runs the benchmark in namespaces of its own. */
export async function run(report: Report): Promise<void> {
  const missing = missingForLaboratory();
  if (missing !== null) throw new Error(missing);
  const [program, ...args] = laboratoryCommand([
    ...[Deno.execPath(), "run", "--allow-all", "--unstable-worker-options"],
    fileURLToPath(import.meta.url),
  ]);
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped" }).spawn();
  for await (const line of linesOf(child.stdout)) report(JSON.parse(line));
  if (!(await child.status).success) throw new Error("the echo benchmark failed");
}

/** The contestants' command lines, each an echo on {@linkcode PORT} of `e0`. */
function contestants(programs: Programs): Record<string, Start> {
  const afXdp = [programs.echo_af_xdp, programs.object, "e0", PORT];
  const peer = (name: string) => fileURLToPath(new URL(`peers/${name}`, import.meta.url));
  return {
    [TEGULA]: [
      ...[...selfCommand(), "run", "--interface", "e0", "--listen", `${PORT}=echo`],
      ...["--provider", "xdp"],
    ],
    c_af_xdp: [...afXdp, "spin"],
    c_af_xdp_poll: [...afXdp, "poll"],
    c_mmsg: [programs.echo_mmsg, PORT],
    ...(hasNode() && { node: ["node", peer("echo_node.mjs"), PORT] }),
    deno: [Deno.execPath(), "run", "--allow-net", "--unstable-net", peer("echo_deno.ts"), PORT],
  };
}

function hasNode(): boolean {
  try {
    return new Deno.Command("node", { args: ["--version"], stdout: "null" }).outputSync().success;
  } catch {
    console.error("no node on PATH: left out");
    return false;
  }
}

/** Waits until an echo says that it is ready, on whichever of its outputs. */
async function ready(echo: LabProcess): Promise<void> {
  await Promise.any([
    echo.stdout.find("ready"),
    echo.stderr.find("ready:"),
  ]).catch(() => {
    throw new Error(`an echo did not start: ${echo.stderr.all.join("\n")}`);
  });
}

/** Where the benchmark plays: two namespaces and the veth pair between them. */
interface Track {
  readonly generator: Namespace;
  readonly echo: Namespace;
  /** MAC address of `e0`. */
  readonly mac: string;
  readonly programs: Programs;
}

async function layTrack(lab: Lab, programs: Programs): Promise<Track> {
  const generator = await lab.namespace("generator");
  const echo = await lab.namespace("echo");
  await lab.join(
    { namespace: generator, name: "g0", addresses: ["198.18.0.1/24"] },
    { namespace: echo, name: "e0", addresses: [`${ADDRESS}/24`] },
  );
  await echo.ip("route add 198.19.0.0/16 via 198.18.0.1");
  // Resolving the gateway is not what is measured.
  const [{ address: gateway }] = JSON.parse(await generator.ip("-j link show dev g0"));
  await echo.ip(`neighbor replace 198.18.0.1 lladdr ${gateway} dev e0 nud permanent`);
  const [{ address: mac }] = JSON.parse(await echo.ip("-j link show dev e0"));
  return { generator, echo, mac, programs };
}

/** Starts an echo, loads it, measures its round trips, and ends it. */
async function turn(track: Track, start: Start): Promise<Turn> {
  const echo = track.echo.spawn(["taskset", "--cpu-list", ECHO_CPU, ...start]);
  await ready(echo);
  const loaded = await load(track, { window: WINDOW, millis: LOAD_MILLIS });
  const alone = await load(track, { window: 1, millis: ROUND_TRIP_MILLIS });
  echo.kill("SIGTERM");
  await echo.ended();
  for (const each of [loaded, alone]) {
    if (each.answered > 0 && each.mismatched === 0) continue;
    throw new Error(`wrong answers, or none, by ${start.join(" ")}: ${JSON.stringify(each)}`);
  }
  return { kpps: loaded.kpps, p50: alone.p50, p99: alone.p99 };
}

/** What the generator itself can send. */
async function ceiling(track: Track): Promise<Turn> {
  const { sink, object } = track.programs;
  const process = track.echo.spawn([sink, object, "e0", PORT]);
  await ready(process);
  const { kpps } = await load(track, { window: 0, millis: LOAD_MILLIS });
  process.kill("SIGTERM");
  await process.ended();
  return { kpps };
}

/** One run of the generator. */
async function load(
  { generator, mac, programs }: Track,
  { window, millis }: { window: number; millis: number },
): Promise<Load> {
  const printed = await generator.run([
    ...["taskset", "--cpu-list", GENERATOR_CPU, programs.generator, programs.object],
    ...["g0", mac, ADDRESS, PORT, String(window), String(millis)],
  ]);
  return JSON.parse(printed);
}

/** One figure of every turn, of those that have it. */
function figures(turns: ReadonlyMap<string, readonly Turn[]>, field: keyof Turn): Samples {
  const picked = [...turns].map(([name, all]) =>
    [name, all.flatMap((turn) => turn[field] ?? [])] as const
  );
  return new Map(picked.filter(([, samples]) => samples.length > 0));
}

/** The benchmark itself, inside the laboratory. */
async function race(report: Report): Promise<void> {
  const programs = await buildPrograms();
  await using lab = new Lab();
  const track = await layTrack(lab, programs);
  const echoes = Object.entries(contestants(programs)).map(([name, start]) =>
    [name, () => turn(track, start)] as const
  );
  const turns = await interleave<Turn>(
    { ...Object.fromEntries(echoes), generator: () => ceiling(track) },
    { runs: RUNS, warmup: 0 },
  );
  const cases: readonly [string, Unit, keyof Turn][] = [
    ["echo", "kpps", "kpps"],
    ["echo rtt p50", "ns/op", "p50"],
    ["echo rtt p99", "ns/op", "p99"],
  ];
  for (const [name, unit, field] of cases) {
    report(resultOf({ bench: "echo", case: name, unit }, figures(turns, field)));
  }
}

if (import.meta.main) await race((result) => console.log(JSON.stringify(result)));
