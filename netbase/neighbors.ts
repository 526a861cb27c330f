/**
 * The neighbour table: (interface, address) to MAC address and state, for net tiles to look up once
 * per packet while the netlink tile changes it a hundred thousand times a second. `hash_table.ts`
 * argues why a reader never gets another's MAC and never misses a neighbour that is there.
 *
 * A record's key and MAC never change: a new MAC is a new record, published in the same slot. Its
 * state word may change in place, since it is one aligned word and a fact of its own: every value it
 * takes is a true state of that very neighbour with that very MAC. So the kernel's ageing, by far the
 * most frequent event, costs one store and no record.
 */

import type { View } from "../ffi/region.ts";
import {
  type HashKey,
  HashTableReader,
  HashTableWriter,
  keyOf,
  randomSeed,
  Use,
} from "./hash_table.ts";
import * as layout from "./layout.ts";
import type { Change, ListenerSlot } from "./netbase_writer.ts";
import type { DeferredFree } from "./rcu.ts";

// V8 folds constants of the same module that are not exported, and loads all others at each use.
const { Neighbor, NEIGHBOR_TABLE } = layout;

/** Neighbour states, a bitmask (`ndm_state`, linux/neighbour.h). */
export const NUD_INCOMPLETE = 0x01;
export const NUD_REACHABLE = 0x02;
export const NUD_STALE = 0x04;
export const NUD_DELAY = 0x08;
export const NUD_PROBE = 0x10;
export const NUD_FAILED = 0x20;
export const NUD_NOARP = 0x40;
export const NUD_PERMANENT = 0x80;
/** States in which a neighbour's MAC may be used (the kernel's NUD_VALID). */
export const NUD_VALID = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE |
  NUD_DELAY;

const USABLE = NUD_VALID;
/** Bit of the state word: the netlink tile wants a solicit when a net tile uses this neighbour. */
const REFRESH_WANTED = 0x100;
const STATE_MASK = 0xff;
const FLAGS_SHIFT = 16;

/** A neighbour as in RTM_NEWNEIGH. Mutable, so that a decoder can reuse one. */
export interface NeighborEntry {
  ifindex: number;
  /** host order */
  address: number;
  /** NUD_* */
  state: number;
  /** NTF_*, and NTF_EXT_* from the eighth bit on. */
  flags: number;
  /** MAC: bytes 0–3 as one little-endian word, and bytes 4–5 likewise. */
  macHead: number;
  macTail: number;
}

/**
 * The readers' side. A *record* is valid until the reader's next quiescent state. The class extends the
 * table instead of having one, as a lookup would wait for the extra load.
 */
export class NeighborReader extends HashTableReader {
  constructor(view: View) {
    super(view, NEIGHBOR_TABLE);
  }

  /** Record of a neighbour whose MAC may be used, or -1; `find` finds one in any state. */
  lookup(ifindex: number, address: number): number {
    const record = this.find(ifindex, address);
    if (record < 0) return -1;
    return (this.words[(record + Neighbor.state) | 0] & USABLE) !== 0 ? record : -1;
  }

  /** Interface that the neighbour is on. */
  ifindex(record: number): number {
    return this.words[(record + Neighbor.ifindex) | 0];
  }

  /** Its address, host order. */
  address(record: number): number {
    return this.words[(record + Neighbor.address) | 0];
  }

  /** MAC bytes 0–3 as they lie in memory (a little-endian word). */
  macHead(record: number): number {
    return this.words[(record + Neighbor.macHead) | 0];
  }

  /** MAC bytes 4–5 likewise. */
  macTail(record: number): number {
    return this.words[(record + Neighbor.macTail) | 0];
  }

  /** NUD_* */
  state(record: number): number {
    return this.words[(record + Neighbor.state) | 0] & STATE_MASK;
  }

  /** NTF_*, and NTF_EXT_* from the eighth bit on. */
  flags(record: number): number {
    return this.words[(record + Neighbor.state) | 0] >>> FLAGS_SHIFT;
  }

