/**
 * A hash table in shared memory from a key of two words to a record: one writer, any number of
 * readers, no locks. Interfaces and neighbours are kept in such tables.
 *
 * A table is 2ᵏ slots of one word, probed linearly. A slot is empty, a tombstone, or names a record
 * (where it begins, and 11 bits of the key's hash so that most probes need not look at the record). A
 * record begins with its key, is written before any slot names it, and does not change afterwards
 * (except for words that are each a fact of their own, like a neighbour's state).
 *
 * **A reader never pairs a key with another's record.** It compares the whole key in the record that
 * it returns, the record does not change, and it is reused only after the reader has passed a
 * quiescent state (`rcu.ts`).
 *
 * **A reader never misses a key that is there throughout its lookup.** Within one table a key never
 * moves to another slot: replacing its record is a store to the same slot. The slots before it on its
 * probe path were taken when it was put there; since then they may have become tombstones or been
 * taken again, which probing passes over, but not empty: a slot becomes empty only when the one after
 * it is, and then no key further on depends on it. And a key cannot be in two slots, as the one writer
 * looks along the whole path before it takes a slot. A reader loads the publishing word in every
 * lookup, so it searches either a table that was current during the lookup or, when the table was
 * changed meanwhile, the old one as it stood complete at that change.
 *
 * **Growing and cleaning** build a new table in another place and publish it by one store to a header
 * word, which says all about the table: log2 of its slots, which of that size's two places, and the
 * seed of its hash. Two more secret words of that hash stand in the header and never change. The old
 * place is used again after a grace period. Slots of deleted keys are taken again or emptied on the
 * spot where that is safe, so cleaning is seldom needed.
 *
 * **Nothing is evicted, nothing loops**: a probe path has at most `MOST_PROBES` slots, for readers
 * and for the writer. A key that finds no room is refused and counted.
 *
 * First the keyed hash of every table whose keys strangers choose; then the readers' side, and the writer's.
 */

import { u32, type View } from "../ffi/region.ts";
import { type HashTableShape, Header } from "./layout.ts";
import { type DeferredFree, IdPool } from "./rcu.ts";

/**
 * A hash key: words that nobody outside knows. The multipliers are odd.
 *
 * Every table whose keys strangers choose has a keyed hash: who does not know the key cannot choose
 * keys that collide. Each table draws its key from a random seed.
 */
export interface HashKey {
  readonly add: number;
  readonly first: number;
  readonly second: number;
}

/** A random seed: a whole number below 2⁵³. */
export function randomSeed(): number {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return (high >>> 11) * 2 ** 32 + low;
}

/** The uses of a seed, so that tables with the same seed have different keys. */
export const Use = {
  interfaces: 1,
  neighbors: 2,
  netbase: 3,
  routeCache: 4,
  recentPeers: 5,
  arpQueue: 6,
  solicits: 7,
  demand: 8,
  backOff: 9,
  neighborMap: 10,
} as const;

/** The key that `use`, one of {@linkcode Use}, draws from `seed`. */
export function keyOf(seed: number, use: number): HashKey {
  const [low, high] = [seed | 0, Math.floor(seed / 2 ** 32) | 0];
  const word = (i: number) => finish(finish(low + Math.imul(4 * use + i, 0x9e3779b1)) + high + i);
  return { add: word(0), first: word(1) | 1, second: word(2) | 1 };
}

/** The finaliser of MurmurHash3. */
function finish(word: number): number {
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
  return word ^ (word >>> 16);
}

/**
 * Hash of the words `a` and `b`, a signed word, all bits of which are fit to pick a slot. `b` is the
 * word that strangers choose most freely; the others are a {@linkcode HashKey}, as numbers, since the
 * data path keeps them in its own fields.
 *
 * Each of its two rounds multiplies by a secret odd number and folds the upper bits over the lower. One
 * round alone crowds a whole arithmetic progression now and then; the second breaks those up. A seed
 * that is XORed to the key before a known mixer would keep the differences of keys, and with them the
 * pairs that collide. No bound is proven for the lower bits, which tables use. What is measured is in
 * `tests/unit/netbase/stranger_tables_test.ts`: two keys, whatever their difference, share one of 1,024
 * slots about as often as chance has it.
 *
 * It is no cryptographic hash: its key can be worked out from its results, so those stay in memory
 * that strangers cannot read.
 */
export function hash(a: number, b: number, add: number, first: number, second: number): number {
  let mixed = Math.imul(b + add, first);
  mixed = (mixed ^ (mixed >>> 15)) + Math.imul(a, second);
  mixed = Math.imul(mixed ^ (mixed >>> 13), second);
  return mixed ^ (mixed >>> 16);
}

