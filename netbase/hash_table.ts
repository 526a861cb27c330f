// SPDX-License-Identifier: Apache-2.0
/**
 * A hash table in shared memory from a key of two words to a record: one writer, any number of readers,
 * no locks. Interfaces and neighbours are stored in such tables.
 *
 * A table has 2ᵏ slots of one word, with linear probing. A slot is empty, a tombstone, or names a
 * record (its position, and 11 bits of the key's hash so that most probes need not read the record). A
 * record begins with its key, is written before any slot names it, and does not change afterwards
 * (except for words that are independent facts, like a neighbour's state).
 *
 * **A reader never pairs a key with another's record.** It compares the whole key in the record that
 * it returns, the record does not change, and it is reused only after the reader has passed a
 * quiescent state (`rcu.ts`).
 *
 * **A reader never misses a key that is present throughout its lookup.** Within one table a key never
 * moves to another slot: replacing its record is a store to the same slot. The slots before it on its
 * probe path were taken when it was inserted. Since then they may have become tombstones or been taken
 * again, which probing passes over, but not empty: a slot becomes empty only if the next one is, and
 * then no key further on depends on it. And a key cannot be in two slots, as the one writer searches
 * the whole path before it takes a slot. A reader loads the publishing word in every lookup, so it
 * searches either a table that was current during the lookup or, if the table was changed meanwhile,
 * the old one as it was at that change.
 *
 * **Growing and cleaning** build a new table in another place and publish it by one store to a header
 * word, which describes the table: log2 of its slots, which of that size's two places, and the seed of
 * its hash. Two more secret words of that hash are in the header and never change. The old place is
 * reused after a grace period. Slots of deleted keys are reused or emptied in place where that is safe,
 * so cleaning is seldom needed.
 *
 * **Nothing is evicted, nothing loops**: a probe path has at most `MOST_PROBES` slots, for readers and
 * for the writer. A key for which there is no room is refused and counted.
 *
 * This is the readers' side; the writer's is in `tables_writer.ts`, which only the netlink tile loads.
 */

import { u32, type View } from "../ffi/region.ts";
import * as hashing from "./hash.ts";
import { type HashTableShape, Header } from "./layout.ts";

/** The number of slots, from its hash on, that a key may be in. */
export const MOST_PROBES = 128;

/** A slot: 0, `TOMBSTONE`, or a tag of 11 bits << 20 | position of its record, in units of 8 words, + 1. */
export const EMPTY = 0;
export const TOMBSTONE = 0xfff00000;
export const UNIT_WORDS = 8;
export const UNIT_BITS = 20;
export const UNIT_MASK = (1 << UNIT_BITS) - 1;

/** The publishing word: seed << 6 | log2 of slots << 1 | place, a small integer. 0: an empty table. */
export const SEED_BITS = 25;

// V8 folds constants of the same module that are not exported, and loads all others at each use.
const PROBES = MOST_PROBES;
const TAG_SHIFT = UNIT_BITS;
const UNITS = UNIT_MASK;
const UNIT_SHIFT = 3;
const { hash: mix } = hashing;

/** Log2 of the slots of the table that a publishing word names. */
export function slotsLog2Of(published: number): number {
  return (published >> 1) & 0x1f;
}

/** Index of that table's first slot in the region: each size has two places, all sizes side by side. */
export function slotsBaseOf(published: number, { slotsAt }: HashTableShape): number {
  return (slotsAt >>> 2) + ((2 | published & 1) << slotsLog2Of(published));
}

/** Whether a slot names a record. */
export function isTaken(word: number): boolean {
  return word !== EMPTY && word !== TOMBSTONE;
}

/**
 * The readers' side. It uses one array, since V8 checks each array in every lookup. Fields are declared
 * and not defined: V8 knows the type of fields that only the constructor writes and that are never
 * `undefined`, which saves a check at each use.
 */
export class HashTableReader {
  /** The whole region; `find` returns an index into this. */
  declare readonly words: Uint32Array;
  declare private readonly publishedAt: number;
  declare protected readonly shape: HashTableShape;
  /** The position of the record that a slot of 0 would name. */
  declare protected readonly recordsAt: number;
  /** The publishing word as last seen, and fields derived from it. */
  protected published = 0;
  protected base = 0;
  protected mask = 0;
  /** The header's part of the hash's key. */
  protected first = 0;
  protected second = 0;

  constructor(view: View, shape: HashTableShape) {
    this.words = u32(view);
    this.publishedAt = shape.publishedAt;
    this.shape = shape;
    this.recordsAt = (shape.recordsAt >>> 2) - UNIT_WORDS;
    this.join(0);
  }

  /** Index in `words` of the record of key (`a`, `b`), or -1. */
  find(a: number, b: number): number {
    // As signed words, so that V8 compares registers: an address may be signed or unsigned.
    const { words } = this;
    // It seldom changes, so the processor predicts it and hashes before it is loaded.
    const published = words[this.publishedAt] | 0;
    if (published !== this.published) this.join(published);
    const { base, mask } = this;
    const hash = mix(a | 0, b | 0, this.published >> 6, this.first, this.second);
    for (let i = 0; i < PROBES; i++) {
      const slot = words[(base + ((hash + i) & mask)) | 0] | 0;
      if (slot === 0) return -1;
      if (slot >>> TAG_SHIFT !== hash >>> 21) continue;
      const record = (this.recordsAt + ((slot & UNITS) << UNIT_SHIFT)) | 0;
      if ((words[record] | 0) === (a | 0) && (words[(record + 1) | 0] | 0) === (b | 0)) {
        return record;
      }
    }
    return -1;
  }

  /** Calls `visit` with the index of each record, in no order. A writer may remove that record meanwhile. */
  forEachRecord(visit: (record: number) => void): void {
    this.join(this.words[this.publishedAt] | 0);
    for (let i = 0; i <= this.mask; i++) {
      const slot = this.words[this.base + i];
      if (isTaken(slot)) visit(this.recordsAt + ((slot & UNITS) << UNIT_SHIFT));
    }
  }

  /** Switches to the table that a publishing word names. */
  protected join(published: number): void {
    this.published = published;
    this.base = slotsBaseOf(published, this.shape);
    this.mask = (1 << slotsLog2Of(published)) - 1;
    this.first = this.words[Header.hash] | 0;
    this.second = this.words[Header.hash + 1] | 0;
  }
}
