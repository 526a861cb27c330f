/**
 * The audit: is the mirror what the kernel has? Fresh dumps are compared with it, twice. A difference
 * counts when both show it and no event has named it meanwhile: what an event was still to tell is no
 * fault. So the number should be 0; where it is not, it is logged, and the mirror reads everything
 * anew.
 *
 * It wants a mirror that is reading nothing for itself. When that begins to, or something happens of which
 * the kernel does not tell all consequences, the audit begins anew.
 */

import { NETLINK } from "../runtime/counters.ts";
import type { Audited, AuditTable } from "./audited.ts";
import type { DumpEnd } from "./dump.ts";
import type { MessageCursor } from "./codec.ts";
import type { Mirror } from "./mirror.ts";

/** From the end of one audit to the next that nobody asked for. */
const PERIOD_MILLIS = 300_000;
/** How long an audit that was disturbed waits before it begins anew. */
const PAUSE_MILLIS = 20;
/** Some events come late: a link's carrier is told up to a second after it changed. */
const LATE_MILLIS = 1_500;
/** Things that events may name in one audit, with more it begins anew; and differences that it counts. */
const MOST_NAMES = 65_536;
/** Differences that are named in the log, of one audit. */
const MOST_LOGGED = 8;

const COUNTERS: { readonly [table in AuditTable]: number } = {
  interfaces: NETLINK.index.audit_difference_interfaces,
  routes: NETLINK.index.audit_difference_routes,
  neighbors: NETLINK.index.audit_difference_neighbors,
};

/** What an audit found. */
export interface AuditReport {
  readonly tables: Readonly<Record<AuditTable, { entries: number; divergent: number }>>;
  /** Of all tables. */
  readonly divergent: number;
  readonly millis: number;
}

/** What the audit has to see of the mirror. */
export type AuditedMirror = Pick<
  Mirror,
  "current" | "dumper" | "audited" | "resync" | "watchEvents"
>;

/** Audits now and then, and when asked to. */
export class Audit {
  readonly #mirror: AuditedMirror;
  readonly #counters: Float64Array;
  readonly #log: (line: string) => void;
  #phase: "idle" | "reading" | "waiting" = "idle";
  /** When the next phase begins by itself; monotonic milliseconds. */
  #due: number;
  #began = 0;
  /** What differed in this pass, with its table, and in the first one; null: this is the first. */
  #differing = new Map<string, AuditTable>();
  #before: ReadonlyMap<string, AuditTable> | null = null;
  /** What events have named since the audit began. */
  readonly #named = new Set<string>();
  #disturbed = false;
  /** Who asked for an audit that has yet to begin, and for the one that runs. */
  #asked: ((report: AuditReport) => void)[] = [];
  #answering: ((report: AuditReport) => void)[] = [];

  /** `counters` as `counters.ts` has them for the netlink tile. */
  constructor(
    mirror: AuditedMirror,
    { counters, now, log }: { counters: Float64Array; now: number; log(line: string): void },
  ) {
    this.#mirror = mirror;
    this.#counters = counters;
    this.#log = log;
    this.#due = now + PERIOD_MILLIS;
  }

