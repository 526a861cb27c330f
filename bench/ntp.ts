// SPDX-License-Identifier: Apache-2.0
/**
 * `ntp`: the clock of one host as a chronyd sees it that asks two servers there at once, over the same veth pair
 * (`track.ts`): the app ntp, and chronyd's own server. All read the same clock, so the true offset is 0.
 * Each round is one run of the client, which asks each server 32 times a second, after `WARM_UP` requests to each, as
 * a server in service has had.
 *
 * Figures, in nanoseconds: `ntp offset`, the median of the absolute offsets; `ntp jitter`, the standard deviation of the
 * offsets of the half of the samples with the shortest delays, as chronyd weights them; `ntp delay`, the median delay
 * of the path. `ntp inline` is the app inside the net tile.
 */

import { fileURLToPath } from "node:url";
import { Lab } from "../demo/lab.ts";
import { selfCommand } from "../cli/command.ts";
import { delay } from "../tiles/runtime/tile.ts";
import { isWanted, median, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { INLINE, placementCases, samplesOf } from "./placements.ts";
import { buildPrograms } from "./programs.ts";
import { ADDRESS, INTERFACE, Track } from "./track.ts";

/** Address and port of chronyd's server. */
const [PEER, PEER_PORT] = ["198.18.0.3", 11_123];
const CHRONYD = "chronyd";
/** Polls of each server a second, as a power of two, and the seconds of a run. */
const [POLL, SECONDS] = [-5, 8];
const RUNS = 5;
const WARM_UP = 20_000;
const FOLDER = "/run/ntp";
/** The app, on a host that is said to be synchronised. */
const APP = fileURLToPath(new URL("../tests/fixtures/app/synchronised_ntp.ts", import.meta.url));

type Field = "offset" | "jitter" | "delay";
type Figures = Record<Field, number>;

const CASES = placementCases<Field>(
  "ntp",
  (["offset", "jitter", "delay"] as const).map((field) => (
    { ending: ` ${field}`, unit: "ns/op", field }
  )),
);

/** Runs the benchmark in namespaces of its own. */
export function run(report: Report, selection: Selection): Promise<void> {
  return runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** Writes a configuration of chronyd and returns the command that runs it, which leaves the clock alone. */
function chronyd(name: string, lines: readonly string[]): string[] {
  const path = `${FOLDER}/${name}.conf`;
  const own = [
    `pidfile ${FOLDER}/${name}.pid`,
    "cmdport 0",
    `bindcmdaddress ${FOLDER}/${name}.sock`,
  ];
  Deno.writeTextFileSync(path, [...own, ...lines, ""].join("\n"));
  return ["chronyd", "-x", "-d", "-u", "root", "-f", path];
}

/** Offsets and delays of a server's samples in measurements.log, in seconds (chrony.conf(5)). */
function samplesIn(log: string, address: string): { offset: number; delay: number }[] {
  return log.split("\n").map((line) => line.trim().split(/\s+/))
    .filter((words) => words[2] === address)
    .map((words) => ({ offset: Number(words[11]), delay: Number(words[12]) }));
}

function figuresOf(samples: readonly { offset: number; delay: number }[]): Figures {
  if (samples.length < SECONDS) throw new Error(`${samples.length} samples of a server`);
  const shortest = samples.toSorted((a, b) => a.delay - b.delay).slice(0, samples.length / 2);
  const mean = shortest.reduce((sum, { offset }) => sum + offset, 0) / shortest.length;
  const squares = shortest.reduce((sum, { offset }) => sum + (offset - mean) ** 2, 0);
  return {
    offset: median(samples.map(({ offset }) => Math.abs(offset))) * 1e9,
    jitter: Math.sqrt(squares / shortest.length) * 1e9,
    delay: median(samples.map(({ delay }) => delay)) * 1e9,
  };
}

/** Asks a server `WARM_UP` times. */
async function warmUp(track: Track, address: string, port: number): Promise<void> {
  await track.ask([
    ...["python3", "-c"],
    `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)
for _ in range(${WARM_UP}): s.sendto(bytes([0x23]) + bytes(47), ("${address}", ${port})); s.recv(100)`,
  ]);
}

/** One run of the client, while both servers answer. */
async function turn(track: Track): Promise<Record<string, Figures>> {
  await warmUp(track, ADDRESS, 123);
  await warmUp(track, PEER, PEER_PORT);
  const logs = Deno.makeTempDirSync({ dir: FOLDER });
  const poll = `minpoll ${POLL} maxpoll ${POLL} maxdelay 0.01`;
  const client = track.startClient(chronyd("client", [
    `server ${ADDRESS} ${poll}`,
    `server ${PEER} port ${PEER_PORT} ${poll}`,
    `logdir ${logs}`,
    "log measurements",
  ]));
  await delay(SECONDS * 1000);
  client.kill("SIGTERM");
  await client.ended();
  const log = Deno.readTextFileSync(`${logs}/measurements.log`);
  return {
    [TEGULA]: figuresOf(samplesIn(log, ADDRESS)),
    [CHRONYD]: figuresOf(samplesIn(log, PEER)),
  };
}

/** The benchmark itself, inside the laboratory. */
async function inside(report: Report, selection: Selection): Promise<void> {
  await using lab = new Lab();
  Deno.mkdirSync(FOLDER);
  const track = await Track.lay(lab, await buildPrograms());
  await track.service.ip(`address add ${PEER}/24 dev ${INTERFACE}`);
  const cases = CASES.filter(({ name }) => isWanted(name, selection));
  const server = track.start(chronyd("server", [
    ...["local stratum 3", "allow", `bindaddress ${PEER}`, `port ${PEER_PORT}`],
  ]));
  const turns = new Map<string, Figures[]>();
  const { runs = RUNS } = selection;
  for (let round = 0; round < runs; round++) {
    for (const own of [TEGULA, INLINE].filter((own) => cases.some((each) => each.own === own))) {
      const file = `${FOLDER}/${own.replace(" ", "_")}.toml`;
      Deno.writeTextFileSync(
        file,
        `interfaces = ["${INTERFACE}"]\nprovider = "xdp"
listen = ["123=ntp${
          own === INLINE ? "@inline" : ""
        }"]\n[apps.ntp]\nmodule = "${APP}"\nclock = true\npacket_times = true\n`,
      );
      const start = [...selfCommand(), "run", "--config", file];
      const figures = await track.during(start, () => turn(track));
      for (const [name, each] of Object.entries(figures)) {
        const whose = name === TEGULA ? own : `${CHRONYD} beside ${own}`;
        turns.set(whose, [...turns.get(whose) ?? [], each]);
      }
    }
  }
  server.kill("SIGTERM");
  await server.ended();
  for (const each of cases) {
    const { name, unit, own } = each;
    // The peer of the same runs.
    const both = new Map([[own, turns.get(own)!], [
      CHRONYD,
      turns.get(`${CHRONYD} beside ${own}`)!,
    ]]);
    report(resultOf({ bench: "ntp", case: name, unit }, samplesOf(both, each)));
  }
}

if (import.meta.main) await inLaboratory(inside);
