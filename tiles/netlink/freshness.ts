/**
 * Keeps neighbours in use confirmed. The kernel ages an entry by its own use of it, and does not
 * see ours: a neighbour that is answered all day would become STALE and in the end be collected. So
 * shortly before its confirmation runs out, and again when it has, a neighbour is marked "refresh
 * wanted" in netbase. The next net tile that sends to it asks for it by an ordinary solicit, the
 * kernel takes that for use, and asks the neighbour itself. Who is not sent to is not asked.
 */

import { NUD_REACHABLE, NUD_STALE } from "../../netbase/neighbors.ts";
import type { NeighborWriter } from "../../netbase/tables_writer.ts";
import * as nl from "./codec.ts";
import { NeighborMap } from "./neighbor_map.ts";

/** The kernel's defaults (net/ipv4/arp.c), until its own word is heard. */
const DEFAULT_TIMES: Times = { reachableMillis: 30_000, delayProbeMillis: 5_000 };
/**
 * A use counts when it falls into the last DELAY_PROBE_TIME before the confirmation runs out
 * (neigh_timer_handler). It is asked for this part of that time before.
 */
const LEAD = 0.6;
/** Looks at the deadlines come at multiples of this, one for all that have passed since the last. */
const GRID_MILLIS = 100;

/** How long a confirmation holds on an interface, and the time in which a use keeps it up. */
interface Times {
  readonly reachableMillis: number;
  readonly delayProbeMillis: number;
}

/** Watches over the deadlines. */
export class Freshness {
  readonly #neighbors: NeighborWriter;
  readonly #times = new Map<number, Times>();
  #default = DEFAULT_TIMES;
  /** When each REACHABLE neighbour is to be marked, monotonic milliseconds. */
  readonly #deadlines = new NeighborMap<number>();
  /** No deadline is before this. */
  #next = Infinity;

  constructor(neighbors: NeighborWriter) {
    this.#neighbors = neighbors;
  }

  /** What a dump of neighbour tables says of an interface, or of all that it does not name. */
  setTimes({ ifindex, ...times }: Times & { readonly ifindex: number }): void {
    if (times.reachableMillis === 0) return;
    if (ifindex === 0) this.#default = times;
    else this.#times.set(ifindex, times);
  }

  /** Only these interfaces are there: what gets the index of another one starts from the default. */
  keepInterfaces(present: ReadonlySet<number>): void {
    for (const ifindex of this.#times.keys()) {
      if (!present.has(ifindex)) this.#times.delete(ifindex);
    }
  }

  /** The kernel tells of a neighbour. */
  told(
    { ifindex, address, state, flags, confirmedMillis }: {
      ifindex: number;
      address: number;
      state: number;
      flags: number;
      confirmedMillis: number;
    },
    now: number,
  ): void {
    // Whoever keeps an entry asks for it too, and to be asked by us takes that mark off it.
    if ((flags & nl.NTF_KEPT) !== 0) {
      this.#deadlines.delete(ifindex, address);
    } else if (state === NUD_REACHABLE) {
      const { reachableMillis, delayProbeMillis } = this.#times.get(ifindex) ?? this.#default;
      const lead = Math.min(delayProbeMillis * LEAD, reachableMillis / 2);
      const left = reachableMillis - Math.max(0, confirmedMillis) - lead;
      const deadline = onGrid(now + Math.max(0, left));
      this.#deadlines.set(ifindex, address, deadline);
      this.#next = Math.min(this.#next, deadline);
    } else {
      // In DELAY and PROBE the kernel is asking; what is PERMANENT or NOARP never runs out.
      this.#deadlines.delete(ifindex, address);
      if (state === NUD_STALE) this.#neighbors.wantRefresh(ifindex, address);
    }
  }

  /** A neighbour has left the table. */
  gone(ifindex: number, address: number): void {
    this.#deadlines.delete(ifindex, address);
  }

  /** Milliseconds until a neighbour may have to be marked; -1: none has. */
  nextDue(now: number): number {
    return this.#next === Infinity ? -1 : Math.max(0, Math.ceil(this.#next - now));
  }

  /** Marks whose time has come. How many. */
  turn(now: number): number {
    if (now < this.#next) return 0;
    let marked = 0;
    this.#next = Infinity;
    this.#deadlines.forEach((deadline, ifindex, address) => {
      if (deadline > now) {
        this.#next = Math.min(this.#next, deadline);
      } else {
        this.#deadlines.delete(ifindex, address);
        if (this.#neighbors.wantRefresh(ifindex, address)) marked++;
      }
    });
    return marked;
  }
}

function onGrid(millis: number): number {
  return Math.ceil(millis / GRID_MILLIS) * GRID_MILLIS;
}
