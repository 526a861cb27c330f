/**
 * Keeps neighbours in use confirmed. The kernel ages an entry by its own use, and does not see ours:
 * a neighbour that is answered all day would become STALE and be collected. So shortly before its
 * confirmation expires, and again when it has, a neighbour is marked "refresh wanted" in netbase. The
 * next net tile that sends to it puts it on its solicit link, the kernel takes the solicit for use,
 * and confirms the neighbour itself. A neighbour that is not in use is not solicited.
 *
 * No event reports how long a confirmation lasts, and how full the kernel's table is, which all
 * namespaces share. `NeighborTablePoll` reads both now and then.
 */

import { NUD_REACHABLE, NUD_STALE } from "../../netbase/neighbors.ts";
import type { NeighborWriter } from "../../netbase/tables_writer.ts";
import {
  decodeNeighborTable,
  type NeighborMessage,
  type NeighborTableMessage,
  NTF_KEPT,
} from "./codec.ts";
import { NeighborMap } from "./neighbor_map.ts";
import type { Dumper } from "./socket.ts";

/** How long a confirmation lasts on an interface, and the time before its end in which a use counts. */
type Times = Pick<NeighborTableMessage, "reachableMillis" | "delayProbeMillis">;

/** The kernel's defaults (net/ipv4/arp.c), until its settings are read. */
const DEFAULT_TIMES: Times = { reachableMillis: 30_000, delayProbeMillis: 5_000 };
/**
 * A use counts in the last DELAY_PROBE_TIME before a confirmation expires (neigh_timer_handler). The
 * mark comes when this part of that time is left.
 */
const LEAD = 0.6;
/** Deadlines are rounded up to a multiple of this, so that one check serves many. */
const GRID_MILLIS = 100;

/** Marks neighbours whose confirmation expires. */
export class NeighborAgeing {
  readonly #neighbors: NeighborWriter;
  readonly #times = new Map<number, Times>();
  #default = DEFAULT_TIMES;
  /** When each REACHABLE neighbour is to be marked, monotonic milliseconds. */
  readonly #deadlines = new NeighborMap<number>();
  /** A lower bound of all deadlines. */
  #next = Infinity;

  constructor(neighbors: NeighborWriter) {
    this.#neighbors = neighbors;
  }

  /** Sets the times of an interface, or with index 0 those of all others. */
  setTimes({ ifindex, ...times }: Times & { readonly ifindex: number }): void {
    if (times.reachableMillis === 0) return;
    if (ifindex === 0) this.#default = times;
    else this.#times.set(ifindex, times);
  }

  /** Forgets the times of all other interfaces: one that gets an index anew has the default. */
  keepInterfaces(present: ReadonlySet<number>): void {
    for (const ifindex of this.#times.keys()) {
      if (!present.has(ifindex)) this.#times.delete(ifindex);
    }
  }

  /** The kernel reports a neighbour. */
  neighborChanged(
    { ifindex, address, state, flags, confirmedMillis }: Omit<NeighborMessage, "type" | "hasMac">,
    now: number,
  ): void {
    // Whoever keeps an entry has it resolved, and a solicit of ours would clear that mark.
    if ((flags & NTF_KEPT) !== 0) {
      this.#deadlines.delete(ifindex, address);
    } else if (state === NUD_REACHABLE) {
      const { reachableMillis, delayProbeMillis } = this.#times.get(ifindex) ?? this.#default;
      const lead = Math.min(delayProbeMillis * LEAD, reachableMillis / 2);
      const left = reachableMillis - Math.max(0, confirmedMillis) - lead;
      const deadline = onGrid(now + Math.max(0, left));
      this.#deadlines.set(ifindex, address, deadline);
      this.#next = Math.min(this.#next, deadline);
    } else {
      // In DELAY and PROBE the kernel confirms it; PERMANENT and NOARP never expire.
      this.#deadlines.delete(ifindex, address);
      if (state === NUD_STALE) this.#neighbors.wantRefresh(ifindex, address);
    }
  }

  /** A neighbour was removed from the kernel's table. */
  neighborRemoved(ifindex: number, address: number): void {
    this.#deadlines.delete(ifindex, address);
  }

  /** Milliseconds until a neighbour may have to be marked; -1: none has. */
  nextDue(now: number): number {
    return this.#next === Infinity ? -1 : Math.max(0, Math.ceil(this.#next - now));
  }

  /** Marks the neighbours that are due; returns how many. */
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

/** Between two reads, while neighbours are solicited and while none is. */
const BUSY_MILLIS = 500;
const QUIET_MILLIS = 10_000;

/** Reads the kernel's neighbour table parameters with a dumper that others use and turn. */
export class NeighborTablePoll {
  readonly #dumper: Dumper;
  readonly #notify: (table: NeighborTableMessage) => void;
  #polledAt = -Infinity;

  /** `notify` gets the table, and the parameters of each interface. */
  constructor(dumper: Dumper, notify: (table: NeighborTableMessage) => void) {
    this.#dumper = dumper;
    this.#notify = notify;
  }

  /** Begins a read when it is time. */
  turn(now: number, { busy }: { busy: boolean }): void {
    if (this.#dumper.busy || now - this.#polledAt < (busy ? BUSY_MILLIS : QUIET_MILLIS)) return;
    this.#polledAt = now;
    this.#dumper.dump(["neighborTables"], {
      reply: (message) => {
        const table = decodeNeighborTable(message);
        if (table !== null) this.#notify(table);
      },
      // The next read has what an interrupted one lacks.
      done() {},
    });
  }
}
