/**
 * Reads parts of the mirror anew when they may be stale: by mark and sweep, while what is there
 * goes on being served.
 *
 * A dump and the events beside it come in no common order, so the events that a part gets while it
 * is dumped are kept, and applied at the dump's end; what they say then is at least as new as the
 * dump. Parts in which an event says all there is to know of its subject are given them at once
 * too, so that nothing waits; for routes, whose events say where among others they go, that would
 * mix up the order. A dump that the kernel changed under is dropped and begun anew after a while
 * (NLM_F_DUMP_INTR). Causes that come together are dealt with together, and a large part rests
 * between two reads in proportion to what a read takes, so that reading never takes more than a
 * fifth of the time.
 */

import { errnoName } from "../../ffi/errno.ts";
import type { DumpEnd, Dumper } from "./dump.ts";
import { EventLog } from "./event_log.ts";
import type { MessageCursor } from "./codec.ts";
import { ALL_PARTS, type MirrorPart } from "./part.ts";

/** How long a cause waits for others that may come with it. */
const COALESCE_MILLIS = 1;
/** Rest after a read, as a multiple of its duration, and at most. */
const REST = 4;
const MOST_REST_MILLIS = 10_000;
/** Back-off after an attempt that failed: doubled from the first to the most, ± a quarter. */
const FIRST_RETRY_MILLIS = 10;
const MOST_RETRY_MILLIS = 1_000;
/** Attempts in a row that fail before it is worth a line in the log. */
const ATTEMPTS_TO_TELL = 8;

/** One part's place in the plan. */
interface Plan {
  readonly part: MirrorPart;
  /** Monotonic milliseconds before which it is not read. */
  due: number;
  /** Until when it rests after its last read. */
  restUntil: number;
  /** Attempts that failed in a row. */
  failed: number;
}

/** Reads parts anew. */
export class Synchroniser {
  /** In the mirror's counters: dumps begun, interrupted ones, and parts read anew. */
  readonly counts = { dumps: 0, interrupted: 0, resyncs: 0 };
  readonly #dumper: Dumper;
  readonly #plans: readonly Plan[];
  readonly #events = new EventLog();
  readonly #log: (line: string) => void;
  #wanted = 0;
  #done = 0;
  #running: Plan | null = null;
  #startedAt = 0;

  /** `parts` in the order in which they are read. */
  constructor(
    dumper: Dumper,
    { parts, log }: { parts: readonly MirrorPart[]; log(line: string): void },
  ) {
    this.#dumper = dumper;
    this.#plans = parts.map((part) => ({ part, due: 0, restUntil: 0, failed: 0 }));
    this.#log = log;
  }

  /** Whether every part has been read whole at least once. */
  get complete(): boolean {
    return this.#done === ALL_PARTS;
  }

  /** Whether nothing is known to be stale. */
  get settled(): boolean {
    return this.#wanted === 0 && this.#running === null;
  }

  /** Parts, as bits, may be stale: they are read anew, soon. */
  want(parts: number, now: number): void {
    const news = parts & ~this.#wanted;
    if (news === 0) return;
    for (const plan of this.#plans) {
      if ((news & plan.part.bit) !== 0) plan.due = Math.max(now + COALESCE_MILLIS, plan.restUntil);
    }
    this.#wanted |= news;
  }

  /** Events were lost: everything is read anew, without delay. */
  lost(now: number): void {
    if (this.#running !== null) {
      this.#dumper.abandon();
      this.#applyKept(this.#running.part, false);
    }
    this.#running = null;
    this.#wanted = ALL_PARTS;
    for (const plan of this.#plans) plan.due = now;
  }

  /** Applies an event to the part that it is about, now or when its dump has ended. */
  event(part: MirrorPart, message: MessageCursor, now: number): void {
    const dumping = this.#running?.part === part;
    if (dumping) this.#events.add(message);
    const stale = dumping && part.ordered ? 0 : part.event(message, false);
    if (stale !== 0) this.want(stale, now);
  }

  /** Milliseconds until something is to be begun, -1: nothing. */
  nextDue(now: number): number {
    let next = Infinity;
    for (const plan of this.#plans) {
      if ((this.#wanted & plan.part.bit) !== 0) next = Math.min(next, plan.due);
    }
    return next === Infinity ? -1 : Math.max(0, Math.ceil(next - now));
  }

  /**
   * Begins what is due. How much was done. When a part's read has ended, everything of it is in
   * netbase's writer and waits to be committed.
   */
  turn(now: number): number {
    if (this.#wanted === 0 || this.#dumper.busy) return 0;
    const plan = this.#plans.find(({ part, due }) => (this.#wanted & part.bit) !== 0 && due <= now);
    return plan === undefined ? 0 : this.#begin(plan, now);
  }

  #begin(plan: Plan, now: number): number {
    this.#running = plan;
    this.#wanted &= ~plan.part.bit;
    this.#startedAt = now;
    this.#events.clear();
    const { part } = plan;
    part.beginSync();
    this.counts.dumps += part.dumps.length;
    const began = this.#dumper.dump(part.dumps, {
      take: (message) => part.dumped(message),
      done: (end) => this.#ended(plan, end),
    });
    if (!began) this.#failed(plan, "damaged");
    return 1;
  }

  #ended(plan: Plan, end: DumpEnd): void {
    // What the kernel is not built to have is empty: next-hop objects before 5.3, policy rules.
    const absent = end === "refused" && plan.part.optional;
    if (end !== "done" && !absent) this.#failed(plan, end);
    else if (this.#events.overflowed) this.#failed(plan, "damaged");
    else this.#finish(plan);
  }

  #finish(plan: Plan): void {
    this.#running = null;
    this.#applyKept(plan.part, true);
    plan.part.endSync();
    plan.failed = 0;
    const ended = performance.now();
    plan.restUntil = ended + Math.min((ended - this.#startedAt) * REST, MOST_REST_MILLIS);
    this.#done |= plan.part.bit;
    this.counts.resyncs++;
  }

  /**
   * `replayed`: behind a whole dump. Without one, parts that were given events at once have them.
   */
  #applyKept(part: MirrorPart, replayed: boolean): void {
    let stale = 0;
    if (replayed || part.ordered) {
      this.#events.forEach((message) => stale |= part.event(message, replayed));
    }
    this.#events.clear();
    this.want(stale, performance.now());
  }

  #failed(plan: Plan, end: DumpEnd): void {
    this.#running = null;
    this.#applyKept(plan.part, false);
    if (end === "interrupted") this.counts.interrupted++;
    const delay = Math.min(FIRST_RETRY_MILLIS * 2 ** plan.failed, MOST_RETRY_MILLIS);
    plan.due = performance.now() + delay * (0.75 + Math.random() / 2);
    plan.failed++;
    this.#wanted |= plan.part.bit;
    if (plan.failed !== ATTEMPTS_TO_TELL) return;
    const why = end === "refused" ? `refused with ${errnoName(this.#dumper.errno)}` : end;
    const what = plan.part.dumps.join(" and ");
    this.#log(
      `reading the kernel's ${what} was ${why} ${plan.failed} times in a row; still trying`,
    );
  }
}
