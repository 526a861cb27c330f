/**
 * A tile as main sees it: the worker, what it reported, and how it ended. Main believes no report that
 * it can check: a tile counts as confined when the kernel says so of its thread.
 */

import { CAP_NET_ADMIN, type Host } from "../../ffi/host.ts";
import { bounded } from "./console.ts";
import type { ControlRequest } from "./control.ts";
import { APP } from "./counters.ts";
import type { Permissions } from "./permissions.ts";
import { Reports } from "./reports.ts";
import { AppError, sentenceOf } from "./thrown.ts";
import type { BootMessage, TileKind, TileReport } from "./tile.ts";
import { Life, type TileReader } from "./tile_region.ts";

/** What main wants to hear of. */
export interface TileEvents {
  log(line: string): void;
  /** An error that nobody caught ended the tile's loop or its start. */
  failed(message: string): void;
  /** It has been starting for long. */
  late(): void;
  /** It hangs, and cannot be ended, or nothing can stand in for it. */
  stuck(): void;
  /** One that starts beside another could run: has that one end, and resolves as `ended`. */
  ready?(): Promise<boolean>;
  /** A request to be put into the control region. */
  ask?(request: ControlRequest): void;
}

const WORKER = new URL("./worker.ts", import.meta.url).href;

/** How often a tile is looked after. */
export const LOOK_MILLIS = 500;
/** Looks without progress of an app or net tile that is awake, until it is hung. */
const HUNG_LOOKS = 10;
/** The same of others, which may have a million routes to go through, and of every start. */
const LONG_LOOKS = 60;
/** Looks until a start is said to be long. */
const LATE_LOOKS = 10;
/** Looks until a start is ended however busy it is. */
const START_LOOKS = 600;
/** Looks until the thread of a tile that was ended must be gone. */
const GONE_LOOKS = 6;

/** The threads of this process that tiles run on, by what the kernel tells of them. */
export class Threads {
  readonly #host: Pick<Host, "isRunning" | "readThread">;
  readonly #taken = new Set<number>();

  constructor(host: Pick<Host, "isRunning" | "readThread">) {
    this.#host = host;
  }

