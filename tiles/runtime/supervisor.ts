/**
 * A tile's worker as the appliance's main thread has it: starts it, reads what it reports, polls whether it
 * makes progress, and ends it. Main believes no report that it can check: a tile counts as confined when
 * the kernel says so of its thread.
 */

import { CAP_NET_ADMIN, type Host } from "../../ffi/host.ts";
import { EAGAIN, SystemError } from "../../ffi/library.ts";
import { bounded, LONGEST_LINE } from "./console.ts";
import type { ControlRequest } from "./control.ts";
import type { Permissions } from "./permissions.ts";
import { AppError, firstLine, sentenceOf } from "./thrown.ts";
import type { BootMessage, MainMessage, TileReport, WorkerKind } from "./tile.ts";
import type { TileReader } from "./tile_region.ts";

/** What main wants to hear of. */
export interface TileEvents {
  log(line: string): void;
  /** An error that nobody caught ended the tile's loop or its start. */
  failed(message: string): void;
  /** It has been starting for long. */
  late(): void;
  /** It hangs or broke a rule, and cannot be ended, or nothing can stand in for it. */
  stuck(reason: string): void;
  /** A request to be put into the control region. */
  ask?(request: ControlRequest): void;
}

/** Of the same kind as this module: TypeScript in the sources, JavaScript where it was built. */
const WORKER = import.meta.url.replace(/supervisor(?=\.\w+$)/, "worker");

/** How often a tile is polled. */
export const POLL_MILLIS = 500;
/** Polls without progress of a net tile that is awake, until it is hung. */
const HUNG_POLLS = 10;
/** The same of others, which may have a million routes to go through, and of every start. */
const LONG_POLLS = 60;
/** Polls until a start is said to be long. */
const LATE_POLLS = 10;
/** Clock ticks, of 10 ms, in which a start has made progress; one that waits takes some, too. */
const START_TICKS = 10;
/** Polls until a start is ended however busy it is. */
const START_POLLS = 600;
/** How often the thread of a tile that ends is polled: a reload waits for it. */
const GONE_POLL_MILLIS = 2;
/** Polls until the thread of a tile that was ended must be gone. */
const GONE_POLLS = 6;

/** The threads of this process that tiles run on, by what the kernel tells of them (proc(5)). */
export class Threads {
  readonly #host: Pick<Host, "isRunning" | "readThread">;
  /** Threads of tiles, and when each was started: numbers come again. */
  readonly #taken = new Map<number, string | undefined>();

  constructor(host: Pick<Host, "isRunning" | "readThread">) {
    this.#host = host;
  }

  /** Takes `thread` for one tile. False where it is none of this process, main's, or another tile's. */
  take(thread: number): boolean {
    const stat = this.#stat(thread);
    if (thread === Deno.pid || stat === null) return false;
    if (this.#taken.has(thread) && this.#taken.get(thread) === stat[START_TIME]) return false;
    this.#taken.set(thread, stat[START_TIME]);
    return true;
  }

  /** Whether the thread that was taken still runs. */
  isRunning(thread: number): boolean {
    return this.#host.isRunning(thread) &&
      this.#stat(thread)?.[START_TIME] === this.#taken.get(thread);
  }

  /** Whether `thread` has a seccomp filter, no new privileges, and no capability but those `allowed`. */
  isConfined(thread: number, allowed: number): boolean {
    const status = this.#host.readThread(thread, "status") ?? "";
    const field = (name: string) => status.match(new RegExp(`^${name}:\\s*(\\w+)$`, "m"))?.[1];
    const sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map((name) => field(name));
    return field("Seccomp") === "2" && field("NoNewPrivs") === "1" &&
      sets.every((set) => set !== undefined && (BigInt(`0x${set}`) & ~BigInt(allowed)) === 0n);
  }

  /** Processor time of `thread` in clock ticks; it stands still where the thread only waits. */
  ticks(thread: number): number {
    const stat = this.#stat(thread);
    return stat === null ? 0 : Number(stat[USER_TIME]) + Number(stat[SYSTEM_TIME]);
  }

  /** Fields of the thread's `stat` from the third on: the second, its name, may have anything in it. */
  #stat(thread: number): string[] | null {
    return this.#host.readThread(thread, "stat")?.replace(/^.*\)/s, "").trim().split(" ") ?? null;
  }
}

/** Fields 14, 15 and 22 of proc(5)'s `stat`, where the third is the first. */
const [USER_TIME, SYSTEM_TIME, START_TIME] = [11, 12, 19];

/** What a worker of a kind may have of capabilities once it is confined. */
const ALLOWED_CAPABILITIES: { readonly [kind in WorkerKind]: number } = {
  netlink: 1 << CAP_NET_ADMIN,
  net: 0,
  status: 0,
};

/** How a tile is confined. */
export interface Confined {
  readonly landlock: boolean;
  readonly observed: boolean;
}

