// SPDX-License-Identifier: Apache-2.0
/**
 * Limits by address within a sliding window of time, in memory of fixed size. Each address has two counts, of
 * this window and of the one before, which counts in proportion to how much of it the sliding window covers.
 * That is exact if what came in it came evenly. If it did not, bounds remain, as long as the address is
 * remembered and the clock is not set back: fewer than twice the limit are let through within any window, and
 * an address is never refused that had less than the limit within the last two. A token bucket forgets a
 * burst as soon as it is paid back; a window lets an address that is over its limit wait until less has come.
 */

import type { Address } from "../../tiles/app/contract.ts";
import { AddressSets, WAYS } from "./address_sets.ts";

/** How much each address may do. */
export interface Limit {
  /** The most within a window, if they come evenly; within any window it is less than twice as many. */
  readonly most: number;
  /** The length of the window. */
  readonly millis: number;
  /**
   * How many addresses are remembered, a power of two. If more are active, the one that did nothing for the longest
   * time, and of those the one that did least, is forgotten. An entry has 32 bytes.
   */
  readonly entries?: number;
}

/** A window for each address. Nothing is allocated after the constructor. */
export class SlidingWindows {
  readonly #sets: AddressSets;
  /** By entry: the number of its window, what came in it, and in the one before. */
  readonly #windows: Float64Array;
  readonly #counts: Uint32Array;
  readonly #before: Uint32Array;
  readonly #most: number;
  readonly #millis: number;

  /** `key`: a random word, so that nobody can choose addresses that share entries. */
  constructor(
    { most, millis, entries = 1 << 16 }: Limit,
    key: number = crypto.getRandomValues(new Uint32Array(1))[0],
  ) {
    this.#sets = new AddressSets(entries, key);
    this.#windows = new Float64Array(entries).fill(-Infinity);
    this.#counts = new Uint32Array(entries);
    this.#before = new Uint32Array(entries);
    this.#most = most;
    this.#millis = millis;
  }

  /** Counts one of `address` at `now`, in milliseconds. Returns false, and counts nothing, if it is one too many. */
  take(address: Address, now: number): boolean {
    const time = now / this.#millis;
    const window = Math.floor(time);
    const entry = this.#entry(address);
    const windows = this.#windows;
    const counts = this.#counts;
    const before = this.#before;
    if (windows[entry] < window) {
      before[entry] = windows[entry] === window - 1 ? counts[entry] : 0;
      counts[entry] = 0;
      windows[entry] = window;
    }
    // A clock that was set back does not make it look further back.
    const covered = Math.min(1, windows[entry] + 1 - time);
    if (before[entry] * covered + counts[entry] + 1 > this.#most) return false;
    counts[entry]++;
    return true;
  }

  /** The entry of an address, or the one of its set that is forgotten for it. */
  #entry(address: Address): number {
    const found = this.#sets.find(address);
    if (found >= 0) return found;
    const windows = this.#windows;
    const counts = this.#counts;
    let least = ~found;
    for (let entry = least + 1; entry < ~found + WAYS; entry++) {
      const isOlder = windows[entry] < windows[least];
      if (isOlder || (windows[entry] === windows[least] && counts[entry] < counts[least])) {
        least = entry;
      }
    }
    this.#sets.store(least, address);
    windows[least] = -Infinity;
    return least;
  }
}
