// SPDX-License-Identifier: Apache-2.0
/**
 * A tile: the calls that it implements, the region in which it publishes its state, and the loop that
 * runs it. `worker.ts` turns a worker into a tile.
 */

import { f64, slice, u32, type View } from "../../ffi/region.ts";
import type { NetlinkLibrary, Udp } from "../../ffi/sockets.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import type { Clock } from "../app/contract.ts";
import type { ControlReader, ControlRequest, Outcome } from "./control.ts";

/** The kinds of tile. An app's tile runs in its own process, or inside a net tile. */
export type TileKind = WorkerKind | "app";
/** Those that run in a worker of the appliance. */
export type WorkerKind = "netlink" | "net" | "status";

/** The native libraries of a tile, which depend on its kind. */
export interface Libraries {
  readonly tile: TileLibrary;
  readonly netlink?: NetlinkLibrary;
  readonly xsk?: Xsk;
  readonly udp?: Udp;
  /** Present if an app was granted it. */
  readonly clock?: Clock;
}

export interface TileContext<Setup> {
  readonly setup: Setup;
  readonly region: TileRegion;
  readonly libraries: Libraries;
  /** Writes a line to the log, under the tile's name. Never on the data path. */
  log(line: string, level?: number): void;
  /** Sends a request of the status tile to main. */
  ask(request: ControlRequest): void;
  /** Receives messages from main while it runs. Only for the status tile, which has an event loop. */
  onMessage?(listener: (message: MainMessage) => void): void;
  /** Only of a net tile: confines the thread to these descriptors, and resolves when the predecessor has ended. */
  predecessor?(descriptors: readonly number[]): Promise<void>;
}

/** A tile, as its loop calls it. */
export interface Tile {
  /** Does one burst of work. Returns its size, or 0. */
  turn(): number;
  /** Whether anything waits in a link or ring. Called after a sleep was announced. */
  pending(): boolean;
  /** Blocks until there is work, or `timeoutMs` have passed (-1: no limit). Clears its eventfd. */
  wait(timeoutMs: number): void;
  /** Called about every 100 ms. `nowMillis` is monotonic. */
  housekeeping?(nowMillis: number): void;
  /** Handles what is due. Called whenever the clock is read (`CLOCK_TURNS`), at least every half second. */
  clock?(nowMillis: number): void;
  /** Milliseconds from `nowMillis` until something is due; -1: nothing. */
  nextDue?(nowMillis: number): number;
  /** Writes what its successor needs, before it leaves without draining. Only `close` follows. */
  relinquish?(): void;
  /** Whether it has no work left while it stops. */
  drained?(): boolean;
  close?(): void;
  /** The descriptors that `confine()` has to allow. */
  readonly descriptors: readonly number[];
}

/** A tile without bursts. It serves its clients in Deno's event loop until it is ended. */
export interface ServingTile {
  serve(): Promise<void>;
  readonly descriptors: readonly number[];
}

export interface TileModule<Setup> {
  create(context: TileContext<Setup>): Tile | ServingTile | Promise<Tile | ServingTile>;
}

/** The first message to a worker. Plain data. */
export interface BootMessage {
  readonly kind: WorkerKind;
  readonly name: string;
  readonly module: string;
  /** Its slot among the observer's counters of refused system calls. */
  readonly slot: number;
  /** The tile's own region, writable. */
  readonly region: View;
  /** The control region, read-only. */
  readonly control: View;
  /** Whether an inline app was granted the host's clock. */
  readonly clock: boolean;
  /** For a net tile: whether a predecessor runs on the regions that it takes over. */
  readonly hasPredecessor: boolean;
  /** Whether it waits for `make` after its modules are loaded. */
  readonly held: boolean;
  /** Idle turns before its loop blocks. */
  readonly spinTurns: number;
  readonly setup: unknown;
}

/** A message from main to a tile. */
export type MainMessage =
  | { readonly type: "make" }
  /** Accept no more connections, and end when the clients have their answers. */
  | { readonly type: "leave" }
  /** The outcome of the change with this number. */
  | { readonly type: "outcome"; readonly number: number; readonly outcome: Outcome };

