/**
 * The writer's side of the neighbour table (`neighbors.ts`): what the kernel tells of a neighbour, put
 * so that readers see each change whole.
 */

import type { View } from "../ffi/view.ts";
import { Neighbor, NEIGHBOR_TABLE } from "./layout.ts";
import {
  emptyNeighbor,
  FLAGS_SHIFT,
  type NeighborEntry,
  NUD_VALID,
  readEntry,
  REFRESH_WANTED,
  STATE_MASK,
} from "./neighbors.ts";
import type { Limbo } from "./rcu.ts";
import { RecordTableWriter } from "./record_table_writer.ts";
import type { Change, Watch } from "./watcher.ts";

/** The writer's side. */
export class NeighborWriter {
  /** How many did not fit, ever. */
  full = 0;
  /** Moves with every change that a packet can see. */
  changes = 0;
  readonly #table: RecordTableWriter;
  readonly #words: Uint32Array;
  readonly #watch: Watch;

  constructor(
    view: View,
    options: { limbo: Limbo; slots: number; seed: number; watch: Watch },
  ) {
    this.#table = new RecordTableWriter(view, NEIGHBOR_TABLE, options);
    this.#words = this.#table.words;
    this.#watch = options.watch;
  }

  /** How many there are. */
  get size(): number {
    return this.#table.size;
  }

  /**
   * Adds or changes a neighbour; takes away "refresh wanted". False: it does not fit and is not in
   * the table (not even as it was), counted in `full`; resync when there may be room again.
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
      if ((before & ~REFRESH_WANTED) !== state) this.#tell(isSame ? "aged" : "changed", entry);
      return true;
    }
    if (this.#put(entry, state)) {
      this.#tell(record >= 0 ? "changed" : "added", entry);
      return true;
    }
    this.full++;
    // The MAC it had is known to be wrong: better unresolved than sent to another.
    this.remove(entry.ifindex, entry.address);
    return false;
  }

  /** Takes a neighbour out. False: it is not there. */
  remove(ifindex: number, address: number): boolean {
    if (this.#watch.watcher !== null) this.#tellRemoved(this.#table.find(ifindex, address));
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
   * Asks the next net tile that uses this neighbour for a solicit. False: no such neighbour. Moves
   * `generation`, as a tile that uses a header it has built must see it too.
   */
  wantRefresh(ifindex: number, address: number): boolean {
    const record = this.#table.find(ifindex, address);
    if (record < 0) return false;
    const at = record + Neighbor.state;
    Atomics.store(this.#words, at, this.#words[at] | REFRESH_WANTED);
    this.changes++;
    return true;
  }

  /** Begins a mark and sweep: a dump follows. */
  beginSync(): void {
    this.#table.beginSync();
  }

  /** Takes away the neighbours that were not named since `beginSync`. */
  endSync(): void {
    this.#table.endSync((record) => this.#tellRemoved(record));
    this.changes++;
  }

  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void {
    const entry = emptyNeighbor();
    this.#table.forEach((record) => visit(readEntry(this.#words, record, entry)));
  }

  #tell(change: Change, entry: Readonly<NeighborEntry>): void {
    this.#watch.watcher?.neighbor(change, entry);
  }

  #tellRemoved(record: number): void {
    if (record < 0 || this.#watch.watcher === null) return;
    this.#tell("removed", readEntry(this.#words, record, emptyNeighbor()));
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
