/**
 * Asks the kernel for the neighbours that one net tile needs. This is the one path from untrusted
 * traffic into the netlink tile, and it may come at line rate with addresses that nobody has, so
 * everything here is of fixed size, and what a flood can make the kernel do is bounded:
 *
 * - only addresses that are on-link there are asked for, each once at a time;
 * - what is waiting for an answer (entries of the kernel's table, which all namespaces share) is
 *   limited to a quarter of that table, and with what has answered since the last look at the table
 *   to what is missing until it is half full. Then only routers are asked for, and who is wanted
 *   again and again, one between two looks: clients that ask are in that table by themselves, and
 *   the kernel drops what nobody has used for a minute;
 * - of those that wait to be asked for, routers go first, then whoever is wanted most often: a flood
 *   names each of its addresses as often as chance has it, a client comes again;
 * - an address that does not answer rests, longer each time, and its entry is given back to the
 *   kernel; where others wait for its place it has a moment to answer, not the kernel's 3 s;
 * - every net tile has a share of its own of all that, so that one under attack costs no other.
 *
 * What that cannot do: a flood so dense that it names most of a prefix's addresses twice in a second
 * itself makes as many of them look like clients, and those are more than any kernel can be asked for
 * in that time. Then a client is asked for when it is wanted more often than the flood's addresses.
 *
 * Known neighbours whose confirmation runs out cost the kernel no new entry and do not wait for any
 * of that.
 */

import { NUD_FAILED, NUD_VALID } from "../../netbase/neighbors.ts";
import { NETLINK } from "../runtime/counters.ts";
import { Asks } from "./asks.ts";
import { NeighborMap } from "./neighbor_map.ts";
import { Rests } from "./rests.ts";

/** What the solicitor works with. Addresses in host order. */
export interface SolicitorParts {
  /** Has the kernel resolve or confirm a neighbour. False: it would not. */
  ask(ifindex: number, address: number): boolean;
  /** Takes an entry without answer out of the kernel's table. False: that is not allowed to us. */
  release(ifindex: number, address: number): boolean;
  /** As `counters.ts` has them for the netlink tile. */
  readonly counters: Float64Array;
  /** From 0 to below 1. */
  random(): number;
  /** Random: nobody is to choose addresses that meet in one place of its tables. */
  readonly seed: number;
  /** How many solicitors share what the kernel's table allows: the net tiles. */
  readonly sharers: number;
}

/** A known neighbour is asked for confirmation once in this time at most. */
const REFRESH_MILLIS = 100;
/** What waited longer than this for its turn is not asked for any more: the packet is gone. */
const PATIENCE_MILLIS = 1_000;
/** An answer that has not come by then does not come (the kernel gives up after about 3 s). */
const ANSWER_MILLIS = 5_000;
/** Nor is it waited for longer than this where others wait for its place. */
const HURRIED_MILLIS = 200;
/** Rest after the first time without an answer, doubled each time, ± a quarter. */
const FIRST_REST_MILLIS = 1_000;
const MOST_REST_MILLIS = 60_000;
/**
 * Requests a second on the long run, and in one go; one that is answered does not count. It is what a
 * kernel with a table of the usual size, full of addresses that nobody has, sends by itself.
 */
const RATE = 1_000;
const BURST = 256;
/** Addresses that wait to be asked for. */
const MOST_QUEUED = 256;
/** Addresses that rest, and cells that asks are counted in, by all sharers together, as log2. */
const RESTS_LOG2 = 16;
const ASKS_LOG2 = 20;
/** The kernel's default gc_thresh3, and how many routers may wait whatever its table is like. */
const DEFAULT_CAPACITY = 1024;
const LEAST_OUTSTANDING = 16;

/** Rank of routers; that of others is how often they were wanted lately. */
const GATEWAY = Infinity;
/** From this rank on, and below, the part of what may wait for an answer that one may fill up. */
const TWICE = 2;
const TWICE_SHARE = 0.75;
const ONCE_SHARE = 0.25;

/** An unknown neighbour on its way. */
interface Pending {
  readonly ifindex: number;
  readonly address: number;
  rank: number;
  /** When it was wanted, or asked for. */
  since: number;
}

