// SPDX-License-Identifier: Apache-2.0
/**
 * The master's side of an app's process: it starts the process confined, reads and checks its messages, watches it, and
 * restarts it. The pidfd tells whether it lives and how it ended, and the tile's region whether it makes progress.
 * Nothing that it does affects another process.
 *
 *     start ── ready ── go ── running ─┬─ ended: a pause, and a restart on the same regions
 *                                      └─ leave ── ended ── go of the successor that is ready
 *
 * A restarted process continues at the cursors in the links, so waiting datagrams are answered. If a process hung, or ended
 * before its first burst, a waiting datagram may be the reason, and its successor skips them.
 */

import { exists, type Watcher } from "../ffi/host.ts";
import { E2BIG, libraryPath, programModule, SystemError } from "../ffi/library.ts";
import {
  type ConfinedProcess,
  type Ending,
  type KnownProcess,
  type Processes,
  RUN_FLAGS,
  SIGNALS,
  V8_FLAGS,
} from "../ffi/process.ts";
import type { Regions } from "../ffi/region.ts";
import type { Observer, TileLibrary } from "../ffi/tile.ts";
import type { AppOrder, AppReport, ProcessSetup } from "../tiles/app/process.ts";
import { CONTROL_BYTES, ControlWriter } from "../tiles/runtime/control.ts";
import { APP } from "../tiles/runtime/counters.ts";
import { isText, type Shapes } from "../tiles/runtime/handed.ts";
import {
  AppError,
  bounded,
  firstLine,
  inName,
  isLevel,
  Level,
  type Log,
  sentenceOf,
} from "../tiles/runtime/log.ts";
import { type Grants, permissionFlags } from "../tiles/runtime/plan.ts";
import { RestartPause, type TileReader } from "../tiles/runtime/tile.ts";
import type { AppFiles, StagedApp } from "./app_files.ts";
import { Child } from "./child.ts";
import { type Order, orderOf } from "./inventory.ts";
import { prefix } from "./log.ts";
import { residentMib, ticks } from "./proc.ts";

/** The plan of an instance of an app. */
export interface AppProcessPlan
  extends Pick<ProcessSetup, "name" | "service" | "shape" | "nets" | "spinTurns"> {
  readonly grants: Grants;
  /** The limit of its own memory, in MiB. */
  readonly memoryMib: number;
  /** Bytes of its region `state NAME`, if it has one. */
  readonly stateBytes?: number;
  /** Its user, if the master may choose. */
  readonly uid: number;
}

/** The environment of an app's process. */
export interface AppProcessParts {
  readonly processes: Processes;
  readonly regions: Pick<Regions, "createShared" | "mapShared" | "close">;
  readonly observer: Pick<Observer, "hear">;
  /** Its slot of the observer's counters. */
  readonly slot: number;
  readonly tileLibrary: Pick<TileLibrary, "wake">;
  readonly watcher: Pick<Watcher, "watch" | "forget">;
  readonly files: Pick<AppFiles, "stage" | "discard" | "root">;
  /**
   * The master's descriptor by its name in `handed.ts`, for readers or for the writer, with the bytes of a region, else
   * 0. `bytes`: of a state, which may have another size in a successor. Throws RangeError.
   */
  descriptor(
    name: string,
    readOnly: boolean,
    bytes?: number,
  ): { readonly fd: number; readonly bytes: number };
  /** The region `tile NAME`. */
  readonly tile: TileReader;
  /** Logs whole lines, under the app's name. */
  readonly log: Log;
  /** It ended by itself, is restarted, or runs again. */
  changed(what: "ended" | "restarts" | "runs"): void;
}

/** How often a process is polled. */
const POLL_MILLIS = 500;
/** Polls in a row without progress until it is hung. */
const HUNG_POLLS = 10;
/** Polls until a long start is logged, and until it is killed. */
const [LATE_POLLS, START_POLLS] = [10, 600];
/** How long it may take to leave. */
const LEAVE_MILLIS = 1000;
/** Messages that a process may send in a second. */
const MESSAGES_A_SECOND = 2000;
/** Memory of Deno outside of V8's heap. */
const BESIDE_HEAP_MIB = 40;
/**
 * The kernel's limit is this much, or a quarter, above the app's limit. Otherwise an app that catches its RangeError
 * could stay just below the limit that the master watches.
 */
