// SPDX-License-Identifier: Apache-2.0
/**
 * The FIB: longest prefix match in one or two loads (DIR-24-8, as DPDK's rte_lpm), and the next hops that
 * its cells name. This is the readers' side; `netbase_writer.ts`, which only the netlink tile loads, builds it
 * from the RIB.
 *
 * The tbl24 has a cell for every /24. A cell is a next hop id; or, with bit 15, a tbl8 of 256 cells for
 * the addresses of that /24; or 0: what the default route says, which is one word, so that moving the
 * default route of a full internet table is one store.
 *
 * Every cell changes from one right answer to the next by one store, a tbl8 is published by the store of
 * the cell that names it, and what is replaced is freed after a grace period (`rcu.ts`). Only "cell 0,
 * so the default" is two facts read at two times: were a specific route to appear and then the default to
 * vanish in between, a reader would find neither. So the writer keeps the two apart by a grace period:
 * no reader sees both a change of a cell and a change of the default in one burst. That costs a lookup
 * nothing, and the order of its loads does not matter on any processor.
 *
 * A random address costs a cache miss, and a processor bears as many at a time as fit into the stretch of
 * instructions that it looks ahead. So a lookup has as few instructions as possible: each costs a third of
 * a nanosecond when all miss. Whether a cell is 0 is a coin toss for random addresses, but deciding it by
 * arithmetic takes longer than a wrong guess: the loads behind it are under way already.
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
  declare private readonly words: Uint16Array;

  constructor(view: View) {
    this.words = fibWords(view);
  }

  /**
   * Next hop id for an IPv4 address in host order, signed or unsigned; 0: no route. The id is valid
   * until the reader's next quiescent state.
   */
  lookup(address: number): number {
    const { words } = this;
    let id = words[address >>> 8];
    if (id >= TBL8_BIT) {
      id = words[TBL24_CELLS + ((id & TBL8_MASK) << 8) + (address & 0xff)];
    }
    return id !== 0 ? id : words[FIB_DEFAULT];
  }
}

/** The tbl24, the tbl8s, and the default. */
export function fibWords(view: View): Uint16Array {
  return u16(slice(view, FIB_AT, FIB_WORDS * 2));
}

/**
 * Next hops. A record says all that a packet needs of its route. The record of an ECMP group names a slot
 * table: 2ᵏ slots, each naming a member, of which a flow takes one by its hash.
 *
 * Records are found by the id that `FibReader.lookup` gives; an id is valid until the reader's next quiescent
 * state. Records do not change, and everything is found through the id, so plain loads are enough
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

  /** `NextHopFlag` */
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

  /** The route's MTU; 0: the interface's */
  mtu(id: number): number {
    return this.words[id * NEXT_HOP_WORDS + NextHop.mtu];
  }

  /** Groups: the member (a next hop id) that a flow takes. `flowHash`: 32 well-mixed bits. */
  member(id: number, flowHash: number): number {
    const log2 = this.words[id * NEXT_HOP_WORDS + NextHop.shape] >>> 16;
    // Two shifts: a shift by 32 is one by 0 in JavaScript, and log2 may be 0.
    return this.paths[this.#pathsAt(id) + ((flowHash >>> 1) >>> (31 - log2))];
  }

  /** Groups: number of members. */
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
