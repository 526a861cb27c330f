// SPDX-License-Identifier: Apache-2.0
/**
 * A table of sessions in memory of fixed size, for example an app's `state`. A session has a number that
 * its user chooses, is found by an address and a word, and ends when it has been idle for some time.
 */

import type { Address } from "../../tiles/app/contract.ts";

/** Words of a cache line. A session has its own lines, so finding it costs the index and one more line. */
const LINE_WORDS = 16;
const HEADER_WORDS = LINE_WORDS;
/**
 * Words of the header: the version of the layout, the capacity, the hash's key, the number of
 * sessions, and 1 while the number and the index are being changed.
 */
const Header = { version: 0, sessions: 1, multiplier: 2, count: 3, changing: 4 } as const;
const VERSION = 3;
const ADDRESS_WORDS = 4;
/** Words of a session: its address, its word, the second of its last use (0: free), its user's words. */
const Word = { address: 0, word: 4, used: 5, own: 6 } as const;

/** Slots of the index: at least twice as many as sessions, so that searches stay short. */
function slotsFor(sessions: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(2, sessions) * 2));
}

/** Sessions by an address and a word. Nothing is allocated after the constructor. */
export class SessionTable {
  /** All sessions. Words at `own` of a session belong to its user. */
  readonly words: Uint32Array;
  readonly #header: Uint32Array;
  readonly #sessions: number;
  /** Open-addressed with linear probing: number of a session plus one; 0: free. */
  readonly #index: Int32Array;
  readonly #mask: number;
  /** Where `expire` continues. */
  #hand = 0;

  /** Bytes of memory for so many sessions. */
  static bytesFor(sessions: number): number {
    return (HEADER_WORDS + LINE_WORDS * sessions + slotsFor(sessions)) * 4;
  }

  /**
   * Uses `memory`, which is aligned to four bytes and `bytesFor(sessions)` long. Keeps the sessions of a predecessor
   * with the same capacity; clears other content, unless it begins with a zero word. `key`: a random word for the hash.
   */
  constructor(
    memory: Uint8Array,
    sessions: number,
    key: number = crypto.getRandomValues(new Uint32Array(1))[0],
  ) {
    const { buffer, byteOffset } = memory;
    if (memory.length < SessionTable.bytesFor(sessions)) {
      throw new RangeError(`${sessions} sessions take ${SessionTable.bytesFor(sessions)} bytes`);
    }
    const words = (at: number, length: number) =>
      new Uint32Array(buffer, byteOffset + at * 4, length);
    this.#header = words(0, HEADER_WORDS);
    this.words = words(HEADER_WORDS, LINE_WORDS * sessions);
    this.#sessions = sessions;
    const slots = slotsFor(sessions);
    this.#mask = slots - 1;
    const index = HEADER_WORDS + LINE_WORDS * sessions;
    this.#index = new Int32Array(buffer, byteOffset + index * 4, slots);
    const header = this.#header;
    if (header[Header.version] === VERSION && header[Header.sessions] === sessions) {
      if (header[Header.changing] !== 0) this.#rebuild();
      return;
    }
    // Untouched zero pages take no memory, so do not write them.
    if (header[Header.version] !== 0) memory.fill(0, 0, SessionTable.bytesFor(sessions));
    header.set([VERSION, sessions, key | 1]);
  }

  /** Rebuilds the index, after a predecessor ended in the middle of a change. */
  #rebuild(): void {
    const { words } = this;
    this.#index.fill(0);
    let count = 0;
    for (let session = 0; session < this.#sessions; session++) {
      const at = session * LINE_WORDS;
      if (words[at + Word.used] === 0) continue;
      const slot = this.#slot(words, at, words[at + Word.word]);
      // Free sessions with duplicate keys, in case the memory is corrupt.
      if (this.#index[slot] !== 0) words[at + Word.used] = 0;
      else {
        this.#index[slot] = session + 1;
        count++;
      }
    }
    this.#header[Header.count] = count;
    this.#setChanging(0);
  }

  /** Atomics keep the order of stores, in case the process is killed between them. */
  #setChanging(changing: 0 | 1): void {
    Atomics.store(this.#header, Header.changing, changing);
  }