  /** Whether the netlink tile wants a solicit when this neighbour is used. */
  refreshWanted(record: number): boolean {
    return (this.words[(record + Neighbor.state) | 0] & REFRESH_WANTED) !== 0;
  }

  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void {
    const entry = emptyNeighbor();
    this.forEachRecord((record) => visit(readEntry(this.words, record, entry)));
  }
}

/** An empty neighbour, to be filled. */
export function emptyNeighbor(): NeighborEntry {
  return { ifindex: 0, address: 0, state: 0, flags: 0, macHead: 0, macTail: 0 };
}

/** Fills an entry from a record's words. */
function readEntry(words: Uint32Array, record: number, into: NeighborEntry): NeighborEntry {
  const state = words[record + Neighbor.state];
  into.ifindex = words[record + Neighbor.ifindex];
  into.address = words[record + Neighbor.address];
  into.macHead = words[record + Neighbor.macHead];
  into.macTail = words[record + Neighbor.macTail];
  into.state = state & STATE_MASK;
  into.flags = state >>> FLAGS_SHIFT;
  return into;
}

/** Maps `address` to another word, one to one: two rounds as in `hash`, each of them invertible. */
export function scramble(address: number, { add, first, second }: HashKey): number {
  const mixed = Math.imul(address + add, first);
  const again = Math.imul(mixed ^ (mixed >>> 16), second);
  return again ^ (again >>> 16);
}

/** The inverse of `scramble`. Takes the key with the inverses of its multipliers. */
function unscramble(word: number, { add, first, second }: HashKey): number {
  const mixed = Math.imul(word ^ (word >>> 16), second);
  return (Math.imul(mixed ^ (mixed >>> 16), first) - add) >>> 0;
}

/** The multiplicative inverse of an odd number modulo 2³², by Newton's method. */
function inverse(odd: number): number {
  let found = odd;
  for (let bits = 3; bits < 32; bits *= 2) found = Math.imul(found, 2 - Math.imul(odd, found));
  return found;
}

/**
 * A map from neighbours, each an interface and an IPv4 address on it. Strangers choose the addresses,
 * and V8's `Map` hashes numbers with a known function: ten thousand addresses chosen to collide in one
 * of its chains cost 10 to 40 µs each. So the keys of this map are the addresses scrambled by a secret
 * key, which nobody can predict.
 *
 * Two maps deep: interface indices have up to 31 bits and addresses 32, which together are more
 * than a number holds exactly. Interfaces are the administrator's, and few.
 */
export class NeighborMap<Value> {
  readonly #interfaces = new Map<number, Map<number, Value>>();
  #size = 0;
  readonly #key: HashKey;
  /** With the inverses of its multipliers. */
  readonly #inverse: HashKey;

  constructor(seed = randomSeed()) {
    this.#key = keyOf(seed, Use.neighborMap);
    const { add, first, second } = this.#key;
    this.#inverse = { add, first: inverse(first), second: inverse(second) };
  }

  get size(): number {
    return this.#size;
  }

  get(ifindex: number, address: number): Value | undefined {
    return this.#interfaces.get(ifindex)?.get(scramble(address, this.#key));
  }

  has(ifindex: number, address: number): boolean {
    return this.#interfaces.get(ifindex)?.has(scramble(address, this.#key)) === true;
  }

