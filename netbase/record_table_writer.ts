/**
 * A record table's one writer. `record_table.ts` says what a table is and argues why its readers are
 * right; each step here keeps to that argument.
 */

import { u32, type View } from "../ffi/view.ts";
import { IdPool } from "./id_pool.ts";
import type { RecordTableShape } from "./layout.ts";
import type { Limbo } from "./rcu.ts";
import {
  EMPTY,
  hashKey,
  isTaken,
  MOST_PROBES,
  placeBase,
  recordsOf,
  RecordTableReader,
  SEED_BITS,
  slotsOf,
  TOMBSTONE,
  UNIT_BITS,
  UNIT_MASK,
  UNIT_WORDS,
} from "./record_table.ts";

/** Smallest table, log2 of its slots. */
const SMALLEST_LOG2 = 6;

/** What the writer is given. */
export interface RecordTableOptions {
  readonly limbo: Limbo;
  /** Slots to begin with; rounded up to a power of two. */
  readonly slots: number;
  readonly seed: number;
}

/** The one writer's side. */
export class RecordTableWriter {
  /** All records; `allocate` and `find` return indices into this. */
  readonly words: Uint32Array;
  readonly #slots: Uint32Array;
  readonly #header: Uint32Array;
  readonly #shape: RecordTableShape;
  readonly #limbo: Limbo;
  readonly #records: IdPool;
  /** Places of tables that readers may still look at, as `log2 << 1 | place`. */
  readonly #places = new Set<number>();
  readonly #recordPool = { reclaim: (number: number) => this.#records.reclaim(number) };
  readonly #placePool = { reclaim: (place: number) => void this.#places.delete(place) };
  /** The sync in which each record was last named, by record number. */
  readonly #marks: Uint16Array;
  #sync = 1;
  #log2: number;
  #place = 0;
  #base = 0;
  #seed: number;
  #size = 0;
  #tombstones = 0;
  /** False while a successor builds its first table and readers look at its predecessor's. */
  #shown: boolean;

