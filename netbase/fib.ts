// SPDX-License-Identifier: Apache-2.0
/**
 * The FIB: longest prefix match in one or two loads (DIR-24-8, as in DPDK's rte_lpm), and the next hops
 * in its cells. This is the readers' side. `netbase_writer.ts`, which only the netlink tile loads,
 * builds it from the RIB.
 *
 * The tbl24 has a cell for every /24. A cell is one of three things: a next hop id; with bit 15 set, the
 * number of a tbl8, which has a cell for each address of that /24; or 0 for the default route. The default
 * route is one word, so one store moves the default route of a full internet table.
 *
 * One store changes a cell from one correct answer to the next. A tbl8 is published by the store of the
 * cell that names it, and a replaced tbl8 is freed after a grace period (`rcu.ts`). Only the answer
 * "the cell is 0, so take the default" needs two loads. If a specific route appeared between them, and
 * the default route then vanished, a reader would find neither. So the writer waits a grace period
 * between the two changes: no reader sees both in one burst. A lookup pays nothing for that, and the
 * order of its loads does not matter on any processor.
 *
 * A lookup of a random address misses the cache. The number of misses that a processor overlaps depends on how
 * many instructions it looks ahead. So a lookup has as few instructions as possible: each costs a third of a
 * nanosecond when all lookups miss. The branch on 0 is unpredictable for random addresses. Code without that
 * branch is still slower, because after a wrong prediction the next loads are already under way.
 */

import { slice, u16, u32, type View } from "../ffi/region.ts";
import * as layout from "./layout.ts";

// V8 folds constants of the same module that are not exported. Others it loads and checks at each use,
// which made a lookup three times as slow.
const { FIB_AT, FIB_DEFAULT, FIB_WORDS, TBL24_CELLS, TBL8_BIT } = layout;
const { NEXT_HOP_WORDS, NEXT_HOPS, NEXT_HOPS_AT, NextHop, PATH_UNIT, PATH_UNITS, PATHS_AT } =
  layout;
const TBL8_MASK = TBL8_BIT - 1;

/** Finds the next hop id of an address. */
export class FibReader {
  // Declared only, see `hash_table.ts`.
  declare protected readonly words: Uint16Array;

  constructor(view: View) {
    this.words = fibWords(view);
  }

  /** Next hop id for an address, signed or unsigned; 0: no route. Valid until the next quiescent state. */
  lookup(address: number): number {
    const { words } = this;
    let id = words[address >>> 8];
    if (id >= TBL8_BIT) {
      id = words[TBL24_CELLS + ((id & TBL8_MASK) << 8) + (address & 0xff)];
    }
    return id !== 0 ? id : words[FIB_DEFAULT];
  }
}

/** The tbl24, the tbl8s, and the default route. */
export function fibWords(view: View): Uint16Array {
  return u16(slice(view, FIB_AT, FIB_WORDS * 2));
}

/**
 * Next hops. A record contains all that a packet needs from its route. The record of an ECMP group
 * refers to a slot table: 2ᵏ slots, each with a member. A flow's hash selects its slot.
 *
 * Records are found by the id that `FibReader.lookup` returns; an id is valid until the reader's next
 * quiescent state. Records do not change, and are only found through the id, so plain loads suffice
 * (`rcu.ts`).
 */
export class NextHopReader {
  // Declared only, see `hash_table.ts`.
  declare readonly words: Uint32Array;
  declare readonly paths: Uint16Array;

  constructor(view: View) {
    this.words = u32(slice(view, NEXT_HOPS_AT, NEXT_HOPS * NEXT_HOP_WORDS * 4));
    this.paths = u16(slice(view, PATHS_AT, PATH_UNITS * PATH_UNIT * 2));
  }

  /** RTN_* or KIND_*; 0 for id 0. */
  kind(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.kind] & 0xff;
  }

  /** RT_SCOPE_* of the route */
  scope(id: number): number {
    return (this.words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 8) & 0xff;
  }

  flags(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.kind] >>> 16;
  }

  /** Host order; 0: on-link */
  gateway(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.gateway];
  }

  ifindex(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.ifindex];
  }

  /** The route's preferred source, host order; 0: choose one */
  source(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.source];
  }

  mtu(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.mtu];
  }

  /** Groups: the member (a next hop id) for a flow. `flowHash`: 32 well-mixed bits. */
  member(id: number, flowHash: number): number {
    const log2 = this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    // Two shifts, as log2 may be 0, and JavaScript shifts by 32 like by 0.
    return this.paths[this.#pathsAt(id) + ((flowHash >>> 1) >>> (31 - log2))];
  }

  memberCount(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.shape] & 0xffff;
  }

  /** Groups: next hop id of the `i`-th member, in the kernel's order. */
  memberId(id: number, i: number): number {
    return this.paths[this.#memberAt(id, i)];
  }

  /** Groups: weight of the `i`-th member, 1 or more. */
  memberWeight(id: number, i: number): number {
    return this.paths[this.#memberAt(id, i) + 1] + 1;
  }

  #pathsAt(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.paths] * PATH_UNIT;
  }

  /** Members follow the slots, two words each. */
  #memberAt(id: number, i: number): number {
    const log2 = this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    return this.#pathsAt(id) + (1 << log2) + i * 2;
  }
}
