/**
 * Asks the kernel for the neighbours that one net tile needs. This is the one path from untrusted
 * traffic into the netlink tile, and it may come at line rate with addresses that nobody has, so
 * everything here is of bounded size, and what a flood can make the kernel do is bounded:
 *
 * - only addresses that are on-link there are asked for, each once at a time;
 * - what is waiting for an answer (entries of the kernel's table, which all namespaces share) is
 *   limited to a quarter of that table, and to little when the table is half full already;
 * - who is a router goes first, then who is asked for twice, then whoever is asked for: a flood
 *   asks for each of its addresses once, a client comes again;
 * - an address that does not answer rests, longer each time; its entry is given back to the kernel;
 * - every net tile has a share of its own of all that, so that one under attack costs no other.
 *
 * Known neighbours whose confirmation runs out cost the kernel no new entry and do not wait for any
 * of that.
 *
 * @module
 */

import { NUD_FAILED, NUD_VALID } from "../../netbase/neighbors.ts";
import { NETLINK } from "../runtime/counters.ts";
import { NeighborMap } from "./neighbor_map.ts";
import { Recent } from "./recent.ts";

/** What the solicitor works with. Addresses in host order. */
export interface SolicitorParts {
  /** Has the kernel resolve or confirm a neighbour. False: it would not. */
  ask(ifindex: number, address: number): boolean;
  /** Takes an entry that failed out of the kernel's table. */
  release(ifindex: number, address: number): void;
  /** As `counters.ts` has them for the netlink tile. */
  readonly counters: Float64Array;
  /** From 0 to below 1. */
  random(): number;
  /** How many solicitors share what the kernel's table allows: the net tiles. */
  readonly sharers: number;
}

/** An address that two requests name within this time is asked for before one that one names. */
const WINDOW_MILLIS = 1_000;
/** A known neighbour is asked for confirmation once in this time at most. */
const REFRESH_MILLIS = 100;
/** What waited longer than this for its turn is not asked for any more: the packet is gone. */
const PATIENCE_MILLIS = 1_000;
/** An answer that has not come by then does not come (the kernel gives up after about 3 s). */
const ANSWER_MILLIS = 5_000;
/** Rest after the first time without an answer, doubled each time, ± a quarter. */
const FIRST_REST_MILLIS = 1_000;
const MOST_REST_MILLIS = 60_000;
/** How long after its rest an address that never answered is remembered. */
const REMEMBER_MILLIS = 10_000;
/** Requests a second on the long run, and in one go; one that is answered does not count. */
const RATE = 400;
const BURST = 256;
/** Addresses asked for or resting: more than RATE lets come together in the longest rest. */
const MOST_PENDING = 32_768;
/** Addresses that are remembered as asked for once, by all sharers together, as a log2. */
const RECENT_LOG2 = 16;
/** The kernel's default gc_thresh3, and what may wait for an answer whatever its table is like. */
const DEFAULT_CAPACITY = 1024;
const LEAST_OUTSTANDING = 16;

/** Classes of unknown neighbours, the most urgent first. */
const CLASSES = [
  { share: 1, queue: 64 }, // gateways
  { share: 0.75, queue: 64 }, // asked for twice
  { share: 0.25, queue: 256 }, // asked for once
] as const;
const GATEWAY = 0;
const TWICE = 1;
const ONCE = 2;

/** An unknown neighbour on its way. */
interface Pending {
  state: "queued" | "asked" | "resting";
  /** Index into CLASSES while queued. */
  class: number;
  /** When it came into this state; for one that rests, when it may be asked for again. */
  since: number;
  /** Times that it did not answer. */
  failures: number;
}

/** See the head of this file. */
export class Solicitor {
  readonly #parts: SolicitorParts;
  readonly #recent: Recent;
  readonly #pending = new NeighborMap<Pending>();
  readonly #queues = CLASSES.map(({ queue }) => new PairQueue(queue));
  #tokens = BURST;
  #refilledAt = 0;
  #outstanding = 0;
  #mostOutstanding = 0;

