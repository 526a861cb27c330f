/**
 * How often neighbours were asked for lately, of fixed size: a count-min sketch. What tells a client
 * that tries again from a flood of made-up addresses is that it is asked for more often than chance
 * would have it, and at line rate no table could hold everyone that a flood names.
 */

import { hash, type HashKey, keyOf, Use } from "../../netbase/hash.ts";

/** A count is of the window now and of the one before. */
const WINDOW_MILLIS = 500;
/** A cell: which window it was last counted in, the count then, and the count in the one before. */
const COUNT_BITS = 4;
const MOST = (1 << COUNT_BITS) - 1;
const WINDOWS = 1 << (16 - 2 * COUNT_BITS);

/** Counts asks. */
export class Asks {
  readonly #rows: readonly [Uint16Array, Uint16Array];
  readonly #shift: number;
  readonly #key: HashKey;
  #window = 0;
  #windowEnd = 0;

  /**
   * Two rows of 2 to the `sizeLog2` cells of two bytes. `seed` keeps others from choosing addresses
   * that are counted together with somebody's.
   */
  constructor({ sizeLog2, seed }: { sizeLog2: number; seed: number }) {
    this.#rows = [new Uint16Array(1 << sizeLog2), new Uint16Array(1 << sizeLog2)];
    this.#shift = 32 - sizeLog2;
    this.#key = keyOf(seed, Use.asks);
  }

  /** Tells the time, monotonic milliseconds. */
  clock(now: number): void {
    if (now < this.#windowEnd) return;
    // After a long silence what was counted before it is no window's neighbour.
    const passed = now < this.#windowEnd + WINDOW_MILLIS ? 1 : 2;
    this.#window = (this.#window + passed) % WINDOWS;
    this.#windowEnd = now + WINDOW_MILLIS;
  }

  /**
   * Counts one and returns how many there were in the last half to whole second, this one included:
   * never fewer than there were, up to what a cell holds, and more where others share its cells.
   */
  count(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    const mixed = hash(ifindex, address, add, first, second);
    const one = this.#add(this.#rows[0], mixed >>> this.#shift);
    const other = this.#add(this.#rows[1], Math.imul(mixed, 0x27d4eb2f) >>> this.#shift);
    return one < other ? one : other;
  }

  #add(row: Uint16Array, at: number): number {
    const cell = row[at];
    const age = (this.#window - (cell >>> 2 * COUNT_BITS)) & (WINDOWS - 1);
    let now = age === 0 ? cell & MOST : 0;
    const before = age === 0 ? (cell >>> COUNT_BITS) & MOST : age === 1 ? cell & MOST : 0;
    if (now < MOST) now++;
    row[at] = this.#window << 2 * COUNT_BITS | before << COUNT_BITS | now;
    return now + before;
  }
}