/** See the head of this file. */
export class Solicitor {
  readonly #parts: SolicitorParts;
  readonly #asks: Asks;
  readonly #rests: Rests;
  /** All that are queued or asked for. */
  readonly #pending: NeighborMap<Pending>;
  /** Who is asked for first comes first; among equals in rank who was so first. */
  readonly #queue: Pending[] = [];
  /** In the order in which they were asked for. */
  readonly #asked = new Set<Pending>();
  #hurriedMillis = HURRIED_MILLIS;
  #tokens = BURST;
  #refilledAt = 0;
  #mostOutstanding = 0;
  /** Entries that may wait or have answered since the last look until the table is half full. */
  #room = 0;
  /** Strangers that have been asked for since the last look at the table though it was half full. */
  #beyond = 0;

  constructor(parts: SolicitorParts) {
    this.#parts = parts;
    this.#pending = new NeighborMap(parts.seed);
    const less = Math.ceil(Math.log2(parts.sharers));
    const { seed } = parts;
    this.#asks = new Asks({ sizeLog2: Math.max(10, ASKS_LOG2 - less), seed });
    this.#rests = new Rests({ sizeLog2: Math.max(10, RESTS_LOG2 - less), seed });
    this.setTable({ others: 0, capacity: DEFAULT_CAPACITY });
  }

  /** Requests that the kernel has not answered yet. */
  get outstanding(): number {
    return this.#asked.size;
  }

  /** Whether anything is asked for, or waits for that. */
  get busy(): boolean {
    return this.#asked.size > 0 || this.#queue.length > 0;
  }

  /** The kernel's table: how many it takes (gc_thresh3), and its entries that are not our doing. */
  setTable({ others, capacity }: { others: number; capacity: number }): void {
    const { sharers } = this.#parts;
    this.#room = Math.floor((capacity / 2 - others) / sharers);
    this.#mostOutstanding = Math.floor(capacity / 4 / sharers);
    this.#beyond = 0;
  }

  /** Tells the time, before anything is wanted. */
  clock(now: number): void {
    this.#asks.clock(now);
    this.#tokens = Math.min(BURST, this.#tokens + (now - this.#refilledAt) * this.#rate);
    this.#refilledAt = now;
  }

  /** A known neighbour is in use, and its confirmation runs out. */
  refresh(ifindex: number, address: number, now: number): void {
    if (this.#rests.resting(ifindex, address, now)) {
      this.#parts.counters[NETLINK.index.solicit_drop_duplicate]++;
      return;
    }
    this.#rests.rest(ifindex, address, { until: now + REFRESH_MILLIS, failures: 0 });
    this.#ask(ifindex, address);
  }

  /** A neighbour that is not known is needed; `isGateway`: routes lead by it. */
  want(
    { ifindex, address, isGateway }: { ifindex: number; address: number; isGateway: boolean },
    now: number,
  ): void {
    const asks = this.#asks.count(ifindex, address);
    const rank = isGateway ? GATEWAY : asks;
    const { counters } = this.#parts;
    // Of a flood most ends here.
    if (this.#queue.length === MOST_QUEUED && rank <= this.#queue[MOST_QUEUED - 1].rank) {
      counters[NETLINK.index.solicit_drop_rate_limited]++;
      return;
    }
    const pending = this.#pending.get(ifindex, address);
    if (pending !== undefined) {
      if (rank > pending.rank) this.#raise(pending, rank);
      counters[NETLINK.index.solicit_drop_duplicate]++;
    } else if (this.#rests.resting(ifindex, address, now)) {
      counters[NETLINK.index.solicit_drop_duplicate]++;
    } else {
      if (this.#queue.length === MOST_QUEUED) this.#drop(MOST_QUEUED - 1);
      const wanted = { ifindex, address, rank, since: now };
      this.#enqueue(wanted);
      this.#pending.set(ifindex, address, wanted);
    }
  }

  #enqueue(pending: Pending): void {
    const behind = this.#queue.findIndex(({ rank }) => rank < pending.rank);
    this.#queue.splice(behind < 0 ? this.#queue.length : behind, 0, pending);
  }

  #raise(pending: Pending, rank: number): void {
    pending.rank = rank;
    if (this.#asked.has(pending)) return;
    this.#queue.splice(this.#queue.indexOf(pending), 1);
    this.#enqueue(pending);
  }

