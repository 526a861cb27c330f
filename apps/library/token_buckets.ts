// SPDX-License-Identifier: Apache-2.0
/**
 * Token buckets by address, in memory of fixed size, for apps that limit the rate of one client.
 * https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
 */

import type { Address } from "../../tiles/app/contract.ts";
import { AddressSets, WAYS } from "./address_sets.ts";

/** How much each address may take. */
export interface Rate {
  /** Tokens a second, on average. */
  readonly perSecond: number;
  /** Tokens that an idle address may take at once. */
  readonly burst: number;
  /**
   * How many addresses are remembered, a power of two. If more are active, the longest idle one is
   * forgotten, and may take a burst again. An entry has 24 bytes.
   */
  readonly entries?: number;
}

/** A bucket for each address. Nothing is allocated after the constructor. */
export class TokenBuckets {
  readonly #sets: AddressSets;
  /** By entry: when its bucket will be full again, in milliseconds. */
  readonly #full: Float64Array;
  readonly #interval: number;
  readonly #tolerance: number;

  /** `key`: a random word, so that attackers cannot choose addresses that share entries. */
  constructor(
    { perSecond, burst, entries = 1 << 16 }: Rate,
    key: number = crypto.getRandomValues(new Uint32Array(1))[0],
  ) {
    this.#sets = new AddressSets(entries, key);
    this.#full = new Float64Array(entries).fill(-Infinity);
    this.#interval = 1000 / perSecond;
    this.#tolerance = (burst - 1) * this.#interval;
  }

  /** Takes a token of `address` at `now`, in milliseconds. Returns false, and takes none, if the bucket is empty. */
  take(address: Address, now: number): boolean {
    const full = this.#full;
    const at = this.#entry(address);
    const since = Math.max(full[at], now);
    if (since - now > this.#tolerance) return false;
    full[at] = since + this.#interval;
    return true;
  }

  /** The entry of an address, which replaces the entry of its set that has been full for the longest time. */
  #entry(address: Address): number {
    const found = this.#sets.find(address);
    if (found >= 0) return found;
    const full = this.#full;
    let oldest = ~found;
    for (let entry = oldest + 1; entry < ~found + WAYS; entry++) {
      if (full[entry] < full[oldest]) oldest = entry;
    }
    this.#sets.store(oldest, address);
    full[oldest] = -Infinity;
    return oldest;
  }
}
