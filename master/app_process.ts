// SPDX-License-Identifier: Apache-2.0
/**
 * The master's side of an app's process: starts it confined, reads and checks its messages, watches
 * it, and restarts it. The pidfd shows whether it runs and how it ended, and the tile's region
 * whether it makes progress. No behaviour of an app affects another process.
 *
 *     start ── ready ── go ── running ─┬─ ended: a pause, and a restart on the same regions
 *                                      └─ leave ── ended ── go of the successor that is ready
 *
 * A restarted process continues at the cursors in the links, so waiting datagrams are answered. If a process hung, or ended
 * before its first burst, a waiting datagram may be the reason, and its successor skips them.
 *
 * An app may have a slow side in a second process (`SlowSide`). It starts with the app's process,
 * and ends after it. If it ends by itself, only it is restarted, as datagrams do not need it.
 */

import { exists, type Watcher } from "../ffi/host.ts";
import { E2BIG, libraryPath, programModule, SystemError } from "../ffi/library.ts";
import {
  type ConfinedProcess,
  type Ending,
  type KnownProcess,
  openOf,
  RUN_FLAGS,
  SIGNALS,
  SUCCESSOR_ENV,
  V8_FLAGS,
} from "../ffi/process.ts";
import type { BesideSetup } from "../tiles/app/host.ts";
import { MAILBOX_BYTES } from "../tiles/app/mailbox.ts";
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
import { besideName } from "../tiles/runtime/wiring.ts";
import { type AppFiles, type StagedApp, stampOf } from "./app_files.ts";
import { Child } from "./child.ts";
import type { MainLibraries } from "./confinement.ts";
import { type Handing, Inventory, type InventoryState, orderOf } from "./inventory.ts";
import { prefix } from "./log.ts";
import { residentMib, ticks } from "./proc.ts";

export interface AppProcessPlan
  extends Pick<ProcessSetup, "name" | "service" | "shape" | "nets" | "spinTurns"> {
  readonly grants: Grants;
  /** The limit of its own memory, in MiB. */
  readonly memoryMib: number;
  /** Bytes of its region `state NAME`, if it has one. */
  readonly stateBytes?: number;
  /** Its user, if the master may change users. */
  readonly uid: number;
  /** Its slow side, the only one with the grants `net` and `write`. */
  readonly beside?: BesideSetup;
}

/** An app's files, and those of its slow side. */
interface Staged extends StagedApp {
  readonly beside?: StagedApp;
}

export interface AppProcessParts {
  readonly libraries: Pick<MainLibraries, "processes" | "regions" | "host" | "observer" | "tile">;
  /** Its slot in the observer's counters. */
  readonly slot: number;
  readonly watcher: Pick<Watcher, "watch" | "forget">;
  readonly files: Pick<AppFiles, "stage" | "discard" | "root">;
  /**
   * The master's descriptor by its name in `handed.ts`, for readers or for the writer. `bytes`: the
   * size of a state, which may differ in a successor. Throws RangeError.
   */
  descriptor(name: string, readOnly: boolean, bytes?: number): Handing;
  /** The region `tile NAME`. */
  readonly tile: TileReader;
  /** Logs whole lines, under the app's name. */
  readonly log: Log;
  /** Called when it starts or ends. `restarted`: the process that is restarted after a failure. */
  changed(restarted?: string): void;
}

/** How often a process is polled. */
const POLL_MILLIS = 500;
/** Polls in a row without progress until it is hung. */
const HUNG_POLLS = 10;
/** Polls until a long start is logged, and until it is killed. */
const [LATE_POLLS, START_POLLS] = [10, 600];
/** How long it may take to end after `leave`. */
const LEAVE_MILLIS = 1000;
/** Messages that a process may send in a second. */
const MESSAGES_A_SECOND = 2000;
/** Descriptors of a slow side, for connections and files. */
const BESIDE_DESCRIPTORS = 1024;
/** Memory of Deno outside of V8's heap. */
const BESIDE_HEAP_MIB = 40;
/**
 * The kernel's limit is this much, or a quarter, above the app's limit. Otherwise an app that
 * catches its RangeError could stay just below the limit that the master checks.
 */
const LEAST_MARGIN_MIB = 32;
const DOMAIN_PORT = 53;
/** Files that name lookups read. */
const NAME_FILES = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf"];

