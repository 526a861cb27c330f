// SPDX-License-Identifier: Apache-2.0
/**
 * The master's reports to operators: the health, for the status tile, systemd and the log; each
 * process's resources; and, once each, refused system calls and missing walls.
 */

import { createHash } from "node:crypto";
import { VERSION } from "../cli/command.ts";
import type { ConfinedProcess } from "../ffi/process.ts";
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
import { healthMonitor, type Observed, statusLines } from "./health.ts";
import type { Holdings } from "./inventory.ts";
import { log } from "./log.ts";
import { processValues } from "./proc.ts";
import type { Run, Serving } from "./successor.ts";

/** The part of a report that the next program continues. */
export interface ReportState {
  /** When the first program of this process was started. */
  readonly started: number;
  readonly state: HealthState;
  readonly since: number;
  /** Interfaces that had AF_XDP and should have it. */
  readonly hadXdp: readonly string[];
  readonly loaded: LoadedConfig;
  /** By app; null: the appliance. */
  readonly restarts: readonly (readonly [app: string | null, count: number])[];
}

export type Report = ReturnType<typeof openReport>;

/** `before`: its `state` from the previous program. `changed` is called when the state or its reasons change. */
export function openReport(
  { host, tile }: Pick<MainLibraries, "host" | "tile">,
  { own, slots }: Pick<Holdings, "own" | "slots">,
  { before, changed }: { before?: ReportState; changed(health: Health): void },
) {
  const region = own.view(HEALTH, { writable: true });
  const monitor = healthMonitor(now(), before);
  const statusLine = statusLines();
  const netns = Deno.statSync("/proc/self/ns/net").ino ?? 0;
  const started = before?.started ?? now();
  let hadXdp = before?.hadXdp ?? [];
  let loaded = before?.loaded ?? { hash: 0, at: 0, isGood: false };
  const restarts = new Map(before?.restarts);
  const restartsOf = (app: string | null) => restarts.get(app) ?? 0;
  /** Resources of each process by its PID, from the last `measure`. */
  let values: ReadonlyMap<number, ProcessValues | undefined> = new Map();
  let wasUnwell = false;
  let isStopping = false;
  const logOnce = once((line, level = Level.warning) => log(line, level));

  function observe(serving: Serving | undefined, starting: boolean): Observed {
    const hasAppliance = serving !== undefined && !serving.appliance.over;
    const { tiles = [], apps, attachments = [], run, fresh } = serving ?? {};
    const isReady = ({ name, inline }: AppPlan) => inline || apps?.get(name)?.isReady === true;
    const keyOf = ({ app, inline }: { app: string; inline: boolean }) => `${inline} ${app}`;
    const instances = Map.groupBy(run?.apps ?? [], keyOf);
    const netlink = tiles.find(({ kind }) => kind === "netlink")?.reader.counters;
    const control = fresh && new ControlReader(fresh.view("control"));
    return {
      ...{ starting, hasAppliance },
      restarts: [
        { name: "appliance", count: restartsOf(null) },
        ...processesOf(serving).map(({ name }) => ({ name, count: restartsOf(name) })),
        // Tiles that restart in place.
        ...tiles.flatMap(({ kind, name }, slot) =>
          control !== undefined && (kind === "netlink" || kind === "status")
            ? [{ name, count: control.restarts(slot) }]
            : []
        ),
      ],
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
      lostXdp: hadXdp.filter((name) =>
        !attachments.some((each) => each.name === name && each.attached)
      ),
      unsyncedSeconds: netlink?.[NETLINK.index.unsynced_seconds] ?? 0,
      neighborsFull: netlink?.[NETLINK.index.neighbor_table_full] === 1,
    };
  }

  return {
    logOnce,
    get state(): ReportState {
      const { state, since } = monitor.health;
      return { started, state, since, hadXdp, loaded, restarts: [...restarts] };
    },
    /** Begins or ends draining: Tegula serves, but is reported as not ready. */
    drain(isDraining: boolean): void {
      monitor.setDraining(isDraining);
    },
    /** Reports the coming end as draining, without a log line. */
    stop(): void {
      isStopping = true;
      monitor.setDraining(true);
    },
    /** Evaluates the health, and reports it to the status tile and to systemd. */
    check(serving: Serving | undefined, { isStarting }: { isStarting: boolean }): void {
      const at = now();
      const last = monitor.health;
      const health = monitor.evaluate(at, observe(serving, isStarting));
      if (health !== last) {
        const { state, reasons } = health;
        const isUnwell = reasons.length > 0;
        if (!isStopping && isUnwell) {
          log(`unwell: ${reasons.map(({ text }) => text).join("; ")}`, Level.error);
        } else if (!isStopping && state === "ready" && wasUnwell) log("well again", Level.notice);
        wasUnwell = isUnwell;
        changed(health);
      }
      const line = statusLine(at, health, serving?.tiles ?? []);
      if (line !== null) host.notify(`STATUS=${line}`);
      const { appliance } = serving ?? {};
      const pid = appliance?.over === false ? appliance.pid : 0;
      writeHealth(region, {
        ...{ ...health, at, version: VERSION, started, netns, loaded },
        config: serving?.run.config.file ?? null,
        processes: [
          { name: "master", pid: Deno.pid, restarts: 0 },
          { name: "appliance", pid, restarts: restartsOf(null) },
          ...processesOf(serving).map(({ name, pid }) => (
            { name, pid, restarts: restartsOf(name) }
          )),
        ].map((process) => ({ ...process, values: values.get(process.pid) })),
      });
    },
    /** Remembers which interfaces have AF_XDP, so that its loss is noticed. */
    rememberXdp({ run: { config }, attachments }: Serving): void {
      const attached = attachments.filter((each) => each.attached).map(({ name }) => name);
      hadXdp = config.provider === "socket"
        ? []
        : config.interfaces.filter((name) => attached.includes(name) || hadXdp.includes(name));
    },
    /** Counts a restart after a failure: of an app or a slow side, or with null of the appliance. */
    restarted(app: string | null): void {
      restarts.set(app, restartsOf(app) + 1);
    },
    /** Forgets an app that no longer has a process. */
    forget(app: string): void {
      for (const name of [app, besideName(app)]) restarts.delete(name);
    },
    /** Notes the configuration that is served. */
    loaded({ config }: Run): void {
      const digest = createHash("sha256").update(JSON.stringify(config)).digest();
      loaded = { hash: digest.readUIntBE(0, 6), at: Date.now() / 1000, isGood: true };
    },
    /** Records that a new configuration was refused. */
    refused(): void {
      loaded = { ...loaded, isGood: false };
    },
    /** Reads the resources of each process. */
    measure(serving: Serving | undefined): void {
      const processes = processesOf(serving);
      const pids = [Deno.pid, serving?.appliance.pid ?? 0, ...processes.map(({ pid }) => pid)]
        .filter((pid) => pid !== 0);
      values = new Map(pids.map((pid) => [pid, processValues(pid)]));
    },
    /** Logs each system call that was refused to an app's process, once. */
    nameRefusedCalls(): void {
      for (const [name, slot] of slots) {
        for (const { call } of refusedCalls(own.view(APP_REFUSALS), slot)) {
          logOnce(`${name}: refused system call ${call} (${tile.callName(call)})`);
        }
      }
    },
    /** Logs the walls that this system does not support, once. */
    lack(whose: "appliance" | "apps", { missing }: Pick<ConfinedProcess, "missing">): void {
      const line = `${whose}: some walls are not supported here: ${missing.join("; ")}`;
      if (missing.length > 0) logOnce(line);
    },
  };
}

/** Milliseconds since the epoch, by a monotonic clock. */
function now(): number {
  return Math.floor(performance.timeOrigin + performance.now());
}

/** Apps that are processes, and their slow sides. */
function processesOf(serving: Serving | undefined) {
  return [...serving?.apps.values() ?? []].flatMap((app) => app.beside ? [app, app.beside] : [app]);
}
