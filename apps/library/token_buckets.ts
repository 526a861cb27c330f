// SPDX-License-Identifier: Apache-2.0
/**
 * Token buckets by address, in memory of fixed size, for apps that limit what one client may ask.
 * https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
 */

/** Entries that an address may be in. */
const WAYS = 4;

/** How much each address may take. */
export interface Rate {
  /** Tokens a second, on average. */
  readonly perSecond: number;
  /** Tokens that an address which has been silent may take at once. */
  readonly burst: number;
  /**
   * How many addresses are remembered, a power of two. If more are active, the one that has been silent for
   * the longest time is forgotten, and may take a burst again. An entry has 12 bytes.
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
  readonly #multiplier: number;
  readonly #shift: number;

  /** `key`: a random word, so that nobody can choose addresses that share entries. */
  constructor(
    { perSecond, burst, entries = 1 << 16 }: Rate,
    key: number = crypto.getRandomValues(new Uint32Array(1))[0],
  ) {
    if (entries < 2 * WAYS || (entries & (entries - 1)) !== 0) {
      throw new RangeError(`entries must be a power of two from ${2 * WAYS} on, not ${entries}`);
    }
    this.#addresses = new Uint32Array(entries);
    this.#full = new Float64Array(entries).fill(-Infinity);
    this.#interval = 1000 / perSecond;
    this.#tolerance = (burst - 1) * this.#interval;
    this.#multiplier = key | 1;
    this.#shift = 32 - Math.log2(entries / WAYS);
  }

  /**
   * Takes a token of `address` (IPv4, host order) at `now`, in milliseconds. Returns false, and takes
   * nothing, if there is none.
   */
  take(address: number, now: number): boolean {
    const full = this.#full;
    const at = this.#entry(address);
    const since = Math.max(full[at], now);
    if (since - now > this.#tolerance) return false;
    full[at] = since + this.#interval;
    return true;
  }

  /** The entry of an address, or the one of its set that is full for the longest time, made its own. */
  #entry(address: number): number {
    const [addresses, full] = [this.#addresses, this.#full];
    const mixed = Math.imul(address ^ (address >>> 15), this.#multiplier);
    const first = (Math.imul(mixed ^ (mixed >>> 13), this.#multiplier) >>> this.#shift) * WAYS;
    let oldest = first;
    for (let at = first; at < first + WAYS; at++) {
      if (addresses[at] === address >>> 0) return at;
      if (full[at] < full[oldest]) oldest = at;
    }
    addresses[oldest] = address;
    full[oldest] = -Infinity;
    return oldest;
  }
}
