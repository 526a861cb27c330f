// SPDX-License-Identifier: Apache-2.0
/**
 * The writers of the hash table, and of the two tables that are hash tables: interfaces and neighbours.
 * Separate from their readers, so that only the netlink tile loads them. `hash_table.ts` defines a
 * table and explains why its readers are right; each step here follows that argument.
 */

import type { View } from "../ffi/region.ts";
import { hash as mix } from "./hash.ts";
import * as hashTable from "./hash_table.ts";
import { HashTableReader, isTaken, slotsLog2Of } from "./hash_table.ts";
import {
  type InterfaceAddress,
  type InterfaceEntry,
  InterfaceReader,
  PLAIN_WORDS,
} from "./interfaces.ts";
import * as layout from "./layout.ts";
import type { HashTableShape } from "./layout.ts";
import {
  emptyNeighbor,
  FLAGS_SHIFT,
  type NeighborEntry,
  NUD_VALID,
  readEntry,
  REFRESH_WANTED,
  STATE_MASK,
} from "./neighbors.ts";
import type { Change, ListenerSlot } from "./netbase_writer.ts";
import { type DeferredFree, IdPool, RunPool } from "./rcu.ts";

// As in `fib.ts`.
const { EMPTY, MOST_PROBES, SEED_BITS, TOMBSTONE, UNIT_BITS, UNIT_MASK, UNIT_WORDS } = hashTable;
const { Address, ADDRESS_WORDS, ADDRESSES, Interface, INTERFACE_TABLE, NAME_BYTES } = layout;
const { Neighbor, NEIGHBOR_TABLE } = layout;

/** Bits of a publishing word that identify a table's place. */
const PLACE_MASK = 0x3f;
/** Smallest table, log2 of its slots. */
const SMALLEST_LOG2 = 6;

/**
 * The only writer of a table. `allocate` and `find` return indices into `words`. `published` names the
 * table being written; readers find another one only while that is rebuilt.
 */
class HashTableWriter extends HashTableReader {
  readonly #deferred: DeferredFree;
  readonly #records: IdPool;
  /** Places of tables that readers may still use. */
  readonly #places = new Set<number>();
  readonly #placePool = { reclaim: (place: number) => void this.#places.delete(place) };
  /** The sync in which each record was last named, by record number. */
  readonly #marks: Uint16Array;
  #sync = 1;
  #size = 0;
  #tombstones = 0;

  /** Begins a table of at least `slots` slots, or continues a predecessor's, consistent wherever it stopped. */
  constructor(
    view: View,
    shape: HashTableShape,
    { deferred, slots, seed }: { deferred: DeferredFree; slots: number; seed: number },
  ) {
    super(view, shape);
    this.#deferred = deferred;
    this.#records = new IdPool(0, shape.records);
    this.#marks = new Uint16Array(shape.records);
    if (this.words[shape.publishedAt] !== 0) {
      this.#inherit();
    } else {
      const log2 = 32 - Math.clz32(Math.max(1, slots) - 1);
      this.#claim(Math.min(shape.slotsLog2, Math.max(SMALLEST_LOG2, log2)), seed);
      this.#publish();
    }
  }

  get size(): number {
    return this.#size;
  }

  /** Index of a record to be filled and then `put`; -1: all are in use or wait for readers. */
  allocate(): number {
    const number = this.#records.allocate(this.#deferred);
    return number < 0 ? -1 : this.recordsAt + UNIT_WORDS + number * this.shape.recordWords;
  }

  /** Publishes a filled record, replacing one with its key. False: there is no room, and the record is freed. */
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

  /** Records that the current sync has named a record. */
  mark(record: number): void {
    this.#marks[this.#numberOf(record)] = this.#sync;
  }

  beginSync(): void {
    this.#sync = (this.#sync + 1) & 0xffff;
  }

