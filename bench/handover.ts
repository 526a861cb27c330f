// SPDX-License-Identifier: Apache-2.0
/**
 * `handover`: the loss of clients when something changes while the service runs, or when a part of it dies.
 * Each event happens under a client (`c/client.c`) that sends 1,000 requests a second, and under one that sends
 * half of the rate that the service can answer, spread over two apps. Each run has its own namespaces.
 *
 *     lost        requests without an answer
 *     latest      how much later the latest answer came than the latest without an event, for the same client
 *                 just before
 *     gap         longest time without an answer
 *     duplicates  answers beyond the first
 *
 * The service has both processors. The client has priority on the first, and sleeps between requests. If the program
 * under test lacks a command, an older way is taken, and the row says which. An event that it cannot have is named
 * and left out. `handovers` makes a hundred changes, and compares the client's counts with the service's.
 */

import { fileURLToPath } from "node:url";
import { Lab } from "../demo/lab.ts";
import {
  isWanted,
  median,
  type Report,
  type Result,
  resultOf,
  type Selection,
  TEGULA,
  type Unit,
} from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { buildPrograms, type Programs } from "./programs.ts";
import {
  descriptorsOf,
  echoModule,
  knows,
  memoryOf,
  processTree,
  type Said,
  Service,
  type TreeProcess,
} from "./service.ts";
import { Track } from "./track.ts";

const RUNS = 5;
const CHANGES = 100;
/** Measurements of the maximum. */
const MAXIMA = 3;
/** Requests a second, of the first load and under a hundred changes. */
const [FEW, MANY] = [1000, 20_000];
const [PORT, PORTS] = [7, 2];
const [WARM_MILLIS, QUIET_MILLIS, SETTLE_MILLIS] = [1500, 2000, 1500];
/** A hang must be noticed within 6 seconds. */
const HANG_MILLIS = 9000;
/** As `RestartSec=` of the unit. */
const RESTART_MILLIS = 500;

/** The client's counts of one port in one phase. */
interface Seen {
  readonly sent: number;
  readonly lost: number;
  readonly duplicates: number;
  readonly gap: number;
  readonly p50: number;
  readonly p99: number;
  readonly latest: number;
}

interface Phase {
  readonly name: string;
  /** The longest time that the client itself did not run. */
  readonly held: number;
  readonly skipped: number;
  /** Counts of echo, and of the app that is changed or killed. */
  readonly ports: readonly [Seen, Seen];
}

interface ClientReport {
  /** Answers for which the client had no room. */
  readonly missed: number;
  readonly mismatched: number;
  readonly phases: readonly Phase[];
}

/** Figures of one run of an event. */
type Figures = Readonly<Record<"lost" | "latest" | "gap" | "duplicates", number>>;
const UNITS: Readonly<Record<keyof Figures, Unit>> = {
  lost: "requests",
  latest: "ms",
  gap: "ms",
  duplicates: "requests",
};

/** A service with two apps that echo, and the operations on it. */
class Scene {
  readonly track: Track;
  readonly service: Service;
  readonly #module: string;
  #said: Said;

  private constructor(track: Track, parts: { service: Service; module: string; said: Said }) {
    this.track = track;
    this.service = parts.service;
    this.#module = parts.module;
    this.#said = parts.said;
  }

  static async start(lab: Lab, programs: Programs, queues: number): Promise<Scene> {
    const track = await Track.lay(lab, programs, { queues });
    const module = Deno.makeTempFileSync({ prefix: "tegula-bench-", suffix: ".js" });
    Deno.writeTextFileSync(module, echoModule());
    Deno.chmodSync(module, 0o644);
    const listen = [`${PORT}=echo`, `${PORT + 1}=changing`];
    const said = { listen, netTiles: 1, modules: { changing: module } };
    return new Scene(track, { module, said, service: await Service.start(track.service, said) });
  }