  /** Takes `thread` for one tile. False where it is none of this process, main's, or another tile's. */
  take(thread: number): boolean {
    if (thread === Deno.pid || this.#taken.has(thread)) return false;
    if (this.#host.readThread(thread, "status") === null) return false;
    this.#taken.add(thread);
    return true;
  }

  /** Whether it still runs; once it does not, its number may come again. */
  isRunning(thread: number): boolean {
    const runs = this.#host.isRunning(thread);
    if (!runs) this.#taken.delete(thread);
    return runs;
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
    // The name, in parentheses, may have anything in it; utime and stime are fields 14 and 15 (proc(5)).
    const fields = this.#host.readThread(thread, "stat")?.replace(/^.*\)/s, "").trim().split(" ");
    return fields === undefined ? 0 : Number(fields[11]) + Number(fields[12]);
  }
}

/** What a worker of a kind may have of capabilities once it is confined. */
const ALLOWED_CAPABILITIES: { readonly [kind in TileKind]: number } = {
  netlink: 1 << CAP_NET_ADMIN,
  net: 0,
  app: 0,
  status: 0,
};

/** How a tile is confined. */
export interface Confined {
  readonly landlock: boolean;
  readonly observed: boolean;
}

/** One running tile. */
export class TileWorker {
  readonly name: string;
  /** Resolves with how the tile is confined once it runs; rejects when its start fails. */
  readonly running: Promise<Confined>;
  /** Resolves when the tile ended: true where it was told to, false for an error. */
  readonly ended: Promise<boolean>;
  readonly #boot: BootMessage;
  readonly #events: TileEvents;
  readonly #threads: Threads;
  readonly #reports: Reports;
  readonly #log: (line: string) => void;
  readonly #worker: Worker;
  readonly #running = Promise.withResolvers<Confined>();
  readonly #ended = Promise.withResolvers<boolean>();
  #over = false;
  #runs = false;
  #thread = 0;
  #progress = -1;
  /** Looks since it was started. */
  #age = 0;
  /** Looks in a row at which there was something wrong. */
  #looks = 0;
  /** Why it is being ended, while it is. */
  #ending?: string;
  #asks = false;

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
    this.#events = events;
    this.#threads = threads;
    this.#reports = new Reports(boot);
    this.#log = bounded((line) => events.log(line));
    this.running = this.#running.promise;
    this.ended = this.#ended.promise;
    // Nobody may be waiting for it any more when a start fails late.
    this.running.catch(() => {});

    this.#worker = new Worker(WORKER, {
      type: "module",
      name: boot.name,
      deno: { permissions: permissions as Deno.PermissionOptionsObject },
    });
    this.#worker.onmessage = ({ data }: MessageEvent<unknown>) => this.#hear(data);
    this.#worker.onmessageerror = () =>
      this.#end("posted a message that cannot be read", { asks: true });
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(
        event.message.split("\n")[0].replace(/^Uncaught (\(in promise\) )?(Error: )?/, ""),
      );
    };
    this.#worker.postMessage(boot);
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over;
  }

  /** Whether its loop is to be asked to leave. */
  get leaving(): boolean {
    return this.#asks && !this.#over;
  }

  /** The number of its thread, once it has started. */
  get thread(): number {
    return this.#thread;
  }

  #hear(data: unknown): void {
    if (this.#over || this.#ending !== undefined) return;
    let report: TileReport;
    try {
      report = this.#reports.read(data);
    } catch (error) {
      return this.#end(sentenceOf(error), { asks: true });
    }
    if (report.type === "log") this.#log(report.line);
    else if (report.type === "ask") this.#events.ask?.(report.request);
    else if (report.type === "started") {
      if (!this.#threads.take(report.thread)) {
        return this.#end(`claimed thread ${report.thread}, which is not its own`, { asks: true });
      }
      this.#thread = report.thread;
    } else if (report.type === "ready") {
      this.#looks = 0;
      this.#events.ready?.().then((handedOver) => this.#worker.postMessage(handedOver));
    } else if (report.type === "running") {
      if (!this.#threads.isConfined(this.#thread, ALLOWED_CAPABILITIES[this.#boot.kind])) {
        return this.#end("claimed to be confined without being so", { asks: true });
      }
      this.#runs = true;
      this.#looks = 0;
      this.#running.resolve(report);
    } else if (report.type === "failed") this.#fail(report.message, report.app);
    else {
      this.#over = true;
      this.#ended.resolve(true);
    }
  }

  /**
   * Ends the tile, which has failed for this reason when its thread is gone: its loop, where it runs, is
   * asked to leave; a start is terminated, and so is a loop that makes no progress.
   */
  #end(reason: string, { asks }: { asks: boolean }): void {
    this.#ending = reason;
    this.#looks = 0;
    this.#events.log(`it ${reason} and is ended`);
    if (asks && this.#runs) this.#asks = true;
    else this.#worker.terminate();
    if (this.#thread === 0) this.#fail(`it ${reason}`);
  }

  #fail(message: string, app = this.#boot.kind === "app" ? this.name : undefined): void {
    this.#over = true;
    const error = app === undefined
      ? new Error(`${this.name}: ${message}`)
      : new AppError(app, message);
    this.#running.reject(error);
    this.#ended.resolve(false);
    this.#events.failed(message);
  }

  /**
   * Looks after the tile, every `LOOK_MILLIS`. One whose thread is gone without a word has failed. One
   * that is awake and makes no progress is hung, and so is a status tile that makes none, asleep or not,
   * and one whose start takes no processor time, or takes for ever: it is ended, and has failed when its
   * thread is gone; nobody else has its regions before. One that cannot be ended is `stuck`, and so is
   * a net tile, which holds rings; but one that starts beside another, which has nothing of that yet,
   * has just failed.
   */
  look(tile: TileReader): void {
    if (this.#over || this.#thread === 0) return;
    if (!this.#threads.isRunning(this.#thread)) {
      return this.#fail(this.#ending === undefined ? "it left" : `it ${this.#ending}`);
    }
    const { kind, beside } = this.#boot;
    const progress = this.#runs ? progressOf(tile, kind) : this.#threads.ticks(this.#thread);
    const lives = progress !== this.#progress ||
      (this.#runs && (tile.life !== Life.running || (tile.asleep && kind !== "status")));
    this.#progress = progress;
    this.#looks = lives && this.#ending === undefined ? 0 : this.#looks + 1;
    this.#age++;
    if (!this.#runs && this.#age === LATE_LOOKS) this.#events.late();
    if (this.#ending !== undefined) {
      if (this.#looks < GONE_LOOKS) return;
      if (beside && !this.#runs) return this.#fail(`it ${this.#ending} and cannot be ended`);
      return this.#stuck();
    }
    const quick = this.#runs && (kind === "app" || kind === "net");
    const late = !this.#runs && this.#age >= START_LOOKS;
    if (this.#looks < (quick ? HUNG_LOOKS : LONG_LOOKS) && !late) return;
    if (kind === "net" && this.#runs) return this.#stuck();
    this.#end(this.#runs ? "hangs" : "did not start in time", { asks: false });
  }

  #stuck(): void {
    this.#over = true;
    this.#events.stuck();
  }

  /** Ends the worker. One that blocks in a native call goes on until that returns. */
  terminate(): void {
    this.#worker.terminate();
  }
}

/**
 * A number that moves as the tile gets on: with each turn, each sleep, and each answer that an app
 * finds room for, since it may be long at a burst.
 */
function progressOf({ burst, sleepSequence, counters }: TileReader, kind: TileKind): number {
  return burst + sleepSequence + (kind === "app" ? counters[APP.index.answers] : 0);
}