  set(ifindex: number, address: number, value: Value): void {
    let addresses = this.#interfaces.get(ifindex);
    if (addresses === undefined) this.#interfaces.set(ifindex, addresses = new Map());
    const before = addresses.size;
    addresses.set(scramble(address, this.#key), value);
    this.#size += addresses.size - before;
  }

  delete(ifindex: number, address: number): boolean {
    const addresses = this.#interfaces.get(ifindex);
    if (addresses?.delete(scramble(address, this.#key)) !== true) return false;
    this.#size--;
    if (addresses.size === 0) this.#interfaces.delete(ifindex);
    return true;
  }

  /** `visit` may delete the one that it is given. */
  forEach(visit: (value: Value, ifindex: number, address: number) => void): void {
    for (const [ifindex, addresses] of this.#interfaces) {
      for (const [word, value] of addresses) visit(value, ifindex, unscramble(word, this.#inverse));
    }
  }

  clear(): void {
    this.#interfaces.clear();
    this.#size = 0;
  }
}

/** The one writer of neighbours: readers see each change whole. */
export class NeighborWriter {
  /** How many have been refused for want of room. */
  full = 0;
  /** Counts changes that a packet can see. */
  changes = 0;
  readonly #table: HashTableWriter;
  readonly #words: Uint32Array;
  readonly #listeners: ListenerSlot;

  constructor(
    view: View,
    options: { deferred: DeferredFree; slots: number; seed: number; listeners: ListenerSlot },
  ) {
    this.#table = new HashTableWriter(view, NEIGHBOR_TABLE, options);
    this.#words = this.#table.words;
    this.#listeners = options.listeners;
  }

  /** How many there are. */
  get size(): number {
    return this.#table.size;
  }

  /**
   * Adds or changes a neighbour, and clears "refresh wanted". False: it does not fit and is not in the
   * table (not even as it was), counted in `full`; resync when there may be room again.
   */
  set(entry: Readonly<NeighborEntry>): boolean {
    const record = this.#table.find(entry.ifindex, entry.address);
    const state = (entry.state & STATE_MASK) | (entry.flags << FLAGS_SHIFT);
    if (record >= 0 && this.#hasMac(record, entry)) {
      const before = this.#words[record + Neighbor.state];
      if (before !== state) Atomics.store(this.#words, record + Neighbor.state, state);
      this.#table.mark(record);
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
    // The MAC that it had is wrong: better unresolved than sent to another.
    this.remove(entry.ifindex, entry.address);
    return false;
  }

  /** Removes a neighbour. False: it is not there. */
  remove(ifindex: number, address: number): boolean {
    if (this.#listeners.current !== null) this.#notifyRemoved(this.#table.find(ifindex, address));
    if (!this.#table.remove(ifindex, address)) return false;
    this.changes++;
    return true;
  }

  /** Removes all neighbours of an interface. */
  removeInterface(ifindex: number): void {
    this.#table.forEach((record) => {
      if (this.#words[record] === ifindex) this.remove(ifindex, this.#words[record + 1]);
    });
  }

  /**
   * Has the next net tile that uses this neighbour send a solicit. False: no such neighbour. Moves
   * `generation`, as a tile that uses a cached header must see it too.
   */
  wantRefresh(ifindex: number, address: number): boolean {
    const record = this.#table.find(ifindex, address);
    if (record < 0) return false;
    const at = record + Neighbor.state;
    Atomics.store(this.#words, at, this.#words[at] | REFRESH_WANTED);
    this.changes++;
    return true;
  }

  /** Begins a mark and sweep, before a dump. */
  beginSync(): void {
    this.#table.beginSync();
  }

  /** Removes the neighbours that were not `set` since `beginSync`. */
  endSync(): void {
    this.#table.endSync((record) => this.#notifyRemoved(record));
    this.changes++;
  }

  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void {
    const entry = emptyNeighbor();
    this.#table.forEach((record) => visit(readEntry(this.#words, record, entry)));
  }

  #notify(change: Change, entry: Readonly<NeighborEntry>): void {
    this.#listeners.current?.neighbor(change, entry);
  }

  #notifyRemoved(record: number): void {
    if (record < 0 || this.#listeners.current === null) return;
    this.#notify("removed", readEntry(this.#words, record, emptyNeighbor()));
  }

  #hasMac(record: number, entry: NeighborEntry): boolean {
    return this.#words[record + Neighbor.macHead] === entry.macHead >>> 0 &&
      this.#words[record + Neighbor.macTail] === entry.macTail >>> 0;
  }

  #put(entry: NeighborEntry, state: number): boolean {
    const record = this.#table.allocate();
    if (record < 0) return false;
    this.#words[record + Neighbor.ifindex] = entry.ifindex;
    this.#words[record + Neighbor.address] = entry.address;
    this.#words[record + Neighbor.macHead] = entry.macHead;
    this.#words[record + Neighbor.macTail] = entry.macTail;
    this.#words[record + Neighbor.state] = state;
    if (!this.#table.put(record)) return false;
    this.changes++;
    return true;
  }
}

function isUsable(stateWord: number): boolean {
  return (stateWord & NUD_VALID) !== 0;
}
