/**
 * An app's process as the master has it: starts it confined, hears what it says, watches it, and
 * starts it again when it has ended. What it says is checked and bounded; whether it lives, and how it
 * ended, the kernel says (its pidfd), and whether it makes progress its tile's region. Nothing that it
 * does concerns another.
 *
 *     start ── ready ── go ── running ─┬─ ended: a pause, and again, on the same regions
 *                                      └─ leave ── ended ── go of the successor that is ready
 *
 * A restart goes on from the cursors in the links: what waited is answered. Where a process hung, or ended
 * without having done a single burst, what waited may be the reason, and its successor skips it.
 */

import { exists, type Watcher } from "../ffi/host.ts";
import { E2BIG, libraryPath, programModule, SystemError } from "../ffi/library.ts";
import {
  type Channel,
  type ConfinedProcess,
  type Ending,
  type KnownProcess,
  openChannel,
  type Processes,
  RUN_FLAGS,
  SIGNALS,
  V8_FLAGS,
} from "../ffi/process.ts";
import { type Regions, type SharedRegion, u8 } from "../ffi/region.ts";
import type { Observer, TileLibrary } from "../ffi/tile.ts";
import type { ProcessSetup } from "../tiles/app/process_worker.ts";
import { CONTROL_BYTES, ControlWriter } from "../tiles/runtime/control.ts";
import { APP } from "../tiles/runtime/counters.ts";
import type { HandedDescriptor, HandedSetup } from "../tiles/runtime/handed.ts";
import {
  AppError,
  bounded,
  firstLine,
  inName,
  isLevel,
  Level,
  type Log,
  LONGEST_LINE,
  sentenceOf,
} from "../tiles/runtime/log.ts";
import { type Grants, permissionFlags } from "../tiles/runtime/plan.ts";
import type { TileReader } from "../tiles/runtime/tile.ts";
import { prefix } from "./log.ts";
import type { AppFiles, StagedApp } from "./app_files.ts";
import { residentMib, ticks } from "./proc.ts";

/** What an instance of an app is started with. */
export interface AppProcessPlan
  extends Pick<ProcessSetup, "name" | "service" | "shape" | "nets" | "spinTurns"> {
  readonly grants: Grants;
  /** The most memory of its own that it may have, in MiB. */
  readonly memoryMib: number;
  /** Bytes of its region `state NAME`, if it has one. */
  readonly stateBytes?: number;
  /** Its user, where the master may choose. */
  readonly uid: number;
}

/** Descriptors of the master's by their names in `handed.ts`. */
export interface Descriptors {
  /**
   * For reading alone, or for reading and writing; bytes 0: it is no region. `bytes`: of a state, which a
   * successor may have in another size. Throws where there is none.
   */
  descriptor(
    name: string,
    readOnly: boolean,
    bytes?: number,
  ): { readonly fd: number; readonly bytes: number };
}

/** What the master has for it. */
export interface AppProcessParts {
  readonly processes: Processes;
  readonly regions: Pick<Regions, "createShared" | "mapShared" | "close">;
  readonly observer: Pick<Observer, "hear">;
  /** Its slot of the observer's counters. */
  readonly slot: number;
  readonly tileLibrary: Pick<TileLibrary, "wake">;
  readonly watcher: Pick<Watcher, "watch" | "forget">;
  readonly files: Pick<AppFiles, "stage" | "discard" | "root">;
  readonly descriptors: Descriptors;
  /** The region `tile NAME`. */
  readonly tile: TileReader;
  /** Whole lines, in the app's name. */
  readonly log: Log;
  /** It ended by itself, is started again, or runs again. */
  changed(what: "ended" | "restarts" | "runs"): void;
}

/** How often a process is polled. */
const POLL_MILLIS = 500;
/** Polls in a row without progress until it is hung. */
const HUNG_POLLS = 10;
/** Polls until a start is said to be long, and until it is ended however busy it is. */
const [LATE_POLLS, START_POLLS] = [10, 600];
/** The pause before it is started again: the first, and the longest after doublings. */
const [FIRST_PAUSE_MILLIS, LONGEST_PAUSE_MILLIS] = [50, 10_000];
/** A start that lasts this long ends the doubling. */
const LASTING_MILLIS = 30_000;
/** How long one that is told to end has for it. */
const LEAVE_MILLIS = 1000;
/** Messages that a process may send within a second, and that are taken at once. */
const [MESSAGES_A_SECOND, MESSAGES_AT_ONCE] = [2000, 64];
/** Of its memory what V8's heap does not have: what Deno itself takes. */
const BESIDE_HEAP_MIB = 40;
/** Files that looking up names takes. */
const NAME_FILES = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf"];