/** A report from a tile to main, which checks it (`appliance.ts`). Not on the data path. */
export type TileReport =
  | { readonly type: "started"; readonly thread: number }
  /** It takes over once its predecessor has ended. */
  | { readonly type: "ready" }
  /** It has confined its thread. `observed`: refused system calls are counted. */
  | { readonly type: "running"; readonly landlock: boolean; readonly observed: boolean }
  | { readonly type: "log"; readonly line: string; readonly level?: number }
  | { readonly type: "ask" } & ControlRequest
  | { readonly type: "stopped" }
  /** Its start failed; `app`: the app that caused it. */
  | { readonly type: "failed"; readonly message: string; readonly app?: string };

// The tile region: a tile's public state. One page, which only that tile writes.
//
//     word 0  sleep sequence: odd while the tile blocks    (read by those who may have to wake it)
//     word 1  burst counter: quiescent states passed       (read by netbase's writer, and as heartbeat by main)
//     word 2  life: booting, running, stopped              (read by main, its successor and status commands)
//     byte 1024…  counters, doubles, in the order of `counters.ts`

/** Bytes of a tile region: one page. */
export const TILE_REGION_BYTES = 4096;
/** Counters that fit. */
export const TILE_COUNTERS = 384;

const SLEEP = 0;
const BURST = 1;
const LIFE = 2;
const COUNTERS_AT = 1024;

export const Life = { booting: 0, running: 1, stopped: 2 } as const;

/** A tile's own, writable side of its region. */
export class TileRegion {
  /** Counters, indexed as `counters.ts` declares them for this kind of tile. */
  readonly counters: Float64Array;
  readonly #words: Uint32Array;

  /** Joins a region and continues its counts. Writes nothing yet, as a predecessor may still write it. */
  constructor(view: View) {
    this.#words = u32(view);
    this.counters = f64(slice(view, COUNTERS_AT, TILE_COUNTERS * 8));
  }

