/**
 * A record table's one writer. `record_table.ts` says what a table is and argues why its readers are
 * right; each step here keeps to that argument.
 */

import type { View } from "../ffi/view.ts";
import { hash } from "./hash.ts";
import { Header, type RecordTableShape } from "./layout.ts";
import { IdPool } from "./pools.ts";
import type { Limbo } from "./rcu.ts";
import {
  EMPTY,
  isTaken,
  MOST_PROBES,
  RecordTableReader,
  SEED_BITS,
  slotsBaseOf,
  slotsLog2Of,
  TOMBSTONE,
  UNIT_BITS,
  UNIT_MASK,
  UNIT_WORDS,
} from "./record_table.ts";

/** Smallest table, log2 of its slots. */
const SMALLEST_LOG2 = 6;
/** Bits of a publishing word that say which place a table is in. */
const PLACE_MASK = 0x3f;

/** What the writer is given. */
export interface RecordTableOptions {
  readonly limbo: Limbo;
  /** Slots to begin with; rounded up to a power of two. */
  readonly slots: number;
  readonly seed: number;
}

/** The one writer's side. */
export class RecordTableWriter {
  /** The whole region; `allocate` and `find` return indices into this. */
  readonly words: Uint32Array;
  readonly #reader: RecordTableReader;
  readonly #shape: RecordTableShape;
  readonly #limbo: Limbo;
  readonly #records: IdPool;
  /** Places of tables that readers may still look at. */
  readonly #places = new Set<number>();
  readonly #recordPool = { reclaim: (number: number) => this.#records.reclaim(number) };
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
   * Begins an empty table, or goes on with the one that a predecessor left: whatever it was doing,
   * what is published is whole.
   */
  constructor(view: View, shape: RecordTableShape, options: RecordTableOptions) {
    this.#reader = new RecordTableReader(view, shape);
    this.words = this.#reader.words;
    this.#shape = shape;
    this.#limbo = options.limbo;
    this.#records = new IdPool(0, shape.records);
    this.#marks = new Uint16Array(shape.records);
    const published = this.words[shape.publishedAt];
    if (published !== 0) {
      this.#inherit(published);
    } else {
      const log2 = 32 - Math.clz32(Math.max(1, options.slots) - 1);
      this.#claim(Math.min(shape.slotsLog2, Math.max(SMALLEST_LOG2, log2)), options.seed);
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
      this.#limbo.reclaim();
      number = this.#records.allocate();
    }
    const { recordsAt, recordWords } = this.#shape;
    return number < 0 ? -1 : recordsAt / 4 + number * recordWords;
  }

  /**
   * Publishes a filled record in place of the one with its key, or as a new one. False: there is no
   * room; the record is given back.
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
      this.#limbo.retire(this.#recordPool, this.#numberOf(this.#recordIn(before)));
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
    return hash(a, b, this.#table >>> 6, words[Header.hash], words[Header.hash + 1]);
  }

  /** The word of a slot that names a record of key (`a`, `b`). */
  #slotWord(a: number, b: number, record: number): number {
    const unit = (record - this.#shape.recordsAt / 4) / UNIT_WORDS + 1;
    return (this.#hash(a, b) >>> 21) << UNIT_BITS | unit;
  }

  /** The record that a slot's word names. */
  #recordIn(word: number): number {
    return this.#shape.recordsAt / 4 + ((word & UNIT_MASK) - 1) * UNIT_WORDS;
  }

  #numberOf(record: number): number {
    return (record - this.#shape.recordsAt / 4) / this.#shape.recordWords;
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
    this.#limbo.retire(this.#recordPool, this.#numberOf(record));
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
    if (!records.every((record) => this.#take(record))) {
      this.#places.delete(this.#table & PLACE_MASK);
      this.#turnTo(old);
      return false;
    }
    this.#tombstones = 0;
    this.#publish();
    this.#limbo.retire(this.#placePool, old & PLACE_MASK);
    return true;
  }

  /** Puts a record into a table that is being built. False: there is no slot for it. */
  #take(record: number): boolean {
    const [a, b] = [this.words[record], this.words[record + 1]];
    const slot = this.#probeFree(a, b);
    if (slot >= 0) this.words[slot] = this.#slotWord(a, b, record);
    return slot >= 0;
  }

  /** Turns to an empty place for 2^`log2` slots that no reader looks at. False: there is none now. */
  #claim(log2: number, seed: number): boolean {
    const places = [log2 << 1, log2 << 1 | 1];
    if (places.every((place) => this.#places.has(place))) this.#limbo.reclaim();
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

  /** Goes on with a predecessor's table. What that does not name, nobody has any more. */
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