  /** Asks for an audit that has yet to begin; `done` is told what it found. */
  request(done: (report: AuditReport) => void): void {
    this.#asked.push(done);
    if (this.#phase === "idle") this.#due = 0;
  }

  /** Milliseconds until it has something to do. */
  nextDue(now: number): number {
    return this.#phase === "reading" ? 0 : Math.max(0, Math.ceil(this.#due - now));
  }

  /** Goes on. How much was done. */
  turn(now: number): number {
    if (this.#phase === "idle") return now < this.#due ? 0 : this.#begin(now);
    if (this.#disturbed || !this.#mirror.current) return this.#beginAnew(now);
    return this.#phase === "reading" || now < this.#due ? 0 : this.#end(now);
  }

  #begin(now: number): number {
    if (!this.#mirror.current || this.#mirror.dumper.busy) return this.#beginAnew(now);
    this.#answering.push(...this.#asked.splice(0));
    this.#began = now;
    this.#named.clear();
    this.#disturbed = false;
    this.#before = null;
    this.#mirror.watchEvents((message) => this.#event(message));
    return this.#beginPass();
  }

  #beginPass(): number {
    this.#differing = new Map();
    const { audited, dumper } = this.#mirror;
    for (const table of audited) table.begin();
    const began = dumper.dump(audited.flatMap(({ dumps }) => dumps), {
      take: (message) => {
        const table = this.#tableOf(message);
        table?.read(message, (what) => this.#differs(what, table.table));
      },
      done: (end) => this.#endPass(end),
    });
    // What did not begin is not to be abandoned: the next dump is somebody else's.
    this.#phase = began ? "reading" : "waiting";
    this.#disturbed ||= !began;
    return 1;
  }

  /** Gives up what is under way, and begins anew after a moment. */
  #beginAnew(now: number): number {
    if (this.#phase === "reading") this.#mirror.dumper.abandon();
    this.#mirror.watchEvents(null);
    this.#phase = "idle";
    this.#due = now + PAUSE_MILLIS;
    return 0;
  }

  #endPass(end: DumpEnd): void {
    this.#phase = "waiting";
    this.#disturbed ||= end !== "done";
    if (this.#disturbed || !this.#mirror.current) return;
    for (const table of this.#mirror.audited) table.end((what) => this.#differs(what, table.table));
    this.#forgetNamed();
    if (this.#before === null && this.#differing.size > 0) {
      this.#before = this.#differing;
      this.#beginPass();
    } else {
      this.#due = performance.now() + (this.#differing.size === 0 ? 0 : LATE_MILLIS);
    }
  }

  /** What differs does not count when an event has named it. */
  #forgetNamed(): void {
    for (const what of this.#differing.keys()) {
      if (this.#named.has(what)) this.#differing.delete(what);
    }
  }

  #end(now: number): number {
    this.#forgetNamed();
    this.#mirror.watchEvents(null);
    this.#phase = "idle";
    this.#due = this.#asked.length > 0 ? 0 : now + PERIOD_MILLIS;
    this.#counters[NETLINK.index.audits]++;
    if (this.#differing.size > 0) this.#repair();
    const divergent = [...this.#differing.values()];
    const tables = Object.fromEntries(this.#mirror.audited.map(({ table, entries }) => [
      table,
      { entries: entries(), divergent: divergent.filter((its) => its === table).length },
    ])) as AuditReport["tables"];
    const report = { tables, divergent: divergent.length, millis: Math.round(now - this.#began) };
    for (const done of this.#answering.splice(0)) done(report);
    return 1;
  }

  #repair(): void {
    this.#mirror.resync();
    const names = [...this.#differing.keys()];
    for (const table of this.#differing.values()) this.#counters[COUNTERS[table]]++;
    for (const what of names.slice(0, MOST_LOGGED)) {
      this.#log(`audit: ${what} was not as the kernel has it; reading everything anew`);
    }
    if (names.length > MOST_LOGGED) {
      this.#log(`audit: nor were ${names.length - MOST_LOGGED} others`);
    }
  }

  /** An event was applied, whether it changed anything or not. */
  #event(message: MessageCursor): void {
    const table = this.#tableOf(message);
    const what = table?.subject?.(message);
    if (what) this.#named.add(what);
    if (table?.subject === undefined || this.#named.size > MOST_NAMES) this.#disturbed = true;
  }

  #tableOf({ type }: MessageCursor): Audited | undefined {
    return this.#mirror.audited.find(({ types }) => types.includes(type));
  }

  /** Counts unless the first read did not show it, or so many do that all is to be read anew anyway. */
  #differs(what: string, table: AuditTable): void {
    const counts = this.#before?.has(what) ?? this.#differing.size < MOST_NAMES;
    if (counts) this.#differing.set(what, table);
  }
}