/** Slots that a key may be in, from its hash on. */
export const MOST_PROBES = 128;

/**
 * A slot: 0, `TOMBSTONE`, or tag << 20 | where its record begins, in units of 8 words, + 1. A tag has 11
 * bits, the tombstone's 12.
 */
const EMPTY = 0;
const TOMBSTONE = 0xfff00000;
const UNIT_WORDS = 8;
const UNIT_BITS = 20;
const UNIT_MASK = (1 << UNIT_BITS) - 1;

/**
 * The publishing word: seed << 6 | log2 of slots << 1 | place. Bit 31 is 0: a small integer. 0: no table,
 * and names a slot that no table has, so it is empty.
 */
const SEED_BITS = 25;

// V8 folds constants of the same module that are not exported, and loads all others at each use.
const PROBES = MOST_PROBES;
const UNIT_SHIFT = 3;
const mix = hash;

/** Log2 of the slots of the table that a publishing word names. */
export function slotsLog2Of(published: number): number {
  return (published >> 1) & 0x1f;
}

/** Index of that table's first slot in the region: each size has two places, all sizes side by side. */
export function slotsBaseOf(published: number, { slotsAt }: HashTableShape): number {
  return (slotsAt >>> 2) + ((2 | published & 1) << slotsLog2Of(published));
}

/** Whether a slot names a record. */
function isTaken(word: number): boolean {
  return word !== EMPTY && word !== TOMBSTONE;
}

/**
 * The readers' side. One array for all of it, since V8 checks arrays anew in each lookup. Fields are declared
 * and not defined: of those that are written once, by the constructor, and are not `undefined` before that,
 * it knows the type, which saves a check at each use.
 */
export class HashTableReader {
  /** The whole region; `find` returns an index into this. */
  declare readonly words: Uint32Array;
  declare private readonly publishedAt: number;
  declare private readonly shape: HashTableShape;
  /** Where a record would be that slots name by 0. */
  declare private readonly recordsAt: number;
  /** The publishing word as last seen, and what follows from it. */
  private published = 0;
  private base = 0;
  private mask = 0;
  /** The header's part of the hash's key. */
  private first = 0;
  private second = 0;

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
    // It seldom changes: the processor predicts that, and hashes before it knows.
    const published = words[this.publishedAt] | 0;
    if (published !== this.published) this.join(published);
    const { base, mask } = this;
    const hash = mix(a | 0, b | 0, this.published >> 6, this.first, this.second);
    for (let i = 0; i < PROBES; i++) {
      const slot = words[(base + ((hash + i) & mask)) | 0] | 0;
      if (slot === 0) return -1;
      if (slot >>> UNIT_BITS !== hash >>> 21) continue;
      const record = (this.recordsAt + ((slot & UNIT_MASK) << UNIT_SHIFT)) | 0;
      if ((words[record] | 0) === (a | 0) && (words[(record + 1) | 0] | 0) === (b | 0)) {
        return record;
      }
    }
    return -1;
  }

  /** Calls `visit` with the index of each record, in no order. */
  forEachRecord(visit: (record: number) => void): void {
    this.join(this.words[this.publishedAt] | 0);
    for (let i = 0; i <= this.mask; i++) {
      const slot = this.words[this.base + i];
      if (isTaken(slot)) visit(this.recordsAt + ((slot & UNIT_MASK) << UNIT_SHIFT));
    }
  }

  /** Turns to another table. */
  private join(published: number): void {
    this.published = published;
    this.base = slotsBaseOf(published, this.shape);
    this.mask = (1 << slotsLog2Of(published)) - 1;
    this.first = this.words[Header.hash] | 0;
    this.second = this.words[Header.hash + 1] | 0;
  }
}

/** Bits of a publishing word that say which place a table is in. */
const PLACE_MASK = 0x3f;
/** Smallest table, log2 of its slots. */
const SMALLEST_LOG2 = 6;

/** The one writer of a hash table. */
export class HashTableWriter {
  /** The whole region; `allocate` and `find` return indices into this. */
  readonly words: Uint32Array;
  readonly #reader: HashTableReader;
  readonly #shape: HashTableShape;
  /** Index in `words` of the first record. */
  readonly #recordsAt: number;
  readonly #deferred: DeferredFree;
  readonly #records: IdPool;
  /** Places of tables that readers may still look at. */
  readonly #places = new Set<number>();
  readonly #placePool = { reclaim: (place: number) => void this.#places.delete(place) };
  /** The sync in which each record was last named, by record number. */
  readonly #marks: Uint16Array;
  #sync = 1;
  /** The publishing word of the table that is worked on, and what follows from it. */
  #table = 0;
  #base = 0;
  #mask = 0;
  #size = 0;
  #tombstones = 0;

