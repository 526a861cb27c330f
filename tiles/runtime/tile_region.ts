/**
 * The tile region: what a tile tells the others about itself. One page, written by that tile alone.
 *
 *     word 0  sleep sequence: odd while the tile blocks    (read by whoever may have to wake it)
 *     word 1  burst counter: quiescent states passed       (read by netbase's writer, and as heartbeat by main)
 *     word 2  life: booting, running, stopped              (read by main, its successor and who shows it)
 *     byte 1024…  counters, doubles, in the order of `counters.ts`
 */

import { f64, slice, u32, type View } from "../../ffi/region.ts";

/** Bytes of a tile region: one page. */
export const TILE_REGION_BYTES = 4096;
/** Counters that fit. */
export const TILE_COUNTERS = 384;

const SLEEP = 0;
const BURST = 1;
const LIFE = 2;
const COUNTERS_AT = 1024;

/** Where a tile stands in its life. */
export const Life = { booting: 0, running: 1, stopped: 2 } as const;

/** A tile's own, writable side of its region. */
export class TileRegion {
  /** Counters, indexed as `counters.ts` declares them for this kind of tile. */
  readonly counters: Float64Array;
  readonly #words: Uint32Array;

  /**
   * The region at `view`, `TILE_REGION_BYTES` long; a restarted tile carries on its counts. Writes
   * nothing yet: a predecessor may still have it.
   */
  constructor(view: View) {
    this.#words = u32(view);
    this.counters = f64(slice(view, COUNTERS_AT, TILE_COUNTERS * 8));
  }

  /**
   * Announces a quiescent state: no index into netbase that was read before this call is used after
   * it. Once per turn of the loop. A sequentially consistent store, so that the reads of the turn
   * before cannot be moved past it by compiler or processor.
   */
  quiescent(): void {
    Atomics.store(this.#words, BURST, this.#words[BURST] + 1);
  }

  /**
   * Says "about to block". After this the tile must look at every link once more before it blocks:
   * store-then-load here and store-then-load in `Waker.published` are both sequentially consistent,
   * so at least one side sees the other and no wake-up is lost.
   */
  fallAsleep(): void {
    Atomics.store(this.#words, SLEEP, (this.#words[SLEEP] + 1) | 1);
  }

  /** Says "awake again", before anything of netbase is read. */
  awake(): void {
    Atomics.store(this.#words, SLEEP, (this.#words[SLEEP] + 1) & ~1);
  }

  /** Publishes where the tile stands in its life, one of {@linkcode Life}. */
  set life(life: number) {
    Atomics.store(this.#words, LIFE, life);
  }
}

/** What the others see of a tile. */
export class TileReader {
  readonly counters: Float64Array;
  readonly #words: Uint32Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.counters = f64(slice(view, COUNTERS_AT, TILE_COUNTERS * 8));
  }

  /** The burst counter: it has moved once the tile has let go of all it read from netbase before. */
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
export let wakesGiven = 0;

/** Wakes one tile, at most once per sleep, after something was published for it. */
export class Waker {
  readonly #tile: TileReader;
  readonly #wake: () => void;
  #woken = 0;

  /** `wake` makes the tile's blocking call return, as by a write to its eventfd. */
  constructor(tile: TileReader, wake: () => void) {
    this.#tile = tile;
    this.#wake = wake;
  }

  /** To be called after a burst was published (by a sequentially consistent store). */
  published(): void {
    const sleep = this.#tile.sleepSequence;
    if ((sleep & 1) === 0 || sleep === this.#woken) return;
    this.#woken = sleep;
    wakesGiven++;
    this.#wake();
  }
}
