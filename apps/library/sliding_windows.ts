// SPDX-License-Identifier: Apache-2.0
/**
 * Limits by address within a sliding window of time, in memory of fixed size. Each address has two
 * counts, of this window and of the previous one, which is weighted by how much of it the sliding window
 * covers. This is exact if requests come evenly. Otherwise two bounds hold, as long as the address is
 * remembered and the clock is not set back: any window passes fewer than twice the limit, and an address
 * with less than the limit within the last two windows is never refused. A token bucket forgets a burst
 * as soon as it is paid back; here an address above its limit waits until its rate has fallen.
 */

import type { Address } from "../../tiles/app/contract.ts";
import { AddressSets, WAYS } from "./address_sets.ts";

/** How much each address may do. */
export interface Limit {
  /** The limit within a window for even traffic; any window passes less than twice as many. */
  readonly most: number;
  /** The length of the window. */
  readonly millis: number;
  /**
   * How many addresses are remembered, a power of two. If more are active, the longest idle one is
   * forgotten, and among equals the least active. An entry has 32 bytes.
   */
  readonly entries?: number;
}

/** A window for each address. Nothing is allocated after the constructor. */
export class SlidingWindows {
  readonly #sets: AddressSets;
  /** By entry: the number of its window, the count in it, and in the previous one. */
  readonly #windows: Float64Array;
  readonly #counts: Uint32Array;
  readonly #before: Uint32Array;
  readonly #most: number;
  readonly #millis: number;

  /** `key`: a random word, so that attackers cannot choose addresses that share entries. */
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

  /** Counts a request of `address` at `now`, in milliseconds. Returns false, without counting, above the limit. */
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
    // If the clock was set back, do not cover more than the previous window.
    const covered = Math.min(1, windows[entry] + 1 - time);
    if (before[entry] * covered + counts[entry] + 1 > this.#most) return false;
    counts[entry]++;
    return true;
  }

  /** The entry of an address, or the entry of its set to replace. */
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