  /**
   * Begins an empty table of at least `slots` slots, or goes on with the one that a predecessor left:
   * wherever that stopped, what is published is whole.
   */
  constructor(
    view: View,
    shape: HashTableShape,
    { deferred, slots, seed }: { deferred: DeferredFree; slots: number; seed: number },
  ) {
    this.#reader = new HashTableReader(view, shape);
    this.words = this.#reader.words;
    this.#shape = shape;
    this.#recordsAt = shape.recordsAt / 4;
    this.#deferred = deferred;
    this.#records = new IdPool(0, shape.records);
    this.#marks = new Uint16Array(shape.records);
    const published = this.words[shape.publishedAt];
    if (published !== 0) {
      this.#inherit(published);
    } else {
      const log2 = 32 - Math.clz32(Math.max(1, slots) - 1);
      this.#claim(Math.min(shape.slotsLog2, Math.max(SMALLEST_LOG2, log2)), seed);
      this.#publish();
    }
  }

  /** Records in the table. */
  get size(): number {
    return this.#size;
  }

  /** Index of the record of key (`a`, `b`), or -1. */
  find(a: number, b: number): number {
    return this.#reader.find(a, b);
  }

  /** Index of a record to fill in and then `put`, or -1 when all are in use or wait for readers. */
  allocate(): number {
    let number = this.#records.allocate();
    if (number < 0) {
      this.#deferred.reclaim();
      number = this.#records.allocate();
    }
    return number < 0 ? -1 : this.#recordsAt + number * this.#shape.recordWords;
  }

  /**
   * Publishes a filled record in place of the one with its key, or as a new one. False: there is no
   * room; the record is freed.
   */
  put(record: number): boolean {
    const a = this.words[record];
    const b = this.words[record + 1];
    const old = this.#slotOf(a, b);
    const slot = old >= 0 ? old : this.#freeSlot(a, b);
    if (slot < 0) {
      this.#records.reclaim(this.#numberOf(record));
      return false;
    }
    const before = this.words[slot];
    Atomics.store(this.words, slot, this.#slotWord(a, b, record));
    this.mark(record);
    if (old >= 0) {
      this.#deferred.retire(this.#records, this.#numberOf(this.#recordIn(before)));
    } else {
      this.#size++;
      if (before === TOMBSTONE) this.#tombstones--;
    }
    return true;
  }

  /** Removes key (`a`, `b`). False: it is not there. */
  remove(a: number, b: number): boolean {
    const slot = this.#slotOf(a, b);
    if (slot < 0) return false;
    this.#removeAt(slot);
    return true;
  }

  /** Notes that the running sync has named a record. */
  mark(record: number): void {
    this.#marks[this.#numberOf(record)] = this.#sync;
  }

  /** Calls `visit` with the index of each record; `visit` may remove the one it is given. */
  forEach(visit: (record: number) => void): void {
    this.#reader.forEachRecord(visit);
  }

  /** Begins a mark and sweep. */
  beginSync(): void {
    this.#sync = (this.#sync + 1) & 0xffff;
  }

  /**
   * Removes every record that was neither `put` nor `mark`ed since `beginSync`; calls `leaving` with
   * each before.
   */
  endSync(leaving: (record: number) => void): void {
    this.forEach((record) => {
      if (this.#marks[this.#numberOf(record)] === this.#sync) return;
      leaving(record);
      this.remove(this.words[record], this.words[record + 1]);
    });
  }

  /** Slot of a key, or -1. */
  #slotOf(a: number, b: number): number {
    const hash = this.#hash(a, b);
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.#base + ((hash + i) & this.#mask);
      const word = this.words[slot];
      if (word === EMPTY) return -1;
      if (word === TOMBSTONE) continue;
      const record = this.#recordIn(word);
      if (this.words[record] === a >>> 0 && this.words[record + 1] === b >>> 0) return slot;
    }
    return -1;
  }

  /** Slot for a key that is not there, having made room if need be; -1: none. */
  #freeSlot(a: number, b: number): number {
    if (this.#size >= this.#shape.records >>> 1) return -1;
    if ((this.#size + this.#tombstones) * 8 >= (this.#mask + 1) * 5) this.#rebuild();
    const slot = this.#probeFree(a, b);
    if (slot >= 0) return slot;
    return this.#rebuild() ? this.#probeFree(a, b) : -1;
  }

  /** First slot on a key's path that is empty or a tombstone, or -1. */
  #probeFree(a: number, b: number): number {
    const hash = this.#hash(a, b);
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.#base + ((hash + i) & this.#mask);
      if (!isTaken(this.words[slot])) return slot;
    }
    return -1;
  }

