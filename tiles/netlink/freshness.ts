/**
 * Keeps neighbours in use confirmed. The kernel ages an entry by its own use of it, and does not
 * see ours: a neighbour that is answered all day would become STALE and in the end be collected. So
 * shortly before its confirmation runs out, and again when it has, a neighbour is marked "refresh
 * wanted" in netbase. The next net tile that sends to it asks for it by an ordinary solicit, the
 * kernel takes that for use, and asks the neighbour itself. Who is not sent to is not asked.
 */

import { NUD_REACHABLE, NUD_STALE } from "../../netbase/neighbors.ts";
import type { NeighborWriter } from "../../netbase/neighbor_writer.ts";
import * as nl from "./constants.ts";
import { NeighborMap } from "./neighbor_map.ts";

/** The kernel's defaults (net/ipv4/arp.c), until its own word is heard. */
const DEFAULT_TIMES: Times = { reachableMillis: 30_000, delayProbeMillis: 5_000 };
/**
 * A use counts when it falls into the last DELAY_PROBE_TIME before the confirmation runs out
 * (neigh_timer_handler). It is asked for this part of that time before.
 */
const LEAD = 0.6;
/** Width of a bucket of deadlines. */
const BUCKET_MILLIS = 100;

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
  /** Pairs of interface and address by the bucket that their deadline was in when it was set. */
  readonly #buckets = new Map<number, number[]>();
  #bucket = 0;

  constructor(neighbors: NeighborWriter, now: number) {
    this.#neighbors = neighbors;
    this.#bucket = Math.floor(now / BUCKET_MILLIS);
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
      this.#schedule(ifindex, address, now + Math.max(0, left));
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

  #schedule(ifindex: number, address: number, deadline: number): void {
    const known = this.#deadlines.has(ifindex, address);
    this.#deadlines.set(ifindex, address, deadline);
    // One that has a place in a bucket already is moved on when that bucket's time has come.
    if (!known) this.#place(ifindex, address, deadline);
  }

  #place(ifindex: number, address: number, deadline: number): void {
    const at = Math.max(this.#bucket + 1, Math.ceil(deadline / BUCKET_MILLIS));
    const bucket = this.#buckets.get(at);
    if (bucket === undefined) this.#buckets.set(at, [ifindex, address]);
    else bucket.push(ifindex, address);
  }

  /** Milliseconds until a neighbour is to be marked; -1: none is. */
  nextDue(now: number): number {
    if (this.#buckets.size === 0) return -1;
    const next = Math.min(...this.#buckets.keys());
    return Math.max(0, Math.ceil(next * BUCKET_MILLIS - now));
  }

  /** Marks whose time has come. How many. */
  turn(now: number): number {
    const last = Math.floor(now / BUCKET_MILLIS);
    let marked = 0;
    // After a long pause there are fewer buckets than there were moments.
    if (last - this.#bucket > this.#buckets.size) {
      const due = [...this.#buckets.keys()].filter((at) => at <= last);
      this.#bucket = last;
      for (const at of due) marked += this.#empty(at, now);
      return marked;
    }
    while (this.#bucket < last) marked += this.#empty(++this.#bucket, now);
    return marked;
  }

  #empty(at: number, now: number): number {
    const bucket = this.#buckets.get(at);
    if (bucket === undefined) return 0;
    this.#buckets.delete(at);
    let marked = 0;
    for (let i = 0; i < bucket.length; i += 2) {
      const [ifindex, address] = [bucket[i], bucket[i + 1]];
      const deadline = this.#deadlines.get(ifindex, address);
      if (deadline === undefined) continue;
      if (deadline > now) {
        this.#place(ifindex, address, deadline);
      } else {
        this.#deadlines.delete(ifindex, address);
        if (this.#neighbors.wantRefresh(ifindex, address)) marked++;
      }
    }
    return marked;
  }
}
