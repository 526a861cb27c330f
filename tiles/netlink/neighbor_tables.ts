/**
 * Looks now and then at what no event tells: how full the kernel's neighbour table is, which all
 * namespaces share, where its limits are, and how long a confirmation holds on each interface.
 */

import { decodeNeighborTable, type NeighborTableMessage } from "./codec.ts";
import type { Dumper } from "./socket.ts";

/** Between two looks, when neighbours are being asked for and when none is. */
const BUSY_MILLIS = 500;
const QUIET_MILLIS = 10_000;

/** Dumps the neighbour tables on a dumper that others use too, and that somebody turns. */
export class NeighborTables {
  readonly #dumper: Dumper;
  readonly #told: (table: NeighborTableMessage) => void;
  #lookedAt = -Infinity;

  /** `told` is given each table and each interface's parameters. */
  constructor(dumper: Dumper, told: (table: NeighborTableMessage) => void) {
    this.#dumper = dumper;
    this.#told = told;
  }

  /** Begins to read them when it is time. */
  turn(now: number, { asking }: { asking: boolean }): void {
    if (this.#dumper.busy || now - this.#lookedAt < (asking ? BUSY_MILLIS : QUIET_MILLIS)) return;
    this.#lookedAt = now;
    this.#dumper.dump(["neighborTables"], {
      reply: (message) => {
        const table = decodeNeighborTable(message);
        if (table !== null) this.#told(table);
      },
      // What is missing from an interrupted look comes with the next.
      done() {},
    });
  }
}
