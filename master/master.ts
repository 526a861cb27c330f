// SPDX-License-Identifier: Apache-2.0
/**
 * The master: the main process of `tegula run`. It holds privileges and descriptors, starts the appliance and the apps
 * confined, and watches them. To replace them it starts a successor beside them, which takes over when it is ready; if
 * it fails before, nothing has changed. No packet passes here.
 *
 * A *warm* handover leaves regions, rings and sockets as they are, and the successor maps them. A *cold* one, for another
 * shape, creates new ones and binds them when the predecessor has ended; the kernel's sockets have the traffic meanwhile.
 * The first start is a cold handover without a predecessor.
 */

import { createHash } from "node:crypto";
import { COMMIT, Exit, messageOf, selfCommand, UserError, VERSION } from "../cli/command.ts";
import type { RunConfig } from "../cli/config.ts";
import { Watcher } from "../ffi/host.ts";
import { describeErrno, libraryPath, programModule, SystemError } from "../ffi/library.ts";
import { type ConfinedProcess, type KnownProcess, RUN_FLAGS, V8_FLAGS } from "../ffi/process.ts";
import { slice, u32 } from "../ffi/region.ts";
import { FILTER_BYTES } from "../ffi/shared.ts";
import { RefusedCalls } from "../ffi/tile.ts";
import { randomSeed } from "../netbase/hash.ts";
import { stateRegionBytes } from "../tiles/app/regions.ts";
import { ControlReader, type Outcome } from "../tiles/runtime/control.ts";
import { APP, type CountedTile, countersOf, NETLINK } from "../tiles/runtime/counters.ts";
import { HEALTH, type HealthState, HealthWriter } from "../tiles/runtime/health.ts";
import { AppError, Level } from "../tiles/runtime/log.ts";
import { MasterReader, MasterRegion } from "../tiles/runtime/master_region.ts";
import {
  FRAME_BYTES,
  permissionFlags,
  planTiles,
  portsOf,
  rangeText,
} from "../tiles/runtime/plan.ts";
import { RestartPause, spinTurnsFor, TileReader, within } from "../tiles/runtime/tile.ts";
import {
  APP_REFUSALS,
  type ApplianceSetup,
  type AppPlan,
  inlineGrants,
  KEPT_REGIONS,
  linkShape,
  MASTER_REGION,
  netName,
  PAST_COUNTERS,
  pastCounters,
  REGIONS_VERSION,
  regionsOf,
  servicePlan,
  tilesOf,
} from "../tiles/runtime/wiring.ts";
import { Announcer } from "./announcer.ts";
import { AppFiles, type StagedApp, stampOf } from "./app_files.ts";
import {
  AppProcess,
  type AppProcessParts,
  type AppProcessPlan,
  type KnownApp,
} from "./app_process.ts";
import { ApplianceError, ApplianceProcess } from "./appliance_process.ts";
import {
  attachAll,
  Attachment,
  type AttachmentState,
  descriptorsOf,
  RingWatch,
  socketsOf,
} from "./attachment.ts";
import { leave, type MainLibraries } from "./confinement.ts";
import { HealthMonitor, isAnnounced, type Observed, StatusLine } from "./health.ts";
import {
  APPLIANCE_SLOT,
  type Handing,
  handing,
  Holdings,
  type HoldingsState,
  Inventory,
  type InventoryState,
  orderOf,
  stateName,
} from "./inventory.ts";
import { log, logBy, prefix } from "./log.ts";
import * as preflight from "./preflight.ts";
import type { StatusAddresses } from "./preflight.ts";
import { processValues } from "./proc.ts";

/** What to serve, read from the configuration and checked. */
export interface Run {
  readonly config: RunConfig;
  readonly apps: readonly AppPlan[];
  /** Ports and apps, for the log: `7=echo 5300-5363=dns*2`. */
  readonly answering: string;
  readonly addresses: StatusAddresses;
}

/** A handover from `before` to a successor that serves `run`. */
interface Handover {
  readonly run: Run;
  /** What serves now, if anything does. */
  readonly before?: Serving;
  /** How long the successor may take to be ready. */
  readonly millis: number;
  /** Interfaces that the successor waits for. */
  readonly awaited: readonly string[];
  /** Whether to take over nothing of the predecessor. */
  readonly isCold?: boolean;
  /** Whether to use only the kernel's sockets, because AF_XDP has failed. */
  readonly isSocketsOnly?: boolean;
}

/** The handover failed, and is to be repeated with these changes. */
class Retry extends Error {
  readonly changes: Partial<Handover>;

  constructor(message: string, changes: Partial<Handover>) {
    super(message);
    this.changes = changes;
  }
}

/** One appliance with its apps, and what they were started with. */
interface Serving {
  readonly run: Run;
  readonly setup: ApplianceSetup;
  /** What the next appliance takes over, if the handover is warm. */
  readonly inventory: Inventory;
  /** The regions that only this appliance has. */
  readonly fresh: Inventory;
  /** Files of inline apps that this appliance was started from. */
  readonly staged: readonly StagedApp[];
  readonly attachments: readonly Attachment[];
  /** The AF_XDP sockets that were handed to the appliance. */
  readonly handed: string;
  readonly appliance: ApplianceProcess;
  /** Apps that are processes, by name. */
  readonly apps: ReadonlyMap<string, AppProcess>;
  /** All tiles. `past` has the counts of their predecessors, and is written here. */
  readonly tiles: readonly CountedTile[];
  /** The apps that are started for it. */
  readonly changed: readonly ChangedApp[];
}

/** The state that a master passes to the program that it becomes. Plain data. */
export interface Carried extends HoldingsState {
  readonly regionsVersion: number;
  readonly run: Run;
  readonly setup: ApplianceSetup;
  readonly inventory: InventoryState;
  /** Absent from programs that did not know it. */
  readonly fresh?: InventoryState;
  readonly staged?: readonly StagedApp[];
  readonly attachments: readonly {
    readonly name: string;
    readonly ifindex: number;
    readonly queues: number;
    readonly state: AttachmentState;
  }[];
  readonly appliance: KnownProcess;
  readonly apps: readonly (readonly [name: string, app: KnownApp])[];
  /** Folder of the apps' files, and the descriptor that locks it; below 0 without one. */
  readonly folder: string | null;
  readonly lock?: number;
  /** Absent from programs that did not know it. */
  readonly health?: {
    readonly started: number;
    readonly state: HealthState;
    readonly since: number;
    readonly hadXdp: readonly string[];
  };
  /** The operator's number for this upgrade. */
  readonly number: number;
  /** All descriptors that were kept open. */
  readonly descriptors: readonly number[];
}

/** An app that is started for a successor. */
interface ChangedApp {
  readonly process: AppProcess;
  readonly plan: AppProcessPlan;
}

