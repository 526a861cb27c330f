// SPDX-License-Identifier: Apache-2.0
/**
 * What the master tells operators: how the service is, to the status tile, systemd and the log; what each process uses;
 * and, once each, what was refused and what this system lacks.
 */

import { createHash } from "node:crypto";
import { VERSION } from "../cli/command.ts";
import type { ConfinedProcess } from "../ffi/process.ts";
import type { View } from "../ffi/region.ts";
import { refusedCalls } from "../ffi/tile.ts";
import { ControlReader } from "../tiles/runtime/control.ts";
import { APP, NETLINK } from "../tiles/runtime/counters.ts";
import {
  HEALTH,
  type Health,
  type HealthState,
  type LoadedConfig,
  type ProcessValues,
  writeHealth,
} from "../tiles/runtime/health.ts";
import { Level, once } from "../tiles/runtime/log.ts";
import { rangeText } from "../tiles/runtime/plan.ts";
import { APP_REFUSALS, type AppPlan, besideName } from "../tiles/runtime/wiring.ts";
import type { MainLibraries } from "./confinement.ts";
import { HealthMonitor, type Observed, StatusLine } from "./health.ts";
import type { Holdings } from "./inventory.ts";
import { log } from "./log.ts";
import { processValues } from "./proc.ts";
import type { Run, Serving } from "./successor.ts";

/** The part of a report that the next program continues. */
export interface ReportState {
  /** When the first of these programs was started. */
  readonly started: number;
  readonly state: HealthState;
  readonly since: number;
  /** Interfaces that had AF_XDP and should have it. */
  readonly hadXdp: readonly string[];
  readonly loaded: LoadedConfig;
  readonly restarts: readonly (readonly [app: string | null, count: number])[];
}

export class Report {
  readonly #libraries: MainLibraries;
  readonly #holdings: Holdings;
  readonly #monitor: HealthMonitor;
  readonly #changed: (health: Health) => void;
  readonly #health: View;
  readonly #statusLine = new StatusLine();
  readonly #netns = Deno.statSync("/proc/self/ns/net").ino ?? 0;
  readonly #started: number;
  #hadXdp: readonly string[];
  #loaded: LoadedConfig;
  /** By app; null: the appliance. */
  readonly #restarts: Map<string | null, number>;
  /** By PID, as of the last `measure`. */
  #values: ReadonlyMap<number, ProcessValues | undefined> = new Map();
  #wasUnwell = false;
  #isStopping = false;
  readonly logOnce = once((line, level = Level.warning) => log(line, level));

  /** `changed` is called when the state or its reasons change. */
  constructor(
    libraries: MainLibraries,
    holdings: Holdings,
    { before, changed }: { before?: ReportState; changed(health: Health): void },
  ) {
    const { own } = holdings;
    this.#libraries = libraries;
    this.#holdings = holdings;
    this.#health = own.view(HEALTH, { writable: true });
    this.#started = before?.started ?? now();
    this.#hadXdp = before?.hadXdp ?? [];
    this.#loaded = before?.loaded ?? { hash: 0, at: 0, isGood: false };
    this.#restarts = new Map(before?.restarts);
    this.#monitor = new HealthMonitor(now(), before);
    this.#changed = changed;
  }

