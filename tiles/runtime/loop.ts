/**
 * The loop that every tile runs: a burst of work, a quiescent state, now and then housekeeping; after
 * some idle turns the tile says that it is about to sleep, looks at everything once more, and blocks.
 *
 * The order matters: `fallAsleep` is a sequentially consistent store before `pending` looks at the
 * producers' cursors, and producers publish before they look at the sleep word, so whatever is
 * published is either seen here or wakes us. Nothing ever waits for a time-out.
 */

import type { ControlReader } from "./control.ts";
import type { BootMessage, Tile } from "./tile.ts";
import { Life, TileReader, type TileRegion, wakesGiven } from "./tile_region.ts";

/**
 * Idle turns before a tile blocks. A turn without work takes some tens of nanoseconds, so these are
 * some microseconds, enough to catch the next burst of a busy peer. Where there are
 * more tiles than cores, a spinning tile keeps another from running: then a tenth is best, by
 * measurement (with 200 an app in a process of its own answered half again as late, and always
 * spinning cost a factor of eight).
 */
const SPIN_TURNS = 200;
const CROWDED_SPIN_TURNS = 20;
/**
 * If cores are shared: after a turn with at most this much work that woke another tile, the tile allows
 * one idle turn and blocks, as an answer can only come once the other has the core. After a larger burst
 * more is about to come: with 512 requests in flight, blocking as soon cost a tenth of the rate.
 */
const SMALL_BURST = 2;
/**
 * Busy turns between two looks at the clock, which costs as much as two datagrams. A turn may be 64
 * datagrams of an app that takes a millisecond for each, so main's pulse has it looked at too.
 */
const CLOCK_TURNS = 256;
const HOUSEKEEPING_MILLIS = 100;
/** The longest a tile blocks: how late its housekeeping may be while nothing happens. */
const LONGEST_SLEEP_MILLIS = 1000;
/** How long a stopping tile may take to hand over what it holds. */
const DRAIN_MILLIS = 300;

/**
 * Of so many turns one is timed, for the share of time that is busy: reading the clock costs as much as two
 * datagrams. A prime, so that it keeps step with nothing.
 */
const TIMED_TURNS = 61;

/** What the loop turns with. */
export interface LoopParts {
  readonly tile: Tile;
  readonly region: TileRegion;
  readonly control: ControlReader;
  /** The kind's counters for wake-ups and busy time. */
  readonly index: { readonly wakeups: number; readonly busy_seconds: number };
  /** Idle turns before it blocks. */
  readonly spinTurns: number;
}

/** How often a successor polls whether its predecessor has ended: datagrams wait until it sees that. */
const PREDECESSOR_POLL_MILLIS = 1;
const never = new Int32Array(new SharedArrayBuffer(4));

/**
 * Blocks until the predecessor, whose last store in the region of both says that it has stopped, or main
 * says that there is none. No message is used: through three event loops it took 20 ms. Where nobody runs
 * on the region, main alone says so: what stands there is of one that ended before.
 */
export function awaitPredecessor(
  { region, hasPredecessor }: Pick<BootMessage, "region" | "hasPredecessor">,
  control: ControlReader,
  pause: () => void = () => void Atomics.wait(never, 0, 0, PREDECESSOR_POLL_MILLIS),
): void {
  const predecessor = new TileReader(region);
  while (!control.serves && !(hasPredecessor && predecessor.life === Life.stopped)) pause();
}

/** How many idle turns suit where `busy` tiles move datagrams on `cores` processors. */
export function spinTurnsFor(busy: number, cores: number): number {
  return busy > cores ? CROWDED_SPIN_TURNS : SPIN_TURNS;
}

/**
 * Runs `tile` until it is asked to leave, or is asked to stop and has drained, or its time to drain is
 * over.
 */
export function runLoop({ tile, region, control, index, spinTurns }: LoopParts): void {
  const { counters } = region;
  const crowded = spinTurns === CROWDED_SPIN_TURNS;
  /** Idle turns before it blocks: as the last busy turn since it woke says. */
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
    if (++turns < CLOCK_TURNS && idle < patience && control.pulse === pulse) continue;

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
      // No pulse is like this one: from now on every turn ends here.
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
    // It may have slept long, and the next burst goes by the tile's clock.
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