const SIGKILL = 9;
/** What a child may say, with what else is in it. */
const MESSAGES: Readonly<Record<string, "line" | "message" | null>> = {
  loading: null,
  ready: null,
  running: null,
  left: null,
  log: "line",
  failed: "message",
};

type Stage = "loading" | "ready" | "started" | "running";

/** A process, to be known again by another program that this one becomes. JSON. */
export interface KnownApp {
  readonly plan: AppProcessPlan;
  readonly staged: StagedApp;
  readonly process: KnownProcess;
  /** The writable descriptor of its control region. */
  readonly control: number;
}

/** One process, from its start to its end. */
class Child {
  stage: Stage;
  /** Resolves when it waits for `go`, and when its loop runs; both reject when it ends before. */
  readonly ready: Promise<void>;
  readonly running: Promise<void>;
  /** Resolves with a clause on how it ended, when it is reaped. */
  readonly ended: Promise<string>;
  readonly plan: AppProcessPlan;
  readonly missing: readonly string[];
  readonly #parts: AppProcessParts;
  readonly #process: ConfinedProcess;
  readonly #channel: Channel;
  readonly #controlFd: number;
  readonly #control: ControlWriter;
  readonly #eventfd: number;
  readonly #log: (level: number | undefined, line: string) => void;
  readonly #ready = Promise.withResolvers<void>();
  readonly #running = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<string>();
  #isOver = false;
  /** Why it was killed, or what it said went wrong. */
  #reason?: string;
  #isKilled = false;
  /** Whether it was ended by SIGKILL of somebody else: an operator, or the kernel without memory. */
  #isKilledByOthers = false;
  /** Whether it hung in a burst, which its successor is not to have again. */
  #isHung = false;
  #isLeaving = false;
  /** What its tile had done when it was told to go; -1: that was before this program. */
  #doneBefore = -1;
  #progress = -1;
  #heard = 0;
  #stalled = 0;
  #age = 0;
  #begun = -Infinity;
  #messages = 0;

  /** Starts one. Throws SystemError, AppError. */
  static start(plan: AppProcessPlan, staged: StagedApp, parts: AppProcessParts): Child {
    const { regions, processes, descriptors, files: { root } } = parts;
    const { name, service, shape, nets, spinTurns, grants: { clock, keep } } = plan;
    const handed: HandedDescriptor[] = [];
    const numbers: number[] = [];
    const hand = (
      name: string,
      readOnly: boolean,
      { fd, bytes }: { fd: number; bytes: number },
    ) => {
      handed.push({ name, bytes, readOnly });
      numbers.push(fd);
    };
    const control = regions.createShared(`control ${name}`, CONTROL_BYTES);
    let setup: SharedRegion | undefined;
    try {
      hand(`control ${name}`, true, { fd: control.readOnly, bytes: CONTROL_BYTES });
      for (const [each, readOnly, bytes] of namesOf(plan)) {
        hand(each, readOnly, descriptors.descriptor(each, readOnly, bytes));
      }
      const text = new TextEncoder().encode(JSON.stringify(
        {
          descriptors: handed,
          setup: {
            ...{ name, shape, nets, spinTurns, clock, keep },
            service: { ...service, module: staged.module },
          },
        } satisfies HandedSetup<ProcessSetup>,
      ));
      setup = regions.createShared(`setup ${name}`, text.length);
      u8(regions.mapShared(setup.writable, text.length)).set(text);
      const process = processes.start({
        ...optionsOf(plan, staged, root),
        args: argumentsOf(plan, staged, { root, setupBytes: text.length }),
        descriptors: [setup.readOnly, ...numbers],
      });
      return new Child({ plan, process, control: control.writable }, "loading", parts);
    } catch (error) {
      regions.close(control.writable);
      if (!(error instanceof SystemError && error.errno === E2BIG)) throw error;
      throw new AppError(
        name,
        "what [apps] grants it by name is more than a command line holds; grant the folder",
      );
    } finally {
      regions.close(control.readOnly);
      for (const fd of setup === undefined ? [] : [setup.writable, setup.readOnly]) {
        regions.close(fd);
      }
    }
  }