  get state(): ReportState {
    const { state, since } = this.#monitor.health;
    return {
      ...{ started: this.#started, state, since, hadXdp: this.#hadXdp },
      ...{ loaded: this.#loaded, restarts: [...this.#restarts] },
    };
  }

  /** Begins or ends draining: it serves, but is reported not to be ready. */
  drain(isDraining: boolean): void {
    this.#monitor.setDraining(isDraining);
  }

  /** It is about to end: reports that as draining, and logs nothing about it. */
  stop(): void {
    this.#isStopping = true;
    this.drain(true);
  }

  #logHealth({ state, reasons }: Health): void {
    if (reasons.length > 0) {
      log(`unwell: ${reasons.map(({ text }) => text).join("; ")}`, Level.error);
    } else if (state === "ready" && this.#wasUnwell) log("well again", Level.notice);
    this.#wasUnwell = reasons.length > 0;
  }

  /** Evaluates the health, and reports it to the status tile and to systemd. */
  check(serving: Serving | undefined, { isStarting }: { isStarting: boolean }): void {
    const at = now();
    const before = this.#monitor.health;
    const health = this.#monitor.evaluate(at, this.#observe(serving, isStarting));
    if (health !== before) {
      if (!this.#isStopping) this.#logHealth(health);
      this.#changed(health);
    }
    const line = this.#statusLine.next(at, health, serving?.tiles ?? []);
    if (line !== null) this.#libraries.host.notify(`STATUS=${line}`);
    const { appliance } = serving ?? {};
    writeHealth(this.#health, {
      ...{ ...health, at, version: VERSION, started: this.#started, netns: this.#netns },
      ...{ config: serving?.run.config.file ?? null, loaded: this.#loaded },
      processes: [
        { name: "master", pid: Deno.pid, restarts: 0 },
        {
          name: "appliance",
          pid: appliance?.over === false ? appliance.pid : 0,
          restarts: this.#restarts.get(null) ?? 0,
        },
        ...processesOf(serving).map(({ name, pid }) => (
          { name, pid, restarts: this.#restarts.get(name) ?? 0 }
        )),
      ].map((process) => ({ ...process, values: this.#values.get(process.pid) })),
    });
  }

  #observe(serving: Serving | undefined, starting: boolean): Observed {
    const hasAppliance = serving !== undefined && !serving.appliance.over;
    const { tiles = [], apps, attachments = [], run } = serving ?? {};
    const isReady = ({ name, inline }: AppPlan) => inline || apps?.get(name)?.isReady === true;
    const keyOf = ({ app, inline }: { app: string; inline: boolean }) => `${inline} ${app}`;
    const instances = Map.groupBy(run?.apps ?? [], keyOf);
    const netlink = tiles.find(({ kind }) => kind === "netlink")?.reader.counters;
    return {
      ...{ starting, hasAppliance },
      restarts: this.#restartsOf(serving),
      // Inline apps have no loop of their own.
      tiles: tiles.filter(({ kind, name }) =>
        kind === "app" ? apps?.get(name)?.isReady === true : hasAppliance
      ).map(({ kind, name, reader }) => ({
        ...{ kind, name },
        progress: reader.burst + reader.sleepSequence +
          (kind === "app" ? reader.counters[APP.index.answers] : 0),
      })),
      ports: (run?.config.listen ?? []).map((one) => ({
        ...{ name: rangeText(one.ports), apps: one.app },
        ready: instances.get(keyOf(one))!.slice(0, one.instances).some(isReady),
      })),
      lostXdp: this.#hadXdp.filter((name) =>
        !attachments.some((each) => each.name === name && each.attached)
      ),
      unsyncedSeconds: netlink?.[NETLINK.index.unsynced_seconds] ?? 0,
      neighborsFull: netlink?.[NETLINK.index.neighbor_table_full] === 1,
    };
  }

  /** The number of restarts of each process, and of each tile that is restarted in place. */
  #restartsOf(serving: Serving | undefined): Observed["restarts"] {
    const { fresh, tiles = [] } = serving ?? {};
    const control = fresh && new ControlReader(fresh.view("control"));
    return [
      { name: "appliance", count: this.#restarts.get(null) ?? 0 },
      ...processesOf(serving).map(({ name }) => (
        { name, count: this.#restarts.get(name) ?? 0 }
      )),
      ...tiles.flatMap(({ kind, name }, slot) =>
        control !== undefined && (kind === "netlink" || kind === "status")
          ? [{ name, count: control.restarts(slot) }]
          : []
      ),
    ];
  }

  /** Remembers which interfaces have AF_XDP, so that its loss is noticed. */
  rememberXdp({ run: { config }, attachments }: Serving): void {
    const attached = attachments.filter((each) => each.attached).map(({ name }) => name);
    this.#hadXdp = config.provider === "socket"
      ? []
      : config.interfaces.filter((name) => attached.includes(name) || this.#hadXdp.includes(name));
  }

  /** Notes that a process was started again after a failure: an app or a slow side, or with null the appliance. */
  restarted(app: string | null): void {
    this.#restarts.set(app, (this.#restarts.get(app) ?? 0) + 1);
  }

  /** Forgets an app that has no process any more. */
  forget(app: string): void {
    for (const name of [app, besideName(app)]) this.#restarts.delete(name);
  }

  loaded({ config }: Run): void {
    const digest = createHash("sha256").update(JSON.stringify(config)).digest();
    this.#loaded = { hash: digest.readUIntBE(0, 6), at: Date.now() / 1000, isGood: true };
  }

  /** Notes that a configuration was to be served and could not be. */
  refused(): void {
    this.#loaded = { ...this.#loaded, isGood: false };
  }

  /** Reads what each process uses. */
  measure(serving: Serving | undefined): void {
    const processes = processesOf(serving);
    const pids = [Deno.pid, serving?.appliance.pid ?? 0, ...processes.map(({ pid }) => pid)]
      .filter((pid) => pid !== 0);
    this.#values = new Map(pids.map((pid) => [pid, processValues(pid)]));
  }

  /** Logs each system call that was refused to an app's process, once. */
  nameRefusedCalls(): void {
    const { own, slots } = this.#holdings;
    for (const [name, slot] of slots) {
      for (const { call } of refusedCalls(own.view(APP_REFUSALS), slot)) {
        const callName = this.#libraries.tile.callName(call);
        this.logOnce(`${name}: refused system call ${call} (${callName})`);
      }
    }
  }

  /** Logs the walls that this system cannot build, once. */
  lack(whose: "appliance" | "apps", { missing }: Pick<ConfinedProcess, "missing">): void {
    const line = `${whose}: not all walls are to be had here: ${missing.join("; ")}`;
    if (missing.length > 0) this.logOnce(line);
  }
}

/** Milliseconds since the epoch, by a monotonic clock. */
function now(): number {
  return Math.floor(performance.timeOrigin + performance.now());
}

/** Apps that are processes, and their slow sides. */
function processesOf(serving: Serving | undefined) {
  return [...serving?.apps.values() ?? []].flatMap((
    app,
  ) => [app, ...app.beside ? [app.beside] : []]);
}