  /** Announces a quiescent state, once per turn: nothing read from netbase before is used after this ordered store. */
  quiescent(): void {
    Atomics.store(this.#words, BURST, this.#words[BURST] + 1);
  }

  /**
   * Announces that it is about to block. Then the tile must check every link once more before it
   * blocks: store-then-load here and store-then-load in `Waker.published` are both sequentially
   * consistent, so at least one side sees the other and no wake-up is lost.
   */
  fallAsleep(): void {
    Atomics.store(this.#words, SLEEP, (this.#words[SLEEP] + 1) | 1);
  }

  /** Announces that it is awake again, before anything in netbase is read. */
  awake(): void {
    Atomics.store(this.#words, SLEEP, (this.#words[SLEEP] + 1) & ~1);
  }

  /** Publishes the stage of the tile's life, one of {@linkcode Life}. */
  set life(life: number) {
    Atomics.store(this.#words, LIFE, life);
  }
}

/** A tile as others see it. */
export class TileReader {
  readonly counters: Float64Array;
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.counters = f64(slice(view, COUNTERS_AT, TILE_COUNTERS * 8));
  }

  /** The burst counter: it has changed once the tile has released all it read from netbase before. */
  get burst(): number {
    return Atomics.load(this.#words, BURST);
  }

  /** Odd while the tile blocks; a new value each time it falls asleep. */
  get sleepSequence(): number {
    return Atomics.load(this.#words, SLEEP);
  }

  get asleep(): boolean {
    return (this.sleepSequence & 1) === 1;
  }

  get life(): number {
    return Atomics.load(this.#words, LIFE);
  }
}

/** How often this thread's tile has woken another; a thread runs one tile. */
let wakesGiven = 0;

/** Wakes one tile, at most once per sleep, after something was published for it. */
export class Waker {
  readonly #tile: TileReader;
  readonly #wake: () => void;
  #woken = 0;

  /** `wake` makes the tile's blocking call return, for example by a write to its eventfd. */
  constructor(tile: TileReader, wake: () => void) {
    this.#tile = tile;
    this.#wake = wake;
  }

  /** Called after a burst was published (by a sequentially consistent store). */
  published(): void {
    const sleep = this.#tile.sleepSequence;
    if ((sleep & 1) === 0 || sleep === this.#woken) return;
    this.#woken = sleep;
    wakesGiven++;
    this.#wake();
  }
}

// The loop: a burst of work, a quiescent state, periodic housekeeping. After some idle turns the tile
// announces that it is about to sleep, checks everything once more, and blocks.
//
// The order matters: `fallAsleep` is a sequentially consistent store before `pending` reads the
// producers' cursors, and producers publish before they read the sleep word. So a published item is
// either seen here or wakes the tile. Nothing ever waits for a time-out.

/**
 * Idle turns before a tile blocks. A turn without work takes some tens of nanoseconds, so these are
 * some microseconds, enough to catch the next burst of a busy peer. With more tiles than cores, a
 * spinning tile keeps another from running. A tenth was best then: with 200 turns an app in its own
 * process answered half again as late, and constant spinning cost a factor of eight.
 */
const SPIN_TURNS = 200;
const CROWDED_SPIN_TURNS = 20;
/**
 * With shared cores: after a turn with at most this much work that woke another tile, the tile does one
 * idle turn and blocks, as an answer can only come once the other has the core. After a larger burst
 * more is about to come: with 512 requests in flight, blocking as early cost a tenth of the rate.
 */
const SMALL_BURST = 2;
/**
 * Busy turns between two reads of the clock, each of which costs as much as two datagrams. Four
 * datagrams count as another turn, so timers are late by at most 1,024 datagrams. An app may take a
 * millisecond for each, so main's pulse triggers a read as well.
 */
const CLOCK_TURNS = 256;
const HOUSEKEEPING_MILLIS = 100;
/** The longest a tile blocks: the longest delay of its housekeeping while nothing happens. */
const LONGEST_SLEEP_MILLIS = 1000;
/** How long a stopping tile may take to hand over what it holds. */
const DRAIN_MILLIS = 300;

/** One of this many turns is timed: the clock costs as much as two datagrams. A prime, against patterns. */
const TIMED_TURNS = 61;

/** How often a successor polls whether its predecessor has ended: datagrams wait until it sees that. */
const PREDECESSOR_POLL_MILLIS = 1;
const never = new Int32Array(new SharedArrayBuffer(4));

/** Blocks this thread. */
export function pause(millis: number): void {
  Atomics.wait(never, 0, 0, millis);
}

/**
 * Blocks until the predecessor's last store in the shared region reports that it has stopped, or main
 * reports that there is none. No message is used: through three event loops it took 20 ms. If no tile
 * runs on the region, only main reports it: the region still has the life of a tile that ended before.
 */
export function awaitPredecessor(
  { region, hasPredecessor }: Pick<BootMessage, "region" | "hasPredecessor">,
  control: ControlReader,
  rest: () => void = () => pause(PREDECESSOR_POLL_MILLIS),
): void {
  const predecessor = new TileReader(region);
  while (!control.serves && !(hasPredecessor && predecessor.life === Life.stopped)) rest();
}

/** The number of idle turns if `busy` tiles move datagrams on `cores` processors. */
export function spinTurnsFor(busy: number, cores: number): number {
  return busy > cores ? CROWDED_SPIN_TURNS : SPIN_TURNS;
}

/** Runs `tile` until it must leave, or has drained after a stop, or may not drain any longer. */
export function runLoop({ tile, region, control, index, spinTurns }: {
  readonly tile: Tile;
  readonly region: TileRegion;
  readonly control: ControlReader;
  /** The kind's counters for wake-ups and busy time. */
  readonly index: { readonly wakeups: number; readonly busy_seconds: number };
  /** Idle turns before it blocks. */
  readonly spinTurns: number;
}): void {
  const { counters } = region;
  const crowded = spinTurns === CROWDED_SPIN_TURNS;
  /** Idle turns before it blocks. They depend on the last busy turn since it woke. */
  let patience = spinTurns;
  let idle = 0;
  let turns = 0;
  let untimed = TIMED_TURNS;
  let pulse = control.pulse;
  let nextHousekeeping = 0;
  let stopBy = Infinity;
  region.life = Life.running;
  for (;;) {
    const wakes = wakesGiven;
    let work;
    if (--untimed > 0) work = tile.turn();
    else {
      untimed = TIMED_TURNS;
      const begin = performance.now();
      work = tile.turn();
      if (work > 0) {
        counters[index.busy_seconds] += (performance.now() - begin) * TIMED_TURNS / 1000;
      }
    }
    region.quiescent();
    idle = work === 0 ? idle + 1 : 0;
    if (work > 0) {
      const handsOver = crowded && work <= SMALL_BURST && wakesGiven !== wakes;
      patience = handsOver ? 1 : spinTurns;
    }
    turns += 1 + (work >>> 2);
    if (turns < CLOCK_TURNS && idle < patience && control.pulse === pulse) continue;

    turns = 0;
    pulse = control.pulse;
    if (control.leaving) {
      tile.relinquish?.();
      break;
    }
    const now = performance.now();
    tile.clock?.(now);
    if (now >= nextHousekeeping) {
      nextHousekeeping = now + HOUSEKEEPING_MILLIS;
      tile.housekeeping?.(now);
    }
    if (control.stopping) {
      if (stopBy === Infinity) stopBy = now + DRAIN_MILLIS;
      // No pulse has this value, so from now on every turn ends here.
      pulse = -1;
      if (now >= stopBy || (idle > 0 && (tile.drained?.() ?? true))) break;
    }
    if (idle < patience) continue;

    region.fallAsleep();
    const sleeps = !tile.pending();
    if (sleeps) {
      tile.wait(sleepMillis(tile, now, control.stopping));
      counters[index.wakeups]++;
    }
    region.awake();
    // It may have slept long, and the next burst uses the tile's clock.
    if (sleeps) tile.clock?.(performance.now());
    idle = 0;
    patience = spinTurns;
  }
  tile.close?.();
  region.life = Life.stopped;
}

function sleepMillis(tile: Tile, now: number, stopping: boolean): number {
  if (stopping) return 1;
  const due = tile.nextDue?.(now) ?? -1;
  return due < 0 ? LONGEST_SLEEP_MILLIS : Math.min(due, LONGEST_SLEEP_MILLIS);
}

// Waiting in an event loop, such as the status tile's. `node:timers/promises` would cost a tile 1.8 MiB.

export function delay(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis));
}

/** Whether `promise` settles within `millis`. An earlier rejection is thrown, a later one is lost. */
export async function within(promise: Promise<unknown>, millis: number): Promise<boolean> {
  const settled = promise.then(() => true);
  if (millis === Infinity) return await settled;
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(late.resolve, millis, false);
  try {
    return await Promise.race([settled, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** The first and the longest pause before a restart after a failure. */
const [FIRST_PAUSE_MILLIS, LONGEST_PAUSE_MILLIS] = [50, 10_000];
/** A start that lasts this long ends the doubling. */
const LASTING_MILLIS = 30_000;

/** The pauses between restarts. They double while starts do not last. */
export class RestartPause {
  #failures = 0;
  #lasting?: ReturnType<typeof setTimeout>;

  started(): void {
    clearTimeout(this.#lasting);
    this.#lasting = setTimeout(() => this.#failures = 0, LASTING_MILLIS);
  }

  /** Called when it ends, for any reason. */
  ended(): void {
    clearTimeout(this.#lasting);
  }

  /** Returns the milliseconds until the next start. `isFirstImmediate`: the first pause is 0. */
  next({ isFirstImmediate = false } = {}): number {
    this.ended();
    const doublings = this.#failures++ - (isFirstImmediate ? 1 : 0);
    return doublings < 0 ? 0 : Math.min(FIRST_PAUSE_MILLIS * 2 ** doublings, LONGEST_PAUSE_MILLIS);
  }
}