  /** Joins at `view`. A table that a predecessor left stays until `endSync` publishes this one. */
  constructor(view: View, shape: RecordTableShape, options: RecordTableOptions) {
    this.#header = u32(view);
    this.#slots = slotsOf(view, shape);
    this.words = recordsOf(view, shape);
    this.#shape = shape;
    this.#limbo = options.limbo;
    this.#records = new IdPool(0, shape.records);
    this.#marks = new Uint16Array(shape.records);
    this.#seed = options.seed & ((1 << SEED_BITS) - 1);
    const log2 = 32 - Math.clz32(Math.max(1, options.slots) - 1);
    this.#log2 = Math.min(shape.slotsLog2, Math.max(SMALLEST_LOG2, log2));
    this.#shown = this.#header[shape.publishedAt] === 0;
    if (!this.#shown) this.#inherit(view);
    this.#claim(this.#log2);
    if (this.#shown) this.#publish();
  }

  /** Records in the table. */
  get size(): number {
    return this.#size;
  }

  /** Index of the record of key (`a`, `b`), or -1. */
  find(a: number, b: number): number {
    const slot = this.#slotOf(a, b);
    return slot < 0 ? -1 : this.#recordIn(slot);
  }

  /** Index of a record to fill in and then `put`, or -1 when all are in use or wait for readers. */
  allocate(): number {
    let number = this.#records.allocate();
    if (number < 0) {
      this.#limbo.reclaim();
      number = this.#records.allocate();
    }
    return number < 0 ? -1 : number * this.#shape.recordWords;
  }

  /**
   * Publishes a filled record in place of the one with its key, or as a new one. False: there is no
   * room; the record is given back.
   */
  put(record: number): boolean {
    const number = record / this.#shape.recordWords;
    const a = this.words[record];
    const b = this.words[record + 1];
    const old = this.#slotOf(a, b);
    const slot = old >= 0 ? old : this.#freeSlot(a, b);
    if (slot < 0) {
      this.#records.reclaim(number);
      return false;
    }
    const before = this.#slots[slot];
    const tag = hashKey(a, b, this.#seed) >>> 21;
    Atomics.store(this.#slots, slot, (tag << UNIT_BITS) | (record / UNIT_WORDS + 1));
    this.#marks[number] = this.#sync;
    if (old >= 0) {
      this.#limbo.retire(this.#recordPool, this.#numberOf(before));
    } else {
      this.#size++;
      if (before === TOMBSTONE) this.#tombstones--;
    }
    return true;
  }

  /** Takes key (`a`, `b`) out. False: it is not there. */
  remove(a: number, b: number): boolean {
    const slot = this.#slotOf(a, b);
    if (slot < 0) return false;
    this.#removeAt(slot);
    return true;
  }

  /** Notes that a record was named by the sync that is running. */
  mark(record: number): void {
    this.#marks[record / this.#shape.recordWords] = this.#sync;
  }

  /** Calls `visit` with the index of each record; `visit` may remove the one it is given. */
  forEach(visit: (record: number) => void): void {
    const end = this.#base + (1 << this.#log2);
    for (let slot = this.#base; slot < end; slot++) {
      if (isTaken(this.#slots[slot])) visit(this.#recordIn(slot));
    }
  }

  /** Begins a mark and sweep. */
  beginSync(): void {
    this.#sync = (this.#sync + 1) & 0xffff;
  }

  /**
   * Removes every record that was neither `put` nor `mark`ed since `beginSync`; calls `leaving` with
   * each before.
   */
  endSync(leaving?: (record: number) => void): void {
    this.forEach((record) => {
      const number = record / this.#shape.recordWords;
      if (this.#marks[number] === this.#sync) return;
      leaving?.(record);
      this.remove(this.words[record], this.words[record + 1]);
    });
    if (!this.#shown) this.#publish();
  }

  /** Slot of a key, or -1. */
  #slotOf(a: number, b: number): number {
    const hash = hashKey(a, b, this.#seed);
    const mask = (1 << this.#log2) - 1;
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.#base + ((hash + i) & mask);
      const word = this.#slots[slot];
      if (word === EMPTY) return -1;
      if (word === TOMBSTONE) continue;
      const record = this.#recordIn(slot);
      if (this.words[record] === a >>> 0 && this.words[record + 1] === b >>> 0) return slot;
    }
    return -1;
  }

  /** Slot for a key that is not there, having made room if need be; -1: none. */
  #freeSlot(a: number, b: number): number {
    if (this.#size >= this.#shape.records >>> 1) return -1;
    const slots = 1 << this.#log2;
    if ((this.#size + this.#tombstones) * 8 >= slots * 5) this.#rebuild();
    const slot = this.#probeFree(a, b);
    if (slot >= 0) return slot;
    return this.#rebuild() ? this.#probeFree(a, b) : -1;
  }

  /** First slot on a key's path that is empty or a tombstone, or -1. */
  #probeFree(a: number, b: number): number {
    const hash = hashKey(a, b, this.#seed);
    const mask = (1 << this.#log2) - 1;
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.#base + ((hash + i) & mask);
      if (!isTaken(this.#slots[slot])) return slot;
    }
    return -1;
  }

  #recordIn(slot: number): number {
    return beginOf(this.#slots[slot]);
  }

  /** Number of the record that a slot's word names. */
  #numberOf(word: number): number {
    return beginOf(word) / this.#shape.recordWords;
  }

  /** Makes `slot` a tombstone, or empty together with the tombstones before it where that is safe. */
  #removeAt(slot: number): void {
    const number = this.#numberOf(this.#slots[slot]);
    const mask = (1 << this.#log2) - 1;
    const next = this.#base + ((slot - this.#base + 1) & mask);
    if (this.#slots[next] !== EMPTY) {
      Atomics.store(this.#slots, slot, TOMBSTONE);
      this.#tombstones++;
    } else {
      Atomics.store(this.#slots, slot, EMPTY);
      let before = this.#base + ((slot - this.#base - 1) & mask);
      while (this.#slots[before] === TOMBSTONE) {
        Atomics.store(this.#slots, before, EMPTY);
        this.#tombstones--;
        before = this.#base + ((before - this.#base - 1) & mask);
      }
    }
    this.#size--;
    this.#limbo.retire(this.#recordPool, number);
  }

  /** Builds the table anew, larger when it is full rather than littered, and publishes it. */
  #rebuild(): boolean {
    const full = this.#size * 16 >= (5 << this.#log2);
    const log2 = full ? Math.min(this.#log2 + 1, this.#shape.slotsLog2) : this.#log2;
    const old = { base: this.#base, log2: this.#log2, place: this.#place, seed: this.#seed };
    if (!this.#claim(log2)) return false;
    this.#seed = Math.imul(this.#seed + 1, 0x9e3779b1) & ((1 << SEED_BITS) - 1);
    for (let i = 0; i < 1 << old.log2; i++) {
      const word = this.#slots[old.base + i];
      if (!isTaken(word)) continue;
      const record = beginOf(word);
      const a = this.words[record];
      const b = this.words[record + 1];
      const slot = this.#probeFree(a, b);
      if (slot < 0) return this.#giveUp(old);
      this.#slots[slot] = ((hashKey(a, b, this.#seed) >>> 21) << UNIT_BITS) |
        (word & UNIT_MASK);
    }
    this.#tombstones = 0;
    if (this.#shown) this.#publish();
    this.#limbo.retire(this.#placePool, (old.log2 << 1) | old.place);
    return true;
  }

  /** Back to the table that a rebuild was to replace: some key found no slot in the new one. */
  #giveUp(old: { base: number; log2: number; place: number; seed: number }): false {
    this.#places.delete((this.#log2 << 1) | this.#place);
    this.#base = old.base;
    this.#log2 = old.log2;
    this.#place = old.place;
    this.#seed = old.seed;
    return false;
  }

  /** Turns to an empty place for 2^`log2` slots that no reader looks at. False: there is none now. */
  #claim(log2: number): boolean {
    if (this.#places.has(log2 << 1) && this.#places.has((log2 << 1) | 1)) this.#limbo.reclaim();
    const place = this.#places.has(log2 << 1) ? 1 : 0;
    if (this.#places.has((log2 << 1) | place)) return false;
    this.#places.add((log2 << 1) | place);
    this.#log2 = log2;
    this.#place = place;
    this.#base = placeBase(log2, place);
    this.#slots.fill(EMPTY, this.#base, this.#base + (1 << log2));
    return true;
  }

  /** Shows readers the table. A predecessor's, when there was one, goes where all old ones go. */
  #publish(): void {
    const before = this.#header[this.#shape.publishedAt];
    const word = (this.#seed << 6) | (this.#log2 << 1) | this.#place;
    Atomics.store(this.#header, this.#shape.publishedAt, word);
    if (!this.#shown && before !== 0) this.#disinherit(before);
    this.#shown = true;
  }

  /** Keeps hands off the table that a predecessor published, and off its records. */
  #inherit(view: View): void {
    const published = this.#header[this.#shape.publishedAt];
    this.#places.add(published & 0x3f);
    const { recordsAt, recordWords } = this.#shape;
    new RecordTableReader(view, this.#shape).forEachRecord((record) => {
      this.#records.reserve((record - recordsAt / 4) / recordWords);
    });
  }

  /** Lets go of a predecessor's table and of the records it names. */
  #disinherit(published: number): void {
    const log2 = (published >>> 1) & 0x1f;
    const base = placeBase(log2, published & 1);
    for (let i = 0; i < 1 << log2; i++) {
      const word = this.#slots[base + i];
      if (isTaken(word)) this.#limbo.retire(this.#recordPool, this.#numberOf(word));
    }
    this.#limbo.retire(this.#placePool, published & 0x3f);
  }
}

/** Where the record begins that a slot's word names. */
function beginOf(word: number): number {
  return ((word & UNIT_MASK) - 1) * UNIT_WORDS;
}