const SIGKILL = 9;
/** The reports of a child. */
const REPORTS: Shapes<AppReport> = {
  beat: {},
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
  readonly staged: Staged;
  readonly process: KnownProcess;
  /** The inventory with its control region. */
  readonly own: InventoryState;
  readonly beside?: { readonly process: KnownProcess; readonly mailbox: InventoryState };
}

/** One side's mailbox: the regions between an app's tile and its slow side, and the latter's eventfd. */
function mailHandings(app: string, mailbox: Inventory, isBeside: boolean): Handing[] {
  return [
    mailbox.region(`mail ${app}`, { writable: !isBeside }),
    mailbox.region(`mail ${besideName(app)}`, { writable: isBeside }),
    mailbox.eventfd(besideName(app)),
  ];
}

/** One process, from its start to its end. */
abstract class AppChild extends Child<AppOrder, AppReport, string> {
  stage: Stage;
  readonly plan: AppProcessPlan;
  protected readonly parts: AppProcessParts;
  /** Its name in the log. */
  readonly #name: string;
  /** The folder of its copies, if any. In its messages their paths are replaced by the originals. */
  readonly #folder: string;
  readonly #log: (level: number | undefined, line: string) => void;
  /** The app's error, when it has ended. */
  failure?: AppError;
  /** Why it was killed, or the failure that it reported. */
  #reason?: string;
  #isKilled = false;
  /** Whether SIGKILL came from elsewhere: an operator, or the OOM killer. */
  protected isKilledByOthers = false;
  /** Whether it hung in its loop. */
  protected isHung = false;
  protected isLeaving = false;
  /** Messages that prove progress. */
  protected heard = 0;
  #progress = -1;
  #stalled = 0;
  #age = 0;
  /** The beginning of the second in which `#received` messages came. */
  #begun = -Infinity;
  #received = 0;

  /** Takes a process that has been started. */
  constructor(
    { name, plan, process, staged }: {
      name: string;
      plan: AppProcessPlan;
      process: ConfinedProcess;
      staged: StagedApp;
    },
    stage: Stage,
    parts: AppProcessParts,
  ) {
    const { libraries, watcher, log } = parts;
    super(process, watcher, REPORTS);
    this.#name = name;
    this.#folder = staged.folder ?? "";
    this.plan = plan;
    this.stage = stage;
    this.parts = parts;
    this.#log = bounded((line, level) => log(inName(name, line), level));
    const { listener, words } = process;
    // Its standard error has only final messages of V8 or libc.
    libraries.observer.hear({
      name: `${prefix(Level.error)}${name}`,
      slot: parts.slot,
      listener,
      words,
    });
  }

  /** Orders it to end after its turn. */
  abstract leave(): void;

  /** A number that changes while its loop runs. */
  protected abstract get progress(): number;

