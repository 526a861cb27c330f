/**
 * The FIB as readers see it: longest prefix match in one or two loads (DIR-24-8, as DPDK's rte_lpm).
 *
 * A flat table has a cell for every /24. A cell is a next hop id; or, with bit 15, a group of 256 cells
 * for the addresses of that /24; or 0: what the default route says, which is one word in the header, so
 * that moving the default route of a full internet table is one store.
 *
 * Every cell goes from one right answer to the next by one store, groups are published by the store of
 * the cell that names them, and what is replaced is reused after all readers have moved on (`rcu.ts`).
 * Only "cell 0, so the default" is two facts read at two times. Were a specific route to appear and
 * then the default to vanish between the two loads, a reader could find neither, or a default that was
 * never that address's. So whoever has found 0 looks at the cell again after the default; if it is
 * still 0, it was while the default was read. "No route", the one answer that must never be given in
 * vain, is given only when the default has not moved in between: its word counts its changes.
 *
 * @module
 */

import { slice, u16, u32, type View } from "../ffi/view.ts";
import { FIB_AT, FIB_CELLS, FIB_GROUP_BIT, FIB_GROUP_CELLS, FIB_GROUPS, Header } from "./layout.ts";

/** Bits of the default route's word that are its next hop id; above them the count of changes. */
export const DEFAULT_ID_BITS = 15;
const DEFAULT_ID_MASK = (1 << DEFAULT_ID_BITS) - 1;

/** Bound on the looks for a default route that moves all the time. */
const MOST_LOOKS = 64;

/** The readers' side. */
export class FibReader {
  readonly #cells: Uint16Array;
  readonly #header: Uint32Array;

  constructor(view: View) {
    this.#cells = fibCells(view);
    this.#header = u32(view);
  }

  /**
   * Next hop id for an IPv4 address in host order, signed or unsigned; 0: no route. The id is good
   * until the reader's next quiescent state.
   */
  lookup(address: number): number {
    const id = this.#find(address);
    return id !== 0 ? id : this.#default(address);
  }

  #find(address: number): number {
    const cell = this.#cells[address >>> 8];
    if ((cell & FIB_GROUP_BIT) === 0) return cell;
    return this.#cells[FIB_CELLS + ((cell & ~FIB_GROUP_BIT) << 8) + (address & 0xff)];
  }

  /** For an address whose cell is 0. */
  #default(address: number): number {
    const word = this.#header[Header.defaultRoute];
    const id = this.#find(address);
    if (id !== 0) return id;
    const fallback = word & DEFAULT_ID_MASK;
    return fallback !== 0 ? fallback : this.#noRoute(address);
  }

  /** Makes sure that there was a moment at which neither the cell nor the default had a route. */
  #noRoute(address: number): number {
    for (let look = 0; look < MOST_LOOKS; look++) {
      const before = Atomics.load(this.#header, Header.defaultRoute);
      if ((before & DEFAULT_ID_MASK) !== 0) return before & DEFAULT_ID_MASK;
      const id = this.#find(address);
      if (id !== 0) return id;
      if (Atomics.load(this.#header, Header.defaultRoute) === before) return 0;
    }
    return 0;
  }
}

/** The flat table, followed by the groups. */
export function fibCells(view: View): Uint16Array {
  return u16(slice(view, FIB_AT, (FIB_CELLS + FIB_GROUPS * FIB_GROUP_CELLS) * 2));
}
