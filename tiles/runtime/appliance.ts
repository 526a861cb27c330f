// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance: the entry point of its process, which the master (`../../master/`) starts confined
 * (`ffi/process.ts`). It maps the regions that it receives, starts the netlink, net and status tiles as
 * workers, and watches them. On the master's order it hands over to its successor, or ends.
 *
 *     mirror ── status and net tiles made ── ready ── predecessor's end, or go ── running
 */

import { CAP_NET_ADMIN, type Host, openHost, Watcher } from "../../ffi/host.ts";
import { EAGAIN, SystemError } from "../../ffi/library.ts";
import { CHANNEL_DESCRIPTOR, openChannel } from "../../ffi/process.ts";
import { openRegions, u32 } from "../../ffi/region.ts";
import { openObserver, openTile, refusedCalls } from "../../ffi/tile.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { Ask, type ControlRequest, ControlWriter } from "./control.ts";
import {
  type ApplianceOrder,
  type ApplianceReport,
  type Check,
  checkedMessage,
  Handed,
  isFlag,
  isText,
  isWord,
  messagesBy,
  optional,
  REQUESTS,
  type Shapes,
} from "./handed.ts";
import {
  AppError,
  bounded,
  clipped,
  firstLine,
  inName,
  isLevel,
  Level,
  once,
  sentenceOf,
} from "./log.ts";
import { checkMtus, InterfaceError, lacking, type Permissions, workerPermissions } from "./plan.ts";
import {
  type BootMessage,
  delay,
  Life,
  type MainMessage,
  RestartPause,
  spinTurnsFor,
  type TileReader,
  type TileReport,
  type WorkerKind,
} from "./tile.ts";
import { type ApplianceSetup, inlineGrants, wire, type WorkerHandle } from "./wiring.ts";

const MODULES = {
  netlink: "../netlink/tile",
  net: "../net/tile",
  status: "../status/tile",
} as const;
/** `.ts` in the sources, `.js` in build/program/. */
const EXTENSION = import.meta.url.replace(/^.*\./, ".");
/** How long tiles may take to drain and end. The loop's own limit is shorter. */
const STOP_MILLIS = 600;
/** How long net tiles may take to finish a burst, and the status tile to answer its clients. */
const LEAVE_MILLIS = 1000;
const STOP_POLL_MILLIS = 1;
/** How long the process stays once its successor serves. */
const LINGER_MILLIS = 100;
/** Exit statuses (`cli/command.ts`). */
const [FAILURE, USAGE, INTERFACE] = [1, 2, 4];
const BEAT_MILLIS = 500;

/** This process: an appliance that starts, runs, leaves or stops. */
class Appliance {
  readonly #host = openHost();
  readonly #tile = openTile();
  readonly #messages = messagesBy<ApplianceReport, ApplianceOrder>(openChannel(CHANNEL_DESCRIPTOR));
  readonly #handed = new Handed<ApplianceSetup>(openRegions(), Number(Deno.args.at(-1)));
  readonly #wiring = wire(this.#handed.setup, this.#handed);
  readonly #control = new ControlWriter(this.#wiring.control.writer);
  readonly #threads = new Threads(this.#host);
  readonly #logOnce = once((line) => this.#log(line));
  readonly #workers = new Map<string, TileWorker>();
  /** Pauses of the tiles that are restarted in place, by name. */
  readonly #restartPauses = new Map<string, RestartPause>();
  #running = false;
  #ending = false;
  #watch?: ReturnType<typeof setInterval>;
  /** Log lines for which the master had no room. */
  #lost = 0;

