/**
 * The FIB as the painter sees it: stores that take cells from one right answer to the next. What to
 * paint, the RIB knows (`painter.ts`); how to paint so that a reader is right at every moment, this
 * file.
 */

import type { View } from "../ffi/view.ts";
import { FibReader, fibWords } from "./fib.ts";
import { IdPool } from "./pools.ts";
import {
  FIB_CELLS,
  FIB_DEFAULT,
  FIB_GROUP_BIT,
  FIB_GROUP_CELLS,
  FIB_GROUPS,
  NEXT_HOP_OVERFLOW,
} from "./layout.ts";
import type { Limbo } from "./rcu.ts";

/** The one writer's side. */
export class FibWriter {
  /** Moves whenever groups came free: a block that did not fit may fit now. */
  reclaimed = 0;
  /** Moves with every store that a reader can see. */
  stores = 0;
  /** Cells, groups and default, as `fib.ts` has them. */
  readonly #words: Uint16Array;
  readonly #reader: FibReader;
  readonly #limbo: Limbo;
  readonly #groups = new IdPool(0, FIB_GROUPS);
  /**
   * While true nothing is painted 0, so that no address is without a route between the painting of
   * cells and a change of the default that cell 0 stands for.
   */
  keepCovered = false;

  /** Joins at `view`; with `joined` the groups that a predecessor's cells name are in use. */
  constructor(view: View, limbo: Limbo, joined: boolean) {
    this.#words = fibWords(view);
    this.#reader = new FibReader(view);
    this.#limbo = limbo;
    if (!joined) return;
    for (let i = 0; i < FIB_CELLS; i++) {
      const cell = this.#words[i];
      if ((cell & FIB_GROUP_BIT) !== 0) this.#groups.reserve(cell & ~FIB_GROUP_BIT);
    }
  }

  /** Next hop id that is painted for an address. */
  lookup(address: number): number {
    return this.#reader.lookup(address);
  }

  /** Next hop id of the default route, 0: none. */
  get defaultRoute(): number {
    return this.#words[FIB_DEFAULT];
  }

  /** Moves the default route by one store. */
  set defaultRoute(id: number) {
    Atomics.store(this.#words, FIB_DEFAULT, id);
    this.stores++;
  }

  /** Paints the /24s from number `from` to below `to` with one next hop. */
  fill(from: number, to: number, id: number): void {
    if (id === 0 && this.keepCovered) return;
    for (let i = from; i < to; i++) {
      const old = this.#words[i];
      if (old === id) continue;
      this.#words[i] = id;
      this.stores++;
      if ((old & FIB_GROUP_BIT) !== 0) this.#limbo.retire(this, old & ~FIB_GROUP_BIT);
    }
  }

  /**
   * Paints the 256 addresses of the /24 with number `cell`. False: there is no group left for it, and
   * the whole /24 now says that it does not fit.
   */
  paintBlock(cell: number, ids: Uint16Array): boolean {
    if (isUniform(ids)) {
      this.fill(cell, cell + 1, ids[0]);
      return true;
    }
    const old = this.#words[cell];
    if ((old & FIB_GROUP_BIT) !== 0) {
      this.#repaintGroup(old & ~FIB_GROUP_BIT, ids);
      return true;
    }
    const group = this.#groups.allocate();
    if (group < 0) {
      this.fill(cell, cell + 1, NEXT_HOP_OVERFLOW);
      return false;
    }
    const base = FIB_CELLS + group * FIB_GROUP_CELLS;
    for (let i = 0; i < FIB_GROUP_CELLS; i++) {
      this.#words[base + i] = ids[i] === 0 && this.keepCovered ? old : ids[i];
    }
    Atomics.store(this.#words, cell, FIB_GROUP_BIT | group);
    this.stores++;
    return true;
  }

  /** For `Limbo`: no reader looks at `group` any more. */
  reclaim(group: number): void {
    this.#groups.reclaim(group);
    this.reclaimed++;
  }

  #repaintGroup(group: number, ids: Uint16Array): void {
    const base = FIB_CELLS + group * FIB_GROUP_CELLS;
    for (let i = 0; i < FIB_GROUP_CELLS; i++) {
      if (this.#words[base + i] === ids[i] || (ids[i] === 0 && this.keepCovered)) continue;
      this.#words[base + i] = ids[i];
      this.stores++;
    }
  }
}

function isUniform(ids: Uint16Array): boolean {
  const first = ids[0];
  for (let i = 1; i < ids.length; i++) if (ids[i] !== first) return false;
  return true;
}