  /** Orders it to take the regions. `handedOver`: it answers the datagrams that wait in the links. */
  go(handedOver: boolean): void {
    this.stage = "started";
    this.send({ type: "go", handedOver });
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
    this.heard++;
    // Its successor waits, and SIGKILL is faster.
    if (type === "left" && this.isLeaving) return this.kill("it was told to end");
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
    this.isKilledByOthers = ending.signal === SIGKILL && !this.#isKilled;
    const how = this.#sentence(ending);
    const { name } = this.plan;
    const whose = this.#name === name ? "" : "its slow side: ";
    this.failure = new AppError(name, whose + (this.#reason ?? how));
    return { how, error: this.failure };
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

  /** Checks its progress. Called every `POLL_MILLIS`. */
  poll(): void {
    if (this.over) return;
    this.#age++;
    const isRunning = this.stage === "running";
    // Between `go` and its loop there is little to do, so processor time does not count as progress.
    const progress = isRunning
      ? this.progress
      : this.heard + (this.stage === "started" ? 0 : ticks(this.pid));
    const lives = progress !== this.#progress || this.stage === "ready";
    this.#progress = progress;
    this.#stalled = lives ? 0 : this.#stalled + 1;
    if (this.#stalled >= HUNG_POLLS) {
      this.isHung = isRunning;
      this.kill(isRunning ? "it hangs" : "its start hangs");
    }
    if (this.stage !== "loading") return;
    if (this.#age === LATE_POLLS) {
      this.parts.log(inName(this.#name, "its start has not ended yet"), Level.warning);
    }
    if (this.#age >= START_POLLS) this.kill("it did not start in time");
  }
}

class TileChild extends AppChild {
  readonly staged: Staged;
  readonly slow?: SlowSide;
  readonly #own: Inventory;
  readonly #control: ControlWriter;
  readonly #eventfd: number;
  /** The tile's request count at `go`; -1 if an earlier program sent it. */
  #doneBefore = -1;

  /** Starts a process and its slow side. Throws SystemError, AppError. */
  static start(
    { plan, staged, warmUp }: { plan: AppProcessPlan; staged: Staged; warmUp: boolean },
    parts: AppProcessParts,
  ): TileChild {
    const { name, beside } = plan;
    const own = new Inventory(parts.libraries);
    let slow: SlowSide | undefined;
    try {
      own.ensure(`control ${name}`, CONTROL_BYTES);
      if (beside && staged.beside) {
        const mailbox = new Inventory(parts.libraries);
        slow = new SlowSide({ plan, beside, staged: staged.beside }, mailbox, parts);
        slow.start();
      }
      const process = startProcess(plan, staged, {
        ...{ parts, warmUp },
        grants: beside === undefined ? plan.grants : { ...plan.grants, net: [], write: [] },
        handings: [
          own.region(`control ${name}`),
          ...namesOf(plan).map((each) => parts.descriptor(...each)),
          ...(slow === undefined ? [] : mailHandings(name, slow.mailbox, false)),
        ],
      });
      return new TileChild({ plan, staged, process, own, slow }, "loading", parts);
    } catch (error) {
      own.close();
      slow?.leave({ atOnce: true });
      throw error;
    }
  }

  /** Takes a process that has been started. */
  constructor(
    { plan, staged, process, own, slow }: {
      plan: AppProcessPlan;
      staged: Staged;
      process: ConfinedProcess;
      /** The inventory with its control region. */
      own: Inventory;
      slow?: SlowSide;
    },
    stage: Stage,
    parts: AppProcessParts,
  ) {
    super({ name: plan.name, plan, staged, process }, stage, parts);
    this.staged = staged;
    this.slow = slow;
    this.#own = own;
    this.#eventfd = parts.descriptor(`eventfd ${plan.name}`, false).fd;
    this.#control = new ControlWriter(own.view(`control ${plan.name}`, { writable: true }));
    this.ended.then(() => {
      own.close();
      slow?.leave();
    });
  }

  /**
   * Its state for the master's next program, and the descriptors to keep open; null while its slow
   * side is being restarted.
   */
  known() {
    const { plan, staged, process } = this;
    const beside = this.slow?.known;
    if (beside === null) return null;
    const known: KnownApp = { plan, staged, process, own: this.#own.state, beside };
    const ofSlow = beside ? [...openOf(beside.process), ...this.slow!.mailbox.descriptors] : [];
    return { known, descriptors: [...openOf(process), ...this.#own.descriptors, ...ofSlow] };
  }

  /** Whether it got `go`. */
  get hasGone(): boolean {
    return this.stage === "started" || this.stage === "running";
  }

  /** Set if it hung, or ended after `go` without a burst. `byItself`: it was not killed. */
  get wasBarren(): { readonly byItself: boolean } | null {
    if (!this.hasGone || (!this.isHung && this.#done !== this.#doneBefore)) return null;
    return { byItself: !this.isKilledByOthers };
  }

  /** Requests that the tile has handled, in all its processes. */
  get #done(): number {
    return this.parts.tile.counters[APP.index.requests];
  }

  /** A sleeping tile wakes every second, which changes its region. */
  protected override get progress(): number {
    const { tile } = this.parts;
    return tile.burst + tile.sleepSequence + tile.counters[APP.index.answers];
  }

  override go(handedOver: boolean): void {
    this.#doneBefore = this.#done;
    super.go(handedOver);
  }

  /** Kills it and its slow side, which are no longer needed. */
  giveUp(): void {
    this.kill();
    this.slow?.leave({ atOnce: true });
  }

  override leave(): void {
    this.isLeaving = true;
    this.#control.leave();
    this.parts.libraries.tile.wake(this.#eventfd);
    this.slow?.leave();
  }

  /** Checks its memory and its progress. */
  override poll(): void {
    this.slow?.child?.poll();
    if (this.over) return;
    this.#control.pulse();
    const { memoryMib } = this.plan;
    const beside = this.slow?.child;
    const [own, besides] = [this, beside].map((each) => each ? residentMib(each.pid) : 0);
    if (own + besides > memoryMib) {
      const reason = `its memory is ${
        Math.round(own + besides)
      } MiB, above its limit of ${memoryMib} MiB`;
      return (besides > own ? beside! : this).kill(reason);
    }
    super.poll();
  }
}

/** The process of an app's slow side. */
class BesideChild extends AppChild {
  /** Its event loop reports once a second. */
  protected override get progress(): number {
    return this.heard;
  }

  override leave(): void {
    this.isLeaving = true;
    if (this.stage === "running") this.send({ type: "leave" });
    else this.kill();
  }
}

/**
 * The slow side of one process of an app, with its mailbox. From `go` until `leave`, it is
 * restarted whenever it ends.
 */
class SlowSide {
  readonly mailbox: Inventory;
  /** Its current process. */
  child?: BesideChild;
  readonly #atEnd = Promise.withResolvers<void>();
  /** Resolves when it has ended for good. */
  readonly ended = this.#atEnd.promise;
  readonly #parts: AppProcessParts;
  readonly #what: SlowSidePlan;
  readonly #name: string;
  readonly #predecessorLeft = Promise.withResolvers<void>();
  readonly #restartPause = new RestartPause();
  #pause?: ReturnType<typeof setTimeout>;
  #mayGo = false;
  #isLeaving = false;
  /** How it ended before `go`, and the app's error. */
  #early?: { readonly how: string; readonly error?: AppError };

  /** Adopts a slow side that the previous program started. */
  static adopt(
    what: SlowSidePlan,
    { process, mailbox }: NonNullable<KnownApp["beside"]>,
    parts: AppProcessParts,
  ): SlowSide {
    const slow = new SlowSide(what, new Inventory(parts.libraries, { before: mailbox }), parts);
    slow.#mayGo = true;
    slow.#predecessorLeft.resolve();
    slow.#keep(parts.libraries.processes.adopt(process), "running");
    return slow;
  }

  /** Creates a slow side, not yet started. It fills its `mailbox`, and closes it at its end. */
  constructor(what: SlowSidePlan, mailbox: Inventory, parts: AppProcessParts) {
    this.#what = what;
    this.#name = besideName(what.plan.name);
    this.mailbox = mailbox;
    this.#parts = parts;
  }

  /** Its state for the next program; null if it does not run, or is ending. */
  get known(): NonNullable<KnownApp["beside"]> | null {
    if (this.#isLeaving || this.child?.stage !== "running") return null;
    return { process: this.child.process, mailbox: this.mailbox.state };
  }

  /** The app's error, if it ended before `go`. */
  get early(): AppError | undefined {
    return this.#early?.error;
  }

  /** Resolves when its current process runs. Rejects if that process ends first, or has ended. */
  get running(): Promise<void> {
    if (this.child !== undefined) return this.child.running;
    const ended = new AppError(this.#what.plan.name, "its slow side ended");
    const gone = Promise.reject(this.early ?? ended);
    // It may be awaited later, or not at all.
    gone.catch(() => {});
    return gone;
  }

  /** Starts a process. Throws SystemError, AppError. */
  start(): void {
    const { plan, beside, staged } = this.#what;
    const parts = this.#parts;
    for (const writer of [plan.name, this.#name]) {
      this.mailbox.ensure(`mail ${writer}`, MAILBOX_BYTES);
    }
    const process = startProcess(plan, staged, {
      parts,
      grants: plan.grants,
      beside: { ...beside, module: staged.module },
      handings: [
        ...mailHandings(plan.name, this.mailbox, true),
        parts.descriptor(`tile ${plan.name}`, true),
        parts.descriptor(`eventfd ${plan.name}`, false),
        parts.descriptor(`metrics ${this.#name}`, false),
        ...beside.tcp.map(({ address, port }) => parts.descriptor(`tcp ${address}:${port}`, false)),
      ],
    });
    this.#keep(process, "loading");
  }

  /** Sends `go` when it is ready and `before` has settled, so its predecessor has ended. */
  go(before: Promise<unknown>): void {
    this.#mayGo = true;
    before.finally(() => this.#predecessorLeft.resolve());
    if (this.#early !== undefined) this.#failed(this.#early.how);
  }

  #keep(process: ConfinedProcess, stage: Stage): void {
    const { plan, staged } = this.#what;
    const about = { name: this.#name, plan, staged, process };
    const child = this.child = new BesideChild(about, stage, this.#parts);
    this.#restartPause.started();
    if (stage === "loading") {
      Promise.all([child.ready, this.#predecessorLeft.promise]).then(
        () => child.go(true),
        () => {},
      );
    }
    child.ended.then((how) => this.#failed(how, child.failure));
  }

  #failed(how: string, error?: AppError): void {
    this.child = undefined;
    if (this.#isLeaving) return this.#end();
    if (!this.#mayGo) {
      this.#early = { how, error };
      return;
    }
    const pause = this.#restartPause.next();
    const line = `${how}; starting it again in ${pause} ms`;
    this.#parts.log(inName(this.#name, line), Level.error);
    this.#pause = setTimeout(() => {
      this.#parts.changed(this.#name);
      try {
        this.start();
      } catch (error) {
        this.#failed(sentenceOf(error));
      }
    }, pause);
  }

  /** Orders it to end, kills it if it takes too long or `atOnce`, and does not restart it. */
  leave({ atOnce = false } = {}): void {
    if (this.#isLeaving && !atOnce) return;
    this.#isLeaving = true;
    clearTimeout(this.#pause);
    const child = this.child;
    if (child === undefined) return this.#end();
    if (atOnce) return child.kill();
    child.leave();
    const late = setTimeout(() => child.kill("it did not end in time"), LEAVE_MILLIS);
    child.ended.then(() => clearTimeout(late));
  }

  /** Closes the mailbox. The app's process has its own descriptors. */
  #end(): void {
    this.#restartPause.ended();
    this.mailbox.close();
    this.#atEnd.resolve();
  }
}

interface SlowSidePlan {
  readonly plan: AppProcessPlan;
  readonly beside: BesideSetup;
  readonly staged: StagedApp;
}

/** Starts a process of an app. Throws SystemError, AppError. */
function startProcess(
  plan: AppProcessPlan,
  { module, read: own, absent = [], denoDir }: StagedApp,
  { parts, grants, beside, handings, warmUp = false }: {
    parts: AppProcessParts;
    grants: Grants;
    beside?: BesideSetup;
    handings: readonly Handing[];
    /** Whether a predecessor serves while it starts. */
    warmUp?: boolean;
  },
): ConfinedProcess {
  const { libraries: { regions, processes }, files: { root } } = parts;
  const { service, shape, nets, spinTurns, memoryMib, uid } = plan;
  const { read, write, net, env, clock, keep } = grants;
  const name = beside === undefined ? plan.name : besideName(plan.name);
  const [program, library] = [programModule("", root), libraryPath(root)];
  const variables = env.map((each) => [each, Deno.env.get(each)] as const)
    .filter((pair): pair is [string, string] => pair[1] !== undefined);
  const files = [program, ...own, ...absent, ...read];
  const permissions = { read: files, ffi: [library], write, net, env };
  const heap = Math.max(memoryMib - BESIDE_HEAP_MIB, memoryMib >> 1);
  const margin = Math.max(LEAST_MARGIN_MIB, memoryMib >> 2);
  // Until a region is mapped, private memory is reserved in its place (`reserve` in ffi/region.ts).
  const largest = Math.max(...handings.map(({ bytes }) => bytes));
  const order = orderOf<ProcessSetup>(regions, handings, {
    ...{ name: plan.name, shape, nets, spinTurns, clock, keep, warmUp, beside },
    service: { ...service, module: beside?.module ?? module },
  });
  try {
    return processes.start({
      ...{ name, write, clock, uid, net: net.length > 0, ports: portsOf(net) },
      env: {
        TZ: new Intl.DateTimeFormat().resolvedOptions().timeZone,
        ...Object.fromEntries(variables),
        ...(denoDir !== undefined && { DENO_DIR: denoDir }),
        ...(warmUp && SUCCESSOR_ENV),
      },
      read: [
        ...[program, library, ...own, ...denoDir === undefined ? [] : [denoDir]],
        ...[...read, ...write, ...net.length > 0 ? NAME_FILES.filter(exists) : []],
      ],
      memoryMib: memoryMib + margin + Math.ceil(largest / 2 ** 20),
      accept: (beside?.tcp ?? []).length > 0,
      watch: beside !== undefined && read.length + write.length > 0,
      spareDescriptors: beside && BESIDE_DESCRIPTORS,
      args: [
        ...RUN_FLAGS,
        `${V8_FLAGS},--expose-gc,--max-old-space-size=${heap}`,
        ...permissionFlags(permissions, (sentence) => new AppError(plan.name, sentence)),
        `--import-map=${programModule("imports.json", root)}`,
        programModule("tiles/app/process.ts", root),
        String(order.bytes),
        name,
      ],
      descriptors: order.descriptors,
    });
  } catch (error) {
    if (!(error instanceof SystemError && error.errno === E2BIG)) throw error;
    throw new AppError(
      plan.name,
      "the list of files that [apps] grants is too long for a command line; grant the folder",
    );
  } finally {
    order.close();
  }
}

/** The descriptors of an app's process: their names, whether they are read-only, and a state's size. */
function namesOf({ name, nets, shape, stateBytes }: AppProcessPlan) {
  const all: [name: string, readOnly: boolean, bytes?: number][] = [];
  all.push([`tile ${name}`, false], [`metrics ${name}`, false], [`eventfd ${name}`, false]);
  if (stateBytes !== undefined) all.push([`state ${name}`, false, stateBytes]);
  for (const net of nets) {
    all.push([`link ${net} to ${name}`, true], [`link ${name} to ${net}`, false]);
    all.push([`tile ${net}`, true], [`eventfd ${net}`, false]);
    // For payloads that are read in the UMEM.
    if (shape.requestBytes === undefined) all.push([`umem ${net}`, true]);
  }
  return all;
}

/** Ports of `HOST:PORT`, to which TCP is limited; none if a host is granted with all ports. */
function portsOf(net: readonly string[]): number[] {
  const ports = net.map((each) => Number(/:(\d+)$/.exec(each.replace(/^\[.*\]/, ""))?.[1] ?? 0));
  // Names are also looked up by TCP.
  return ports.includes(0) || ports.length === 0 ? [] : [...new Set([...ports, DOMAIN_PORT])];
}

/** An instance of an app, kept running. */
export class AppProcess {
  readonly #parts: AppProcessParts;
  #plan: AppProcessPlan;
  #staged?: Staged;
  #current?: TileChild;
  #successor?: TileChild;
  /** Settles when the slow sides of all processes before the current one have ended. */
  #slowBefore: Promise<unknown> = Promise.resolve();
  /** Incremented when a successor begins or is abandoned. A start with an older number ends. */
  #generation = 0;
  /** Settles when the old process has left, while a successor takes over. */
  #leaving?: Promise<unknown>;
  readonly #restartPause = new RestartPause();
  #pause?: ReturnType<typeof setTimeout>;
  #watch?: ReturnType<typeof setInterval>;
  #isStopping = false;
  /** Processes in a row that ended before their first burst. */
  #barren = 0;
  /** Whether the next process skips waiting datagrams, which may be why this one ended. */
  #skips = false;

  constructor(plan: AppProcessPlan, parts: AppProcessParts) {
    this.#plan = plan;
    this.#parts = parts;
  }

  /** Adopts a running process that the previous program started. */
  static adopt(known: KnownApp, parts: AppProcessParts): AppProcess {
    const { plan, own, beside } = known;
    const app = new AppProcess(plan, parts);
    // The previous program staged its files.
    const staged = app.#staged = { ...known.staged, stamp: "" };
    const process = parts.libraries.processes.adopt(known.process);
    const slow = beside && plan.beside && staged.beside &&
      SlowSide.adopt({ plan, beside: plan.beside, staged: staged.beside }, beside, parts);
    const regions = new Inventory(parts.libraries, { before: own });
    app.#current = new TileChild({ plan, staged, process, own: regions, slow }, "running", parts);
    app.#slowBefore = slow?.ended ?? Promise.resolve();
    app.#watchOver();
    app.#keep(app.#current);
    return app;
  }

  /**
   * The state for `adopt` in the next program, and the descriptors to keep open; null if no process
   * runs. A successor that is being started is abandoned.
   */
  known(): ReturnType<TileChild["known"]> {
    this.abandon();
    return this.isReady ? this.#current!.known() : null;
  }

  get name(): string {
    return this.#plan.name;
  }

  /** Whether its newest process was started from `plan` and the current files. */
  isMadeFrom(plan: AppProcessPlan): boolean {
    const { staged } = this.#successor ?? { staged: this.#staged };
    const isNow = (plan: AppProcessPlan, { stamp, sources }: StagedApp) =>
      stamp === stampOf(plan, [...sources, ...plan.grants.read]);
    return staged !== undefined && isNow(plan, staged) &&
      (staged.beside === undefined || isNow(besideOf(plan), staged.beside));
  }

  /** The PID of the running process, or 0. */
  get pid(): number {
    return this.#current?.pid ?? 0;
  }

  /** The name of its slow side, and the PID of its process, or 0; undefined without a slow side. */
  get beside(): { readonly name: string; readonly pid: number } | undefined {
    if (this.#plan.beside === undefined) return undefined;
    return { name: besideName(this.name), pid: this.#current?.slow?.child?.pid ?? 0 };
  }

  /** Whether its loop runs. */
  get isReady(): boolean {
    return this.#current?.stage === "running";
  }

  /** Walls that the system does not support, one clause each. */
  get missing(): readonly string[] {
    const { process, slow } = this.#current ?? {};
    return [...new Set([process, slow?.child?.process].flatMap((each) => each?.missing ?? []))];
  }

  /**
   * Starts a process beside the running one, if there is any, from the app's current files. Resolves when it waits
   * for `go`. Throws AppError for an error of the app, also if it is abandoned meanwhile, and SystemError for a
   * system error; then nothing has changed. `warmUp`: a process of this app, or in its place, serves until then.
   */
  async prepare(plan: AppProcessPlan = this.#plan, { warmUp = false } = {}): Promise<void> {
    let generation = this.#generation;
    const checkIsWanted = () => {
      if (!this.#isStopping && generation === this.#generation) return;
      throw new AppError(plan.name, "it is given up");
    };
    if (this.#leaving !== undefined) {
      // A successor that takes over finishes first, as it serves if this one fails.
      await this.#leaving;
      checkIsWanted();
    }
    this.abandon();
    generation = this.#generation;
    this.#watchOver();
    this.#checkGrants(plan);
    const staged = await this.#stage(plan);
    let child: TileChild | undefined;
    try {
      checkIsWanted();
      child = this.#successor = TileChild.start({ plan, staged, warmUp }, this.#parts);
      await Promise.all([child.ready, child.slow?.child?.ready]);
      checkIsWanted();
    } catch (error) {
      if (this.#successor === child) this.#successor = undefined;
      child?.giveUp();
      this.#discard(staged);
      throw error;
    }
  }

  async #stage(plan: AppProcessPlan): Promise<Staged> {
    const { files } = this.#parts;
    const staged = await files.stage(plan);
    if (plan.beside === undefined) return staged;
    try {
      return { ...staged, beside: await files.stage(besideOf(plan)) };
    } catch (error) {
      files.discard(staged);
      throw error;
    }
  }

  #discard(staged?: Staged): void {
    for (const each of [staged, staged?.beside]) if (each) this.#parts.files.discard(each);
  }

  /** Throws AppError for a granted file that does not exist, or that the process's user may not read. */
  #checkGrants({ name, uid, grants: { read, write } }: AppProcessPlan): void {
    const missing = [...read, ...write].find((path) => !exists(path));
    if (missing !== undefined) {
      throw new AppError(name, `[apps] grants it ${missing}, which does not exist`);
    }
    if (Deno.uid() !== 0) return;
    const closed = read.find((path) => !this.#parts.libraries.processes.readableBy(path, uid));
    if (closed === undefined) return;
    throw new AppError(
      name,
      `its user (${uid}) may not read ${closed}, which [apps] grants it: chmod a+r ${closed}, and a+x ` +
        "for the folders above",
    );
  }

  /** Abandons a successor, also one that is being started, but not one that takes over. */
  abandon(): void {
    this.#generation++;
    if (this.#successor === undefined || this.#leaving !== undefined) return;
    const child = this.#successor;
    this.#successor = undefined;
    child.giveUp();
    Promise.all([child.ended, child.slow?.ended]).then(() => this.#discard(child.staged));
  }

  /**
   * Orders the running process to end after its turn, and does not restart it. Resolves when it has
   * ended, with false if it had to be killed in a turn.
   */
  async leave(): Promise<boolean> {
    clearTimeout(this.#pause);
    this.#restartPause.ended();
    const child = this.#current;
    if (child === undefined) return true;
    // From now on its end is not a failure.
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
   * Sends the successor `go`, since the old process has ended. Resolves when its loop runs.
   * `handedOver`: it answers the datagrams that wait in the links. Throws as `prepare`.
   */
  async #go(handedOver: boolean): Promise<void> {
    const child = this.#current = this.#successor!;
    this.#successor = undefined;
    this.#discard(this.#staged);
    [this.#plan, this.#staged] = [child.plan, child.staged];
    this.#goOne(child, { skips: !handedOver || this.#skips });
    const running = child.slow?.running;
    try {
      await child.running;
    } finally {
      // Restart it also if it fails now, since there is no other process.
      this.#keep(child);
    }
    await running;
  }

  /** Sends `go` to a process, and to its slow side once all earlier ones have ended. `skips`: waiting datagrams. */
  #goOne(child: TileChild, { skips }: { skips: boolean }): void {
    this.#skips = false;
    child.go(!skips);
    const { slow } = child;
    slow?.go(this.#slowBefore);
    this.#slowBefore = Promise.all([this.#slowBefore, slow?.ended]);
  }

  /** Throws the AppError of a slow side that has ended before the successor goes. */
  checkSlowSide(): void {
    const early = this.#successor?.slow?.early;
    if (early !== undefined) throw early;
  }

  /** Replaces the running process, if there is any, by its successor. Resolves when its loop runs. Throws as `prepare`. */
  async takeOver(): Promise<void> {
    if (this.#successor === undefined) throw new Error(`${this.name} has no successor`);
    // The slow side ends first, while the tile still answers its messages.
    const slow = this.#current?.slow;
    slow?.leave();
    const leaving = slow === undefined ? this.leave() : slow.ended.then(() => this.leave());
    this.#leaving = leaving;
    // If it had to be killed, a waiting datagram may be the reason.
    const handedOver = await leaving;
    this.#leaving = undefined;
    await this.#go(handedOver);
  }

  /** Ends it without a restart. Resolves when it has ended. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#leaving !== undefined) await this.#leaving;
    const successor = this.#successor;
    this.abandon();
    await Promise.all([this.leave(), successor?.ended]);
    await this.#slowBefore;
    clearInterval(this.#watch);
    this.#discard(this.#staged);
    this.#staged = undefined;
  }

  #watchOver(): void {
    this.#watch ??= setInterval(() => {
      for (const child of [this.#current, this.#successor]) child?.poll();
    }, POLL_MILLIS);
  }

  /** Restarts it when it has ended. */
  async #keep(child: TileChild): Promise<void> {
    this.#restartPause.started();
    this.#failed(child, await child.ended);
  }

  #failed(child: TileChild | undefined, how: string): void {
    if (this.#current !== child || this.#isStopping) return;
    this.#current = undefined;
    if (child?.hasGone) {
      const barren = child.wasBarren;
      this.#barren = barren === null ? 0 : this.#barren + 1;
      this.#skips = barren !== null && (barren.byItself || this.#barren > 1);
    }
    const pause = this.#restartPause.next();
    this.#parts.changed();
    const line = `${how}; starting it again in ${pause} ms`;
    this.#parts.log(inName(this.name, line), Level.error);
    this.#pause = setTimeout(() => this.#restart(), pause);
  }

  async #restart(): Promise<void> {
    this.#parts.changed(this.name);
    let child: TileChild;
    try {
      const start = { plan: this.#plan, staged: this.#staged!, warmUp: false };
      child = this.#current = TileChild.start(start, this.#parts);
    } catch (error) {
      return this.#failed(undefined, sentenceOf(error));
    }
    this.#keep(child);
    try {
      await child.ready;
      this.#goOne(child, { skips: this.#skips });
      await child.running;
      this.#parts.changed();
    } catch {
      // `#keep` restarts it.
    }
  }
}

/** The plan from which the files of its slow side are staged. */
function besideOf(plan: AppProcessPlan): AppProcessPlan {
  return { ...plan, service: { ...plan.service, module: plan.beside!.module } };
}