  constructor(parts: SolicitorParts) {
    this.#parts = parts;
    this.#recent = new Recent({
      sizeLog2: Math.max(10, RECENT_LOG2 - Math.ceil(Math.log2(parts.sharers))),
      seed: Math.floor(parts.random() * 2 ** 32),
    });
    this.setTable({ others: 0, capacity: DEFAULT_CAPACITY });
  }

  /** Requests that the kernel has not answered yet. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** The kernel's table: how many it takes (gc_thresh3), and its entries that are not our doing. */
  setTable({ others, capacity }: { others: number; capacity: number }): void {
    const room = Math.min(capacity / 4, capacity / 2 - others) / this.#parts.sharers;
    this.#mostOutstanding = Math.max(LEAST_OUTSTANDING, Math.floor(room));
  }

  /** A known neighbour is in use, and its confirmation runs out. */
  refresh(ifindex: number, address: number, now: number): void {
    if (!this.#recent.note(ifindex, address, now, REFRESH_MILLIS)) this.#ask(ifindex, address);
    else this.#parts.counters[NETLINK.index.solicits_duplicate]++;
  }

  /** A neighbour that is not known is needed; `isGateway`: routes lead by it. */
  want(
    { ifindex, address, isGateway }: { ifindex: number; address: number; isGateway: boolean },
    now: number,
  ): void {
    const pending = this.#pending.get(ifindex, address);
    if (pending !== undefined && !this.#mayBeAskedAgain(pending, { ifindex, address }, now)) {
      this.#parts.counters[NETLINK.index.solicits_duplicate]++;
      return;
    }
    const before = this.#recent.note(ifindex, address, now, WINDOW_MILLIS);
    const urgency = isGateway ? GATEWAY : before ? TWICE : ONCE;
    this.#enqueue({ ifindex, address, class: urgency, failures: pending?.failures ?? 0 }, now);
  }

  /** Whether a request for what is pending already is news; moves one that waited up if it does. */
  #mayBeAskedAgain(
    pending: Pending,
    { ifindex, address }: { ifindex: number; address: number },
    now: number,
  ): boolean {
    if (pending.state === "resting") return now >= pending.since;
    if (pending.state === "queued" && pending.class === ONCE) {
      // What stands in the other queue is passed over there, since its class has changed.
      if (this.#queues[TWICE].push(ifindex, address)) pending.class = TWICE;
    }
    return false;
  }

  #enqueue(
    { ifindex, address, class: urgency, failures }: {
      ifindex: number;
      address: number;
      class: number;
      failures: number;
    },
    now: number,
  ): void {
    if (this.#pending.size >= MOST_PENDING || !this.#queues[urgency].push(ifindex, address)) {
      this.#parts.counters[NETLINK.index.solicits_limited]++;
      return;
    }
    this.#pending.set(ifindex, address, { state: "queued", class: urgency, since: now, failures });
  }

  /** Asks for as many as may be asked for now; how many. */
  turn(now: number): number {
    this.#refill(now);
    let asked = 0;
    for (let urgency = 0; urgency < CLASSES.length; urgency++) {
      asked += this.#serve(urgency, now);
    }
    return asked;
  }

  /** Tokens that come in a millisecond. */
  get #rate(): number {
    return RATE / 1000 / this.#parts.sharers;
  }

  #refill(now: number): void {
    this.#tokens = Math.min(BURST, this.#tokens + (now - this.#refilledAt) * this.#rate);
    this.#refilledAt = now;
  }

  #serve(urgency: number, now: number): number {
    const queue = this.#queues[urgency];
    const most = this.#mostOutstanding * CLASSES[urgency].share;
    let asked = 0;
    while (queue.length > 0) {
      const { ifindex, address } = queue;
      const pending = this.#pending.get(ifindex, address);
      if (pending?.state !== "queued" || pending.class !== urgency) {
        queue.shift();
      } else if (now - pending.since > PATIENCE_MILLIS) {
        queue.shift();
        this.#pending.delete(ifindex, address);
        this.#parts.counters[NETLINK.index.solicits_limited]++;
      } else if (this.#tokens < 1 || this.#outstanding >= most) {
        break;
      } else {
        queue.shift();
        asked += this.#askUnknown(pending, { ifindex, address }, now);
      }
    }
    return asked;
  }

  #askUnknown(
    pending: Pending,
    { ifindex, address }: { ifindex: number; address: number },
    now: number,
  ): number {
    if (!this.#ask(ifindex, address)) {
      this.#rest(pending, now);
      return 0;
    }
    pending.state = "asked";
    pending.since = now;
    this.#tokens--;
    this.#outstanding++;
    return 1;
  }

  #ask(ifindex: number, address: number): boolean {
    const { counters } = this.#parts;
    const asked = this.#parts.ask(ifindex, address);
    counters[asked ? NETLINK.index.solicits_sent : NETLINK.index.solicits_failed]++;
    return asked;
  }

  #rest(pending: Pending, now: number): void {
    const rest = Math.min(FIRST_REST_MILLIS * 2 ** pending.failures, MOST_REST_MILLIS);
    pending.state = "resting";
    pending.since = now + rest * (0.75 + this.#parts.random() / 2);
    pending.failures++;
  }

  /** The kernel tells of a neighbour; `state` is its NUD_* state. */
  neighborTold(
    { ifindex, address, state }: { ifindex: number; address: number; state: number },
    now: number,
  ): void {
    const pending = this.#pending.get(ifindex, address);
    if (pending === undefined) return;
    if ((state & NUD_VALID) !== 0) {
      if (pending.state === "asked") {
        this.#outstanding--;
        this.#tokens = Math.min(BURST, this.#tokens + 1);
      }
      this.#pending.delete(ifindex, address);
    } else if (state === NUD_FAILED && pending.state === "asked") {
      this.#outstanding--;
      this.#rest(pending, now);
      this.#parts.release(ifindex, address);
    }
  }

  /** A neighbour has left the kernel's table. */
  neighborGone({ ifindex, address }: { ifindex: number; address: number }, now: number): void {
    const pending = this.#pending.get(ifindex, address);
    if (pending?.state !== "asked") return;
    this.#outstanding--;
    this.#rest(pending, now);
  }

  /** Now and then: forgets what never answered. */
  expire(now: number): void {
    this.#pending.forEach((pending, ifindex, address) => {
      if (pending.state === "asked" && now - pending.since > ANSWER_MILLIS) {
        this.#outstanding--;
        this.#rest(pending, now);
      }
      const rested = pending.state === "resting" && now - pending.since > REMEMBER_MILLIS;
      const stale = pending.state === "queued" && now - pending.since > 2 * PATIENCE_MILLIS;
      if (rested || stale) this.#pending.delete(ifindex, address);
    });
  }

  /** Milliseconds until something that waits may be asked for; -1: nothing waits for time alone. */
  nextDue(): number {
    const waiting = this.#queues.some((queue) => queue.length > 0);
    return waiting && this.#tokens < 1 ? Math.ceil((1 - this.#tokens) / this.#rate) : -1;
  }
}

/** A queue of neighbours of fixed size; its head is in `ifindex` and `address`. */
class PairQueue {
  readonly #words: Uint32Array;
  readonly #capacity: number;
  #first = 0;
  length = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#words = new Uint32Array(capacity * 2);
  }

  get ifindex(): number {
    return this.#words[this.#first * 2];
  }

  get address(): number {
    return this.#words[this.#first * 2 + 1];
  }

  /** False: it is full. */
  push(ifindex: number, address: number): boolean {
    if (this.length === this.#capacity) return false;
    const at = (this.#first + this.length) % this.#capacity * 2;
    this.#words[at] = ifindex;
    this.#words[at + 1] = address;
    this.length++;
    return true;
  }

  shift(): void {
    this.#first = (this.#first + 1) % this.#capacity;
    this.length--;
  }
}
