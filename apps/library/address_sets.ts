// SPDX-License-Identifier: Apache-2.0
/**
 * Entries by address in memory of fixed size: each address has four places where it may be. For tables of which
 * strangers choose the keys.
 */

import type { Address } from "../../tiles/app/contract.ts";

/** Entries that an address may be in: as many from the first one on, which is a multiple of it. */
const WAYS = 4;
const WORDS = 4;

/** What is kept of an entry, by its user. */
interface Kept {
  /** Whether an entry is to be forgotten before another one. */
  readonly isOlder: (entry: number, other: number) => boolean;
  /** Makes an entry one of an address that nothing is known of. */
  readonly clear: (entry: number) => void;
}

/** The addresses of entries. Nothing is allocated after the constructor. */
export class AddressSets {
  readonly #addresses: Uint32Array;
  readonly #key: number;
  readonly #mask: number;
  readonly #kept: Kept;

  /** `key`: a random word, so that nobody can choose addresses that share entries. Throws RangeError. */
  constructor(entries: number, key: number, kept: Kept) {
    if (entries < 2 * WAYS || (entries & (entries - 1)) !== 0) {
      throw new RangeError(`entries must be a power of two from ${2 * WAYS} on, not ${entries}`);
    }
    this.#addresses = new Uint32Array(entries * WORDS);
    this.#key = key;
    this.#mask = entries - WAYS;
    this.#kept = kept;
  }

  /** The entry of an address. If it has none, the oldest of those where it may be is forgotten for it. */
  entryOf(address: Address): number {
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
    const { isOlder, clear } = this.#kept;
    let oldest = first;
    for (let entry = first + 1; entry < first + WAYS; entry++) {
      if (isOlder(entry, oldest)) oldest = entry;
    }
    address.store(addresses, oldest * WORDS);
    clear(oldest);
    return oldest;
  }
}
