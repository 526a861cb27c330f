/**
 * A tile as main sees it: the worker, what it reported, and how it ended.
 */

import type { ControlRequest } from "./control.ts";
import { APP } from "./counters.ts";
import type { Permissions } from "./permissions.ts";
import { AppError } from "./thrown.ts";
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
/** Looks without progress of an app or net tile that is awake, until it is said to hang. */
const HUNG_LOOKS = 10;
/** The same of others, which may have a million routes to go through, and until apps have started. */
const LONG_LOOKS = 60;
/** Looks until a start is said to be long. */
const LATE_LOOKS = 10;
/** Looks until the thread of a tile that was ended must be gone. */
const GONE_LOOKS = 6;

/** One running tile. */
export class TileWorker {
  readonly name: string;
  /** Resolves with how the tile is confined once it runs; rejects when its start fails. */
  readonly running: Promise<string>;
  /** Resolves when the tile ended: true where it was told to, false for an error. */
  readonly ended: Promise<boolean>;
  readonly #boot: BootMessage;
  readonly #events: TileEvents;
  readonly #worker: Worker;
  readonly #running = Promise.withResolvers<string>();
  readonly #ended = Promise.withResolvers<boolean>();
  #over = false;
  #runs = false;
  #thread = 0;
  #progress = -1;
  /** Looks in a row at which there was something wrong. */
  #looks = 0;
  #hung = false;

  constructor(
    boot: BootMessage,
    { permissions, events }: { permissions: Permissions; events: TileEvents },
  ) {
    this.name = boot.name;
    this.#boot = boot;
    this.#events = events;
    this.running = this.#running.promise;
    this.ended = this.#ended.promise;
    // Nobody may be waiting for it any more when a start fails late.
    this.running.catch(() => {});

    this.#worker = new Worker(WORKER, {
      type: "module",
      name: boot.name,
      deno: { permissions: permissions as Deno.PermissionOptionsObject },
    });
    this.#worker.onmessage = ({ data }: MessageEvent<TileReport>) => this.#hear(data);
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

  /** The number of its thread, once it has started. */
  get thread(): number {
    return this.#thread;
  }

  #hear(report: TileReport): void {
    if (report.type === "log") this.#events.log(report.line);
    else if (report.type === "ask") this.#events.ask?.(report.request);
    else if (report.type === "started") this.#thread = report.thread;
    else if (report.type === "ready") {
      this.#looks = 0;
      this.#events.ready?.().then((handedOver) => this.#worker.postMessage(handedOver));
    } else if (report.type === "running") {
      this.#runs = true;
      this.#running.resolve(report.confined);
    } else if (report.type === "failed") this.#fail(report.message, report.app);
    else {
      this.#over = true;
      this.#ended.resolve(true);
    }
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
   * that is awake and does not get on hangs, and so does a status tile that does not show that it
   * gets on, asleep or not, and one with apps in it whose start takes too long: it is ended, and has failed when its thread is gone; nobody else has its regions before. One that
   * cannot be ended is `stuck`, and so is a net tile, which holds rings; but one that starts beside
   * another, which has nothing of that yet, has just failed.
   */
  look(tile: TileReader, isRunning: (thread: number) => boolean): void {
    if (this.#over || this.#thread === 0) return;
    if (!isRunning(this.#thread)) return this.#fail(this.#hung ? "it hung" : "it left");
    const { kind, beside } = this.#boot;
    const progress = progressOf(tile, kind);
    const lives = this.#runs
      ? tile.life !== Life.running || progress !== this.#progress ||
        (tile.asleep && kind !== "status")
      : kind !== "app" && kind !== "net";
    this.#progress = progress;
    this.#looks = lives && !this.#hung ? 0 : this.#looks + 1;
    if (!this.#runs && this.#looks === LATE_LOOKS) this.#events.late();
    const quick = this.#runs && (kind === "app" || kind === "net");
    if (this.#looks < (this.#hung ? GONE_LOOKS : quick ? HUNG_LOOKS : LONG_LOOKS)) return;
    if (this.#hung && beside && !this.#runs) return this.#fail("it hangs and cannot be ended");
    if (this.#hung || kind === "net") {
      this.#over = true;
      this.#events.stuck();
      return;
    }
    this.#events.log("it hangs and is ended");
    this.#hung = true;
    this.#looks = 0;
    this.#worker.terminate();
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
