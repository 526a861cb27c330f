// SPDX-License-Identifier: Apache-2.0
/**
 * The master: the main process of `tegula run`. It holds privileges and descriptors, starts the
 * appliance and the apps confined, and watches them. To replace them it starts a successor beside them,
 * which takes over when it is ready; if it fails before, nothing has changed. It handles no packets.
 *
 * A *warm* handover keeps regions, rings and sockets, and the successor maps them. A *cold* one,
 * for another shape, creates new ones and binds them when the predecessor has ended; meanwhile the
 * kernel's sockets serve. The first start is a cold handover without a predecessor.
 */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Exit, messageOf, selfCommand, UserError, VERSION } from "../cli/command.ts";
import { Watcher } from "../ffi/host.ts";
import { describeErrno, SystemError } from "../ffi/library.ts";
import { type KnownProcess, openOf } from "../ffi/process.ts";
import { u32 } from "../ffi/region.ts";
import { randomSeed } from "../netbase/hash.ts";
import type { Outcome } from "../tiles/runtime/control.ts";
import { countersOf } from "../tiles/runtime/counters.ts";
import type { Request } from "../tiles/runtime/handed.ts";
import { AppError, Level } from "../tiles/runtime/log.ts";
import { portsServed } from "../tiles/runtime/plan.ts";
import { RestartPause, within } from "../tiles/runtime/tile.ts";
import {
  APP_REFUSALS,
  type ApplianceSetup,
  KEPT_REGIONS,
  REGIONS_VERSION,
  regionsOf,
} from "../tiles/runtime/wiring.ts";
import { announcer } from "./announcer.ts";
import { type AppFiles, openAppFiles, type StagedApp } from "./app_files.ts";
import type { KnownApp } from "./app_process.ts";
import { ApplianceError } from "./appliance_process.ts";
import {
  attachAll,
  type Attachment,
  type AttachmentState,
  descriptorsOf,
  watchRings,
} from "./attachment.ts";
import { leave, type MainLibraries } from "./confinement.ts";
import { isAnnounced } from "./health.ts";
import {
  type Holdings,
  type HoldingsState,
  type InventoryState,
  openHoldings,
} from "./inventory.ts";
import { log, logBy } from "./log.ts";
import * as preflight from "./preflight.ts";
import { openReport, type Report, type ReportState } from "./report.ts";
import { discard, type Handover, Retry, type Run, type Serving, successors } from "./successor.ts";

/** The state that a master passes to its next program, as plain data. */
export interface Carried extends HoldingsState {
  readonly regionsVersion: number;
  readonly run: Run;
  readonly setup: ApplianceSetup;
  readonly inventory: InventoryState;
  readonly fresh: InventoryState;
  readonly staged: readonly StagedApp[];
  readonly attachments: readonly {
    readonly name: string;
    readonly ifindex: number;
    readonly queues: number;
    readonly state: AttachmentState;
  }[];
  readonly appliance: KnownProcess;
  readonly apps: readonly (readonly [name: string, app: KnownApp])[];
  /** Folder of the apps' files, and the descriptor that locks it; below 0 without one. */
  readonly folder: string;
  readonly lock: number;
  readonly health: ReportState;
  /** The operator's number for this upgrade. */
  readonly number: number;
  /** All descriptors that were kept open. */
  readonly descriptors: readonly number[];
}

const NOT_NOW = "it is starting or stopping; try again when its log has the line 'ready'";
/** Time limits of an appliance: to leave, to drain and end, and to start beside another. */
const LEAVE_MILLIS = 1000;
const STOP_MILLIS = 1500;
const READY_MILLIS = 60_000;
/** The interval of polls for recreated interfaces, and the longest pause after failures. */
const [POLL_MILLIS, LONGEST_POLL_MILLIS] = [1000, 300_000];
/** Time from a start or handover until free memory is given back. Predecessors have ended by then. */
const TRIM_MILLIS = 6000;