  /** Changes the configuration or the app's file, and reloads. */
  async change(said: Partial<Said>, { file = false } = {}): Promise<string> {
    this.#said = { ...this.#said, ...said };
    this.service.configure(this.#said);
    if (file) Deno.writeTextFileSync(this.#module, echoModule(Math.random()));
    if (await has("reload")) {
      await this.service.command("reload");
      return "reload";
    }
    if (file || Object.keys(said).length === 0) {
      await this.service.signal("SIGURG", "changing: reloaded");
      return "SIGURG";
    }
    await this.service.restart();
    return "restart";
  }

  async stop(): Promise<void> {
    await this.service.stop();
    Deno.removeSync(this.#module);
  }
}

const known = new Map<string, Promise<boolean>>();

/** Whether the program has this command. */
function has(name: string): Promise<boolean> {
  if (!known.has(name)) known.set(name, knows(name));
  return known.get(name)!;
}

/** Makes the event and returns how; null if the program has no such part. */
type Act = (scene: Scene) => Promise<string | null>;

interface Event {
  readonly act: Act;
  /** Queues of the interface. */
  readonly queues?: number;
  /** How long it is observed afterwards, if longer than usual. */
  readonly settleMs?: number;
  /** An app is killed: the loss of the other app counts, and the gap of its own. */
  readonly beside?: boolean;
}

/** Sends a signal to a process, if it exists. */
function signalled(process: TreeProcess | undefined, signal: Deno.Signal): Promise<string | null> {
  if (process !== undefined) Deno.kill(process.pid, signal);
  return Promise.resolve(process === undefined ? null : signal);
}

const EVENTS: Readonly<Record<string, Event>> = {
  "reload nothing": { act: (scene) => scene.change({}) },
  "reload options": { act: (scene) => scene.change({ option: "another" }) },
  "reload app file": { act: (scene) => scene.change({}, { file: true }) },
  "reload port": {
    act: (scene) => scene.change({ listen: [`${PORT}=echo`, `${PORT + 1}-${PORT + 2}=changing`] }),
  },
  upgrade: {
    async act({ service }) {
      if (!await has("upgrade")) return null;
      await service.command("upgrade");
      return "upgrade";
    },
  },
  "shape differs": { act: (scene) => scene.change({ netTiles: 2 }), queues: 2 },
  "kill app": { act: ({ service }) => signalled(service.app("changing"), "SIGKILL"), beside: true },
  "stop app": {
    act: ({ service }) => signalled(service.app("changing"), "SIGSTOP"),
    beside: true,
    settleMs: HANG_MILLIS,
  },
  "kill appliance": { act: ({ service }) => signalled(service.appliance(), "SIGKILL") },
  "stop appliance": {
    act: ({ service }) => signalled(service.appliance(), "SIGSTOP"),
    settleMs: HANG_MILLIS,
  },
  "kill master": {
    async act({ service }) {
      await service.restart("SIGKILL", RESTART_MILLIS);
      return `SIGKILL, ${RESTART_MILLIS} ms`;
    },
  },
  restart: {
    async act({ service }) {
      await service.restart();
      return "SIGTERM";
    },
  },
};

/** Runs the benchmark in its own namespaces. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** Runs a client while `body` begins phases, and returns its counts. */
async function underLoad(
  { track }: Scene,
  rate: number,
  body: (begin: (phase: string) => Promise<void>) => Promise<void>,
): Promise<ClientReport> {
  const client = track.client({ port: PORT, ports: PORTS, rate });
  await client.stdout.find("ready");
  const began = body(async (phase) => {
    await client.write(phase);
    await client.stdout.find(`began ${phase}`);
  });
  await Promise.race([began, client.ended()]);
  await client.write("").catch(() => {});
  const { success } = await client.ended();
  if (!success) throw new Error(`the client failed: ${client.stderr.all.join("\n")}`);
  return JSON.parse(client.stdout.all.at(-1)!);
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** One run of one event. Null if the program has no such part. */
async function once(
  programs: Programs,
  { act, queues = 1, beside = false, settleMs = SETTLE_MILLIS }: Event,
  rate: number,
): Promise<{ figures: Figures; by: string } | null> {
  await using lab = new Lab();
  const scene = await Scene.start(lab, programs, queues);
  let by: string | null = null;
  const { phases, missed, mismatched } = await underLoad(scene, rate, async (begin) => {
    await begin("warm");
    await pause(WARM_MILLIS);
    await begin("quiet");
    await pause(QUIET_MILLIS);
    await begin("event");
    by = await act(scene);
    await pause(by === null ? 0 : settleMs);
  });
  await scene.stop();
  if (by === null) return null;
  if (mismatched > 0) throw new Error(`${mismatched} answers were wrong`);
  const [, quiet, event] = phases;
  if (missed > 0 || event.skipped > 0) {
    console.error(
      `handover: the client itself missed ${missed} answers, left out ${event.skipped} requests, ` +
        `and was held up for ${event.held.toFixed(1)} ms at most`,
    );
  }
  const [echo, changing] = event.ports;
  const counted: readonly Seen[] = beside ? [echo] : event.ports;
  const sum = (field: "lost" | "duplicates") => counted.reduce((all, seen) => all + seen[field], 0);
  const most = (ports: readonly Seen[], field: "latest" | "gap") =>
    Math.max(...ports.map((seen) => seen[field]));
  const before = most(beside ? [quiet.ports[0]] : quiet.ports, "latest");
  return {
    by,
    figures: {
      lost: Math.max(0, sum("lost") - missed),
      latest: Math.max(0, most(counted, "latest") - before),
      gap: beside ? changing.gap : most(counted, "gap"),
      duplicates: sum("duplicates"),
    },
  };
}

/** The largest number of requests that the service answers in a second. */
async function maximum(programs: Programs): Promise<number> {
  await using lab = new Lab();
  const scene = await Scene.start(lab, programs, 1);
  const rates: number[] = [];
  for (let i = 0; i < MAXIMA; i++) {
    const { kpps } = await scene.track.load({
      window: 512,
      millis: 1000,
      port: PORT,
      ports: PORTS,
    });
    rates.push(kpps * 1000);
  }
  await scene.stop();
  return median(rates);
}

/** The beginning of the names of an event's rows. */
function caseOf(event: string, load: string): string {
  return `${event}, ${load}`;
}

async function measureEvent(
  programs: Programs,
  { event, name, rate, runs }: { event: Event; name: string; rate: number; runs: number },
  report: Report,
): Promise<void> {
  const all: Figures[] = [];
  let by = "";
  for (let i = 0; i < runs; i++) {
    try {
      const outcome = await once(programs, event, rate);
      if (outcome === null) {
        return report({ ...missing(name), note: "this program has no such part" });
      }
      ({ by } = outcome);
      all.push(outcome.figures);
    } catch (error) {
      // Continue with the other events.
      console.error(`handover: ${name}: ${(error as Error).message}`);
      return report({ ...missing(name), note: "it failed" });
    }
  }
  for (const [field, unit] of Object.entries(UNITS) as [keyof Figures, Unit][]) {
    const figures = all.map((each) => each[field]);
    const samples = new Map([[TEGULA, figures], ["worst", [Math.max(...figures)]]]);
    report({
      ...resultOf({ bench: "handover", case: `${name}: ${field}`, unit }, samples),
      note: `by ${by}; 20 ms bring ${Math.round(rate / 50)} requests`,
    });
  }
}

/** The result if it could not be measured. */
function missing(name: string): Result {
  const nothing = new Map([[TEGULA, [NaN]]]);
  return resultOf({ bench: "handover", case: `${name}: lost`, unit: "requests" }, nothing);
}

/** Sum of a tile's counters whose names match. */
function sum(counters: Readonly<Record<string, number>>, names: RegExp): number {
  return Object.entries(counters).filter(([name]) => names.test(name))
    .reduce((all, [, value]) => all + value, 0);
}

/**
 * Compares the counts of each step with those of the next, from the client's requests to its answers. Returns
 * the requests that are neither answered nor counted as dropped, or answered and not counted.
 */
function unaccounted(
  tiles: Readonly<Record<string, Readonly<Record<string, number>>>>,
  { phases, missed }: ClientReport,
): number {
  const all = Object.values(tiles);
  const net = all.filter((counters) => "tx_accepted" in counters);
  const apps = all.filter((counters) => "tx_drop_reply_link_full" in counters);
  const of = (which: typeof all, names: RegExp) =>
    which.reduce((total, counters) => total + sum(counters, names), 0);
  const seen = phases.flatMap(({ ports }) => ports);
  const client = (field: "sent" | "lost" | "duplicates") =>
    seen.reduce((total, each) => total + each[field], 0);
  const steps = [
    [client("sent"), of(net, /^(rx_frames|rx_socket|xdp_rx_drop_kernel|xdp_rx_drop_ring_full)$/)],
    [of(net, /^(rx_frames|rx_socket)$/), of(net, /^(rx_delivered|rx_drop_.*)$/)],
    [of(net, /^rx_delivered$/), of(apps, /^requests$/)],
    [of(apps, /^requests$/), of(apps, /^(answers|tx_drop_reply_link_full|rx_drop_.*)$/)],
    [of(apps, /^answers$/), of(net, /^tx_accepted$/)],
    [of(net, /^tx_accepted$/), of(net, /^(tx_frames|tx_socket|tx_drop_.*)$/)],
    [
      of(net, /^(tx_frames|tx_socket)$/),
      client("sent") - client("lost") + client("duplicates") + missed,
    ],
  ];
  const wrong = steps.map(([left, right]) => Math.abs(left - right));
  if (wrong.some((each) => each > 0)) {
    console.error(`handover: the books do not balance, step by step: ${JSON.stringify(steps)}`);
  }
  return wrong.reduce((total, each) => total + each, 0);
}

/** A hundred changes in a row: compares counts, and descriptors and memory after the last with the first. */
async function measureHandovers(programs: Programs, report: Report): Promise<void> {
  await using lab = new Lab();
  const scene = await Scene.start(lab, programs, 1);
  const { service } = scene;
  const count = processTree(service.pid).length;
  const costs: { pss: number; own: number; descriptors: number; ms: number }[] = [];
  let by = "";
  const client = await underLoad(scene, MANY, async (begin) => {
    await begin("warm");
    await pause(WARM_MILLIS);
    await begin("changes");
    for (let i = 0; i < CHANGES; i++) {
      const begun = performance.now();
      by = await scene.change({}, { file: true });
      const ms = performance.now() - begun;
      await service.settled(count);
      costs.push({ ms, ...memoryOf(service.pid), descriptors: descriptorsOf(service.pid) });
    }
  });
  const wrong = unaccounted(await service.counters(), client);
  await scene.stop();
  const { ports } = client.phases[1];
  const total = (field: "lost" | "duplicates") => ports[0][field] + ports[1][field];
  const tell = (what: string, unit: Unit, figures: readonly number[], first?: number) =>
    report({
      ...resultOf(
        { bench: "handover", case: `${CHANGES} handovers: ${what}`, unit },
        new Map([[TEGULA, figures], ...(first === undefined ? [] : [["first", [first]] as const])]),
      ),
      note: `by ${by}`,
    });
  const [first, last] = [costs[0], costs.at(-1)!];
  tell("each takes", "ms", costs.map(({ ms }) => ms));
  tell("lost", "requests", [total("lost") - client.missed]);
  tell("duplicates", "requests", [total("duplicates")]);
  tell("unaccounted for", "requests", [wrong]);
  tell("gap", "ms", [Math.max(ports[0].gap, ports[1].gap)]);
  tell("descriptors", "entries", [last.descriptors], first.descriptors);
  tell("memory", "MiB", [last.pss], first.pss);
  tell("memory without files", "MiB", [last.own], first.own);
}

/** One line an event: the median, and the worst in brackets. */
export function tableOf(results: readonly Result[]): string {
  const rows = Map.groupBy(results, (result) => result.case.split(": ")[0]);
  const figure = ({ tegula, peers, unit }: Result) => {
    const decimals = unit === "ms" || unit === "MiB" ? 1 : 0;
    const other = Object.entries(peers).map(([name, value]) =>
      ` (${name} ${value.toFixed(decimals)})`
    );
    return `${tegula.toFixed(decimals)}${other.join("")}`;
  };
  return [...rows].map(([name, all]) => {
    const [{ note, runs }] = all;
    if (!Number.isFinite(all[0].tegula)) return `${name.padEnd(34)}  ${note}`;
    const cells = all.map((result) => {
      const unit = result.unit === "ms" || result.unit === "MiB" ? ` ${result.unit}` : "";
      return `${result.case.split(": ")[1]} ${figure(result)}${unit}`;
    });
    return `${name.padEnd(34)}  ${cells.join(", ")}; ${note}, median of ${runs}`;
  }).join("\n");
}

if (import.meta.main) {
  await inLaboratory(async (report, selection) => {
    const programs = await buildPrograms();
    const runs = selection.runs ?? RUNS;
    const wanted = (load: string) =>
      Object.entries(EVENTS).filter(([event]) => isWanted(caseOf(event, load), selection));
    const [few, half] = [`${FEW} a second`, "half of the maximum"];
    for (const [name, event] of wanted(few)) {
      await measureEvent(programs, { event, name: caseOf(name, few), rate: FEW, runs }, report);
    }
    if (isWanted(`${CHANGES} handovers`, selection)) await measureHandovers(programs, report);
    const loaded = wanted(half).filter(([, { beside }]) => !beside);
    if (loaded.length > 0) {
      const rate = Math.round((await maximum(programs)) / 2);
      console.error(`handover: half of the maximum is ${rate} a second`);
      for (const [name, event] of loaded) {
        await measureEvent(programs, { event, name: caseOf(name, half), rate, runs }, report);
      }
    }
  });
}