  get count(): number {
    return this.#header[Header.count];
  }

  /** The session of this address and word; -1: none. */
  find(address: Address, word: number): number {
    return this.#index[this.#slot(address.words, 0, word)] - 1;
  }

  /** Begins a free session for an address and word without a session, in this second since 1970. */
  begin(session: number, address: Address, word: number, now: number): void {
    const slot = this.#slot(address.words, 0, word);
    const { words } = this;
    const at = session * LINE_WORDS;
    if (words[at + Word.used] !== 0 || this.#index[slot] !== 0) {
      throw new Error(`session ${session} is in use, or its address and word are`);
    }
    this.#setChanging(1);
    address.store(words, at);
    words[at + Word.word] = word;
    words[at + Word.used] = now;
    this.#index[slot] = session + 1;
    this.#header[Header.count]++;
    this.#setChanging(0);
  }

  /** Records that a session was used in this second. */
  touch(session: number, now: number): void {
    this.words[session * LINE_WORDS + Word.used] = now;
  }

  /** The index in `words` of the ten words of the session's user. */
  own(session: number): number {
    return session * LINE_WORDS + Word.own;
  }

  /** The second in which a session was last used; 0: it is free. */
  usedAt(session: number): number {
    return this.words[session * LINE_WORDS + Word.used];
  }

  /** Loads the address of a session into `address`, and returns its word. */
  read(session: number, address: Address): number {
    address.load(this.words, session * LINE_WORDS);
    return this.words[session * LINE_WORDS + Word.word];
  }

  /** Ends a session, which is then free. */
  end(session: number): void {
    const { words } = this;
    const index = this.#index;
    const at = session * LINE_WORDS;
    if (words[at + Word.used] === 0) return;
    let hole = this.#slot(words, at, words[at + Word.word]);
    if (index[hole] !== session + 1) return;
    this.#setChanging(1);
    words[at + Word.used] = 0;
    this.#header[Header.count]--;
    // Move back entries that lookups would not find beyond the hole.
    for (let slot = (hole + 1) & this.#mask; index[slot] !== 0; slot = (slot + 1) & this.#mask) {
      const other = index[slot] - 1;
      const home = this.#hash(words, other * LINE_WORDS, words[other * LINE_WORDS + Word.word]);
      if (((slot - home) & this.#mask) < ((slot - hole) & this.#mask)) continue;
      index[hole] = index[slot];
      hole = slot;
    }
    index[hole] = 0;
    this.#setChanging(0);
  }

  /** Ends those of the next `budget` sessions that were last used before this second, and calls `ended` with each. */
  expire(before: number, budget: number, ended: (session: number) => void): void {
    for (let left = Math.min(budget, this.#sessions); left > 0; left--) {
      const session = this.#hand;
      this.#hand = session + 1 === this.#sessions ? 0 : session + 1;
      const used = this.usedAt(session);
      if (used === 0 || used >= before) continue;
      this.end(session);
      ended(session);
    }
  }

  /** The slot of `word` and the address at `from` of `address`, or the free slot for them. */
  #slot(address: Uint32Array, from: number, word: number): number {
    const { words } = this;
    const index = this.#index;
    for (let slot = this.#hash(address, from, word);; slot = (slot + 1) & this.#mask) {
      const session = index[slot] - 1;
      if (session < 0) return slot;
      const at = session * LINE_WORDS;
      if (
        words[at + Word.word] === word >>> 0 && words[at + 3] === address[from + 3] &&
        words[at + 2] === address[from + 2] && words[at + 1] === address[from + 1] &&
        words[at] === address[from]
      ) return slot;
    }
  }

  #hash(address: Uint32Array, from: number, word: number): number {
    const multiplier = this.#header[Header.multiplier];
    let hash = word;
    for (let i = 0; i < ADDRESS_WORDS; i++) {
      hash = Math.imul((hash ^ (hash >>> 15)) + address[from + i], multiplier);
    }
    hash = Math.imul(hash ^ (hash >>> 13), multiplier);
    return (hash ^ (hash >>> 14)) & this.#mask;
  }
}