/** Runs until a signal ends it. Returns the exit status. `plan` reads the configuration again. */
export async function serve(
  first: Run | Carried,
  how: {
    plan: (before: Run) => Promise<Run>;
    libraries: MainLibraries;
    /** The arguments of this program. */
    args: readonly string[];
  },
): Promise<number> {
  logBy(how.libraries.host.log);
  const ending = Promise.withResolvers<number>();
  const master = new Master(first, how);
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
  readonly #files: AppFiles;
  readonly #holdings: Holdings;
  /** Interfaces on which zero-copy has failed. */
  readonly #copyOnly = new Set<string>();
  /** The time of the next poll for recreated interfaces, and the pause after a failure. */
  #nextPoll = 0;
  #pollPause = POLL_MILLIS;
  /** Settles when the last predecessor has ended. */
  #leaving: Promise<unknown> = Promise.resolve();
  #serving?: Serving;
  /** The successor while it starts. */
  #starting?: Serving;
  #ringWatch?: ReturnType<typeof watchRings>;
  /** The attachments whose frames go to the net tiles. */
  #served?: readonly Attachment[];
  #booted = false;
  /** Settles when the current change is complete. Changes are serialised. */
  #change: Promise<unknown> = Promise.resolve();
  readonly #report: Report;
  readonly #successors: ReturnType<typeof successors>;
  readonly #changes = new Changes();
  readonly #announcer = announcer();
  /** Whether a signal requested a reload that has not begun. */
  #hungUp = false;
  /** Rejects when nothing serves and all retries failed. */
  readonly failed = Promise.withResolvers<never>();
  readonly #restartPause = new RestartPause();
  /** Whether it drains before it ends. */
  #isEnding = false;
  #stopping = false;
  readonly #timers: ReturnType<typeof setInterval>[] = [];
  #trimming?: ReturnType<typeof setTimeout>;

  constructor(first: Run | Carried, { libraries, plan, args }: Parameters<typeof serve>[1]) {
    this.#libraries = libraries;
    this.#plan = plan;
    this.#args = args;
    const [run, carried] = "appliance" in first ? [first.run, first] : [first, undefined];
    this.#holdings = openHoldings(libraries, { user: run.config.user, before: carried });
    this.#files = openAppFiles({
      ...{ host: libraries.host, processes: libraries.processes },
      uid: this.#holdings.uid(0),
      ...(carried && { folder: carried.folder, lock: carried.lock }),
    });
    const { own } = this.#holdings;
    for (const [name, bytes] of KEPT_REGIONS) own.ensure(name, bytes);
    libraries.observer.start(u32(own.view(APP_REFUSALS, { writable: true })));
    this.#report = openReport(libraries, this.#holdings, {
      before: carried?.health,
      changed: (health) => this.#announcer.set(isAnnounced(health)),
    });
    this.#successors = successors({
      ...{ libraries, watcher: new Watcher(libraries.host, libraries.tile) },
      ...{ holdings: this.#holdings, files: this.#files, report: this.#report },
      ask: (what, number) => this.#ask(what, number),
      appChanged: () => this.#checkHealth(),
    });
    this.#timers.push(setInterval(() => {
      this.#report.nameRefusedCalls();
      this.#report.measure(this.#serving);
      this.#checkHealth();
      this.#announcer.update();
    }, POLL_MILLIS));
    // The previous program's report is valid until this one has observations.
    if (carried === undefined) this.#checkHealth();
    this.failed.promise.catch(() => {});
  }

  /** Starts to serve. Throws UserError. */
  async start(run: Run): Promise<void> {
    const { host } = this.#libraries;
    const { config, answering, addresses } = run;
    this.#announcer.start(config.announce);
    await this.#exclusively(() => this.#handOver({ run, isFirst: true }));
    this.#report.loaded(run);
    this.#startTimers();
    const asked = addresses.control === null ? "" : `; asked at ${addresses.control}`;
    log(`ready: ${config.interfaces.join(" ")} answering ${answering}${asked}`, Level.notice);
    host.notify("READY=1");
  }

  /** Starts the timers of a serving master: polls for interfaces, and systemd's watchdog. */
  #startTimers(): void {
    this.#booted = true;
    this.#checkHealth();
    this.#trimLater();
    this.#timers.push(setInterval(() => void this.#pollInterfaces(), POLL_MILLIS));
    // For sd_watchdog_enabled(3).
    const micros = Number(Deno.env.get("WATCHDOG_USEC") ?? 0);
    if (micros <= 0) return;
    this.#timers.push(setInterval(() => this.#libraries.host.notify("WATCHDOG=1"), micros / 2000));
  }

  #trimLater(): void {
    clearTimeout(this.#trimming);
    this.#trimming = setTimeout(() => {
      collectGarbage();
      this.#libraries.tile.trim();
    }, TRIM_MILLIS);
  }

  // Reload and upgrade.

  /** Reloads because of a signal. Signals before the reload begins share it. */
  hangUp(): void {
    if (this.#hungUp) return;
    this.#hungUp = true;
    void this.change("reload", randomSeed()).finally(() => this.#hungUp = false);
  }

  /** Reads the configuration and serves it. Returns a sentence. Throws UserError if nothing has changed. */
  reload(): Promise<string> {
    return this.#exclusively(async () => {
      this.#hungUp = false;
      if (this.#serving === undefined || this.#stopping) throw new UserError(NOT_NOW);
      return `reloaded: ${await this.#changeTo(await this.#plan(this.#serving.run))}`;
    });
  }

  /** Hands over to a successor that serves `run`. Returns a sentence. Throws UserError if nothing has changed. */
  async #changeTo(run: Run, { isCold = false } = {}): Promise<string> {
    const before = this.#serving!;
    const next = await this.#handOver({ run, before, isCold });
    this.#report.loaded(run);
    this.#checkHealth();
    this.#trimLater();
    const how = isByKernel(next)
      ? "the kernel's sockets serve"
      : next.inventory === before.inventory
      ? "the rings were taken over"
      : "AF_XDP was opened again";
    return `answering ${run.answering}; ${how}`;
  }

  /**
   * Executes the installed program in this process. Children and descriptors stay, and the new
   * program replaces them by a handover. Throws UserError if nothing has changed.
   */
  async upgrade(number: number): Promise<never> {
    if (!this.#booted || this.#stopping) throw new UserError(NOT_NOW);
    return await this.#exclusively(async () => {
      const { host, observer, regions } = this.#libraries;
      const [program, ...flags] = selfCommand();
      let tried: Deno.CommandOutput;
      try {
        tried = await new Deno.Command(program, { args: [...flags, "--version"], stdin: "null" })
          .output();
      } catch (error) {
        throw new UserError(`no program is installed: ${messageOf(error)}`);
      }
      if (!tried.success) {
        const [line] = new TextDecoder().decode(tried.stderr).split("\n");
        throw new UserError(`the program that is installed does not start: ${line}`);
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
      throw new UserError(`cannot execute ${program}: ${describeErrno(failed)}`);
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
      throw new UserError(`${what} is being replaced; try again`);
    }
    const { folder, lock } = this.#files;
    return {
      regionsVersion: REGIONS_VERSION,
      ...{ run, setup, number },
      health: this.#report.state,
      ...this.#holdings.state,
      inventory: inventory.state,
      fresh: fresh.state,
      staged,
      attachments: states as Carried["attachments"],
      appliance: appliance.process,
      apps: known.map(([name, app]) => [name, app!.known]),
      ...{ folder, lock },
      descriptors: [
        ...this.#holdings.descriptors,
        ...inventory.descriptors,
        ...fresh.descriptors,
        ...states.flatMap(({ state }) => descriptorsOf(state!)),
        ...openOf(appliance.process),
        ...lock >= 0 ? [lock] : [],
        ...known.flatMap(([, app]) => app!.descriptors),
      ],
    };
  }

  /** Adopts the state of the previous program, and then replaces appliance and apps. */
  async goOn(carried: Carried): Promise<void> {
    const { run, number } = carried;
    this.#libraries.host.closeOnExec(carried.descriptors);
    const serving = this.#successors.adopt(carried);
    this.#serving = serving;
    this.#watch(serving);
    this.#watchRings(serving.attachments);
    this.#served = serving.attachments;
    this.#report.rememberXdp(serving);
    this.#startTimers();
    // Only after the health is known: otherwise announced prefixes would be withdrawn.
    this.#announcer.configure(run.config.announce);
    const isCold = carried.regionsVersion !== REGIONS_VERSION;
    await this.#changes.add(
      number,
      this.#exclusively(() =>
        this.#told(
          async () =>
            `upgraded to ${VERSION}: ${await this.#changeTo(await this.#plan(run), { isCold })}`,
          () => "the program was upgraded, but the appliance and the apps were not replaced",
        )
      ),
    );
  }

  /** Makes a change for an operator or a signal, once for each number. */
  change(what: "reload" | "upgrade", number: number): Promise<Outcome> {
    return this.#changes.ask(number, () =>
      this.#told(
        () => what === "upgrade" ? this.upgrade(number) : this.reload(),
        (error) => `${what} failed${error instanceof UserError ? ", nothing has changed" : ""}`,
      ));
  }

  /** Makes a change, and logs the sentence that `work` returns, or the failure in words of `failed`. */
  async #told(
    work: () => Promise<string>,
    failed: (error: unknown) => string,
  ): Promise<string> {
    try {
      const line = await work();
      log(line, Level.notice);
      return line;
    } catch (error) {
      this.#report.refused();
      this.#checkHealth();
      log(`${failed(error)}: ${messageOf(error)}`, Level.error);
      throw error;
    }
  }

  /** Calls `end` after the configured draining time, or immediately if called again. */
  drainFirst(end: () => void): void {
    const { drain_seconds: seconds = 0 } = this.#serving?.run.config ?? {};
    if (seconds === 0 || this.#isEnding) return end();
    this.#isEnding = true;
    this.drain(true);
    log(`it ends in ${seconds} s; a second signal ends it immediately`, Level.notice);
    setTimeout(end, 1000 * seconds);
  }

  /** Begins or ends draining: it serves, but reports that it is not ready. */
  drain(isDraining: boolean): Outcome {
    this.#report.drain(isDraining);
    this.#checkHealth();
    const line = isDraining ? "draining: still serving, but not ready" : "no longer draining";
    log(line, Level.notice);
    return { ok: true, line };
  }

  #ask(what: Request, number: number): Outcome | Promise<Outcome> {
    return what === "drain" || what === "undrain"
      ? this.drain(what === "drain")
      : this.change(what, number);
  }

  #checkHealth(): void {
    this.#report.check(this.#serving, { isStarting: !this.#booted });
  }

  // Handover.

  /** Runs `work` after all earlier work. */
  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#change.then(work);
    this.#change = result.catch(() => {});
    return result;
  }

  /**
   * Starts a successor beside the serving appliance, and lets it take over:
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
            `the rings cannot be taken over (${error.message}): AF_XDP is opened again`,
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
    const { before, isFirst } = handover;
    // A predecessor that has left keeps sockets and ports open until it ends.
    await this.#leaving;
    this.#checkGoesOn();
    before?.appliance.send({ type: "changing", changing: true });
    let next: Serving | undefined;
    try {
      next = this.#starting = await this.#successors.start(handover);
      await this.#untilReady(next, isFirst ? Infinity : READY_MILLIS);
      // If the predecessor has no AF_XDP, attach before it leaves.
      const isFree = before === undefined || isByKernel(before) && !isByKernel(next);
      if (isFree) this.#attach(next);
    } catch (error) {
      const isCold = next?.inventory !== before?.inventory;
      if (next !== undefined) await this.#endSuccessor(next, { isCold });
      // Without a predecessor the next attempt reuses open sockets.
      if (before !== undefined) this.#release(before);
      before?.appliance.send({ type: "changing", changing: false });
      throw error;
    } finally {
      this.#starting = undefined;
    }
    // From here on the handover cannot be undone.
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
      throw new Error(
        `the successor failed after it took over, and is restarted: ${messageOf(error)}`,
      );
    }
  }

  /** Closes all resources that `serving` does not need. */
  #release(serving?: Serving): void {
    for (const app of this.#holdings.release(serving)) this.#report.forget(app);
  }

  /** Throws UserError if it is stopping. */
  #checkGoesOn(): void {
    if (this.#stopping) throw new UserError("it was told to stop", Exit.failure);
  }

  /** Resolves when the appliance and all changed apps are ready. */
  async #untilReady({ setup, appliance, changed }: Serving, millis: number): Promise<void> {
    this.#checkGoesOn();
    const ready = Promise.all([
      appliance.ready,
      ...changed.map(({ process, plan }) =>
        process.prepare(plan, { warmUp: setup.hasPredecessor })
      ),
    ]);
    // A ready appliance may end while apps are being started.
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
      const { appliance } = before;
      const hasLeft = !appliance.over && await appliance.leave(LEAVE_MILLIS);
      if (!hasLeft) await appliance.kill("it did not leave in time");
      this.#leaving = appliance.ended;
    } else if (before !== undefined) {
      await this.#stopServing(before);
      if (!isByKernel(before)) this.#attachAgain(next);
    }
    if (before !== undefined) {
      this.#keepCounts(before, next);
      before.fresh.close();
    }
    next.appliance.send({ type: "go" });
    apps ??= takeOverApps(next);
    await next.appliance.running;
    // At the first start a failure of an app is an error of the configuration.
    if (!this.#booted) await apps;
    this.#serve(next);
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

  /** Directs frames to the net tiles, which all run, and closes unused resources. */
  #serve(next: Serving): void {
    const { attachments, setup, changed } = next;
    if (this.#served !== attachments) {
      for (const attachment of attachments) attachment.serve();
      this.#watchRings(attachments);
      this.#served = attachments;
    }
    for (const { name } of setup.apps.filter(({ inline }) => inline)) {
      this.#report.logOnce(
        `${name}: runs inside the net tiles, and has their privileges`,
        Level.info,
      );
    }
    this.#announcer.configure(next.run.config.announce);
    this.#report.rememberXdp(next);
    this.#report.measure(next);
    this.#notifyAttached();
    this.#release(next);
    for (const { process } of changed) this.#report.lack("apps", process);
  }

  /** Attaches. If this fails, the kernel's sockets serve, and it is retried. Throws Retry. */
  #attachAgain(next: Serving): void {
    try {
      this.#attach(next);
    } catch (error) {
      // The reason for the kernel's sockets has been logged.
      if (!(error instanceof Retry && error.changes.isSocketsOnly)) {
        log(
          `AF_XDP cannot be opened again, the kernel's sockets serve: ${messageOf(error)}`,
          Level.error,
        );
      }
      for (const { name } of next.attachments) this.#successors.tried.delete(name);
      throw new Retry(messageOf(error), { before: undefined, isSocketsOnly: true });
    }
  }

  /**
   * Attaches the programs and binds the sockets, in the best mode that works for all interfaces, and logs the mode and
   * its reason. Throws UserError. Throws Retry if the appliance needs other sockets, or only the kernel's.
   */
  #attach({ run: { config }, attachments, setup }: Serving): void {
    if (attachments.length === 0) {
      for (const name of config.interfaces) {
        if (config.provider === "socket") log(`${name}: kernel sockets (as configured)`);
      }
      return;
    }
    const names = attachments.map(({ name }) => name).join(", ");
    log(`attaching XDP to ${names}; some drivers restart the link for that`);
    let opened: ReturnType<typeof attachAll>;
    try {
      opened = attachAll(attachments, this.#copyOnly);
    } catch (error) {
      preflight.fallBack(error, config);
      preflight.requireSockets(portsServed(setup.apps), setup.sockets);
      throw new Retry(messageOf(error), { isSocketsOnly: true });
    }
    if (opened === null) throw new Retry("its sockets have to be created again", {});
    opened.forEach(({ mode, reason }, i) => log(`${attachments[i].name}: ${mode} (${reason})`));
    if (config.busyPoll) preflight.pollBusily(attachments, this.#libraries.xskSetup);
  }

  // Faults.

  #watch(serving: Serving): void {
    this.#restartPause.started();
    serving.appliance.ended.then((error) => {
      if (this.#serving === serving) this.#restartPause.ended();
      if (this.#booted && !this.#stopping && this.#serving === serving) this.#lost(serving, error);
    });
  }

  /** Replaces an appliance that ended by itself. Datagrams wait in its rings. */
  #lost(serving: Serving, { message }: ApplianceError): void {
    const pause = this.#restartPause.next({ isFirstImmediate: true });
    this.#report.restarted(null);
    this.#checkHealth();
    const when = pause === 0 ? "" : ` in ${pause} ms`;
    log(`appliance: ${message}; starting a successor${when}`, Level.error);
    setTimeout(() => {
      void this.#exclusively(async () => {
        if (this.#stopping || this.#serving !== serving) return;
        try {
          await this.#handOver({ run: serving.run, before: serving });
          log("appliance: the successor serves", Level.notice);
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
      .filter((name) => ![0, this.#successors.tried.get(name)].includes(host.ifindex(name)));
    if (again.length === 0) return;
    this.#nextPoll = Infinity;
    await this.#exclusively(async () => {
      if (this.#stopping || this.#serving !== serving) return;
      log(`${again.join(", ")}: recreated; AF_XDP is opened again`, Level.notice);
      await this.#handOver({ run: serving.run, before: serving });
    }).then(() => {
      this.#pollPause = POLL_MILLIS;
      this.#nextPoll = 0;
    }, (error) => {
      this.#pollPause = Math.min(2 * this.#pollPause, LONGEST_POLL_MILLIS);
      this.#nextPoll = performance.now() + this.#pollPause;
      for (const name of again) this.#successors.tried.delete(name);
      const pause = this.#pollPause / 1000;
      log(
        `${
          again.join(", ")
        }: the kernel's sockets keep serving, AF_XDP is retried in ${pause} s: ` +
          messageOf(error),
        Level.error,
      );
    });
  }

  #watchRings(attachments: readonly Attachment[]): void {
    const { xskSetup, host } = this.#libraries;
    this.#ringWatch?.stop();
    this.#ringWatch = watchRings(attachments, {
      xskSetup,
      exists: host.exists,
      lost: (line) => {
        log(line, Level.error);
        this.#notifyAttached();
      },
    });
  }

  counters(): Record<string, Record<string, number>> {
    return countersOf((this.#serving ?? this.#starting)?.tiles ?? []);
  }

  #notifyAttached(): void {
    const { appliance, attachments } = this.#serving!;
    appliance.send({ type: "attached", attached: attachments.map(({ attached }) => attached) });
    this.#checkHealth();
  }

  /** Returns the traffic to the kernel, lets all processes drain, and ends them. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    // Notify observers before anything ends.
    this.#report.stop();
    this.#checkHealth();
    for (const timer of this.#timers) clearInterval(timer);
    clearTimeout(this.#trimming);
    this.#ringWatch?.stop();
    // Abandon a starting successor. One that takes over finishes first.
    await this.#starting?.appliance.kill("it is told to stop");
    await this.#change;
    if (this.#serving !== undefined) await this.#stopServing(this.#serving);
    this.#release();
    this.#files.close();
  }
}

/** Whether only the kernel's sockets serve. */
function isByKernel({ attachments }: Serving): boolean {
  return attachments.length === 0;
}

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

// Reloads and upgrades that operators request: one after the other, and each once. An operator
// loses the connection when the status tile is replaced. Its client then repeats the request to the
// next one with the same number.

/** The number of remembered outcomes. A change in progress is never forgotten. */
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

  /** Adds a change that has begun: an upgrade, by the previous program. */
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
    // After a UserError nothing has changed.
    const status = error instanceof UserError ? Exit.usage : Exit.failure;
    return { ok: false, status, line: messageOf(error) };
  }
}

/** Collects garbage, which V8 keeps until something is allocated. Takes some ten milliseconds. */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  // Only contexts created after setting the flag have the function.
  runInNewContext("gc()");
}