const NOT_NOW = "it is starting or stopping just now; ask again when its log says 'ready'";
/** Time limits of an appliance: to leave, to drain and end, and to start beside another. */
const LEAVE_MILLIS = 1000;
const STOP_MILLIS = 1500;
const READY_MILLIS = 60_000;
/** How often recreated interfaces are polled for, and the longest pause after failures. */
const POLL_MILLIS = 1000;
const LONGEST_POLL_MILLIS = 300_000;
/** Runs until a signal ends it. Returns the exit status. `plan` reads the configuration again. */
export async function serve(
  first: Run | Carried,
  { plan, libraries, args }: {
    plan: (before: Run) => Promise<Run>;
    libraries: MainLibraries;
    /** The arguments of this program. */
    args: readonly string[];
  },
): Promise<number> {
  logBy(libraries.host.log);
  const ending = Promise.withResolvers<number>();
  const carried = "appliance" in first ? first : undefined;
  const { user } = ("appliance" in first ? first.run : first).config;
  const master = new Master(libraries, { plan, args, user, carried });
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    Deno.addSignalListener(signal, () => master.drainFirst(() => ending.resolve(Exit.ok)));
  }
  Deno.addSignalListener("SIGHUP", () => master.hangUp());
  Deno.addSignalListener("SIGUSR2", () => log(`counters: ${JSON.stringify(master.counters())}`));
  try {
    const started = "appliance" in first ? master.goOn(first) : master.start(first);
    await Promise.race([started, ending.promise]);
    return await Promise.race([ending.promise, master.failed.promise]);
  } catch (error) {
    throw error instanceof SystemError ? new UserError(error.message, Exit.system) : error;
  } finally {
    await master.stop();
  }
}

class Master {
  readonly #libraries: MainLibraries;
  readonly #plan: (before: Run) => Promise<Run>;
  readonly #args: readonly string[];
  readonly #watcher: Watcher;
  readonly #files: AppFiles;
  readonly #holdings: Holdings;
  /** The index of each interface when AF_XDP was last tried on it; 0 if it did not exist. */
  readonly #tried = new Map<string, number>();
  /** Interfaces on which zero-copy has failed. */
  readonly #copyOnly = new Set<string>();
  /** The time of the next poll for recreated interfaces, and the pause after a failure. */
  #nextPoll = 0;
  #pollPause = POLL_MILLIS;
  /** Settles when the last predecessor has ended. */
  #leaving: Promise<unknown> = Promise.resolve();
  /** Lines that are logged only once. */
  readonly #named = new Set<string>();
  #serving?: Serving;
  /** The successor while it starts. */
  #starting?: Serving;
  #ringWatch?: RingWatch;
  /** The attachments whose frames go to the net tiles. */
  #served?: readonly Attachment[];
  #booted = false;
  /** Settles when the present change is over: there is one at a time. */
  #change: Promise<unknown> = Promise.resolve();
  readonly #refusedCalls: RefusedCalls;
  readonly #region: MasterRegion;
  /** Whether all is well. The constructor adds observers. */
  readonly #health: HealthMonitor;
  readonly #report: HealthWriter;
  readonly #statusLine = new StatusLine();
  /** The inode of its network namespace. */
  readonly #netns = Deno.statSync("/proc/self/ns/net").ino ?? 0;
  /** When this master was started, before any upgrade. */
  readonly #started: number;
  /** Interfaces that had AF_XDP and should have it. */
  #hadXdp: readonly string[];
  #wasUnwell = false;
  readonly #changes = new Changes();
  readonly #announcer = new Announcer(log);
  /** Whether a signal has asked for a reload that has not begun. */
  #hungUp = false;
  /** Rejects when nothing serves and no retry is left. */
  readonly failed = Promise.withResolvers<never>();
  readonly #restartPause = new RestartPause();
  /** Whether it drains before it ends. */
  #isEnding = false;
  #stopping = false;
  readonly #timers: ReturnType<typeof setInterval>[] = [];

