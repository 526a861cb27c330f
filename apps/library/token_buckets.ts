// SPDX-License-Identifier: Apache-2.0
/**
 * Token buckets by address, in memory of fixed size, for apps that limit what one client may ask.
 * https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
 */

import type { Address } from "../../tiles/app/contract.ts";

/** Entries that an address may be in. */
const WAYS = 4;
/** Words of an address. */
const WORDS = 4;

/** How much each address may take. */
export interface Rate {
  /** Tokens a second, on average. */
  readonly perSecond: number;
  /** Tokens that an address which has been silent may take at once. */
  readonly burst: number;
  /**
   * How many addresses are remembered, a power of two. If more are active, the one that has been silent for
   * the longest time is forgotten, and may take a burst again. An entry has 24 bytes.
   */
  readonly entries?: number;
}

/** A bucket for each address. Nothing is allocated after the constructor. */
export class TokenBuckets {
  /** By entry: the address, and when its bucket will be full again, in milliseconds. */
  readonly #addresses: Uint32Array;
  readonly #full: Float64Array;
  readonly #interval: number;
  readonly #tolerance: number;
  readonly #key: number;
  readonly #mask: number;

  /** `key`: a random word, so that nobody can choose addresses that share entries. */
  constructor(
    { perSecond, burst, entries = 1 << 16 }: Rate,
    key: number = crypto.getRandomValues(new Uint32Array(1))[0],
  ) {
    if (entries < 2 * WAYS || (entries & (entries - 1)) !== 0) {
      throw new RangeError(`entries must be a power of two from ${2 * WAYS} on, not ${entries}`);
    }
    this.#addresses = new Uint32Array(entries * WORDS);
    this.#full = new Float64Array(entries).fill(-Infinity);
    this.#interval = 1000 / perSecond;
    this.#tolerance = (burst - 1) * this.#interval;
    this.#key = key;
    this.#mask = entries - WAYS;
  }

  /** Takes a token of `address` at `now`, in milliseconds. Returns false, and takes nothing, if there is none. */
  take(address: Address, now: number): boolean {
    const full = this.#full;
    const at = this.#entry(address);
    const since = Math.max(full[at], now);
    if (since - now > this.#tolerance) return false;
    full[at] = since + this.#interval;
    return true;
  }

  /** The entry of an address, or the one of its set that is full for the longest time, made its own. */
  #entry(address: Address): number {
    const [addresses, full] = [this.#addresses, this.#full];
    const { words } = address;
    const first = address.hash(this.#key) & this.#mask;
    let oldest = first;
    for (let entry = first; entry < first + WAYS; entry++) {
      const at = entry * WORDS;
      if (
        addresses[at + 3] === words[3] && addresses[at + 2] === words[2] &&
        addresses[at + 1] === words[1] && addresses[at] === words[0]
      ) return entry;
      if (full[entry] < full[oldest]) oldest = entry;
    }
    address.store(addresses, oldest * WORDS);
    full[oldest] = -Infinity;
    return oldest;
  }
}