/** Starts a worker's thread. Throws SystemError where no more threads are allowed. */
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

/** How a tile ends; it has ended when its thread is gone. */
interface Ending {
  /** What went wrong; null: it was told to end, and did. */
  readonly failure: string | null;
  /** The app that it was for. */
  readonly app?: string;
}

/** One running tile. */
export class TileWorker {
  readonly name: string;
  /** Resolves with how the tile is confined once it runs; rejects when its start fails. */
  readonly running: Promise<Confined>;
  /** Resolves when it could run, or does. */
  readonly ready: Promise<void>;
  /** Resolves when the tile ended: true where it was told to, false for an error. */
  readonly ended: Promise<boolean>;
  readonly #boot: BootMessage;
  readonly #events: TileEvents;
  readonly #threads: Threads;
  readonly #reports: Reports;
  readonly #log: (line: string) => void;
  readonly #worker: Worker;
  readonly #ready = Promise.withResolvers<void>();
  readonly #running = Promise.withResolvers<Confined>();
  readonly #ended = Promise.withResolvers<boolean>();
  #over = false;
  #runs = false;
  #thread = 0;
  #progress = -1;
  /** Polls since it was started. */
  #age = 0;
  /** Polls in a row that found something wrong. */
  #stalled = 0;
  /** Whether it waits to be made, or may wait for its predecessor's end. */
  #waits: boolean;
  /** Whether it was told to end. */
  #isToEnd = false;
  #ending?: Ending;

  constructor(
    boot: BootMessage,
    { permissions, events, threads }: {
      permissions: Permissions;
      events: TileEvents;
      threads: Threads;
    },
  ) {
    this.name = boot.name;
    this.#boot = boot;
    this.#waits = boot.held;
    this.#events = events;
    this.#threads = threads;
    this.#reports = new Reports(boot);
    this.#log = bounded((line) => events.log(line));
    this.ready = this.#ready.promise;
    this.running = this.#running.promise;
    this.ended = this.#ended.promise;
    // Nobody may be waiting for it any more when a start fails late.
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

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over;
  }

  /** Has one that is held be made. */
  make(): void {
    this.#waits = false;
    this.post({ type: "make" });
  }

  /** To be called when it is told to end: only then is it believed that it did. */
  expectEnd(): void {
    this.#isToEnd = true;
  }

