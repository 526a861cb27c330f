// SPDX-License-Identifier: Apache-2.0
/**
 * `anycast`: the loss of clients when something happens to one of three hosts behind a router that
 * spreads flows over them (`anycast_track.ts`), at 3,000 requests a second. Operations are done to each
 * host in turn, and must lose nothing; an accident happens to the first one.
 *
 *     lost    requests without an answer
 *     losing  time from the first to the last of them
 */

import { fileURLToPath } from "node:url";
import { Lab, type LabProcess } from "../demo/lab.ts";
import { AnycastTrack, type Host } from "./anycast_track.ts";
import { isWanted, type Report, type Result, resultOf, type Selection, TEGULA } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { buildPrograms, type Programs } from "./programs.ts";

const RUNS = 3;
const RATE = 3000;
/** Requests during each operation. */
const REQUESTS = 30_000;
/** How long to measure after an accident, and `RestartSec=` and `WatchdogSec=` of the unit. */
const SETTLE_MILLIS = 2000;
const RESTART_MILLIS = 500;
const WATCHDOG_MILLIS = 10_000;
/** How long after a drain a host is stopped: its router has been notified, and pending requests are answered. */
export const DRAIN_MILLIS = 500;

/** The client's counts in one phase. */
export interface Seen {
  readonly sent: number;
  readonly lost: number;
  readonly losing: number;
}

/** The client's counts in all phases, in order. */
export interface Counted {
  readonly missed: number;
  readonly mismatched: number;
  readonly phases: readonly {
    readonly name: string;
    readonly held: number;
    readonly skipped: number;
    readonly ports: readonly [Seen];
  }[];
}

/** A client that sends requests while things happen. */
export class Asker {
  readonly #process: LabProcess;
  readonly #rate: number;

  private constructor(process: LabProcess, rate: number) {
    this.#process = process;
    this.#rate = rate;
  }

  /** Starts one and lets it send for a second, which is a separate phase. */
  static async start(track: AnycastTrack, rate: number): Promise<Asker> {
    const asker = new Asker(track.client(rate), rate);
    await asker.#process.stdout.find("ready");
    await asker.phase("warm", () => pause(1000));
    return asker;
  }