  /** What is queued at `index` is not asked for. */
  #drop(index: number): void {
    const [{ ifindex, address }] = this.#queue.splice(index, 1);
    this.#pending.delete(ifindex, address);
    this.#parts.counters[NETLINK.index.solicit_drop_rate_limited]++;
  }

  /** Asks for as many as may be asked for now; how many. */
  turn(now: number): number {
    let asked = 0;
    for (let i = this.#queue.length - 1; i >= 0; i--) {
      if (now - this.#queue[i].since > PATIENCE_MILLIS) this.#drop(i);
    }
    while (this.#queue.length > 0 && this.#tokens >= 1 && this.#hasRoom(this.#queue[0].rank, now)) {
      asked += this.#askUnknown(this.#queue.shift()!, now);
    }
    return asked;
  }

  /** Whether one more may wait for an answer, at the cost of who has not answered for a while. */
  #hasRoom(rank: number, now: number): boolean {
    const most = this.#most(rank);
    if (most < 1) return rank >= TWICE && this.#beyond++ === 0;
    while (this.#asked.size >= most) {
      const [oldest] = this.#asked;
      if (now - oldest.since < this.#hurriedMillis) return false;
      if (!this.#parts.release(oldest.ifindex, oldest.address)) {
        // Who may not take entries back leaves that to the kernel, and waits as long.
        this.#hurriedMillis = ANSWER_MILLIS;
        if (now - oldest.since < ANSWER_MILLIS) return false;
      }
      this.#rest(oldest, now);
    }
    return true;
  }

  /** How many may wait for an answer before one of `rank` has to. */
  #most(rank: number): number {
    const most = Math.min(this.#mostOutstanding, this.#room);
    if (rank === GATEWAY) return Math.max(LEAST_OUTSTANDING, most);
    return most * (rank >= TWICE ? TWICE_SHARE : ONCE_SHARE);
  }

  /** Tokens that come in a millisecond. */
  get #rate(): number {
    return RATE / 1000 / this.#parts.sharers;
  }

  #askUnknown(pending: Pending, now: number): number {
    if (!this.#ask(pending.ifindex, pending.address)) {
      this.#rest(pending, now);
      return 0;
    }
    pending.since = now;
    this.#asked.add(pending);
    this.#tokens--;
    return 1;
  }

  #ask(ifindex: number, address: number): boolean {
    const { counters } = this.#parts;
    const asked = this.#parts.ask(ifindex, address);
    counters[asked ? NETLINK.index.solicits_sent : NETLINK.index.solicit_drop_refused]++;
    return asked;
  }

  /** Nobody answers. */
  #rest(pending: Pending, now: number): void {
    const { ifindex, address } = pending;
    const failures = this.#rests.failures(ifindex, address, now);
    const rest = Math.min(FIRST_REST_MILLIS * 2 ** failures, MOST_REST_MILLIS);
    const until = now + rest * (0.75 + this.#parts.random() / 2);
    this.#rests.rest(ifindex, address, { until, failures: failures + 1 });
    this.#asked.delete(pending);
    this.#pending.delete(ifindex, address);
  }

  /** The kernel tells of a neighbour; `state` is its NUD_* state. */
  neighborTold(
    { ifindex, address, state }: { ifindex: number; address: number; state: number },
    now: number,
  ): void {
    const pending = this.#pending.get(ifindex, address);
    if ((state & NUD_VALID) !== 0) {
      this.#rests.forget(ifindex, address);
      if (pending === undefined) return;
      this.#pending.delete(ifindex, address);
      if (this.#asked.delete(pending)) {
        this.#tokens = Math.min(BURST, this.#tokens + 1);
        this.#room--;
      } else this.#queue.splice(this.#queue.indexOf(pending), 1);
    } else if (state === NUD_FAILED && pending !== undefined && this.#asked.has(pending)) {
      this.#rest(pending, now);
      this.#parts.release(ifindex, address);
    }
  }

  /** A neighbour has left the kernel's table. */
  neighborGone({ ifindex, address }: { ifindex: number; address: number }, now: number): void {
    const pending = this.#pending.get(ifindex, address);
    if (pending !== undefined && this.#asked.has(pending)) this.#rest(pending, now);
  }

  /** Now and then: gives up on who does not answer though nobody waits for its place. */
  expire(now: number): void {
    for (const pending of this.#asked) {
      if (now - pending.since <= ANSWER_MILLIS) break;
      this.#rest(pending, now);
    }
  }

  /** Whole milliseconds until something that waits may be asked for; -1: nothing waits for time alone. */
  nextDue(now: number): number {
    if (this.#queue.length === 0) return -1;
    if (this.#tokens < 1) return Math.ceil((1 - this.#tokens) / this.#rate);
    const [oldest] = this.#asked;
    // Where it is the table that has no room nobody is hurried, but the next look may tell otherwise.
    const isFull = oldest === undefined || this.#most(this.#queue[0].rank) < 1;
    const due = isFull ? HURRIED_MILLIS : oldest.since + this.#hurriedMillis - now;
    return Math.max(1, Math.ceil(due));
  }
}