  /** Removes every record that was neither `put` nor marked since `beginSync`. */
  endSync(): void {
    this.forEachRecord((record) => {
      if (this.#marks[this.#numberOf(record)] === this.#sync) return;
      this.remove(this.words[record], this.words[record + 1]);
    });
  }

  #slotOf(a: number, b: number): number {
    const hash = this.#hash(a, b);
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.base + ((hash + i) & this.mask);
      const word = this.words[slot];
      if (word === EMPTY) return -1;
      if (word === TOMBSTONE) continue;
      const record = this.#recordIn(word);
      if (this.words[record] === a >>> 0 && this.words[record + 1] === b >>> 0) return slot;
    }
    return -1;
  }

  /** Slot for a missing key, after making room if necessary; -1: none. */
  #freeSlot(a: number, b: number): number {
    if (this.#size >= this.shape.records >>> 1) return -1;
    if ((this.#size + this.#tombstones) * 8 >= (this.mask + 1) * 5) this.#rebuild();
    const slot = this.#probeFree(a, b);
    if (slot >= 0) return slot;
    return this.#rebuild() ? this.#probeFree(a, b) : -1;
  }

  /** First slot on a key's path that is empty or a tombstone, or -1. */
  #probeFree(a: number, b: number): number {
    const hash = this.#hash(a, b);
    for (let i = 0; i < MOST_PROBES; i++) {
      const slot = this.base + ((hash + i) & this.mask);
      if (!isTaken(this.words[slot])) return slot;
    }
    return -1;
  }

  #hash(a: number, b: number): number {
    return mix(a, b, this.published >> 6, this.first, this.second);
  }

  /** The word of a slot that names a record of key (`a`, `b`). */
  #slotWord(a: number, b: number, record: number): number {
    const unit = (record - this.recordsAt) / UNIT_WORDS;
    return (this.#hash(a, b) >>> 21) << UNIT_BITS | unit;
  }

  #recordIn(word: number): number {
    return this.recordsAt + (word & UNIT_MASK) * UNIT_WORDS;
  }

  #numberOf(record: number): number {
    return (record - this.recordsAt - UNIT_WORDS) / this.shape.recordWords;
  }

  /** Makes `slot` a tombstone, or empty together with the tombstones before it where that is safe. */
  #removeAt(slot: number): void {
    const record = this.#recordIn(this.words[slot]);
    const next = this.base + ((slot - this.base + 1) & this.mask);
    if (this.words[next] !== EMPTY) {
      Atomics.store(this.words, slot, TOMBSTONE);
      this.#tombstones++;
    } else {
      Atomics.store(this.words, slot, EMPTY);
      let before = this.base + ((slot - this.base - 1) & this.mask);
      while (this.words[before] === TOMBSTONE) {
        Atomics.store(this.words, before, EMPTY);
        this.#tombstones--;
        before = this.base + ((before - this.base - 1) & this.mask);
      }
    }
    this.#size--;
    this.#deferred.retire(this.#records, this.#numberOf(record));
  }

  /** Rebuilds the table, larger if it is full of records, and publishes it. False: no place; nothing changes. */
  #rebuild(): boolean {
    const old = this.published;
    const full = this.#size * 16 >= (this.mask + 1) * 5;
    const log2 = Math.min(slotsLog2Of(old) + (full ? 1 : 0), this.shape.slotsLog2);
    const records: number[] = [];
    this.forEachRecord((record) => records.push(record));
    if (!this.#claim(log2, Math.imul((old >>> 6) + 1, 0x9e3779b1))) return false;
    const fits = records.every((record) => {
      const [a, b] = [this.words[record], this.words[record + 1]];
      const slot = this.#probeFree(a, b);
      if (slot >= 0) this.words[slot] = this.#slotWord(a, b, record);
      return slot >= 0;
    });
    if (!fits) {
      this.#places.delete(this.published & PLACE_MASK);
      this.join(old);
      return false;
    }
    this.#tombstones = 0;
    this.#publish();
    this.#deferred.retire(this.#placePool, old & PLACE_MASK);
    return true;
  }

  /** Switches to an empty place for 2^`log2` slots that no reader uses. False: there is none now. */
  #claim(log2: number, seed: number): boolean {
    const places = [log2 << 1, log2 << 1 | 1];
    if (places.every((place) => this.#places.has(place))) this.#deferred.reclaim();
    const place = places.find((place) => !this.#places.has(place));
    if (place === undefined) return false;
    this.#places.add(place);
    this.join((seed & ((1 << SEED_BITS) - 1)) << 6 | place);
    this.words.fill(EMPTY, this.base, this.base + this.mask + 1);
    return true;
  }

  #publish(): void {
    Atomics.store(this.words, this.shape.publishedAt, this.published);
  }

  /** Continues with a predecessor's table. Records and places that it does not name are free. */
  #inherit(): void {
    this.join(this.words[this.shape.publishedAt]);
    this.#places.add(this.published & PLACE_MASK);
    for (let slot = this.base; slot <= this.base + this.mask; slot++) {
      const word = this.words[slot];
      if (word === TOMBSTONE) this.#tombstones++;
      if (!isTaken(word)) continue;
      this.#records.reserve(this.#numberOf(this.#recordIn(word)));
      this.#size++;
    }
  }
}