  /** Of a process that runs already. */
  constructor(
    { plan, process, control }: {
      plan: AppProcessPlan;
      process: ConfinedProcess;
      control: number;
    },
    stage: Stage,
    parts: AppProcessParts,
  ) {
    const { regions, observer, watcher, descriptors, log } = parts;
    const { name } = plan;
    this.plan = plan;
    this.stage = stage;
    this.#parts = parts;
    this.#process = process;
    this.#controlFd = control;
    this.#log = bounded((line, level) => log(inName(name, line), level));
    this.ready = this.#ready.promise;
    this.running = this.#running.promise;
    this.ended = this.#ended.promise;
    for (const promise of [this.ready, this.running]) promise.catch(() => {});
    const { listener, words, channel, pidfd, missing } = process;
    this.missing = missing;
    // What it writes itself are the last words of V8 or libc.
    observer.hear({ name: `${prefix(Level.error)}${name}`, slot: parts.slot, listener, words });
    this.#eventfd = descriptors.descriptor(`eventfd ${name}`, false).fd;
    this.#control = new ControlWriter(regions.mapShared(control, CONTROL_BYTES));
    this.#channel = openChannel(channel);
    watcher.watch(channel, () => this.#hear());
    watcher.watch(pidfd, () => this.#reap());
  }

  /** What another program has to know to go on with it. */
  known(staged: StagedApp): KnownApp {
    const { name, pid, pidfd, channel, words, listener, missing } = this.#process;
    const process = { name, pid, pidfd, channel, words, listener, missing };
    return { plan: this.plan, staged, process, control: this.#controlFd };
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** Whether it was told to go, and hung or ended before it had done a burst, by itself or not. */
  get wasBarren(): { readonly byItself: boolean } | null {
    const wasToGo = this.stage === "started" || this.stage === "running";
    if (!wasToGo || (!this.#isHung && this.#done !== this.#doneBefore)) return null;
    return { byItself: !this.#isKilledByOthers };
  }

  /** Datagrams that its tile has done, in all its processes. */
  get #done(): number {
    return this.#parts.tile.counters[APP.index.requests];
  }

  /** Has it take the regions. `handedOver`: what waits in the links is its own to answer. */
  go(handedOver: boolean): void {
    this.stage = "started";
    this.#doneBefore = this.#done;
    this.#send({ type: "go", handedOver });
  }

  /** Asks its loop to end after its turn. */
  leave(): void {
    this.#isLeaving = true;
    this.#control.leave();
    this.#parts.tileLibrary.wake(this.#eventfd);
  }

  /** Ends it, for this reason. */
  kill(reason?: string): void {
    if (this.#isOver || this.#isKilled) return;
    this.#isKilled = true;
    this.#reason = reason;
    this.#process.kill();
  }

  #send(message: unknown): void {
    // The number of a closed channel may be another's.
    if (this.#isOver) return;
    this.#channel.send(new TextEncoder().encode(JSON.stringify(message)));
  }

  #hear(): void {
    for (let i = 0; i < MESSAGES_AT_ONCE && !this.#isOver; i++) {
      let message;
      try {
        message = this.#channel.receive();
      } catch {
        message = undefined;
      }
      if (message === null) return;
      if (message === undefined) return this.#parts.watcher.forget(this.#process.channel);
      const now = performance.now();
      if (now - this.#begun >= 1000) [this.#begun, this.#messages] = [now, 0];
      if (++this.#messages > MESSAGES_A_SECOND) return this.kill("it floods its channel");
      this.#read(message);
    }
  }

  #read(bytes: Uint8Array): void {
    let message: Record<string, unknown>;
    try {
      message = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch {
      return this.kill("it sent a message that cannot be read");
    }
    const type = typeof message === "object" && message !== null ? message.type : undefined;
    if (typeof type !== "string" || !Object.hasOwn(MESSAGES, type)) {
      return this.kill("it sent a message that no app sends");
    }
    const field = MESSAGES[type];
    const text = field === null ? "" : message[field];
    if (typeof text !== "string" || text.length > LONGEST_LINE + 1) {
      return this.kill(`it sent a malformed message of type ${type}`);
    }
    if (type === "log" && isLevel(message.level)) return this.#log(message.level, text);
    if (type === "failed") {
      this.#reason ??= firstLine(text);
      return;
    }
    this.#heard++;
    // Its successor waits, and this way it ends sooner.
    if (type === "left" && this.#isLeaving) return this.kill("it was told to end");
    if (type === "ready" && this.stage === "loading") {
      this.stage = "ready";
      this.#ready.resolve();
    } else if (type === "running" && this.stage === "started") {
      this.stage = "running";
      this.#running.resolve();
    } else if (type === "ready" || type === "running") {
      this.kill(`it sent a message of type ${type} out of turn`);
    }
  }

  #reap(): void {
    if (this.#isOver) return;
    let ending: Ending | null;
    try {
      ending = this.#process.wait();
    } catch (error) {
      ending = { status: 0, signal: 0 };
      this.#reason ??= sentenceOf(error);
    }
    if (ending === null) return;
    // What it said at last.
    this.#hear();
    this.#isOver = true;
    this.#parts.watcher.forget(this.#process.channel);
    this.#parts.watcher.forget(this.#process.pidfd);
    this.#process.close();
    this.#parts.regions.close(this.#controlFd);
    this.#isKilledByOthers = ending.signal === SIGKILL && !this.#isKilled;
    const how = this.#sentence(ending);
    const error = new AppError(this.plan.name, this.#reason ?? how);
    this.#ready.reject(error);
    this.#running.reject(error);
    this.#ended.resolve(how);
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

  /** To be called every `POLL_MILLIS`: whether it makes progress, and how much memory it has. */
  poll(): void {
    if (this.#isOver) return;
    this.#control.pulse();
    this.#age++;
    const { tile, log } = this.#parts;
    const { name, memoryMib } = this.plan;
    const used = residentMib(this.pid);
    if (used > memoryMib) {
      return this.kill(`its memory is ${Math.round(used)} MiB, beyond its ${memoryMib}`);
    }
    const isRunning = this.stage === "running";
    // Between its turn and its loop there is little to do, whatever processor time it takes.
    const progress = isRunning
      ? tile.burst + tile.sleepSequence + tile.counters[APP.index.answers]
      : this.#heard + (this.stage === "started" ? 0 : ticks(this.pid));
    // One that sleeps wakes every second, and sleeps again: its region moves all the same.
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

/** Descriptors that an app's process is handed, with whether they are for reading alone, and a state's size. */
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
      // Where payloads stay where they arrived.
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
    memoryMib,
    isolates: 2,
  };
}

function argumentsOf(
  { name, grants, memoryMib }: AppProcessPlan,
  staged: StagedApp,
  { root, setupBytes }: { root: string; setupBytes: number },
): string[] {
  const { read, write, net, env } = grants;
  const permissions = {
    read: [programModule("", root), ...staged.read, ...read],
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
  #current?: Child;
  #successor?: { child: Child; staged: StagedApp };
  /** Counts what begins or gives up a successor: one that is made meanwhile is given up. */
  #generation = 0;
  /** Settles when a successor that takes over has got its turn; undefined: none does. */
  #turn?: Promise<unknown>;
  /** Starts in a row that did not last. */
  #failures = 0;
  #pause?: ReturnType<typeof setTimeout>;
  #lasting?: ReturnType<typeof setTimeout>;
  #watch?: ReturnType<typeof setInterval>;
  #isStopping = false;
  /** Processes in a row that ended before they had done a burst. */
  #barren = 0;
  /** Whether the next one skips what waits: it may be why. Whoever kills once needs no other reason. */
  #skips = false;

  constructor(plan: AppProcessPlan, parts: AppProcessParts) {
    this.#plan = plan;
    this.#parts = parts;
  }

  /** Goes on with one that runs, which the program before this one has started. */
  static adopt(known: KnownApp, parts: AppProcessParts): AppProcess {
    const { plan, staged, control } = known;
    const app = new AppProcess(plan, parts);
    // Whatever it was started from was another program's.
    app.#staged = { ...staged, stamp: "" };
    const process = parts.processes.adopt(known.process);
    app.#current = new Child({ plan, process, control }, "running", parts);
    app.#watchOver();
    app.#keep(app.#current);
    return app;
  }

  /**
   * What the program that this one becomes has to know for `adopt`, and the descriptors that it has to be
   * left; null where no process runs now. A successor is given up.
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

  /** The files that the newest of its processes was made from. */
  get sources(): readonly string[] {
    return (this.#successor?.staged ?? this.#staged)?.sources ?? [];
  }

  /** The stamp of the newest of its processes (`StagedApp`); "": there is none to compare with. */
  get stamp(): string {
    return (this.#successor?.staged ?? this.#staged)?.stamp ?? "";
  }

  /** Of the process that runs; 0: none does. */
  get pid(): number {
    return this.#current?.pid ?? 0;
  }

  /** Whether it answers: its loop runs. */
  get isReady(): boolean {
    return this.#current?.stage === "running";
  }

  /** Walls that the system has no way to build around it, one clause each. */
  get missing(): readonly string[] {
    return this.#current?.missing ?? [];
  }

  /**
   * Starts it for the first time; resolves when its loop runs. Throws AppError with what is wrong with
   * it, SystemError where it is the system.
   */
  async start(): Promise<void> {
    await this.prepare();
    await this.go();
  }

  /**
   * Starts a successor beside the one that runs, from the app's files as they are; resolves when it
   * waits for its turn. Throws as `start`, also where it is given up meanwhile, and nothing has changed
   * then.
   */
  async prepare(plan: AppProcessPlan = this.#plan): Promise<void> {
    let generation = this.#generation;
    const checkIsWanted = () => {
      if (!this.#isStopping && generation === this.#generation) return;
      throw new AppError(plan.name, "it is given up");
    };
    if (this.#turn !== undefined) {
      // The one that takes over is all that there will be, should this one fail.
      await this.#turn;
      checkIsWanted();
    }
    this.abandon();
    generation = this.#generation;
    this.#watchOver();
    const { files } = this.#parts;
    this.#checkGrants(plan);
    const staged = await files.stage(plan);
    let child: Child | undefined;
    try {
      checkIsWanted();
      child = Child.start(plan, staged, this.#parts);
      this.#successor = { child, staged };
      await child.ready;
      checkIsWanted();
    } catch (error) {
      if (this.#successor?.child === child) this.#successor = undefined;
      files.discard(staged);
      throw error;
    }
  }

  /** Names a file that is granted and is not there, or that the user of the process may not read. Throws AppError. */
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

  /** Gives a successor up, also one that is being made, but not one that takes over. */
  abandon(): void {
    this.#generation++;
    if (this.#successor === undefined || this.#turn !== undefined) return;
    const { child, staged } = this.#successor;
    this.#successor = undefined;
    child.kill();
    child.ended.then(() => this.#parts.files.discard(staged));
  }

  /**
   * Has the one that runs end after its turn; resolves when it has, false where it had to be killed in the
   * middle of one. It is not started again.
   */
  async leave(): Promise<boolean> {
    clearTimeout(this.#pause);
    clearTimeout(this.#lasting);
    const child = this.#current;
    if (child === undefined) return true;
    // Whatever happens from here on is no failure of its own.
    this.#current = undefined;
    // One that has yet to run has no turn that could end.
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
   * Has the successor take over from one that has left; resolves when its loop runs. `handedOver`: what
   * waits in the links is its own to answer. Throws as `start`.
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
      // Also one that fails now is the only one there is.
      this.#keep(child);
    }
  }

  /** Puts the successor in place of the one that runs. */
  async takeOver(): Promise<void> {
    if (this.#successor === undefined) throw new Error(`${this.name} has no successor`);
    const leaving = this.leave();
    this.#turn = leaving;
    // What waits may be why the one before it hung.
    const handedOver = await leaving;
    this.#turn = undefined;
    await this.go(handedOver);
  }

  /** Ends it for good; resolves when it has ended. */
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

  /** Starts it again when it has ended. */
  async #keep(child: Child): Promise<void> {
    this.#lasting = setTimeout(() => this.#failures = 0, LASTING_MILLIS);
    this.#failed(child, await child.ended);
  }

  #failed(child: Child | undefined, how: string): void {
    if (this.#current !== child || this.#isStopping) return;
    clearTimeout(this.#lasting);
    this.#current = undefined;
    const barren = child?.wasBarren ?? null;
    this.#barren = barren === null ? 0 : this.#barren + 1;
    this.#skips = barren !== null && (barren.byItself || this.#barren > 1);
    const pause = Math.min(FIRST_PAUSE_MILLIS * 2 ** this.#failures++, LONGEST_PAUSE_MILLIS);
    this.#parts.changed("ended");
    const line = `${how}; starting it again in ${pause} ms`;
    this.#parts.log(inName(this.name, line), Level.error);
    this.#pause = setTimeout(() => this.#restart(), pause);
  }

  async #restart(): Promise<void> {
    this.#parts.changed("restarts");
    let child: Child;
    try {
      child = this.#current = Child.start(this.#plan, this.#staged!, this.#parts);
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
      // `#keep` has it.
    }
  }
}