  constructor(
    libraries: MainLibraries,
    { plan, args, user, carried }: {
      plan: (before: Run) => Promise<Run>;
      args: readonly string[];
      user?: number;
      carried?: Carried;
    },
  ) {
    this.#libraries = libraries;
    this.#plan = plan;
    this.#args = args;
    this.#watcher = new Watcher(libraries.host, libraries.tile);
    this.#holdings = new Holdings(libraries, { user, before: carried });
    this.#files = new AppFiles({
      ...{ host: libraries.host, processes: libraries.processes },
      uid: this.#holdings.uid(0),
      ...(carried?.folder && { folder: carried.folder, lock: carried.lock }),
    });
    const { own } = this.#holdings;
    for (const [name, bytes] of KEPT_REGIONS) own.ensure(name, bytes);
    this.#region = new MasterRegion(own.view(MASTER_REGION, { writable: true }));
    libraries.observer.start(u32(own.view(APP_REFUSALS, { writable: true })));
    this.#refusedCalls = new RefusedCalls(own.view(APP_REFUSALS));
    this.#timers.push(setInterval(() => {
      this.#nameRefusedCalls();
      this.#measure();
      this.#checkHealth();
      this.#announcer.update();
    }, POLL_MILLIS));
    this.#report = new HealthWriter(this.#holdings.own.view(HEALTH, { writable: true }));
    this.#started = carried?.health?.started ?? now();
    this.#hadXdp = carried?.health?.hadXdp ?? [];
    this.#health = new HealthMonitor(now(), carried?.health);
    this.#health.observe(({ state, reasons }) => {
      if (this.#stopping) return;
      if (reasons.length > 0) {
        log(`unwell: ${reasons.map(({ text }) => text).join("; ")}`, Level.error);
      } else if (state === "ready" && this.#wasUnwell) log("well again", Level.notice);
      this.#wasUnwell = reasons.length > 0;
    });
    this.#health.observe((health) => this.#announcer.set(isAnnounced(health)));
    // What the program before this one has reported is good until this one knows better.
    if (carried === undefined) this.#checkHealth();
    this.failed.promise.catch(() => {});
  }

  /** Starts to serve. Throws UserError. */
  async start(run: Run): Promise<void> {
    const { host } = this.#libraries;
    const { config, answering, addresses } = run;
    this.#announcer.start(config.announce);
    await this.#exclusively(() =>
      this.#handOver({ run, millis: Infinity, awaited: config.interfaces })
    );
    this.#loaded(run);
    this.#startTimers();
    const asked = addresses.control === null ? "" : `; asked at ${addresses.control}`;
    log(`ready: ${config.interfaces.join(" ")} answering ${answering}${asked}`, Level.notice);
    host.notify("READY=1");
  }

  /** Starts the timers of a serving master: polls for interfaces, and systemd's watchdog. */
  #startTimers(): void {
    this.#booted = true;
    this.#checkHealth();
    this.#timers.push(setInterval(() => void this.#pollInterfaces(), POLL_MILLIS));
    this.#beatWatchdog();
  }

  /** Tells systemd's watchdog (sd_watchdog_enabled(3)) that the event loop runs. */
  #beatWatchdog(): void {
    const micros = Number(Deno.env.get("WATCHDOG_USEC") ?? 0);
    if (micros <= 0) return;
    this.#timers.push(setInterval(() => this.#libraries.host.notify("WATCHDOG=1"), micros / 2000));
  }

  // Reload and upgrade.

  /** Reloads because of a signal. One reload that has not begun serves all signals until then. */
  hangUp(): void {
    if (this.#hungUp) return;
    this.#hungUp = true;
    void this.change("reload", randomSeed()).finally(() => this.#hungUp = false);
  }

  /** Reads the configuration and serves it. Returns a sentence. Throws UserError if nothing has changed. */
  reload(): Promise<string> {
    return this.#exclusively(async () => {
      this.#hungUp = false;
      if (this.#serving === undefined || this.#stopping) {
        throw new UserError(NOT_NOW, Exit.usage);
      }
      return `reloaded: ${await this.#changeTo(await this.#plan(this.#serving.run))}`;
    });
  }

  /** Hands over to a successor that serves `run`. Returns a sentence. Throws UserError if nothing has changed. */
  async #changeTo(run: Run, { isCold = false } = {}): Promise<string> {
    const before = this.#serving!;
    const next = await this.#handOver({
      ...{ run, before, isCold },
      millis: READY_MILLIS,
      // Interfaces that are served already may be down.
      awaited: run.config.interfaces.filter((name) => !before.run.config.interfaces.includes(name)),
    });
    this.#loaded(run);
    const how = isByKernel(next)
      ? "the kernel's sockets serve"
      : next.inventory === before.inventory
      ? "the rings were taken over"
      : "AF_XDP was opened anew";
    return `answering ${run.answering}; ${how}`;
  }

  /**
   * Executes the program that is installed now, in this process. Children and descriptors stay, and the new program
   * replaces them by a handover. Throws UserError if nothing has changed.
   */
  upgrade(number: number): Promise<never> {
    return this.#exclusively(async () => {
      const { host, observer, regions } = this.#libraries;
      const [program, ...flags] = selfCommand();
      let tried: Deno.CommandOutput;
      try {
        tried = await new Deno.Command(program, { args: [...flags, "--version"], stdin: "null" })
          .output();
      } catch (error) {
        throw new UserError(`no program is installed: ${messageOf(error)}`, Exit.usage);
      }
      if (!tried.success) {
        const [line] = new TextDecoder().decode(tried.stderr).split("\n");
        throw new UserError(`the program that is installed does not start: ${line}`, Exit.usage);
      }
      // The descriptors of a predecessor must be closed.
      await this.#leaving;
      const carried = this.#carry(number);
      const left = leave(carried, this.#libraries);
      observer.pause();
      const failed = host.execKeeping(
        [program, ...flags, "run", ...this.#args],
        { ...Deno.env.toObject(), ...left.carried },
        [left.fd, ...carried.descriptors],
      );
      observer.resume();
      regions.close(left.fd);
      throw new UserError(`cannot execute ${program}: ${describeErrno(failed)}`, Exit.usage);
    });
  }

  /** The state for the next program. Throws UserError if something is being replaced. */
  #carry(number: number): Carried {
    const { run, setup, inventory, fresh, staged, attachments, appliance, apps } = this.#serving!;
    const known = [...apps].map(([name, process]) => [name, process.known()] as const);
    const absent = known.find(([, app]) => app === null);
    const states = attachments.map(({ name, ifindex, state }) => ({
      ...{ name, ifindex, state },
      queues: preflight.queues(this.#libraries.host, name),
    }));
    if (appliance.over || absent !== undefined || states.some(({ state }) => state === null)) {
      const what = absent === undefined ? "the appliance or an interface" : `the app ${absent[0]}`;
      throw new UserError(`${what} is being replaced just now; try again`, Exit.usage);
    }
    const { pidfd, channel, words, listener } = appliance.knownProcess;
    const { folder, lock } = this.#files;
    return {
      regionsVersion: REGIONS_VERSION,
      ...{ run, setup, number },
      health: {
        started: this.#started,
        state: this.#health.health.state,
        since: this.#health.health.since,
        hadXdp: this.#hadXdp,
      },
      ...this.#holdings.state,
      inventory: inventory.state,
      fresh: fresh.state,
      staged,
      attachments: states as Carried["attachments"],
      appliance: appliance.knownProcess,
      apps: known.map(([name, app]) => [name, app!.known]),
      ...{ folder, lock },
      descriptors: [
        ...this.#holdings.descriptors,
        ...inventory.descriptors,
        ...fresh.descriptors,
        ...states.flatMap(({ state }) => descriptorsOf(state!)),
        ...[pidfd, channel, words, listener, lock].filter((fd) => fd >= 0),
        ...known.flatMap(([, app]) => app!.descriptors),
      ],
    };
  }

  /** Adopts the state of the program before, and then replaces appliance and apps. */
  async goOn(carried: Carried): Promise<void> {
    const { run, setup, number } = carried;
    const { processes, observer, regions, xskSetup, host } = this.#libraries;
    host.closeOnExec(carried.descriptors);
    for (const name of run.config.interfaces) {
      this.#tried.set(name, this.#libraries.host.ifindex(name));
    }
    const inventory = new Inventory(this.#libraries, { before: carried.inventory });
    const fresh = new Inventory(this.#libraries, { before: carried.fresh, below: inventory });
    const { staged = [] } = carried;
    const attachments = carried.attachments.map(({ name, ifindex, queues, state }, i) =>
      new Attachment(xskSetup, {
        ...{ name, ifindex, queues, map: regions.mapShared },
        dispatcher: run.config.dispatcher,
        before: { state, shares: sharesOf(setup, inventory)[i] },
      })
    );
    const process = processes.adopt(carried.appliance);
    observer.hear({ ...applianceWords(), listener: process.listener, words: process.words });
    const appliance = this.#watched(process, true);
    const apps = new Map(carried.apps.map(([name, known]) => [
      name,
      AppProcess.adopt(known, this.#appParts(name, inventory)),
    ]));
    void appliance.ended.then(() => staged.forEach((app) => this.#files.discard(app)));
    const tiles = readersOf(setup, fresh);
    const handed = socketsOf(attachments);
    const serving = {
      ...{ run, setup, inventory, fresh, staged, attachments, handed, appliance, apps, tiles },
      changed: [],
    };
    this.#serving = serving;
    this.#watch(serving);
    this.#watchRings(attachments);
    this.#served = attachments;
    this.#rememberXdp(serving);
    this.#startTimers();
    // Not before it is known whether it is ready, or what is announced would be withdrawn.
    this.#announcer.configure(run.config.announce);
    const isCold = carried.regionsVersion !== REGIONS_VERSION;
    await this.#changes.add(
      number,
      this.#exclusively(async () => {
        try {
          const next = await this.#changeTo(await this.#plan(run), { isCold });
          const line = `upgraded to ${VERSION}: ${next}`;
          log(line, Level.notice);
          return line;
        } catch (error) {
          this.#region.refused();
          log(
            `the program was upgraded, appliance and apps go on as they were: ${messageOf(error)}`,
            Level.error,
          );
          throw error;
        }
      }),
    );
  }

  /** Makes a change for an operator or a signal, once for each number. */
  change(what: "reload" | "upgrade", number: number): Promise<Outcome> {
    return this.#changes.ask(number, async () => {
      try {
        if (what === "upgrade" && (!this.#booted || this.#stopping)) {
          throw new UserError(NOT_NOW, Exit.usage);
        }
        const line = await (what === "reload" ? this.reload() : this.upgrade(number));
        log(line, Level.notice);
        return line;
      } catch (error) {
        this.#region.refused();
        const isAsItWas = error instanceof UserError;
        const says = isAsItWas ? ", it goes on as it was" : "";
        log(`${what} failed${says}: ${messageOf(error)}`, Level.error);
        throw error;
      }
    });
  }

  /** Calls `end` after the configured time of draining, or at once if called again. */
  drainFirst(end: () => void): void {
    const { drain_seconds: seconds = 0 } = this.#serving?.run.config ?? {};
    if (seconds === 0 || this.#isEnding) return end();
    this.#isEnding = true;
    this.drain(true);
    log(`it ends in ${seconds} s; another signal ends it at once`, Level.notice);
    setTimeout(end, 1000 * seconds);
  }

  /** Begins or ends draining: it serves, but reports that it is not ready. */
  drain(isDraining: boolean): Outcome {
    this.#health.setDraining(isDraining);
    this.#checkHealth();
    const line = isDraining ? "draining: it serves on, and is not ready" : "it drains no more";
    log(line, Level.notice);
    return { ok: true, line };
  }

  /** Evaluates the health, and reports it to the status tile. */
  #checkHealth(): void {
    const at = now();
    const health = this.#health.evaluate(at, this.#observe());
    const serving = this.#serving;
    const { appliance } = serving ?? {};
    const line = this.#statusLine.next(at, health, serving?.tiles ?? []);
    if (line !== null) this.#libraries.host.notify(`STATUS=${line}`);
    this.#report.write({
      ...{ ...health, at, version: VERSION, started: this.#started, netns: this.#netns },
      config: serving?.run.config.file ?? null,
      processes: [
        { name: "master", pid: Deno.pid },
        { name: "appliance", pid: appliance?.over === false ? appliance.pid : 0 },
        ...[...serving?.apps.values() ?? []].map(({ name, pid }) => ({ name, pid })),
      ],
    });
  }

  #observe(): Observed {
    const serving = this.#serving;
    const hasAppliance = serving !== undefined && !serving.appliance.over;
    const { tiles = [], apps, attachments = [], run } = serving ?? {};
    const isReady = ({ name, inline }: AppPlan) => inline || apps?.get(name)?.isReady === true;
    const keyOf = ({ app, inline }: { app: string; inline: boolean }) => `${inline} ${app}`;
    const instances = Map.groupBy(run?.apps ?? [], keyOf);
    const netlink = tiles.find(({ kind }) => kind === "netlink")?.reader.counters;
    return {
      starting: !this.#booted,
      hasAppliance,
      restarts: this.#restarts(),
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
  #restarts(): Observed["restarts"] {
    const { fresh, apps, tiles = [] } = this.#serving ?? {};
    const region = new MasterReader(this.#holdings.own.view(MASTER_REGION));
    const control = fresh && new ControlReader(fresh.view("control"));
    return [
      { name: "appliance", count: region.restarts("appliance") },
      ...[...apps?.keys() ?? []].map((name) => (
        { name, count: region.restarts(this.#holdings.slot(name)) }
      )),
      ...tiles.flatMap(({ kind, name }, slot) =>
        control !== undefined && (kind === "netlink" || kind === "status")
          ? [{ name, count: control.restarts(slot) }]
          : []
      ),
    ];
  }

  /** Remembers which interfaces have AF_XDP, so that its loss is noticed. */
  #rememberXdp({ run: { config }, attachments }: Serving): void {
    const attached = attachments.filter((each) => each.attached).map(({ name }) => name);
    this.#hadXdp = config.provider === "socket"
      ? []
      : config.interfaces.filter((name) => attached.includes(name) || this.#hadXdp.includes(name));
  }

  // Handover.

  /** Runs `work` after all earlier work. */
  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#change.then(work);
    this.#change = result.catch(() => {});
    return result;
  }

  /**
   * Starts a successor beside what serves, and lets it take over:
   *
   *     start → ready → attach, if AF_XDP is free → predecessor leaves → attach, if not yet → go, running
   *     └────── a failure here changes nothing ────┘
   *
   * Some failures are retried in another way. Throws UserError if the successor cannot start; then nothing has
   * changed.
   */
  async #handOver(handover: Handover): Promise<Serving> {
    for (let attempt = handover;;) {
      try {
        return await this.#attempt(attempt);
      } catch (error) {
        if (error instanceof Retry) {
          attempt = { ...attempt, ...error.changes };
        } else if (error instanceof ApplianceError && error.ringsLost && !attempt.isCold) {
          log(
            `the rings cannot be taken over (${error.message}): AF_XDP is opened anew`,
            Level.warning,
          );
          attempt = { ...attempt, isCold: true };
        } else {
          // The predecessor has left, so nothing serves. The service manager may restart this program.
          if (handover.before !== undefined && attempt.before === undefined) {
            const line = `nothing serves any more: ${messageOf(error)}`;
            this.failed.reject(new UserError(line, Exit.failure));
          }
          throw troubleOf(error, handover.run);
        }
      }
    }
  }

  /** One try of a handover. Throws Retry. */
  async #attempt(handover: Handover): Promise<Serving> {
    const { before, millis } = handover;
    // A predecessor that has left has sockets and ports open until it ends.
    await this.#leaving;
    this.#checkGoesOn();
    before?.appliance.setChanging(true);
    const next = this.#starting = await this.#startSuccessor(handover).catch((error) => {
      // Without a predecessor the next try uses what was opened.
      if (before !== undefined) this.#release(before);
      before?.appliance.setChanging(false);
      throw error;
    });
    try {
      await this.#untilReady(next, millis);
      // If no predecessor holds AF_XDP it is attached before that leaves.
      const isFree = before === undefined || isByKernel(before) && !isByKernel(next);
      if (isFree) this.#attach(next);
    } catch (error) {
      await this.#endSuccessor(next, { isCold: next.inventory !== before?.inventory });
      this.#release(before);
      before?.appliance.setChanging(false);
      throw error;
    } finally {
      this.#starting = undefined;
    }
    // From here on there is no way back.
    this.#serving = next;
    this.#watch(next);
    try {
      await this.#switchOver(next, before);
      return next;
    } catch (error) {
      if (error instanceof Retry) {
        this.#serving = undefined;
        await this.#endSuccessor(next, { isCold: true });
        throw error;
      }
      if (!this.#booted) throw error;
      // No UserError, because something has changed.
      throw new Error(`what took over failed and is started again: ${messageOf(error)}`);
    }
  }

  /** Throws UserError if it was told to stop. */
  #checkGoesOn(): void {
    if (this.#stopping) throw new UserError("it was told to stop", Exit.failure);
  }

  /** Resolves when the appliance and all changed apps are ready. */
  async #untilReady({ appliance, changed }: Serving, millis: number): Promise<void> {
    this.#checkGoesOn();
    const ready = Promise.all([
      appliance.ready,
      ...changed.map(({ process, plan }) => process.prepare(plan)),
    ]);
    // An appliance that is ready may end while apps are being made.
    const ended = appliance.ended.then((error) => Promise.reject(error));
    if (!await within(Promise.race([ready, ended]), millis)) {
      throw new UserError(`it was not ready within ${millis / 1000} s`, Exit.failure);
    }
    this.#checkGoesOn();
  }

  /** Ends a successor: its appliance and apps, and, if it is `isCold`, its regions and sockets. */
  async #endSuccessor(next: Serving, { isCold }: { isCold: boolean }): Promise<void> {
    await Promise.all([
      next.appliance.kill("it is given up"),
      ...next.changed.map(({ process }) => isCold ? process.stop() : process.abandon()),
    ]);
    next.fresh.close();
    if (isCold) discard(next.attachments, next.inventory);
  }

  /**
   * Replaces `before` by `next`, which is ready. Throws Retry if `before` has ended and AF_XDP cannot be opened again;
   * then nothing serves.
   */
  async #switchOver(next: Serving, before?: Serving): Promise<void> {
    let apps: Promise<unknown> | undefined;
    if (before?.inventory === next.inventory) {
      // Apps take over beside the appliance, so that a slow one delays no other.
      apps = takeOverApps(next);
      await this.#letLeave(before);
    } else if (before !== undefined) {
      await this.#stopServing(before);
      if (!isByKernel(before)) this.#attachAgain(next);
    }
    if (before !== undefined) {
      this.#keepCounts(before, next);
      before.fresh.close();
    }
    next.appliance.go();
    apps ??= takeOverApps(next);
    await next.appliance.running;
    // At the first start a failure of an app is an error of the configuration.
    if (!this.#booted) await apps;
    this.#serve(next);
  }

  /** Lets the appliance leave. Kills it if it does not. */
  async #letLeave({ appliance }: Serving): Promise<void> {
    const hasLeft = !appliance.over && await appliance.leave(LEAVE_MILLIS);
    if (!hasLeft) await appliance.kill("it did not leave in time");
    this.#leaving = appliance.ended;
  }

  /** Returns the traffic to the kernel, lets the appliance and all apps drain, and ends them. */
  async #stopServing({ attachments, appliance, apps, inventory, fresh }: Serving): Promise<void> {
    for (const attachment of attachments) detach(attachment);
    if (!appliance.over) await appliance.stop(STOP_MILLIS);
    await Promise.all([...apps.values()].map((process) => process.stop()));
    fresh.close();
    discard(attachments, inventory);
  }

  /** Keeps the counts of those tiles of `before` whose regions are new in `next`. */
  #keepCounts(before: Serving, next: Serving): void {
    const isFresh = new Map(regionsOf(next.setup).map(({ name, fresh }) => [name, fresh]));
    const isCold = before.inventory !== next.inventory;
    for (const { name, reader } of before.tiles) {
      if (!isCold && isFresh.get(`tile ${name}`) !== true) continue;
      this.#holdings.keepCounters(name, reader.counters);
    }
    for (const { name, past } of next.tiles) past.set(this.#holdings.pastCounters(name));
  }

  /** Directs frames to the net tiles, and closes what is not used any more. All tiles run. */
  #serve(next: Serving): void {
    const { attachments, setup, changed } = next;
    if (this.#served !== attachments) {
      for (const attachment of attachments) attachment.serve();
      this.#watchRings(attachments);
      this.#served = attachments;
    }
    for (const { name } of setup.apps.filter(({ inline }) => inline)) {
      this.#logOnce(`${name}: runs inside the net tiles, and is trusted as they are`, Level.info);
    }
    this.#announcer.configure(next.run.config.announce);
    this.#rememberXdp(next);
    this.#notifyAttached();
    this.#release(next);
    for (const { process } of changed) this.#lack("apps", process);
    this.#measure();
  }

  /** Attaches. If that fails for any reason the kernel's sockets serve, and it is retried. Throws Retry. */
  #attachAgain(next: Serving): void {
    try {
      this.#attach(next);
    } catch (error) {
      // The reason for the kernel's sockets has been logged.
      if (!(error instanceof Retry && error.changes.isSocketsOnly)) {
        log(
          `AF_XDP cannot be had again, the kernel's sockets serve: ${messageOf(error)}`,
          Level.error,
        );
      }
      for (const { name } of next.attachments) this.#tried.delete(name);
      const changes = { before: undefined, awaited: [], isSocketsOnly: true };
      throw new Retry(messageOf(error), changes);
    }
  }

  /**
   * Attaches the programs and binds the sockets, in the best mode that works for all interfaces, and logs the mode and
   * its reason. Throws UserError. Throws Retry if the appliance needs other sockets, or only the kernel's.
   */
  #attach({ run: { config }, attachments, handed, setup }: Serving): void {
    if (attachments.length === 0) {
      for (const name of config.interfaces) {
        if (config.provider === "socket") log(`${name}: kernel sockets (as asked)`);
      }
      return;
    }
    const names = attachments.map(({ name }) => name).join(", ");
    log(`attaching XDP to ${names}; some drivers restart the link for that`);
    try {
      attachAll(attachments, this.#copyOnly).forEach(({ mode, reason }, i) => {
        log(`${attachments[i].name}: ${mode} (${reason})`);
      });
    } catch (error) {
      preflight.fallBack(error, { ...config, log });
      preflight.requireSockets(portsOfRun({ apps: setup.apps }), setup.sockets);
      throw new Retry(messageOf(error), { isSocketsOnly: true });
    }
    if (socketsOf(attachments) !== handed) {
      // Only some could be bound, so all were created again.
      for (const { name } of attachments) this.#copyOnly.add(name);
      throw new Retry("its sockets had to be made anew", {});
    }
    if (config.busyPoll) preflight.pollBusily(attachments, { ...this.#libraries, log });
  }

  // What a successor is given.

  /** Starts an appliance, and finds the apps that have to be started. Throws Retry. */
  async #startSuccessor(handover: Handover): Promise<Serving> {
    const { run, before } = handover;
    const ports = this.#holdings.takePorts(portsOfRun(run));
    const listeners = this.#holdings.listeners(run.addresses);
    const { setup: planned, attachments, isWarm } = this.#planSuccessor(handover, ports);
    const inventory = isWarm ? before!.inventory : new Inventory(this.#libraries);
    const fresh = new Inventory(this.#libraries, { below: inventory });
    const staged: StagedApp[] = [];
    const discardStaged = () => staged.forEach((app) => this.#files.discard(app));
    try {
      this.#makeRegions(planned, { config: run.config, attachments, inventory, fresh, isWarm });
      const setup = { ...planned, apps: await this.#stageInline(planned.apps, staged) };
      const { apps, changed } = this.#planApps(setup, inventory, isWarm ? before : undefined);
      const appliance = this.#startAppliance(setup, { fresh, attachments, listeners });
      void appliance.ended.then(discardStaged);
      const tiles = readersOf(setup, fresh);
      const handed = socketsOf(attachments);
      return {
        ...{ run, setup, inventory, fresh, staged, attachments, handed },
        ...{ appliance, apps, tiles, changed },
      };
    } catch (error) {
      discardStaged();
      fresh.close();
      if (!isWarm) discard(attachments, inventory);
      throw error;
    }
  }

  /**
   * The successor's setup, its XDP programs, and whether it takes over the regions, rings and sockets of its
   * predecessor. Throws UserError.
   */
  #planSuccessor(
    { run, before, awaited, isCold, isSocketsOnly }: Handover,
    ports: readonly number[],
  ): { setup: ApplianceSetup; attachments: readonly Attachment[]; isWarm: boolean } {
    const { config } = run;
    const isBeside = before !== undefined && !before.appliance.over;
    const plan = (names: readonly string[]) => {
      const setup = this.#setup(run, { names, ports, awaited, isBeside });
      return { setup, isWarm: !isCold && before !== undefined && isSame(before, run, setup) };
    };
    const names = isSocketsOnly || config.provider === "socket" ? [] : this.#fit(config);
    const planned = plan(names);
    if (names.length > 0 && planned.isWarm) {
      return { ...planned, attachments: before!.attachments };
    }
    if (!planned.isWarm && !isSocketsOnly) {
      for (const name of config.interfaces) {
        this.#tried.set(name, this.#libraries.host.ifindex(name));
      }
    }
    const attachments = names.length === 0
      ? []
      : preflight.loadPrograms({ ...config, interfaces: names }, {
        libraries: this.#libraries,
        replaced: before?.attachments ?? [],
        log,
      });
    if (attachments.length > 0) return { ...planned, attachments };
    // Once it serves, some ports are better than none.
    if (!(this.#booted && isSocketsOnly)) preflight.requireSockets(portsOfRun(run), ports);
    return { ...plan([]), attachments };
  }

  /** Creates missing regions, and AF_XDP sockets on them. Throws Retry. */
  #makeRegions(
    setup: ApplianceSetup,
    { config, attachments, inventory, fresh, isWarm }: {
      config: RunConfig;
      attachments: readonly Attachment[];
      inventory: Inventory;
      fresh: Inventory;
      isWarm: boolean;
    },
  ): void {
    try {
      for (const { name, bytes, fresh: isFresh } of regionsOf(setup)) {
        if (!KEPT_REGIONS.has(name)) (isFresh ? fresh : inventory).ensure(name, bytes);
      }
      if (isWarm) return;
      const shares = sharesOf(setup, inventory);
      attachments.forEach((attachment, i) => attachment.prepare(shares[i]));
    } catch (error) {
      if (isWarm || attachments.length === 0) throw error;
      // Without the socket family, for example.
      preflight.fallBack(error, { ...config, log });
      throw new Retry(messageOf(error), { isSocketsOnly: true });
    }
  }

  /** The apps that are processes: all of them, and those that have to be started. */
  #planApps(
    setup: ApplianceSetup,
    inventory: Inventory,
    before?: Serving,
  ): Pick<Serving, "apps" | "changed"> {
    const apps = new Map<string, AppProcess>();
    const changed: ChangedApp[] = [];
    for (const app of setup.apps.filter(({ inline }) => !inline)) {
      const plan = this.#appPlan(app, setup);
      if (plan.stateBytes !== undefined) {
        this.#holdings.own.ensure(stateName(plan.name, plan.stateBytes), plan.stateBytes);
      }
      const process = before?.apps.get(app.name) ??
        new AppProcess(plan, this.#appParts(app.name, inventory));
      apps.set(app.name, process);
      const stamp = stampOf(plan, [...process.sources, ...plan.grants.read]);
      if (process.stamp !== stamp) changed.push({ process, plan });
    }
    return { apps, changed };
  }

  /**
   * The apps. Inline ones get modules that the appliance's user can read, which are added to `staged`. Throws
   * AppError.
   */
  async #stageInline(apps: readonly AppPlan[], staged: StagedApp[]): Promise<AppPlan[]> {
    const uid = this.#holdings.uid(0);
    const all = await Promise.allSettled(apps.map(async (app) => {
      if (!app.inline) return app;
      const made = await this.#files.stage({ name: app.name, service: app, uid });
      staged.push(made);
      const { module, read } = made;
      return { ...app, module, grants: { ...app.grants, read: [...app.grants.read, ...read] } };
    }));
    return all.map((each) => {
      if (each.status === "rejected") throw each.reason;
      return each.value;
    });
  }

  /** The interfaces that exist and are fit for AF_XDP. */
  #fit({ interfaces, provider }: RunConfig): string[] {
    const { host } = this.#libraries;
    return interfaces.filter((name) => {
      if (host.ifindex(name) === 0) return false;
      const why = preflight.unfit(host, name);
      if (why !== null) preflight.fallBack(new Error(why), { interfaces: [name], provider, log });
      return why === null;
    });
  }

  #setup(
    { config, apps, addresses }: Run,
    { names, ports, awaited, isBeside }: {
      names: readonly string[];
      ports: readonly number[];
      awaited: readonly string[];
      isBeside: boolean;
    },
  ): ApplianceSetup {
    const { host } = this.#libraries;
    return {
      plan: planTiles({
        queues: names.map((name) => preflight.queues(host, name)),
        cores: navigator.hardwareConcurrency,
        apps: apps.length,
        ...(config.netTiles !== undefined && { netTiles: config.netTiles }),
      }),
      apps,
      attached: names.map((name) => ({
        name,
        ifindex: host.ifindex(name),
        transmitQueues: preflight.transmitQueues(host, name),
        partialChecksums: preflight.partialChecksums(host, name),
      })),
      interfaces: awaited,
      isBeside,
      sockets: ports,
      slots: Object.fromEntries(
        apps.filter(({ inline }) => !inline).map(({ name }) => [name, this.#holdings.slot(name)]),
      ),
      build: { version: VERSION, commit: COMMIT },
      trustChecksums: config.checksums === "nic",
      listens: { control: addresses.control !== null, metrics: addresses.metrics !== null },
    };
  }

  /** Closes what `serving` does not need. */
  #release(serving?: Serving): void {
    for (const slot of this.#holdings.release(serving)) this.#region.clear(slot);
  }

  #startAppliance(
    setup: ApplianceSetup,
    { fresh, attachments, listeners }: {
      fresh: Inventory;
      attachments: readonly Attachment[];
      listeners: readonly Handing[];
    },
  ): ApplianceProcess {
    const handings: Handing[] = [
      ...regionsOf(setup).flatMap(({ name, writer }) => [
        ...writer === "appliance" ? [fresh.region(name, { writable: true })] : [],
        KEPT_REGIONS.has(name) ? this.#holdings.own.region(name) : fresh.region(name),
      ]),
      ...tilesOf(setup).filter(({ inside }) => inside === undefined)
        .map(({ name }) => fresh.eventfd(name)),
      ...this.#holdings.sockets(setup.sockets),
      ...attachments.flatMap(({ descriptors }) => descriptors).map(({ name, fd }) => ({
        ...handing(name, fd),
        ...(name.startsWith("filter ") && { bytes: FILTER_BYTES }),
      })),
      ...listeners,
    ];
    const { root } = this.#files;
    const program = programModule("", root);
    const library = libraryPath(root);
    const { read, clock } = inlineGrants(setup.apps);
    const order = orderOf(this.#libraries.regions, handings, setup);
    try {
      const child = this.#libraries.processes.start({
        name: "appliance",
        role: "appliance",
        args: [
          ...RUN_FLAGS,
          V8_FLAGS,
          ...permissionFlags(
            { read: [program, ...read], ffi: [library] },
            (sentence) => new UserError(sentence, Exit.usage),
          ),
          programModule("tiles/runtime/appliance.ts", root),
          String(order.bytes),
        ],
        env: { DENO_NO_UPDATE_CHECK: "1" },
        descriptors: order.descriptors,
        read: [program, library, ...read],
        clock,
        uid: this.#holdings.uid(0),
        netAdmin: true,
      });
      const { listener, words } = child;
      this.#libraries.observer.hear({ ...applianceWords(), listener, words });
      this.#lack("appliance", child);
      return this.#watched(child);
    } finally {
      order.close();
    }
  }

  /** The appliance of a process. `isRunning`: the program before has started it. */
  #watched(child: ConfinedProcess, isRunning = false): ApplianceProcess {
    const appliance: ApplianceProcess = new ApplianceProcess(child, {
      watcher: this.#watcher,
      isRunning,
      events: {
        log,
        ask: async (what, number) => {
          const outcome = what === "drain" || what === "undrain"
            ? this.drain(what === "drain")
            : await this.change(what, number);
          appliance.setOutcome(number, outcome);
        },
      },
    });
    return appliance;
  }

  #appPlan(app: AppPlan, { apps, plan: { frames } }: ApplianceSetup): AppProcessPlan {
    const busy = frames.length + apps.filter(({ inline }) => !inline).length;
    return {
      name: app.name,
      service: servicePlan(app, portsOfRun({ apps })),
      shape: linkShape(apps),
      nets: frames.map((_, n) => netName(n)),
      spinTurns: spinTurnsFor(busy, navigator.hardwareConcurrency),
      grants: app.grants,
      memoryMib: app.memoryMib!,
      ...(app.stateBytes !== undefined && { stateBytes: stateRegionBytes(app.stateBytes) }),
      uid: this.#holdings.uid(1 + this.#holdings.slot(app.name)),
    };
  }

  #appParts(name: string, inventory: Inventory): AppProcessParts {
    const { processes, regions, observer, tile } = this.#libraries;
    return {
      ...{ processes, regions, observer, log },
      slot: this.#holdings.slot(name),
      changed: (what) => {
        if (what === "restarts") this.#region.restarted(this.#holdings.slot(name));
        this.#checkHealth();
      },
      tileLibrary: tile,
      watcher: this.#watcher,
      files: this.#files,
      descriptors: {
        // An app's state outlasts its other regions.
        descriptor: (each, readOnly, bytes) =>
          bytes === undefined
            ? inventory.descriptor(each, readOnly)
            : this.#holdings.own.descriptor(stateName(name, bytes), readOnly),
      },
      tile: new TileReader(inventory.view(`tile ${name}`)),
    };
  }

  // Faults.

  /** Watches a serving appliance. */
  #watch(serving: Serving): void {
    this.#restartPause.started();
    serving.appliance.ended.then((error) => {
      if (this.#serving === serving) this.#restartPause.ended();
      if (this.#booted && !this.#stopping && this.#serving === serving) this.#lost(serving, error);
    });
  }

  /** Replaces an appliance that has ended by itself. Datagrams wait in its rings. */
  #lost(serving: Serving, { message }: ApplianceError): void {
    const pause = this.#restartPause.next({ isFirstImmediate: true });
    this.#region.restarted("appliance");
    this.#checkHealth();
    const when = pause === 0 ? "" : ` in ${pause} ms`;
    log(`appliance: ${message}; starting the next one${when}`, Level.error);
    setTimeout(() => {
      void this.#exclusively(async () => {
        if (this.#stopping || this.#serving !== serving) return;
        try {
          await this.#handOver(sameAgain(serving));
          log("appliance: the next one serves", Level.notice);
        } catch (error) {
          if (this.#serving === serving) this.#lost(serving, new ApplianceError(messageOf(error)));
        }
      });
    }, pause);
  }

  /** Opens AF_XDP again on interfaces that were deleted and recreated. */
  async #pollInterfaces(): Promise<void> {
    const serving = this.#serving;
    if (serving === undefined || serving.run.config.provider === "socket") return;
    if (performance.now() < this.#nextPoll) return;
    const { host } = this.#libraries;
    const again = serving.run.config.interfaces
      .filter((name) => ![0, this.#tried.get(name)].includes(host.ifindex(name)));
    if (again.length === 0) return;
    this.#nextPoll = Infinity;
    await this.#exclusively(async () => {
      if (this.#stopping || this.#serving !== serving) return;
      log(`${again.join(", ")}: there again; AF_XDP is opened anew`, Level.notice);
      await this.#handOver(sameAgain(serving));
    }).then(() => {
      this.#pollPause = POLL_MILLIS;
      this.#nextPoll = 0;
    }, (error) => {
      this.#pollPause = Math.min(2 * this.#pollPause, LONGEST_POLL_MILLIS);
      this.#nextPoll = performance.now() + this.#pollPause;
      for (const name of again) this.#tried.delete(name);
      const pause = this.#pollPause / 1000;
      log(
        `${
          again.join(", ")
        }: the kernel's sockets serve on, AF_XDP is tried again in ${pause} s: ` +
          messageOf(error),
        Level.error,
      );
    });
  }

  #watchRings(attachments: readonly Attachment[]): void {
    const { xskSetup, host } = this.#libraries;
    this.#ringWatch?.stop();
    this.#ringWatch = new RingWatch(attachments, {
      xskSetup,
      exists: host.exists,
      gone: ({ name }) => {
        log(
          `${name}: it is gone, and AF_XDP with it; should it come back, it is served again`,
          Level.error,
        );
        this.#notifyAttached();
      },
      log: (line) => {
        log(line, Level.error);
        this.#notifyAttached();
      },
    });
    this.#ringWatch.start();
  }

  // What operators see.

  /** Tells the status tile that `run` is served. */
  #loaded({ config }: Run): void {
    const digest = createHash("sha256").update(JSON.stringify(config)).digest();
    this.#region.loaded(digest.readUIntBE(0, 6), Date.now() / 1000);
  }

  /** Tells the status tile what each process has. */
  #measure(): void {
    this.#region.set("master", processValues(Deno.pid));
    if (this.#serving === undefined) return;
    const { appliance, apps } = this.#serving;
    this.#region.set("appliance", appliance.over ? null : processValues(appliance.pid));
    for (const [name, { pid }] of apps) {
      this.#region.set(this.#holdings.slot(name), pid === 0 ? null : processValues(pid));
    }
  }

  /** Logs each system call that was refused to an app's process, once. */
  #nameRefusedCalls(): void {
    const { tile } = this.#libraries;
    for (const [name, slot] of this.#holdings.slots) {
      for (const { call } of this.#refusedCalls.of(slot)) {
        const line = `${name}: refused system call ${call} (${tile.callName(call)})`;
        this.#logOnce(line);
      }
    }
  }

  /** Logs the walls that this system cannot build, once. */
  #lack(whose: "appliance" | "apps", { missing }: Pick<ConfinedProcess, "missing">): void {
    const line = `${whose}: not all walls are to be had here: ${missing.join("; ")}`;
    if (missing.length > 0) this.#logOnce(line);
  }

  #logOnce(line: string, level: number = Level.warning): void {
    if (this.#named.has(line)) return;
    this.#named.add(line);
    log(line, level);
  }

  /** Every tile's counters by its name. */
  counters(): Record<string, Record<string, number>> {
    return countersOf((this.#serving ?? this.#starting)?.tiles ?? []);
  }

  #notifyAttached(): void {
    const { appliance, attachments } = this.#serving!;
    appliance.setAttached(attachments.map(({ attached }) => attached));
    this.#checkHealth();
  }

  /** Returns the traffic to the kernel, lets all processes drain, and ends them. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    // Observers are told before anything ends.
    this.#health.setDraining(true);
    this.#checkHealth();
    for (const timer of this.#timers) clearInterval(timer);
    this.#ringWatch?.stop();
    // A starting successor is given up. One that takes over finishes first.
    await this.#starting?.appliance.kill("it is told to stop");
    await this.#change;
    if (this.#serving !== undefined) await this.#stopServing(this.#serving);
    this.#release();
    this.#files.close();
  }
}

/** The appliance for the observer. Its lines name their tiles. */
function applianceWords() {
  return { name: `${prefix(Level.error)}appliance`, slot: APPLIANCE_SLOT, verbatim: true };
}

/** Milliseconds since the epoch, by a monotonic clock. */
function now(): number {
  return Math.floor(performance.timeOrigin + performance.now());
}

/** The served ports, each once. */
function portsOfRun({ apps }: Pick<Run, "apps">): number[] {
  return [...new Set(apps.flatMap(({ ports }) => portsOf(ports)))];
}

/** A handover to a successor with the same configuration. */
function sameAgain(before: Serving): Handover {
  return { run: before.run, before, millis: READY_MILLIS, awaited: [] };
}

/** Whether only the kernel's sockets serve. */
function isByKernel({ attachments }: Serving): boolean {
  return attachments.length === 0;
}

function readersOf(setup: ApplianceSetup, regions: Inventory): CountedTile[] {
  const past = regions.view(PAST_COUNTERS, { writable: true });
  return tilesOf(setup).map(({ kind, name }, i) => ({
    ...{ kind, name, reader: new TileReader(regions.view(`tile ${name}`)) },
    past: pastCounters(past, i),
  }));
}

/** Whether `setup` fits the regions, rings and sockets of `before`. */
function isSame(before: Serving, { config }: Run, setup: ApplianceSetup): boolean {
  const shape = (config: RunConfig, setup: ApplianceSetup) =>
    JSON.stringify([
      setup.attached,
      setup.plan,
      [config.provider, config.dispatcher, config.busyPoll],
      regionsOf(setup).filter(({ fresh }) => !fresh).map(({ name, bytes }) => [name, bytes]),
    ]);
  return shape(before.run.config, before.setup) === shape(config, setup);
}

/** The queues of each interface, each with its net tile and the UMEM of that. */
function sharesOf({ attached, plan: { frames, shares } }: ApplianceSetup, inventory: Inventory) {
  const umems = frames.map((count, n) =>
    slice(inventory.view(`umem ${netName(n)}`, { writable: true }), 0, count * FRAME_BYTES)
  );
  return attached.map((_, i) =>
    shares.filter((share) => share.interface === i)
      .map(({ queue, netTile }) => ({ queue, netTile, umem: umems[netTile] }))
  );
}

/** Lets the changed apps take over. */
function takeOverApps({ changed }: Serving): Promise<unknown> {
  const all = Promise.all(changed.map(({ process }) => process.takeOver()));
  all.catch(() => {});
  return all;
}

/** The error of a failed handover, for the operator. */
function troubleOf(error: unknown, run: Run): unknown {
  const about = { ...run, file: run.config.file };
  if (error instanceof AppError) return preflight.appTrouble(error, about);
  if (!(error instanceof ApplianceError)) return error;
  if (error.app === undefined) return new UserError(error.message, error.status);
  return preflight.appTrouble(new AppError(error.app, error.message), about);
}

/** Detaches a program. Logs if it stays attached. */
function detach(attachment: Attachment): void {
  const failed = attachment.detach();
  if (failed >= 0) return;
  log(
    `${attachment.name}: its program stays in libxdp's dispatcher, and passes everything on ` +
      `(${describeErrno(failed)})`,
    Level.warning,
  );
}

/** Closes what no process uses any more. */
function discard(attachments: readonly Attachment[], inventory: Inventory): void {
  for (const attachment of attachments) attachment.close();
  inventory.close();
}

// Reloads and upgrades that operators ask for: one after the other, and each once. An operator may lose the
// connection while the status tile that was asked is replaced. The next one is asked for the change with the
// same number.

/** Changes whose outcomes are remembered. One that is under way is never forgotten. */
const MOST = 16;

/** All changes, by their numbers. */
export class Changes {
  readonly #outcomes = new Map<number, Promise<Outcome>>();
  #last: Promise<unknown> = Promise.resolve();
  #underWay = 0;

  /**
   * Makes change `number` by `work` after those before it, unless it has begun. Returns its outcome. `work` returns the
   * sentence for the operator; a UserError is an outcome, too.
   */
  ask(number: number, work: () => Promise<string>): Promise<Outcome> {
    const known = this.#outcomes.get(number);
    if (known !== undefined) return known;
    if (this.#underWay === MOST) {
      const line = `${MOST} reloads and upgrades are waiting; ask again later`;
      return Promise.resolve({ ok: false, status: Exit.usage, line });
    }
    return this.add(number, this.#last.then(work));
  }

  /** Adds a change that has begun: an upgrade, by the program before. */
  add(number: number, done: Promise<string>): Promise<Outcome> {
    this.#underWay++;
    const outcome = outcomeOf(done).finally(() => this.#underWay--);
    this.#last = outcome;
    this.#outcomes.set(number, outcome);
    if (this.#outcomes.size > MOST) this.#outcomes.delete(this.#outcomes.keys().next().value!);
    return outcome;
  }
}

async function outcomeOf(done: Promise<string>): Promise<Outcome> {
  try {
    return { ok: true, line: await done };
  } catch (error) {
    // Whatever failed, nothing has changed.
    const status = error instanceof UserError ? Exit.usage : Exit.failure;
    return { ok: false, status, line: messageOf(error) };
  }
}