  /** Starts, and follows the master's orders from then on. */
  run(): void {
    this.#tile.nameThread("appliance");
    openObserver().start(u32(this.#wiring.refusedCalls.writer));
    new Watcher(this.#host, this.#tile).watch(CHANNEL_DESCRIPTOR, () => this.#follow());
    setInterval(() => this.#messages.send({ type: "beat" }), BEAT_MILLIS);
    this.#boot().catch((error) => this.#fail(error));
  }

  /** Starts all tiles. Net tiles wait until their predecessors have stopped, or for `go`. */
  async #boot(): Promise<void> {
    const { setup: { interfaces, attached, hasPredecessor } } = this.#handed;
    const { netlink, nets, status } = this.#wiring;
    const mirror = this.#start(netlink, this.#wiring.netlinkSetup());
    // The others load meanwhile.
    const others = nets.map((net, n) => this.#start(net, this.#wiring.netSetup(n), { held: true }));
    if (status !== null) {
      others.push(this.#start(status, this.#wiring.statusSetup(), { held: true }));
    }
    await mirror.running;
    // Without a predecessor, only this status tile can report that the appliance is starting.
    const early = hasPredecessor ? undefined : this.#workers.get("status");
    early?.make();
    // The netlink tile does not wait for main before it reuses a record, so a record may change while main reads it,
    // but only if the interface is replaced at this very moment. At worst this start waits or fails.
    const netbase = new NetbaseReader(this.#wiring.netbase);
    const log = (line: string) => this.#log(line);
    await waitForInterfaces(netbase, { names: interfaces, log });
    checkMtus(netbase, attached.map(({ name }) => name));
    for (const worker of others) if (worker !== early) worker.make();
    const running = Promise.all(others.map((worker) => worker.running));
    running.catch(() => {});
    // A tile that fails before it is ready rejects `running`.
    await Promise.race([Promise.all(others.map((worker) => worker.ready)), running]);
    this.#messages.send({ type: "ready" });
    await running;
    // From now on a tile that fails is restarted, or ends the appliance.
    this.#running = true;
    this.#messages.send({ type: "running" });
  }

  #follow(): void {
    for (let order = this.#messages.receive(); order !== null; order = this.#messages.receive()) {
      if (order === undefined) Deno.exit(FAILURE);
      if (order.type === "go") this.#go();
      else if (order.type === "leave") void this.#leave();
      else if (order.type === "stop") void this.#stop();
      else if (order.type === "changing") this.#control.changing = order.changing;
      else if (order.type === "attached") {
        order.attached.forEach((takes, i) => this.#control.setXdp(i, takes));
      } else if (order.type === "outcome") this.#workers.get("status")?.post(order);
    }
  }

  /** Notifies the tiles that all predecessors have ended. From now on the netlink tile writes the filters. */
  #go(): void {
    this.#control.serve();
    this.#wake();
    for (const { name } of this.#wiring.nets) this.#workers.get(name)!.takeOver();
  }

  #start(own: WorkerHandle, setup: unknown, { held = false } = {}): TileWorker {
    const { kind, name, slot, region } = own;
    const isNet = kind === "net";
    const { read, clock } = inlineGrants(isNet ? this.#handed.setup.apps : []);
    const { nets } = this.#wiring;
    const apps = this.#handed.setup.apps.filter(({ inline }) => !inline);
    const worker: TileWorker = new TileWorker({
      kind,
      name,
      module: new URL(MODULES[kind] + EXTENSION, import.meta.url).href,
      slot,
      region: region.writer,
      control: this.#wiring.control.reader,
      clock,
      hasPredecessor: isNet && this.#handed.setup.hasPredecessor,
      held,
      spinTurns: spinTurnsFor(nets.length + apps.length, navigator.hardwareConcurrency),
      setup,
    }, {
      permissions: workerPermissions(read),
      threads: this.#threads,
      events: {
        log: (text, level) => this.#log(inName(name, text), level),
        ask: (request) => this.#ask(request),
        failed: (message) => {
          const isCurrent = this.#workers.get(name) === worker;
          if (isCurrent && this.#running && !this.#ending) this.#failed(own, { message, setup });
        },
        late: () => {
          for (const late of this.#wiring.starting(name)) {
            this.#log(`${late}: its start has not ended yet`);
          }
        },
        stuck: (reason) => this.#fatal(name, reason),
      },
    });
    this.#workers.set(name, worker);
    this.#watch ??= setInterval(() => this.#poll(), POLL_MILLIS);
    worker.running.then(({ landlock, observed }) => {
      if (!landlock) {
        this.#logOnce("the kernel has no landlock: tiles are confined by seccomp alone");
      }
      if (!observed) {
        this.#logOnce("the kernel does not report the system calls that it refuses to tiles");
      }
    }, () => {});
    return worker;
  }

  #poll(): void {
    if (this.#ending) return;
    this.#control.pulse();
    for (const { name, reader } of this.#wiring.workers) this.#workers.get(name)?.poll(reader);
    this.#nameRefusedCalls();
  }

  /** Logs each system call that was refused to a tile, once. */
  #nameRefusedCalls(): void {
    for (const { name, slot } of this.#wiring.workers) {
      for (const { call } of refusedCalls(this.#wiring.refusedCalls.reader, slot)) {
        this.#logOnce(`${name}: refused system call ${call} (${this.#tile.callName(call)})`);
      }
    }
  }

  /** Netlink and status tiles are restarted in place. If a net tile fails, the master starts another process. */
  #failed(own: WorkerHandle, { message, setup }: { message: string; setup: unknown }): void {
    if (own.kind === "net") return this.#fatal(own.name, message);
    const restart = this.#restartPauses.getOrInsertComputed(own.name, () => new RestartPause());
    const pause = restart.next();
    this.#log(`${own.name}: ended (${message}); starting it again in ${pause} ms`);
    setTimeout(() => {
      if (this.#ending || !this.#workers.get(own.name)?.over) return;
      restart.started();
      this.#control.restarted(own.slot);
      // `failed` reports a failure of this start, unless no thread could be created.
      try {
        this.#start(own, setup);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        this.#failed(own, { message: error.message, setup });
      }
    }, pause);
  }

  #ask(request: ControlRequest): void {
    if (request.kind === Ask.capture) {
      this.#control.captureMode = request.arguments[0];
      return;
    }
    const what = REQUESTS.find((each) => Ask[each] === request.kind);
    if (what !== undefined) {
      this.#messages.send({ type: "ask", what, number: request.number });
      return;
    }
    this.#control.ask(request);
    this.#tile.wake(this.#wiring.netlink.eventfd);
  }

  #wake(): void {
    for (const { eventfd } of this.#wiring.workers) this.#tile.wake(eventfd);
  }

  /** Makes net tiles leave after their burst. Ends the process. */
  async #leave(): Promise<void> {
    const wasRunning = this.#running;
    this.#beginEnd();
    this.#control.leave();
    this.#wake();
    const status = this.#workers.get("status");
    status?.post({ type: "leave" });
    const orderly = wasRunning && await this.#netsStop(LEAVE_MILLIS);
    this.#messages.send({ type: "left", orderly });
    // The successor already serves. The status tile answers the connected clients.
    await Promise.race([status?.ended, delay(LEAVE_MILLIS)]);
    // Ending a process takes processor time, which the successor needs for its first datagrams.
    await delay(LINGER_MILLIS);
    Deno.exit();
  }

  /** Lets the tiles drain and ends the process. */
  async #stop(): Promise<void> {
    this.#beginEnd();
    this.#control.stop();
    this.#wake();
    this.#workers.get("status")?.terminate();
    const ends = this.#wiring.nets.map(({ name }) => this.#workers.get(name)!.ended);
    await Promise.race([Promise.all(ends), delay(STOP_MILLIS)]);
    this.#nameRefusedCalls();
    Deno.exit();
  }

  #beginEnd(): void {
    this.#ending = true;
    clearInterval(this.#watch);
    for (const worker of this.#workers.values()) worker.expectEnd();
  }

  /** Whether all net tiles stop within `millis`, as seen in their regions. Their threads may end later. */
  async #netsStop(millis: number): Promise<boolean> {
    const { nets } = this.#wiring;
    for (const end = performance.now() + millis; performance.now() < end;) {
      if (nets.every(({ reader }) => reader.life === Life.stopped)) return true;
      if (nets.some(({ name }) => this.#workers.get(name)!.hasFailed)) return false;
      await delay(STOP_POLL_MILLIS);
    }
    return false;
  }

  /** Lines of the appliance and its tiles are warnings, so that operators see them. Apps choose levels. */
  #log(text: string, level: number = Level.warning): void {
    for (const line of text.split("\n")) {
      const lost = `${this.#lost} lines of the log were lost`;
      if (this.#lost > 0 && this.#messages.send({ type: "log", line: lost, level })) this.#lost = 0;
      if (!this.#messages.send({ type: "log", line: clipped(line), level })) this.#lost++;
    }
  }

  /** Ends the process because of a tile that cannot be restarted in place. */
  #fatal(tile: string, message: string): never {
    this.#fail(new Error(`${tile} ended: ${message}`));
  }

  /** Ends the process, and reports the reason to the master. */
  #fail(error: unknown): never {
    const message = sentenceOf(error);
    const status = error instanceof AppError
      ? USAGE
      : error instanceof InterfaceError
      ? INTERFACE
      : FAILURE;
    this.#messages.send({
      ...{ type: "failed", message, status },
      ...(error instanceof AppError && { app: error.app }),
      ...(/^net\d+: RingsLost: /.test(message) && { ringsLost: true }),
    });
    Deno.exit(FAILURE);
  }
}

// A tile's worker as seen by main. Main verifies every report that it can: a tile counts as confined
// only if the kernel confirms it for the thread.

interface TileEvents {
  log(line: string, level?: number): void;
  /** An uncaught error ended the tile's loop or its start. */
  failed(message: string): void;
  late(): void;
  /** It hangs or broke a rule, and cannot be ended or replaced. */
  stuck(reason: string): void;
  ask?(request: ControlRequest): void;
}

/** The worker's module, with this module's extension. */
const WORKER = import.meta.url.replace(/appliance(?=\.\w+$)/, "worker");

const POLL_MILLIS = 500;
/** Polls without progress after which a net tile that is awake is hung. */
const HUNG_POLLS = 10;
/** The same for other tiles, which may process a million routes at once, and for every start. */
const LONG_POLLS = 60;
/** Polls after which a long start is logged. */
const LATE_POLLS = 10;
/** Clock ticks of 10 ms that count as progress of a start. A waiting start uses some, too. */
const START_TICKS = 10;
/** Polls after which a start is ended even if it makes progress. */
const START_POLLS = 600;
/** How often the thread of an ending tile is polled. A reload waits for it. */
const GONE_POLL_MILLIS = 2;
/** Polls after which an ended tile's thread must be gone. */
const GONE_POLLS = 6;

/** The threads of tiles, as the kernel reports them (proc(5)). */
export class Threads {
  readonly #host: Pick<Host, "isRunning" | "readThread">;
  /** Threads of tiles, with their start times, since thread IDs are reused. */
  readonly #taken = new Map<number, string | undefined>();

  constructor(host: Pick<Host, "isRunning" | "readThread">) {
    this.#host = host;
  }

  /** Registers the thread of a tile. Returns false if it is not in this process, or is main's or another tile's. */
  take(thread: number): boolean {
    const stat = this.#stat(thread);
    if (thread === Deno.pid || stat === null) return false;
    if (this.#taken.has(thread) && this.#taken.get(thread) === stat[START_TIME]) return false;
    this.#taken.set(thread, stat[START_TIME]);
    return true;
  }

  isRunning(thread: number): boolean {
    return this.#host.isRunning(thread) &&
      this.#stat(thread)?.[START_TIME] === this.#taken.get(thread);
  }

  /** Whether `thread` has a seccomp filter, no new privileges, and no capability except those `allowed`. */
  isConfined(thread: number, allowed: number): boolean {
    const status = this.#host.readThread(thread, "status") ?? "";
    const field = (name: string) => status.match(new RegExp(`^${name}:\\s*(\\w+)$`, "m"))?.[1];
    const sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map((name) => field(name));
    return field("Seccomp") === "2" && field("NoNewPrivs") === "1" &&
      sets.every((set) => set !== undefined && (BigInt(`0x${set}`) & ~BigInt(allowed)) === 0n);
  }

  /** Processor time of `thread` in clock ticks. */
  ticks(thread: number): number {
    const stat = this.#stat(thread);
    return stat === null ? 0 : Number(stat[USER_TIME]) + Number(stat[SYSTEM_TIME]);
  }

  /** Fields of the thread's `stat` from the third on. The second, its name, may contain anything. */
  #stat(thread: number): string[] | null {
    return this.#host.readThread(thread, "stat")?.replace(/^.*\)/s, "").trim().split(" ") ?? null;
  }
}

/** Fields 14, 15 and 22 of proc(5)'s `stat`, where the third is the first. */
const [USER_TIME, SYSTEM_TIME, START_TIME] = [11, 12, 19];

/** Capabilities that a confined worker may have, by its kind. */
const ALLOWED_CAPABILITIES: { readonly [kind in WorkerKind]: number } = {
  netlink: 1 << CAP_NET_ADMIN,
  net: 0,
  status: 0,
};

interface Confined {
  readonly landlock: boolean;
  readonly observed: boolean;
}

/** Starts a worker's thread. Throws SystemError if no more threads are allowed. */
function makeWorker(name: string, permissions: Permissions): Worker {
  try {
    return new Worker(WORKER, {
      type: "module",
      name,
      deno: { permissions: permissions as Deno.PermissionOptionsObject },
    });
  } catch (error) {
    if (!(error instanceof Deno.errors.WouldBlock)) throw error;
    throw new SystemError(`start the thread of ${name}; a higher 'ulimit -u' may help`, EAGAIN);
  }
}

/** How a tile ends. It has ended when its thread is gone. */
interface Ending {
  /** The error; null if it was told to end. */
  readonly failure: string | null;
  readonly app?: string;
}

export class TileWorker {
  readonly name: string;
  /** Whether it has ended. */
  over = false;
  readonly #ready = Promise.withResolvers<void>();
  readonly #running = Promise.withResolvers<Confined>();
  readonly #ended = Promise.withResolvers<boolean>();
  /** Resolves when the tile runs, with its confinement. Rejects if its start fails. */
  readonly running = this.#running.promise;
  /** Resolves when it is ready or runs. */
  readonly ready = this.#ready.promise;
  /** Resolves when the tile has ended: true if it was told to, false after an error. */
  readonly ended = this.#ended.promise;
  readonly #boot: BootMessage;
  readonly #events: TileEvents;
  readonly #threads: Threads;
  readonly #read: (data: unknown) => TileReport;
  readonly #log: (level: number | undefined, line: string) => void;
  readonly #worker: Worker;
  #runs = false;
  #thread = 0;
  #progress = -1;
  #age = 0;
  #stalled = 0;
  /** Whether it waits to be made, or for its predecessor's end. */
  #waits: boolean;
  #isToEnd = false;
  #ending?: Ending;

  constructor(boot: BootMessage, { permissions, events, threads }: {
    permissions: Permissions;
    events: TileEvents;
    threads: Threads;
  }) {
    this.name = boot.name;
    this.#boot = boot;
    this.#waits = boot.held;
    this.#events = events;
    this.#threads = threads;
    this.#read = reportReader(boot.kind);
    this.#log = bounded((line, level) => events.log(line, level));
    // A start may fail when nobody waits for it any more.
    this.running.catch(() => {});

    this.#worker = makeWorker(boot.name, permissions);
    this.#worker.onmessage = ({ data }: MessageEvent<unknown>) => this.#receive(data);
    this.#worker.onmessageerror = () => this.#refuse("posted a message that cannot be read");
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const line = firstLine(event.message);
      this.#end({ failure: line.replace(/^Uncaught (\(in promise\) )?(Error: )?/, "") });
    };
    this.#worker.postMessage(boot);
  }

  /** Whether it has ended, or is ending, because of an error. */
  get hasFailed(): boolean {
    return this.#ending?.failure != null;
  }

  /** Makes a held tile. */
  make(): void {
    this.#waits = false;
    this.post({ type: "make" });
  }

  /** Called when it is told to end. Before that, its report that it has ended is refused. */
  expectEnd(): void {
    this.#isToEnd = true;
  }

  #receive(data: unknown): void {
    if (this.over || this.#ending !== undefined) return;
    let report: TileReport;
    try {
      report = this.#read(data);
    } catch (error) {
      return this.#refuse(sentenceOf(error));
    }
    const { kind } = this.#boot;
    if (report.type === "log") this.#log(report.level, report.line);
    else if (report.type === "ask") this.#events.ask?.(report);
    else if (report.type === "started") {
      if (!this.#threads.take(report.thread)) {
        return this.#refuse(`claimed thread ${report.thread}, which is not its own`);
      }
      this.#thread = report.thread;
    } else if (report.type === "ready") {
      this.#waits = true;
      this.#ready.resolve();
    } else if (report.type === "running") {
      if (!this.#threads.isConfined(this.#thread, ALLOWED_CAPABILITIES[kind])) {
        return this.#refuse("claimed to be confined, but is not");
      }
      this.#runs = true;
      this.#waits = false;
      this.#ready.resolve();
      this.#stalled = 0;
      this.#running.resolve(report);
    } else if (report.type === "failed") {
      // Only a net tile has inline apps.
      const app = kind === "net" && report.app !== undefined ? firstLine(report.app) : undefined;
      this.#end({ failure: firstLine(report.message), app });
    } else if (this.#isToEnd) this.#end({ failure: null });
    else this.#refuse("claimed to have been stopped");
  }

  /** Ends a tile that broke a rule. A running loop cannot be ended; then the process must end. */
  #refuse(reason: string): void {
    if (this.over || this.#ending !== undefined) return;
    if (this.#runs) return this.#stuck(`it ${reason}`);
    this.#events.log(`it ${reason} and is ended`);
    this.#worker.terminate();
    this.#end({ failure: `it ${reason}` });
  }

  /** Begins its end. It has ended when its thread is gone. */
  #end(ending: Ending): void {
    if (this.over || this.#ending !== undefined) return;
    this.#ending = ending;
    this.#stalled = 0;
    const poll = () => {
      if (this.over) return;
      if (this.#isGone()) this.#settle(ending);
      else setTimeout(poll, GONE_POLL_MILLIS);
    };
    poll();
  }

  #isGone(): boolean {
    return this.#thread === 0 || !this.#threads.isRunning(this.#thread);
  }

  #settle({ failure, app }: Ending): void {
    this.over = true;
    const message = failure ?? "it was told to end";
    this.#running.reject(
      app === undefined ? new Error(`${this.name}: ${message}`) : new AppError(app, message),
    );
    this.#ended.resolve(failure === null);
    if (failure !== null) this.#events.failed(failure);
  }

  /**
   * Called every `POLL_MILLIS`. A tile whose thread is gone without a report has failed. A tile that is awake without
   * progress is hung. So is a status tile without progress, asleep or not, and a start that uses no processor time or
   * takes too long. A hung tile is ended, and has failed when its thread is gone; before that its regions get no other
   * writer. A tile that cannot be ended is `stuck`, and so is a hung net tile, because it holds rings.
   */
  poll(tile: TileReader): void {
    if (this.over || this.#thread === 0) return;
    if (this.#isGone()) return this.#settle(this.#ending ?? { failure: "it left" });
    if (this.#ending !== undefined) return this.#retryEnd();
    if (this.#waits) return;
    const { kind } = this.#boot;
    const progress = this.#runs
      ? tile.burst + tile.sleepSequence
      : Math.floor(this.#threads.ticks(this.#thread) / START_TICKS);
    const lives = progress !== this.#progress ||
      (this.#runs && tile.asleep && kind !== "status");
    this.#progress = progress;
    this.#stalled = lives ? 0 : this.#stalled + 1;
    this.#age++;
    if (!this.#runs && this.#age === LATE_POLLS) this.#events.late();
    const quick = this.#runs && kind === "net";
    const late = !this.#runs && this.#age >= START_POLLS;
    if (this.#stalled < (quick ? HUNG_POLLS : LONG_POLLS) && !late) return;
    if (kind === "net" && this.#runs) return this.#stuck("it hangs");
    const reason = this.#runs ? "hangs" : "did not start in time";
    this.#events.log(`it ${reason} and is ended`);
    this.#worker.terminate();
    this.#end({ failure: `it ${reason}` });
  }

  /** Called when its predecessor has ended. From now on it is hung if it makes no progress. */
  takeOver(): void {
    this.#waits = false;
    this.#stalled = 0;
  }

  /** Ends it again, since its thread still exists. */
  #retryEnd(): void {
    this.#stalled++;
    if (this.#stalled === 1) this.#worker.terminate();
    if (this.#stalled >= GONE_POLLS) this.#stuck("it hangs and cannot be ended");
  }

  #stuck(reason: string): void {
    this.over = true;
    this.#events.stuck(reason);
  }

  /** Sends a message to a held tile, or to a status tile. */
  post(message: MainMessage): void {
    this.#worker.postMessage(message);
  }

  /** Ends the worker. A blocking native call delays the end until it returns. */
  terminate(): void {
    this.#worker.terminate();
  }
}

const isNumber: Check = (value) => isWord(value) && value !== 0;

const REPORTS: Shapes<TileReport> = {
  started: { thread: isNumber },
  ready: {},
  running: { landlock: isFlag, observed: isFlag },
  log: { line: isText, level: isLevel },
  ask: {
    number: isNumber,
    kind: isWord,
    arguments: (value) => Array.isArray(value) && value.length <= 4 && value.every(isWord),
  },
  stopped: {},
  failed: { message: isText, app: optional(isText) },
};

/** Messages that a tile may post in a second. It limits the log lines of each app itself (`LINES_A_SECOND`). */
const REPORTS_A_SECOND = 2000;

/**
 * Returns a function that reads the messages of one worker, or throws Error if this tile cannot send one
 * now. The code of an inline app might post whatever the runtime can post. So each message is checked for
 * its shape and for whether the tile may send it at this stage, and their number is limited.
 */
function reportReader(kind: WorkerKind): (data: unknown) => TileReport {
  const said = new Set<TileReport["type"]>();
  /** The beginning of the second in which `count` messages came. */
  let begun = -Infinity;
  let count = 0;
  return (data) => {
    const now = performance.now();
    if (now - begun >= 1000) [begun, count] = [now, 0];
    if (++count > REPORTS_A_SECOND) {
      throw new Error(`posted more than ${REPORTS_A_SECOND} messages in a second`);
    }
    let report: TileReport;
    try {
      report = checkedMessage(data, REPORTS);
    } catch (error) {
      throw new Error(`posted ${sentenceOf(error)}`);
    }
    const { type } = report;
    if (type === "log" || (type === "ask" && kind === "status")) return report;
    if (type === "ask") throw new Error("posted a request, but is not the status tile");
    const isFirst = type === "started" || type === "failed" || type === "stopped";
    const isInTurn = isFirst || (said.has("started") && (type !== "ready" || kind === "net"));
    if (!isInTurn || said.has(type)) {
      throw new Error(`posted a message of type ${type} out of turn`);
    }
    said.add(type);
    return report;
  };
}

const WAIT_POLL_MILLIS = 20;

/** Waits until each interface exists in the mirror and lacks nothing. Logs what it waits for. */
async function waitForInterfaces(
  netbase: NetbaseReader,
  { names, log }: { names: readonly string[]; log(line: string): void },
): Promise<void> {
  const { interfaces } = netbase;
  for (const name of names) {
    for (let said = "";; await delay(WAIT_POLL_MILLIS)) {
      netbase.refresh();
      const record = interfaces.records().find((each) => interfaces.name(each) === name);
      const trouble = record === undefined
        ? { says: "does not exist", fix: "ip link" }
        : lacking(interfaces, record);
      if (trouble === null) break;
      if (trouble.says !== said) log(`${name}: waiting, it ${trouble.says} ('${trouble.fix}')`);
      said = trouble.says;
    }
  }
}

if (import.meta.main) new Appliance().run();