  #receive(data: unknown): void {
    if (this.#over || this.#ending !== undefined) return;
    let report: TileReport;
    try {
      report = this.#reports.read(data);
    } catch (error) {
      return this.#refuse(sentenceOf(error));
    }
    const { kind } = this.#boot;
    if (report.type === "log") this.#log(report.line);
    else if (report.type === "ask") this.#events.ask?.(report.request);
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
        return this.#refuse("claimed to be confined without being so");
      }
      this.#runs = true;
      this.#waits = false;
      this.#ready.resolve();
      this.#stalled = 0;
      this.#running.resolve(report);
    } else if (report.type === "failed") {
      // A net tile speaks for the apps inside it.
      const app = kind === "net" && report.app !== undefined ? firstLine(report.app) : undefined;
      this.#end({ failure: firstLine(report.message), app });
    } else if (this.#isToEnd) this.#end({ failure: null });
    else this.#refuse("claimed to have been stopped");
  }

  /** Ends a tile for what it did or said: a loop does not end by itself, so that the process has to. */
  #refuse(reason: string): void {
    if (this.#over || this.#ending !== undefined) return;
    if (this.#runs) return this.#stuck(`it ${reason}`);
    this.#events.log(`it ${reason} and is ended`);
    this.#worker.terminate();
    this.#end({ failure: `it ${reason}` });
  }

  /** From now on it counts as ending in this way; it has ended when its thread is gone. */
  #end(ending: Ending): void {
    if (this.#over || this.#ending !== undefined) return;
    this.#ending = ending;
    this.#stalled = 0;
    const poll = () => {
      if (this.#over) return;
      if (this.#isGone()) this.#settle(ending);
      else setTimeout(poll, GONE_POLL_MILLIS);
    };
    poll();
  }

  #isGone(): boolean {
    return this.#thread === 0 || !this.#threads.isRunning(this.#thread);
  }

  #settle({ failure, app }: Ending): void {
    this.#over = true;
    const message = failure ?? "it was told to end";
    this.#running.reject(
      app === undefined ? new Error(`${this.name}: ${message}`) : new AppError(app, message),
    );
    this.#ended.resolve(failure === null);
    if (failure !== null) this.#events.failed(failure);
  }

  /**
   * To be called every `POLL_MILLIS`. A tile whose thread is gone without a word has failed. One
   * that is awake and makes no progress is hung. So is a status tile that makes none, asleep or not, and a
   * start that takes no processor time, or takes for ever. A hung tile is ended, and has failed when its
   * thread is gone; its regions have no other writer before. One that cannot be ended is `stuck`, and so is
   * a hung net tile, which holds rings.
   */
  poll(tile: TileReader): void {
    if (this.#over || this.#thread === 0) return;
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

  /** Its predecessor has ended: from now on it is hung if it makes no progress. */
  takeOver(): void {
    this.#waits = false;
    this.#stalled = 0;
  }

  /** Of one that is ending: its thread is still there, whatever it said. */
  #retryEnd(): void {
    this.#stalled++;
    if (this.#stalled === 1) this.#worker.terminate();
    if (this.#stalled >= GONE_POLLS) this.#stuck("it hangs and cannot be ended");
  }

  #stuck(reason: string): void {
    this.#over = true;
    this.#events.stuck(reason);
  }

  /** Says something to a status tile. */
  post(message: MainMessage): void {
    this.#worker.postMessage(message);
  }

  /** Ends the worker. One that blocks in a native call goes on until that returns. */
  terminate(): void {
    this.#worker.terminate();
  }
}

type Check = (value: unknown) => boolean;

const isWord: Check = (value) =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 0xffffffff;
const isNumber: Check = (value) => isWord(value) && value !== 0;
const isFlag: Check = (value) => typeof value === "boolean";
/** A line of the log, and the mark that it was clipped. */
const isText: Check = (value) => typeof value === "string" && value.length <= LONGEST_LINE + 1;
const isRequest = isShaped({
  number: isNumber,
  kind: isWord,
  arguments: (value) => Array.isArray(value) && value.length <= 4 && value.every(isWord),
});

/**
 * What each type of report has besides its type. A table of our own: a schema library takes 11 MiB of
 * main for it.
 */
const REPORTS: { readonly [type in TileReport["type"]]: Check } = {
  started: isShaped({ thread: isNumber }),
  ready: isShaped({}),
  running: isShaped({ landlock: isFlag, observed: isFlag }),
  log: isShaped({ line: isText }),
  ask: isShaped({ request: isRequest }),
  stopped: isShaped({}),
  failed: isShaped({ message: isText, app: (value) => value === undefined || isText(value) }),
};

/** Whether something is a plain object with these fields, and with none but them and `type`. */
function isShaped(fields: Readonly<Record<string, Check>>): Check {
  return (value) =>
    typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.keys(value).every((name) => name === "type" || Object.hasOwn(fields, name)) &&
    Object.entries(fields).every(([name, check]) =>
      check(Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined)
    );
}

/**
 * Messages that a tile may post within a second. Lines of the log beyond `LINES_A_SECOND` are left out
 * by the tile itself, for each app in it.
 */
const REPORTS_A_SECOND = 2000;

/**
 * Reads the messages of one worker. An inline app's code can post there whatever the runtime can, so each is
 * checked against the shape of its type and against what the tile may say at this point of its life, and
 * how many there may be is limited.
 */
class Reports {
  readonly #kind: WorkerKind;
  readonly #beside: boolean;
  readonly #said = new Set<TileReport["type"]>();
  readonly #now: () => number;
  /** When the second began in which `#count` messages came. */
  #begun = -Infinity;
  #count = 0;

  /** Of a worker of this kind; `beside`: it starts beside its predecessor. */
  constructor(
    { kind, beside }: { kind: WorkerKind; beside: boolean },
    now: () => number = () => performance.now(),
  ) {
    this.#kind = kind;
    this.#beside = beside;
    this.#now = now;
  }

  /** The report that `data` is. Throws Error, with what is wrong, when this tile cannot have said it now. */
  read(data: unknown): TileReport {
    const now = this.#now();
    if (now - this.#begun >= 1000) [this.#begun, this.#count] = [now, 0];
    if (++this.#count > REPORTS_A_SECOND) {
      throw new Error(`posted more than ${REPORTS_A_SECOND} messages in a second`);
    }
    const type = typeof data === "object" && data !== null && Object.hasOwn(data, "type")
      ? (data as { type: unknown }).type
      : undefined;
    if (typeof type !== "string" || !Object.hasOwn(REPORTS, type)) {
      throw new Error("posted a message that no tile posts");
    }
    const report = data as TileReport;
    if (!REPORTS[report.type](report)) {
      throw new Error(`posted a malformed message of type ${type}`);
    }
    this.#expect(report.type);
    return report;
  }

  #expect(type: TileReport["type"]): void {
    if (type === "log") return;
    if (type === "ask") {
      if (this.#kind === "status") return;
      throw new Error("posted a request, which only the status tile may");
    }
    const after = type === "started" || type === "failed" || type === "stopped"
      ? true
      : this.#said.has("started") && (type !== "ready" || this.#beside);
    if (!after || this.#said.has(type)) {
      throw new Error(`posted a message of type ${type} out of turn`);
    }
    this.#said.add(type);
  }
}
