// SPDX-License-Identifier: Apache-2.0
/**
 * Entries by address in memory of fixed size: each address has four possible places. For tables
 * whose keys strangers choose.
 */

import type { Address } from "../../tiles/app/contract.ts";

/** The number of consecutive entries that an address may use; the first is a multiple of it. */
export const WAYS = 4;
const WORDS = 4;

/** The addresses of entries. Nothing is allocated after the constructor. */
export class AddressSets {
  readonly #addresses: Uint32Array;
  readonly #key: number;
  readonly #mask: number;

  /** `key`: a random word, so that attackers cannot choose addresses that share entries. Throws RangeError. */
  constructor(entries: number, key: number) {
    if (entries < 2 * WAYS || (entries & (entries - 1)) !== 0) {
      throw new RangeError(`entries must be a power of two from ${2 * WAYS} on, not ${entries}`);
    }
    this.#addresses = new Uint32Array(entries * WORDS);
    this.#key = key;
    this.#mask = entries - WAYS;
  }

  /** The entry of an address. Without one, `~first` of the entries where it may be. */
  find(address: Address): number {
    const addresses = this.#addresses;
    const { words } = address;
    const first = address.hash(this.#key) & this.#mask;
    for (let entry = first; entry < first + WAYS; entry++) {
      const at = entry * WORDS;
      if (
        addresses[at + 3] === words[3] && addresses[at + 2] === words[2] &&
        addresses[at + 1] === words[1] && addresses[at] === words[0]
      ) return entry;
    }
    return ~first;
  }

  /** Assigns an entry, one of those that `find` returned, to this address. */
  store(entry: number, address: Address): void {
    address.store(this.#addresses, entry * WORDS);
  }
}