  #hash(a: number, b: number): number {
    const { words } = this;
    return mix(a, b, this.#table >>> 6, words[Header.hash], words[Header.hash + 1]);
  }

  /** The word of a slot that names a record of key (`a`, `b`). */
  #slotWord(a: number, b: number, record: number): number {
    const unit = (record - this.#recordsAt) / UNIT_WORDS + 1;
    return (this.#hash(a, b) >>> 21) << UNIT_BITS | unit;
  }

  /** The record that a slot's word names. */
  #recordIn(word: number): number {
    return this.#recordsAt + ((word & UNIT_MASK) - 1) * UNIT_WORDS;
  }

  #numberOf(record: number): number {
    return (record - this.#recordsAt) / this.#shape.recordWords;
  }

  /** Makes `slot` a tombstone, or empty together with the tombstones before it where that is safe. */
  #removeAt(slot: number): void {
    const record = this.#recordIn(this.words[slot]);
    const next = this.#base + ((slot - this.#base + 1) & this.#mask);
    if (this.words[next] !== EMPTY) {
      Atomics.store(this.words, slot, TOMBSTONE);
      this.#tombstones++;
    } else {
      Atomics.store(this.words, slot, EMPTY);
      let before = this.#base + ((slot - this.#base - 1) & this.#mask);
      while (this.words[before] === TOMBSTONE) {
        Atomics.store(this.words, before, EMPTY);
        this.#tombstones--;
        before = this.#base + ((before - this.#base - 1) & this.#mask);
      }
    }
    this.#size--;
    this.#deferred.retire(this.#records, this.#numberOf(record));
  }

  /**
   * Builds the table anew, larger when it is full rather than littered, and publishes it. False: there
   * is no place for it just now, or some key finds no slot in it, and all stays as it was.
   */
  #rebuild(): boolean {
    const old = this.#table;
    const full = this.#size * 16 >= (this.#mask + 1) * 5;
    const log2 = Math.min(slotsLog2Of(old) + (full ? 1 : 0), this.#shape.slotsLog2);
    if (!this.#claim(log2, Math.imul((old >>> 6) + 1, 0x9e3779b1))) return false;
    const records: number[] = [];
    this.forEach((record) => records.push(record));
    const fits = records.every((record) => {
      const [a, b] = [this.words[record], this.words[record + 1]];
      const slot = this.#probeFree(a, b);
      if (slot >= 0) this.words[slot] = this.#slotWord(a, b, record);
      return slot >= 0;
    });
    if (!fits) {
      this.#places.delete(this.#table & PLACE_MASK);
      this.#turnTo(old);
      return false;
    }
    this.#tombstones = 0;
    this.#publish();
    this.#deferred.retire(this.#placePool, old & PLACE_MASK);
    return true;
  }

  /** Turns to an empty place for 2^`log2` slots that no reader looks at. False: there is none now. */
  #claim(log2: number, seed: number): boolean {
    const places = [log2 << 1, log2 << 1 | 1];
    if (places.every((place) => this.#places.has(place))) this.#deferred.reclaim();
    const place = places.find((place) => !this.#places.has(place));
    if (place === undefined) return false;
    this.#places.add(place);
    this.#turnTo((seed & ((1 << SEED_BITS) - 1)) << 6 | place);
    this.words.fill(EMPTY, this.#base, this.#base + this.#mask + 1);
    return true;
  }

  #turnTo(table: number): void {
    this.#table = table;
    this.#base = slotsBaseOf(table, this.#shape);
    this.#mask = (1 << slotsLog2Of(table)) - 1;
  }

  #publish(): void {
    Atomics.store(this.words, this.#shape.publishedAt, this.#table);
  }

  /** Goes on with a predecessor's table. Records and places that it does not name are free. */
  #inherit(published: number): void {
    this.#places.add(published & PLACE_MASK);
    this.#turnTo(published);
    for (let slot = this.#base; slot <= this.#base + this.#mask; slot++) {
      const word = this.words[slot];
      if (word === TOMBSTONE) this.#tombstones++;
      if (!isTaken(word)) continue;
      this.#records.reserve(this.#numberOf(this.#recordIn(word)));
      this.#size++;
    }
  }
}