const LEAST_MARGIN_MIB = 32;
/** Files that name lookups read. */
const NAME_FILES = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf"];

const SIGKILL = 9;
/** What a child may report. */
const REPORTS: Shapes<AppReport> = {
  loading: {},
  ready: {},
  running: {},
  left: {},
  log: { line: isText, level: isLevel },
  failed: { message: isText },
};

type Stage = "loading" | "ready" | "started" | "running";

/** A process as plain data: for the program that the master becomes. */
export interface KnownApp {
  readonly plan: AppProcessPlan;
  readonly staged: StagedApp;
  readonly process: KnownProcess;
  /** The writable descriptor of its control region. */
  readonly control: number;
}

/** One process, from its start to its end. */
class AppChild extends Child<AppOrder, AppReport, string> {
  stage: Stage;
  readonly plan: AppProcessPlan;
  readonly #parts: AppProcessParts;
  readonly #controlFd: number;
  readonly #control: ControlWriter;
  readonly #eventfd: number;
  /** Where its copies are, if it was started from any: its messages name the files that they are of. */
  #folder = "";
  readonly #log: (level: number | undefined, line: string) => void;
  /** Why it was killed, or what failed by its own message. */
  #reason?: string;
  #isKilled = false;
  /** Whether somebody else sent SIGKILL: an operator, or the kernel without memory. */
  #isKilledByOthers = false;
  /** Whether it hung in a burst, which its successor has to skip. */
  #isHung = false;
  #isLeaving = false;
  /** The tile's requests when it was told to go; -1 if that was before this program. */
  #doneBefore = -1;
  #progress = -1;
  #heard = 0;
  #stalled = 0;
  #age = 0;
  /** When the second began in which `#received` messages came. */
  #begun = -Infinity;
  #received = 0;

  /** Starts one. Throws SystemError, AppError. */
  static start(plan: AppProcessPlan, staged: StagedApp, parts: AppProcessParts): AppChild {
    const { regions, processes, files: { root } } = parts;
    const { name, service, shape, nets, spinTurns, grants: { clock, keep } } = plan;
    const control = regions.createShared(`control ${name}`, CONTROL_BYTES);
    let order: Order | undefined;
    try {
      const handings = namesOf(plan).map(([each, readOnly, bytes]) => (
        { ...parts.descriptor(each, readOnly, bytes), name: each, readOnly }
      ));
      order = orderOf<ProcessSetup>(regions, [
        { name: `control ${name}`, fd: control.readOnly, bytes: CONTROL_BYTES, readOnly: true },
        ...handings,
      ], {
        ...{ name, shape, nets, spinTurns, clock, keep },
        service: { ...service, module: staged.module },
      });
      const process = processes.start({
        ...optionsOf(plan, staged, root),
        args: argumentsOf(plan, staged, { root, setupBytes: order.bytes }),
        descriptors: order.descriptors,
      });
      const child = new AppChild({ plan, process, control: control.writable }, "loading", parts);
      child.#folder = staged.folder ?? "";
      return child;
    } catch (error) {
      regions.close(control.writable);
      if (!(error instanceof SystemError && error.errno === E2BIG)) throw error;
      throw new AppError(
        name,
        "what [apps] grants it by name is more than a command line holds; grant the folder",
      );
    } finally {
      regions.close(control.readOnly);
      order?.close();
    }
  }

  /** Takes a process that has been started. */
  constructor(
    { plan, process, control }: {
      plan: AppProcessPlan;
      process: ConfinedProcess;
      control: number;
    },
    stage: Stage,
    parts: AppProcessParts,
  ) {
    const { regions, observer, watcher, log } = parts;
    const { name } = plan;
    super(process, watcher, REPORTS);
    this.plan = plan;
    this.stage = stage;
    this.#parts = parts;
    this.#controlFd = control;
    this.#log = bounded((line, level) => log(inName(name, line), level));
    const { listener, words } = process;
    // Its standard error has only last words of V8 or libc.
    observer.hear({ name: `${prefix(Level.error)}${name}`, slot: parts.slot, listener, words });
    this.#eventfd = parts.descriptor(`eventfd ${name}`, false).fd;
    this.#control = new ControlWriter(regions.mapShared(control, CONTROL_BYTES));
  }