/** The only writer of interfaces. A change is a new record with a new run of addresses, visible at once. */
export class InterfaceWriter extends InterfaceReader {
  /** Counts changes that a packet can see. */
  changes = 0;
  readonly #table: HashTableWriter;
  readonly #runs = new RunPool(ADDRESSES);
  readonly #deferred: DeferredFree;
  readonly #listeners: ListenerSlot;

  /** Continues with the table that a predecessor left. */
  constructor(view: View, { deferred, seed, listeners }: {
    deferred: DeferredFree;
    seed: number;
    listeners: ListenerSlot;
  }) {
    const table = new HashTableWriter(view, INTERFACE_TABLE, { deferred, slots: 64, seed });
    super(view, table);
    this.#table = table;
    this.#deferred = deferred;
    this.#listeners = listeners;
    for (const record of this.records()) {
      const count = this.addressCount(record);
      if (count > 0) this.#runs.reserve(this.words[record + Interface.addresses], count);
    }
  }

  get size(): number {
    return this.#table.size;
  }

  /** Adds an interface, or updates it with its addresses. False: no room. */
  put(entry: InterfaceEntry): boolean {
    const packed = pack(entry);
    const old = this.find(entry.ifindex);
    if (old >= 0 && this.#equals(old, packed)) return true;
    const count = entry.addresses.length;
    const run = count === 0 ? 0 : this.#runs.allocate(count);
    const record = run < 0 ? -1 : this.#table.allocate();
    if (record >= 0) {
      this.addressWords.set(packed.addresses, run * ADDRESS_WORDS);
      this.words.set(packed.record, record);
      this.words[record + Interface.addresses] = run;
    }
    if (record < 0 || !this.#table.put(record)) {
      if (run >= 0 && count > 0) this.#runs.reclaim(run);
      return false;
    }
    if (old >= 0) this.#retireRun(old);
    this.changes++;
    this.#listeners.current?.interface(old >= 0 ? "changed" : "added", entry);
    return true;
  }

  remove(ifindex: number): boolean {
    const entry = this.get(ifindex);
    if (entry === null) return false;
    this.#listeners.current?.interface("removed", entry);
    const record = this.find(ifindex);
    this.#table.remove(ifindex, 0);
    this.#retireRun(record);
    this.changes++;
    return true;
  }

  #equals(record: number, packed: ReturnType<typeof pack>): boolean {
    const run = this.words[record + Interface.addresses] * ADDRESS_WORDS;
    return packed.record.every((word, i) =>
      i === Interface.addresses || word === this.words[record + i]
    ) && packed.addresses.every((word, i) => word === this.addressWords[run + i]);
  }

  /** Frees the run of a record that is no longer published. */
  #retireRun(record: number): void {
    if (this.addressCount(record) === 0) return;
    this.#deferred.retire(this.#runs, this.words[record + Interface.addresses]);
  }
}

/** A list with an address inserted as by `inet_insert_ifa`; RTM_NEWADDR does not contain the position. */
export function withAddress(
  addresses: readonly InterfaceAddress[],
  address: InterfaceAddress,
): readonly InterfaceAddress[] {
  const { broadcast, scope, secondary } = address;
  const known = addresses.find((other) => isSameAddress(other, address));
  const isMoved = known?.broadcast !== broadcast || known.scope !== scope ||
    known.secondary !== secondary;
  // A label follows the interface's name without moving the address.
  if (!isMoved) return addresses.with(addresses.indexOf(known), address);
  const others = addresses.filter((other) => other !== known);
  // A secondary goes last, a primary after the last primary of the same or a narrower scope.
  const before = secondary
    ? others.length - 1
    : others.findLastIndex((other) => !other.secondary && scope <= other.scope);
  return others.toSpliced(before + 1, 0, address);
}

export function withoutAddress(
  addresses: readonly InterfaceAddress[],
  address: InterfaceAddress,
): readonly InterfaceAddress[] {
  return addresses.filter((other) => !isSameAddress(other, address));
}

/** IFA_LOCAL, prefix length and IFA_ADDRESS identify an address on its interface. */
function isSameAddress(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.local === b.local && a.prefixLength === b.prefixLength && a.address === b.address;
}

/** The words of an interface's record, without the number of its run, and the words of that run. */
function pack(entry: InterfaceEntry) {
  const record = new Uint32Array(Interface.broadcastTail + 1);
  for (const word of PLAIN_WORDS) record[Interface[word]] = entry[word] ?? 0;
  record[Interface.vlan] = entry.vlanProtocol << 16 | entry.vlanId;
  record[Interface.addressCount] = entry.addresses.length;
  putText(entry.name, record, Interface.name);
  const run = new Uint32Array(entry.addresses.length * ADDRESS_WORDS);
  entry.addresses.forEach((each, i) => {
    const at = i * ADDRESS_WORDS;
    run[at + Address.local] = each.local;
    run[at + Address.address] = each.address;
    run[at + Address.broadcast] = each.broadcast;
    run[at + Address.meta] = each.prefixLength | each.scope << 8 | (each.secondary ? 1 << 16 : 0);
    putText(each.label ?? "", run, at + Address.label);
  });
  return { record, addresses: run };
}

