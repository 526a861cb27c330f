// SPDX-License-Identifier: Apache-2.0
/**
 * `balance`: the load balancer between the load generator (`track.ts`) and one backend, beside other balancers for
 * UDP. `balance` is the number of requests answered in a second with 512 in flight, `balance rtt p50` and `p99` the
 * round trip with one. `balance inline` is the app inside the net tile. Requests are DNS queries, since dnsdist
 * forwards nothing else, of 128 clients; the backend is an XDP program, which costs all contestants the same.
 *
 *     generator g0 ───── e0 balancer e1 198.18.5.254/24 ───── b0 198.18.5.1/24 backend
 *
 * Peers: `c_mmsg`, the least in C over sockets; `nginx`, its stream module; `dnsdist`. Each has one process or one
 * thread that forwards, and no cache, log or limit.
 */

import { fileURLToPath } from "node:url";
import { Lab, type LabProcess } from "../demo/lab.ts";
import { selfCommand } from "../cli/command.ts";
import { delay } from "../tiles/runtime/tile.ts";
import { ORIGIN, queryFile, questions } from "./dns_zone.ts";
import { interleave, isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { entrants, INLINE, type PlacementCase, placementCases, samplesOf } from "./placements.ts";
import { buildPrograms, type Programs } from "./programs.ts";
import { ADDRESS, INTERFACE, type Load, Track } from "./track.ts";

const PORT = 53;
const WINDOW = 512;
const CLIENTS = 128;
const [LOAD_MILLIS, ROUND_TRIP_MILLIS] = [1500, 1000];
const RUNS = 9;
const START_TRIES = 30;
const [BALANCER, BACKEND] = ["198.18.5.254", "198.18.5.1"];
const FOLDER = "/run/balance";
const QUERIES = `${FOLDER}/queries`;

type Field = "kpps" | "p50" | "p99";
type Turn = Partial<Pick<Load, Field>>;

const CASES = placementCases<Field>("balance", [
  { ending: "", unit: "kpps", field: "kpps" },
  { ending: " rtt p50", unit: "ns/op", field: "p50" },
  { ending: " rtt p99", unit: "ns/op", field: "p99" },
]);

/** Runs the benchmark in namespaces of its own. */
export function run(report: Report, selection: Selection): Promise<void> {
  return runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** Joins a backend to the balancer's namespace, and starts its XDP program. */
async function addBackend(lab: Lab, { service, programs }: Track): Promise<void> {
  const backend = await lab.namespace("backend");
  await service.ip(`link add e1 type veth peer name b0 netns ${backend.name}`);
  await service.batch([`address add ${BALANCER}/24 dev e1`, "link set e1 up"]);
  await backend.batch([`address add ${BACKEND}/24 dev b0`, "link set b0 up"]);
  for (
    const [one, name, other, itsName, address] of [
      [service, "e1", backend, "b0", BACKEND],
      [backend, "b0", service, "e1", BALANCER],
    ] as const
  ) {
    const [{ address: mac }] = JSON.parse(await other.ip(`-j link show dev ${itsName}`));
    await one.ip(`neighbor replace ${address} lladdr ${mac} dev ${name} nud permanent`);
  }
  const answering = backend.spawn([programs.sink, programs.object, "b0", String(PORT), "answer"]);
  await answering.stdout.find("ready");
}

/** The balancers, as command lines: each forwards to one backend from one process or thread. */
function balancers(programs: Programs): Record<string, readonly string[]> {
  const write = (name: string, text: string) => {
    Deno.writeTextFileSync(`${FOLDER}/${name}`, text);
    return `${FOLDER}/${name}`;
  };
  const tegula = (app: string, state: string) => {
    const file = write(
      `${app}.toml`,
      `interfaces = ["${INTERFACE}", "e1"]\nprovider = "xdp"\nnet_tiles = 1\nlisten = ["${PORT}=${app}"]
[apps.balance]\nown_ports = ["20000-20255"]\nsend_to = ["${BACKEND}"]\n${state}
options = { backends = ["${BACKEND}:${PORT}"] }\n`,
    );
    return [...selfCommand(), "run", "--config", file];
  };
  const nginx = write(
    "nginx.conf",
    `load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;\nworker_processes 1;\npid ${FOLDER}/nginx.pid;\nerror_log stderr emerg;\nuser root;
events { worker_connections 4096; }
stream {
  server { listen ${ADDRESS}:${PORT} udp; proxy_pass ${BACKEND}:${PORT}; proxy_timeout 60s; }
}
`,
  );
  const dnsdist = write(
    "dnsdist.conf",
    `setLocal("${ADDRESS}:${PORT}")\nsetACL("0.0.0.0/0")\nsetVerboseHealthChecks(false)
newServer({address="${BACKEND}:${PORT}", sockets=1, healthCheckMode="up"})\n`,
  );
  return {
    c_mmsg: [programs.balance_mmsg, String(PORT), BACKEND, String(PORT)],
    [TEGULA]: tegula("balance", 'state = "8M"'),
    ...(isThere("nginx", "-v") && { nginx: ["nginx", "-c", nginx] }),
    [INLINE]: tegula("balance@inline", ""),
    ...(isThere("dnsdist", "--version") && {
      dnsdist: ["dnsdist", "--supervised", "--disable-syslog", "-C", dnsdist],
    }),
  };
}

/** Whether a program is installed. Logs if not. */
function isThere(program: string, option: string): boolean {
  try {
    const quiet = { stdout: "null", stderr: "null" } as const;
    if (new Deno.Command(program, { args: [option], ...quiet }).outputSync().success) return true;
  } catch {
    // It is not installed.
  }
  console.error(`${program} is not here: left out; get it with apt-get install ${program}`);
  return false;
}

/** Waits until a balancer forwards. */
async function isReady(track: Track, said: LabProcess, start: readonly string[]): Promise<void> {
  const command = `dig @${ADDRESS} +tries=1 +timeout=1 ${ORIGIN} SOA`.split(" ");
  for (let i = 0; i < START_TRIES; i++) {
    if (/status: NOERROR/.test(await track.ask(command).catch(() => ""))) return;
    await delay(100);
  }
  throw new Error(`${start.join(" ")} did not start: ${said.stderr.all.join("\n")}`);
}

/**
 * Loads a balancer and measures its round trips, if the cases need them. A veth accepts frames from an
 * XDP program only if it has a program itself; `passes`: it gets one that passes everything on.
 */
async function turn(
  track: Track,
  start: readonly string[],
  { cases, passes }: { cases: readonly PlacementCase<Field>[]; passes: boolean },
): Promise<Turn> {
  if (passes) {
    const { sink, object } = track.programs;
    const passing = track.service.spawn([sink, object, "e1", "1", "take"]);
    await passing.stdout.find("ready");
    try {
      return await turn(track, start, { cases, passes: false });
    } finally {
      passing.kill("SIGTERM");
      await passing.ended();
    }
  }
  const needs = (isRate: boolean) => cases.some(({ field }) => (field === "kpps") === isRate);
  const asked = { port: PORT, peers: CLIENTS, queries: QUERIES };
  return await track.during(start, async () => {
    const { kpps } = needs(true)
      ? await track.load({ ...asked, window: WINDOW, millis: LOAD_MILLIS })
      : {};
    if (!needs(false)) return { kpps };
    const { p50, p99 } = await track.load({ ...asked, window: 1, millis: ROUND_TRIP_MILLIS });
    return { kpps, p50, p99 };
  }, { isReady: (said) => isReady(track, said, start) });
}

/** The benchmark itself, inside the laboratory. */
async function inside(report: Report, selection: Selection): Promise<void> {
  await using lab = new Lab();
  Deno.mkdirSync(FOLDER);
  Deno.writeFileSync(QUERIES, queryFile(questions()));
  const track = await Track.lay(lab, await buildPrograms());
  await addBackend(lab, track);
  const cases = CASES.filter(({ name }) => isWanted(name, selection));
  const contestants = Object.fromEntries(
    Object.entries(balancers(track.programs))
      .map(([name, start]) => {
        const passes = name !== TEGULA && name !== INLINE;
        return [name, () => turn(track, start, { cases, passes })] as const;
      }),
  );
  const runs = selection.runs ?? RUNS;
  const turns = await interleave<Turn>(entrants(contestants, cases, selection), {
    ...{ runs, warmup: 0 },
  });
  for (const each of cases) {
    const { name, unit } = each;
    report(resultOf({ bench: "balance", case: name, unit }, samplesOf(turns, each)));
  }
}

if (import.meta.main) await inLaboratory(inside);
