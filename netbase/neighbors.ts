// SPDX-License-Identifier: Apache-2.0
/**
 * The neighbour table: (interface, address) to MAC address and state. Net tiles look it up once per packet
 * while the netlink tile changes it up to a hundred thousand times a second. `hash_table.ts` explains why a
 * reader never gets another neighbour's MAC and never misses a neighbour that is present.
 *
 * A record's key and MAC never change: a new MAC is a new record, published in the same slot. Its state
 * word may change in place, since it is one aligned word and an independent fact: each of its values is
 * a true state of that neighbour with that MAC. So the kernel's ageing, by far the most frequent event,
 * costs one store and no record. The writer is in `tables_writer.ts`.
 */

import type { View } from "../ffi/region.ts";
import { HashTableReader } from "./hash_table.ts";
import * as layout from "./layout.ts";

// V8 folds constants of the same module that are not exported, and loads all others at each use.
const { Neighbor, NEIGHBOR_TABLE } = layout;

/** Neighbour states, a bitmask (`ndm_state`, linux/neighbour.h). */
export const NUD_NONE = 0x00;
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
/** Bit of the state word: the netlink tile requests a solicit when a net tile uses this neighbour. */
export const REFRESH_WANTED = 0x100;
export const STATE_MASK = 0xff;
export const FLAGS_SHIFT = 16;

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

/** The readers' side. A *record* is valid until the next quiescent state. A table field would cost a load. */
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

  ifindex(record: number): number {
    return this.words[(record + Neighbor.ifindex) | 0];
  }

  address(record: number): number {
    return this.words[(record + Neighbor.address) | 0];
  }

  /** MAC bytes 0–3 as in memory (a little-endian word). */
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

  /** Whether the netlink tile requests a solicit when this neighbour is used. */
  refreshWanted(record: number): boolean {
    return (this.words[(record + Neighbor.state) | 0] & REFRESH_WANTED) !== 0;
  }

  /** Calls `visit` for each, in no order, with one object that is reused. */
  forEach(visit: (entry: NeighborEntry) => void): void {
    const entry = emptyNeighbor();
    this.forEachRecord((record) => visit(readEntry(this.words, record, entry)));
  }
}

export function emptyNeighbor(): NeighborEntry {
  return { ifindex: 0, address: 0, state: 0, flags: 0, macHead: 0, macTail: 0 };
}

export function readEntry(words: Uint32Array, record: number, into: NeighborEntry): NeighborEntry {
  const state = words[record + Neighbor.state];
  into.ifindex = words[record + Neighbor.ifindex];
  into.address = words[record + Neighbor.address];
  into.macHead = words[record + Neighbor.macHead];
  into.macTail = words[record + Neighbor.macTail];
  into.state = state & STATE_MASK;
  into.flags = state >>> FLAGS_SHIFT;
  return into;
}