/** Writes a name at word `at` of `words`, which are 0. ASCII skips the encoder. */
function putText(text: string, words: Uint32Array<ArrayBuffer>, at: number): void {
  for (let i = 0; i < Math.min(text.length, NAME_BYTES - 1); i++) {
    const code = text.charCodeAt(i);
    if (code > 0x7f) {
      new TextEncoder().encodeInto(text, new Uint8Array(words.buffer, at * 4, NAME_BYTES - 1));
      return;
    }
    words[at + (i >> 2)] |= code << (i & 3) * 8;
  }
}

/** The only writer of neighbours: each change is atomic to readers. */
export class NeighborWriter extends HashTableWriter {
  /** How many were refused for lack of room. */
  full = 0;
  /** Counts changes that a packet can see. */
  changes = 0;
  readonly #listeners: ListenerSlot;

  constructor(
    view: View,
    options: { deferred: DeferredFree; slots: number; seed: number; listeners: ListenerSlot },
  ) {
    super(view, NEIGHBOR_TABLE, options);
    this.#listeners = options.listeners;
  }

  /** Adds or changes a neighbour; clears "refresh wanted". False: it does not fit, and was removed. */
  set(entry: Readonly<NeighborEntry>): boolean {
    const record = this.find(entry.ifindex, entry.address);
    const state = (entry.state & STATE_MASK) | (entry.flags << FLAGS_SHIFT);
    if (record >= 0 && this.#hasMac(record, entry)) {
      const before = this.words[record + Neighbor.state];
      if (before !== state) Atomics.store(this.words, record + Neighbor.state, state);
      this.mark(record);
      const isSame = isUsable(before) === isUsable(state);
      if (!isSame) this.changes++;
      if ((before & ~REFRESH_WANTED) !== state) this.#notify(isSame ? "aged" : "changed", entry);
      return true;
    }
    if (this.#put(entry, state)) {
      this.#notify(record >= 0 ? "changed" : "added", entry);
      return true;
    }
    this.full++;
    // Its previous MAC is wrong: better unresolved than sent to another host.
    this.remove(entry.ifindex, entry.address);
    return false;
  }

  /** Removes a neighbour. False: it is not there. */
  override remove(ifindex: number, address: number): boolean {
    const record = this.#listeners.current === null ? -1 : this.find(ifindex, address);
    if (record >= 0) this.#notify("removed", readEntry(this.words, record, emptyNeighbor()));
    if (!super.remove(ifindex, address)) return false;
    this.changes++;
    return true;
  }

  removeInterface(ifindex: number): void {
    this.forEachRecord((record) => {
      if (this.words[record] === ifindex) this.remove(ifindex, this.words[record + 1]);
    });
  }

  /** Makes the next net tile that uses a neighbour solicit it, even with cached headers. False: no such neighbour. */
  wantRefresh(ifindex: number, address: number): boolean {
    const record = this.find(ifindex, address);
    if (record < 0) return false;
    const at = record + Neighbor.state;
    Atomics.store(this.words, at, this.words[at] | REFRESH_WANTED);
    this.changes++;
    return true;
  }

  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void {
    const entry = emptyNeighbor();
    this.forEachRecord((record) => visit(readEntry(this.words, record, entry)));
  }

  #notify(change: Change, entry: Readonly<NeighborEntry>): void {
    this.#listeners.current?.neighbor(change, entry);
  }

  #hasMac(record: number, entry: NeighborEntry): boolean {
    return this.words[record + Neighbor.macHead] === entry.macHead >>> 0 &&
      this.words[record + Neighbor.macTail] === entry.macTail >>> 0;
  }

  #put(entry: NeighborEntry, state: number): boolean {
    const record = this.allocate();
    if (record < 0) return false;
    this.words[record + Neighbor.ifindex] = entry.ifindex;
    this.words[record + Neighbor.address] = entry.address;
    this.words[record + Neighbor.macHead] = entry.macHead;
    this.words[record + Neighbor.macTail] = entry.macTail;
    this.words[record + Neighbor.state] = state;
    if (!this.put(record)) return false;
    this.changes++;
    return true;
  }
}

function isUsable(stateWord: number): boolean {
  return (stateWord & NUD_VALID) !== 0;
}