  /** A phase in which `body` runs, with at least this many requests. */
  async phase(name: string, body: () => Promise<void>, requests = 0): Promise<void> {
    const begun = performance.now();
    await this.#process.write(name);
    await this.#process.stdout.find(`began ${name}`);
    const happened = body();
    await Promise.race([happened, this.#process.ended()]);
    await happened;
    await pause(Math.max(0, begun + 1.02 * 1000 * requests / this.#rate - performance.now()));
  }

  /** Ends it. */
  async stop(): Promise<Counted> {
    await this.#process.write("").catch(() => {});
    const { success } = await this.#process.ended();
    if (success) return JSON.parse(this.#process.stdout.all.at(-1)!);
    throw new Error(`the client failed: ${this.#process.stderr.all.join("\n")}`);
  }
}

export const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** The numbers of all hosts but the `i`-th. */
function others({ hosts }: AnycastTrack, i: number): number[] {
  return hosts.map((_, n) => n + 1).filter((n) => n !== i + 1);
}

/** Drains a host as in docs/operating/anycast.md, runs something on it, and waits until it is back. */
export async function drained(
  track: AnycastTrack,
  i: number,
  body: (host: Host) => Promise<void>,
): Promise<void> {
  const host = track.hosts[i];
  await host.service.command("drain");
  await track.routed(others(track, i));
  await pause(DRAIN_MILLIS);
  await body(host);
  await track.routed(track.hosts.map((_, n) => n + 1));
}

/** The operations on each host in turn. */
const DONE: Readonly<Record<string, (track: AnycastTrack, i: number) => Promise<void>>> = {
  "drain, undrain": (track, i) => drained(track, i, ({ service }) => service.command("undrain")),
  "drain, restart": (track, i) => drained(track, i, ({ service }) => service.restart()),
  "restart, drain_seconds = 1": async (track, i) => {
    await track.hosts[i].service.restart();
    await track.routed(track.hosts.map((_, n) => n + 1));
  },
  reload: (track, i) => track.hosts[i].service.command("reload"),
  upgrade: (track, i) => track.hosts[i].service.command("upgrade"),
};

/** The accidents of the first host. Each ends with the host back, if it ever returns. */
const ACCIDENTS: Readonly<Record<string, (track: AnycastTrack, host: Host) => Promise<void>>> = {
  "restart without drain": (_, { service }) => service.restart(),
  "SIGKILL of the master": (_, { service }) =>
    service.restart("SIGKILL", RESTART_MILLIS, "withdraw"),
  "SIGSTOP of the master": async (_, { service }) => {
    service.process.kill("SIGSTOP");
    await pause(WATCHDOG_MILLIS);
    await service.restart("SIGKILL", RESTART_MILLIS, "withdraw");
  },
  "SIGKILL of the appliance": (_, { service }) => signalled(service.appliance()?.pid, "SIGKILL"),
  "SIGSTOP of the appliance": async (_, { service }) => {
    await signalled(service.appliance()?.pid, "SIGSTOP");
    await pause(WATCHDOG_MILLIS);
  },
  "SIGSTOP of the app": async (_, { service }) => {
    await signalled(service.app("echo")?.pid, "SIGSTOP");
    await pause(WATCHDOG_MILLIS);
  },
  "SIGKILL of BIRD": (_, { bird }) => bird.crash(),
  "link loss, carrier lost": async (_, { namespace }) => {
    await namespace.ip("link set e0 down");
  },
  "link loss, carrier stays": (track) => track.silence(1, true),
};

function signalled(pid: number | undefined, signal: Deno.Signal): Promise<void> {
  if (pid === undefined) throw new Error("there is no such process");
  Deno.kill(pid, signal);
  return Promise.resolve();
}

/** Runs the benchmark in its own namespaces. */
export async function run(report: Report, selection: Selection): Promise<void> {
  await runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

/** One run: the client's losses, and for how long. */
async function once(
  programs: Programs,
  body: (track: AnycastTrack, asker: Asker) => Promise<void>,
  drainSeconds: number,
): Promise<Seen> {
  await using lab = new Lab();
  const track = await AnycastTrack.lay(lab, programs, { drainSeconds });
  const asker = await Asker.start(track, RATE);
  await body(track, asker);
  const { phases, missed, mismatched } = await asker.stop();
  await track[Symbol.asyncDispose]();
  if (mismatched > 0) throw new Error(`${mismatched} answers were wrong`);
  const [warm, event] = phases;
  const { held, skipped, ports: [seen] } = event;
  if (missed + skipped + warm.ports[0].lost > 0) {
    console.error(
      `anycast: the client itself missed ${missed} answers, left out ${skipped} requests, was held up ` +
        `for ${held.toFixed(1)} ms at most, and lost ${
          warm.ports[0].lost
        } before anything happened`,
    );
  }
  return seen;
}

/** One line for each case. */
export function tableOf(results: readonly Result[]): string {
  const rows = Map.groupBy(results, (result) => result.case.split(": ")[0]);
  return [...rows].map(([name, [lost, losing]]) => {
    const worst = lost.peers.worst;
    return `${name.padEnd(32)} lost ${lost.tegula} (worst ${worst}) ${lost.note}, ` +
      `losing for ${losing.tegula.toFixed(0)} ms; median of ${lost.runs}`;
  }).join("\n");
}

if (import.meta.main) {
  await inLaboratory(async (report, selection) => {
    const programs = await buildPrograms();
    const runs = selection.runs ?? RUNS;
    const measure = async (name: string, body: Parameters<typeof once>[1]) => {
      const all: Seen[] = [];
      const drainSeconds = Number(/drain_seconds = (\d)/.exec(name)?.[1] ?? 0);
      for (let i = 0; i < runs; i++) all.push(await once(programs, body, drainSeconds));
      const tell = (what: "lost" | "losing", unit: "requests" | "ms") => {
        const figures = all.map((seen) => seen[what]);
        const samples = new Map([[TEGULA, figures], ["worst", [Math.max(...figures)]]]);
        const note = `of ${Math.min(...all.map(({ sent }) => sent))}`;
        report({
          ...resultOf({ bench: "anycast", case: `${name}: ${what}`, unit }, samples),
          note,
        });
      };
      tell("lost", "requests");
      tell("losing", "ms");
    };
    for (const [name, act] of Object.entries(DONE)) {
      if (!isWanted(name, selection)) continue;
      await measure(`${name} of each`, (track, asker) =>
        asker.phase("each", async () => {
          for (const i of track.hosts.keys()) await act(track, i);
        }, REQUESTS));
    }
    for (const [name, happen] of Object.entries(ACCIDENTS)) {
      if (!isWanted(name, selection)) continue;
      await measure(name, (track, asker) =>
        asker.phase("accident", async () => {
          await happen(track, track.hosts[0]);
          await pause(SETTLE_MILLIS);
        }));
    }
  });
}
