// SPDX-License-Identifier: Apache-2.0
/**
 * A map of fixed size from an address and a word to the number of an entry, under which its user keeps data.
 * A full map replaces an entry that was not used recently, by the Clock algorithm, which is nearly LRU and
 * writes one word for each entry found (Corbató, "A Paging Experiment with the Multics System", 1968).
 */

import type { Address } from "../../tiles/app/contract.ts";
import { SessionTable } from "./session_table.ts";

/** Whether an entry was found since the clock's hand last passed. The hand takes unused ones. */
const [UNUSED, USED] = [1, 2];
/** The most used entries that the hand passes before it takes one anyway. */
const MOST_PASSED = 64;

/** Entries by an address and a word. Nothing is allocated after the constructor. */
export class ClockMap {
  readonly #table: SessionTable;
  readonly #entries: number;
  #hand = 0;

  /** `key`: a random word for the hash. An entry has 32 bytes and more, up to 40. */
  constructor(entries: number, key?: number) {
    this.#table = new SessionTable(new Uint8Array(SessionTable.bytesFor(entries)), entries, key);
    this.#entries = entries;
  }

  /** How many entries are in use. */
  get count(): number {
    return this.#table.count;
  }

  /** The entry of this address and word, below the number of entries; -1: none. */
  find(address: Address, word: number): number {
    const entry = this.#table.find(address, word);
    if (entry >= 0) this.#table.touch(entry, USED);
    return entry;
  }

  /** Assigns an entry, which may be a reused one: the data kept under it is then void. */
  insert(address: Address, word: number): number {
    const table = this.#table;
    let entry = this.#hand;
    for (let passed = 0; passed < MOST_PASSED && table.usedAt(entry) === USED; passed++) {
      table.touch(entry, UNUSED);
      entry = this.#after(entry);
    }
    table.end(entry);
    table.begin(entry, address, word, UNUSED);
    this.#hand = this.#after(entry);
    return entry;
  }

  remove(entry: number): void {
    this.#table.end(entry);
  }

  #after(entry: number): number {
    return entry + 1 === this.#entries ? 0 : entry + 1;
  }
}
