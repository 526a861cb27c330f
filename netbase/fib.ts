/**
 * The FIB as readers see it: longest prefix match in one or two loads (DIR-24-8, as DPDK's rte_lpm).
 *
 * A flat table has a cell for every /24. A cell is a next hop id; or, with bit 15, a group of 256 cells
 * for the addresses of that /24; or 0: what the default route says, which is one word, so that moving
 * the default route of a full internet table is one store.
 *
 * Every cell goes from one right answer to the next by one store, groups are published by the store of
 * the cell that names them, and what is replaced is reused after all readers have moved on (`rcu.ts`).
 * Only "cell 0, so the default" is two facts read at two times: were a specific route to appear and
 * then the default to vanish in between, a reader would find neither. So the writer keeps the two apart
 * by a grace period: no reader sees both a change of a cell and a change of the default in one burst.
 * That costs a lookup nothing, and the order of its loads does not matter on any processor.
 *
 * A random address costs a cache miss, and a processor bears as many at a time as fit into the stretch of
 * instructions that it looks ahead. So a lookup is as few instructions as can be: each costs a third of a
 * nanosecond when all miss. Whether a cell is 0 is a coin toss for random addresses, but to decide it by
 * arithmetic takes longer than what a wrong guess costs: the loads behind it are under way already.
 */

import { slice, u16, type View } from "../ffi/view.ts";
import * as layout from "./layout.ts";

// Constants of its own module V8 folds into the code. Imported ones it loads and checks at each use, which
// made a lookup three times as slow.
const { FIB_AT, FIB_CELLS, FIB_DEFAULT, FIB_GROUP_BIT, FIB_WORDS } = layout;
const FIB_GROUP_MASK = FIB_GROUP_BIT - 1;

/** The readers' side. */
export class FibReader {
  // Declared only, see `record_table.ts`.
  declare private readonly words: Uint16Array;

  constructor(view: View) {
    this.words = fibWords(view);
  }

  /**
   * Next hop id for an IPv4 address in host order, signed or unsigned; 0: no route. The id is good
   * until the reader's next quiescent state.
   */
  lookup(address: number): number {
    const { words } = this;
    let id = words[address >>> 8];
    if (id >= FIB_GROUP_BIT) {
      id = words[FIB_CELLS + ((id & FIB_GROUP_MASK) << 8) + (address & 0xff)];
    }
    return id !== 0 ? id : words[FIB_DEFAULT];
  }
}

/** The flat table, the groups, and the default. */
export function fibWords(view: View): Uint16Array {
  return u16(slice(view, FIB_AT, FIB_WORDS * 2));
}
