/**
 * Looks now and then at what no event tells: how full the kernel's neighbour table is, which all
 * namespaces share, where its limits are, and how long a confirmation holds on each interface.
 */

import { decodeNeighborTable, type NeighborTableMessage } from "./decode_neighbor.ts";
import type { Dumper } from "./dump.ts";

/** Between two looks, when neighbours are being asked for and when none is. */
const BUSY_MILLIS = 500;
const QUIET_MILLIS = 10_000;

/** Dumps the neighbour tables on a dumper that others use too. */
export class NeighborTables {
  readonly #dumper: Dumper;
  readonly #told: (table: NeighborTableMessage) => void;
  #reading = false;
  #lookedAt = -Infinity;

  /** `told` is given each table and each interface's parameters. */
  constructor(dumper: Dumper, told: (table: NeighborTableMessage) => void) {
    this.#dumper = dumper;
    this.#told = told;
  }

  /** Reads them now, whole, on a dumper that nobody uses. */
  read(now: number): void {
    do this.turn(now, { asking: true }); while (this.#reading);
  }

  /** Goes on reading, or begins when it is time. How much was done. */
  turn(now: number, { asking }: { asking: boolean }): number {
    if (this.#reading) return this.#read();
    if (this.#dumper.busy || now - this.#lookedAt < (asking ? BUSY_MILLIS : QUIET_MILLIS)) return 0;
    this.#lookedAt = now;
    this.#reading = this.#dumper.dump("neighborTables", (message) => {
      const table = decodeNeighborTable(message);
      if (table !== null) this.#told(table);
    });
    return 1;
  }

  #read(): number {
    // What is missing from an interrupted look comes with the next.
    if (this.#dumper.turn() !== null) this.#reading = false;
    return 1;
  }
}