  /** Its state for the program that the master becomes. */
  known(staged: StagedApp): KnownApp {
    return { plan: this.plan, staged, process: this.knownProcess, control: this.#controlFd };
  }

  /** Walls that the system cannot build around it, a clause for each. */
  get missing(): readonly string[] {
    return this.process.missing;
  }

  /** Whether it hung, or ended after `go` without a burst; and if so, whether by itself. */
  get wasBarren(): { readonly byItself: boolean } | null {
    const wasToGo = this.stage === "started" || this.stage === "running";
    if (!wasToGo || (!this.#isHung && this.#done !== this.#doneBefore)) return null;
    return { byItself: !this.#isKilledByOthers };
  }

  /** Requests that the tile has handled, in all its processes. */
  get #done(): number {
    return this.#parts.tile.counters[APP.index.requests];
  }

  /** Tells it to take the regions. `handedOver`: it answers what waits in the links. */
  go(handedOver: boolean): void {
    this.stage = "started";
    this.#doneBefore = this.#done;
    this.send({ type: "go", handedOver });
  }

  /** Tells its loop to end after its turn. */
  leave(): void {
    this.#isLeaving = true;
    this.#control.leave();
    this.#parts.tileLibrary.wake(this.#eventfd);
  }

  override kill(reason?: string): void {
    if (this.over || this.#isKilled) return;
    this.#isKilled = true;
    this.#reason = reason;
    this.process.kill();
  }

  protected override take(report: AppReport): void {
    const now = performance.now();
    if (now - this.#begun >= 1000) [this.#begun, this.#received] = [now, 0];
    if (++this.#received > MESSAGES_A_SECOND) return this.kill("it floods its channel");
    const { type } = report;
    if (type === "log") return this.#log(report.level, report.line);
    if (type === "failed") {
      this.#reason ??= firstLine(report.message).replaceAll(`${this.#folder}/`, "/");
      return;
    }
    this.#heard++;
    // Its successor waits, and SIGKILL is quicker.
    if (type === "left" && this.#isLeaving) return this.kill("it was told to end");
    if (type === "ready" && this.stage === "loading") {
      this.stage = "ready";
      this.atReady.resolve();
    } else if (type === "running" && this.stage === "started") {
      this.stage = "running";
      this.atRunning.resolve();
    } else if (type === "ready" || type === "running") {
      this.kill(`it sent a message of type ${type} out of turn`);
    }
  }

  protected override end(ending: Ending, failure?: string) {
    this.#reason ??= failure;
    this.#parts.regions.close(this.#controlFd);
    this.#isKilledByOthers = ending.signal === SIGKILL && !this.#isKilled;
    const how = this.#sentence(ending);
    return { how, error: new AppError(this.plan.name, this.#reason ?? how) };
  }

  #sentence({ status, signal }: Ending): string {
    if (this.#isKilled) return `killed: ${this.#reason ?? "it was told to end"}`;
    if (this.#reason !== undefined) return `ended: ${this.#reason}`;
    if (signal !== 0) {
      const { name, says } = SIGNALS[signal] ?? { name: `signal ${signal}` };
      return `killed by ${name}${says === undefined ? "" : ` (${says})`}`;
    }
    return status === 0 ? "ended: it left" : `ended: it left with status ${status}`;
  }

  /** Checks its progress and memory. Called every `POLL_MILLIS`. */
  poll(): void {
    if (this.over) return;
    this.#control.pulse();
    this.#age++;
    const { tile, log } = this.#parts;
    const { name, memoryMib } = this.plan;
    const used = residentMib(this.pid);
    if (used > memoryMib) {
      return this.kill(`its memory is ${Math.round(used)} MiB, beyond its ${memoryMib}`);
    }
    const isRunning = this.stage === "running";
    // Between `go` and its loop there is little to do, so processor time does not count as progress.
    const progress = isRunning
      ? tile.burst + tile.sleepSequence + tile.counters[APP.index.answers]
      : this.#heard + (this.stage === "started" ? 0 : ticks(this.pid));
    // A sleeping tile wakes every second, which changes its region.
    const lives = progress !== this.#progress || this.stage === "ready";
    this.#progress = progress;
    this.#stalled = lives ? 0 : this.#stalled + 1;
    if (this.#stalled >= HUNG_POLLS) {
      this.#isHung = isRunning;
      this.kill(isRunning ? "it hangs" : "its start hangs");
    }
    if (this.stage !== "loading") return;
    if (this.#age === LATE_POLLS) log(inName(name, "its start has not ended yet"), Level.warning);
    if (this.#age >= START_POLLS) this.kill("it did not start in time");
  }
}

/** The descriptors of an app's process: their names, whether they are read-only, and a state's size. */
function namesOf(
  { name, nets, shape, stateBytes }: AppProcessPlan,
): [name: string, readOnly: boolean, bytes?: number][] {
  return [
    [`tile ${name}`, false],
    [`metrics ${name}`, false],
    [`eventfd ${name}`, false],
    ...(stateBytes === undefined
      ? []
      : [[`state ${name}`, false, stateBytes] satisfies [string, boolean, number]]),
    ...nets.flatMap((net): [string, boolean][] => [
      [`link ${net} to ${name}`, true],
      [`link ${name} to ${net}`, false],
      [`tile ${net}`, true],
      [`eventfd ${net}`, false],
      // For payloads that are read in the UMEM.
      ...(shape.requestBytes === undefined
        ? [[`umem ${net}`, true] satisfies [string, boolean]]
        : []),
    ]),
  ];
}

function optionsOf(
  { name, grants, memoryMib, uid }: AppProcessPlan,
  staged: StagedApp,
  root: string,
) {
  const { read, write, net, env, clock } = grants;
  const variables = env.map((each) => [each, Deno.env.get(each)] as const)
    .filter((pair): pair is [string, string] => pair[1] !== undefined);
  return {
    name,
    env: {
      TZ: new Intl.DateTimeFormat().resolvedOptions().timeZone,
      ...Object.fromEntries(variables),
      ...(staged.denoDir !== undefined && { DENO_DIR: staged.denoDir }),
    },
    read: [
      ...[programModule("", root), libraryPath(root)],
      ...staged.read,
      ...(staged.denoDir === undefined ? [] : [staged.denoDir]),
      ...read,
      ...write,
      ...(net.length > 0 ? NAME_FILES.filter(exists) : []),
    ],
    write,
    net: net.length > 0,
    clock,
    uid,
    memoryMib: memoryMib + Math.max(LEAST_MARGIN_MIB, memoryMib >> 2),
  };
}

function argumentsOf(
  { name, grants, memoryMib }: AppProcessPlan,
  staged: StagedApp,
  { root, setupBytes }: { root: string; setupBytes: number },
): string[] {
  const { read, write, net, env } = grants;
  const permissions = {
    read: [programModule("", root), ...staged.read, ...staged.absent ?? [], ...read],
    ffi: [libraryPath(root)],
    write,
    net,
    env,
  };
  const heap = Math.max(memoryMib - BESIDE_HEAP_MIB, memoryMib >> 1);
  return [
    ...RUN_FLAGS,
    `${V8_FLAGS},--max-old-space-size=${heap}`,
    ...permissionFlags(permissions, (sentence) => new AppError(name, sentence)),
    `--import-map=${programModule("imports.json", root)}`,
    programModule("tiles/app/process.ts", root),
    String(setupBytes),
    name,
  ];
}

/** An instance of an app, kept running. */
export class AppProcess {
  readonly #parts: AppProcessParts;
  #plan: AppProcessPlan;
  #staged?: StagedApp;
  #current?: AppChild;
  #successor?: { child: AppChild; staged: StagedApp };
  /** Incremented when a successor begins or is given up. Ends the start of one with an older number. */
  #generation = 0;
  /** Settles when the old process has left, while a successor takes over. */
  #turn?: Promise<unknown>;
  readonly #restartPause = new RestartPause();
  #pause?: ReturnType<typeof setTimeout>;
  #watch?: ReturnType<typeof setInterval>;
  #isStopping = false;
  /** Processes in a row that ended before their first burst. */
  #barren = 0;
  /** Whether the next process skips what waits, since that may be why this one ended. */
  #skips = false;

  constructor(plan: AppProcessPlan, parts: AppProcessParts) {
    this.#plan = plan;
    this.#parts = parts;
  }

  /** Takes a running process that the program before this one has started. */
  static adopt(known: KnownApp, parts: AppProcessParts): AppProcess {
    const { plan, staged, control } = known;
    const app = new AppProcess(plan, parts);
    // The program before it had staged its files.
    app.#staged = { ...staged, stamp: "" };
    const process = parts.processes.adopt(known.process);
    app.#current = new AppChild({ plan, process, control }, "running", parts);
    app.#watchOver();
    app.#keep(app.#current);
    return app;
  }

  /**
   * The state for `adopt` in the next program, and the descriptors to keep open; null if no process runs. Gives up a
   * successor.
   */
  known(): { readonly known: KnownApp; readonly descriptors: readonly number[] } | null {
    this.abandon();
    const child = this.#current;
    if (child?.stage !== "running" || this.#staged === undefined) return null;
    const known = child.known(this.#staged);
    const { pidfd, channel, words, listener } = known.process;
    return {
      known,
      descriptors: [known.control, pidfd, channel, words, listener].filter((fd) => fd >= 0),
    };
  }

  get name(): string {
    return this.#plan.name;
  }

  /** The source files of its newest process. */
  get sources(): readonly string[] {
    return (this.#successor?.staged ?? this.#staged)?.sources ?? [];
  }

  /** The stamp of its newest process (`StagedApp`); "" without one. */
  get stamp(): string {
    return (this.#successor?.staged ?? this.#staged)?.stamp ?? "";
  }

  /** The PID of the running process, or 0. */
  get pid(): number {
    return this.#current?.pid ?? 0;
  }

  /** Whether its loop runs. */
  get isReady(): boolean {
    return this.#current?.stage === "running";
  }

  /** Walls that the system cannot build around it, a clause for each. */
  get missing(): readonly string[] {
    return this.#current?.missing ?? [];
  }

  /**
   * Starts it for the first time. Resolves when its loop runs. Throws AppError for an error of the app, and SystemError
   * for one of the system.
   */
  async start(): Promise<void> {
    await this.prepare();
    await this.go();
  }

  /**
   * Starts a successor beside the running process, from the app's present files. Resolves when it waits for its turn.
   * Throws as `start`, also if it is given up meanwhile; then nothing has changed.
   */
  async prepare(plan: AppProcessPlan = this.#plan): Promise<void> {
    let generation = this.#generation;
    const checkIsWanted = () => {
      if (!this.#isStopping && generation === this.#generation) return;
      throw new AppError(plan.name, "it is given up");
    };
    if (this.#turn !== undefined) {
      // A successor that takes over finishes first, as it stays if this one fails.
      await this.#turn;
      checkIsWanted();
    }
    this.abandon();
    generation = this.#generation;
    this.#watchOver();
    const { files } = this.#parts;
    this.#checkGrants(plan);
    const staged = await files.stage(plan);
    let child: AppChild | undefined;
    try {
      checkIsWanted();
      child = AppChild.start(plan, staged, this.#parts);
      this.#successor = { child, staged };
      await child.ready;
      checkIsWanted();
    } catch (error) {
      if (this.#successor?.child === child) this.#successor = undefined;
      files.discard(staged);
      throw error;
    }
  }

  /** Throws AppError for a granted file that does not exist, or that the process's user may not read. */
  #checkGrants({ name, uid, grants: { read, write } }: AppProcessPlan): void {
    const missing = [...read, ...write].find((path) => !exists(path));
    if (missing !== undefined) {
      throw new AppError(name, `there is no ${missing}, which [apps] grants it`);
    }
    if (Deno.uid() !== 0) return;
    const closed = read.find((path) => !this.#parts.processes.readableBy(path, uid));
    if (closed === undefined) return;
    throw new AppError(
      name,
      `its user (${uid}) may not read ${closed}, which [apps] grants it: chmod a+r ${closed}, and a+x ` +
        "for the folders above",
    );
  }

  /** Gives up a successor, also one that is being made, but not one that takes over. */
  abandon(): void {
    this.#generation++;
    if (this.#successor === undefined || this.#turn !== undefined) return;
    const { child, staged } = this.#successor;
    this.#successor = undefined;
    child.kill();
    child.ended.then(() => this.#parts.files.discard(staged));
  }

  /**
   * Tells the running process to end after its turn, and does not restart it. Resolves when it has ended, with false if
   * it had to be killed in a turn.
   */
  async leave(): Promise<boolean> {
    clearTimeout(this.#pause);
    this.#restartPause.ended();
    const child = this.#current;
    if (child === undefined) return true;
    // From here on its end is not a failure.
    this.#current = undefined;
    // Without a loop it cannot leave.
    if (child.stage === "running") child.leave();
    else child.kill();
    let isLate = false;
    const late = setTimeout(() => {
      isLate = true;
      this.#parts.log(inName(this.name, "killed: it hangs, and was to end"), Level.error);
      child.kill();
    }, LEAVE_MILLIS);
    await child.ended;
    clearTimeout(late);
    return !isLate;
  }

  /**
   * Starts the successor after the old process has left. Resolves when its loop runs. `handedOver`: it answers what
   * waits in the links. Throws as `start`.
   */
  async go(handedOver = true): Promise<void> {
    const { child, staged } = this.#successor!;
    this.#successor = undefined;
    this.#plan = child.plan;
    const before = this.#staged;
    this.#staged = staged;
    if (before !== undefined) this.#parts.files.discard(before);
    this.#current = child;
    this.#skips = false;
    child.go(handedOver);
    try {
      await child.running;
    } finally {
      // Also if it fails now, since there is no other.
      this.#keep(child);
    }
  }

  /** Replaces the running process by its successor. */
  async takeOver(): Promise<void> {
    if (this.#successor === undefined) throw new Error(`${this.name} has no successor`);
    const leaving = this.leave();
    this.#turn = leaving;
    // If it had to be killed, what waits may be the reason.
    const handedOver = await leaving;
    this.#turn = undefined;
    await this.go(handedOver);
  }

  /** Ends it for good. Resolves when it has ended. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#turn !== undefined) await this.#turn;
    const successor = this.#successor?.child;
    this.abandon();
    await Promise.all([this.leave(), successor?.ended]);
    clearInterval(this.#watch);
    if (this.#staged !== undefined) this.#parts.files.discard(this.#staged);
    this.#staged = undefined;
  }

  #watchOver(): void {
    this.#watch ??= setInterval(() => this.#poll(), POLL_MILLIS);
  }

  #poll(): void {
    this.#current?.poll();
    this.#successor?.child.poll();
  }

  /** Restarts it when it has ended. */
  async #keep(child: AppChild): Promise<void> {
    this.#restartPause.started();
    this.#failed(child, await child.ended);
  }

  #failed(child: AppChild | undefined, how: string): void {
    if (this.#current !== child || this.#isStopping) return;
    this.#current = undefined;
    const barren = child?.wasBarren ?? null;
    this.#barren = barren === null ? 0 : this.#barren + 1;
    this.#skips = barren !== null && (barren.byItself || this.#barren > 1);
    const pause = this.#restartPause.next();
    this.#parts.changed("ended");
    const line = `${how}; starting it again in ${pause} ms`;
    this.#parts.log(inName(this.name, line), Level.error);
    this.#pause = setTimeout(() => this.#restart(), pause);
  }

  async #restart(): Promise<void> {
    this.#parts.changed("restarts");
    let child: AppChild;
    try {
      child = this.#current = AppChild.start(this.#plan, this.#staged!, this.#parts);
    } catch (error) {
      return this.#failed(undefined, sentenceOf(error));
    }
    this.#keep(child);
    try {
      await child.ready;
      child.go(!this.#skips);
      await child.running;
      this.#parts.changed("runs");
    } catch {
      // `#keep` restarts it.
    }
  }
}
