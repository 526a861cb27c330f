// SPDX-License-Identifier: Apache-2.0
/**
 * The audit compares the mirror with a second copy of the kernel's state, which is read for that
 * purpose. The copy gets the same events as the mirror from its first dump on, so when neither is stale
 * they should be equal. A difference counts when two comparisons show it, because the copy may have read
 * something whose event is still to come. Then it is logged and counted, and the mirror reads everything
 * again.
 *
 * The copy takes as much memory as the mirror does, until the audit ends.
 */

import { heapView } from "../../ffi/region.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import { formatAddress, formatPrefix, RT_TABLE_LOCAL } from "../../netbase/route.ts";
import { NETLINK } from "../runtime/counters.ts";
import type { Mirror, Resync } from "./mirror.ts";

/** From the end of one audit to the next periodic one. */
const PERIOD_MILLIS = 300_000;
/** Pause before an audit that was disturbed restarts. */
const PAUSE_MILLIS = 20;
/** Some events come late: a link's carrier is reported up to a second after it changed. */
const LATE_MILLIS = 1_500;
/** Prefixes that are compared in one turn: a few milliseconds' work. */
const PREFIXES_PER_TURN = 8_192;
/** The most differences that are counted, and the most that the log names. */
const MOST_DIFFERENCES = 65_536;
const MOST_LOGGED = 8;

/** The tables that are compared, as the report names them. */
type AuditTable = "interfaces" | "routes" | "neighbors";

export interface AuditReport {
  readonly tables: Readonly<Record<AuditTable, { entries: number; divergent: number }>>;
  /** Sum over all tables. */
  readonly divergent: number;
  readonly millis: number;
}

/** What the audit uses of the mirror. */
export type AuditedMirror = Pick<
  Mirror,
  "writer" | "current" | "disruptions" | "copyInto" | "watchEvents" | "resync"
>;

/** An audit that is under way. */
interface Running {
  readonly began: number;
  readonly disruptions: number;
  /** The second copy, and what reads it. */
  readonly copy: NetbaseWriter;
  readonly resync: Resync;
  /** Names of what differs in this comparison, and in the first one; null: this is the first. */
  differing: Map<string, AuditTable>;
  first: ReadonlyMap<string, AuditTable> | null;
  /** Where the comparison of routes continues; null: it has not begun. */
  from: { prefix: number; length: number } | null;
  /** Time before which the comparison does not begin. */
  due: number;
}

/** Runs audits: every five minutes, and on request. */
export class Audit {
  readonly #mirror: AuditedMirror;
  readonly #counters: Float64Array;
  readonly #log: (line: string) => void;
  #running: Running | null = null;
  /** When the next audit begins; monotonic milliseconds. */
  #due: number;
  /** Callbacks of requests for the next audit, and for the one that is running. */
  #requests: ((report: AuditReport) => void)[] = [];
  #answering: ((report: AuditReport) => void)[] = [];

  /** `counters` are the netlink tile's. */
  constructor(
    mirror: AuditedMirror,
    { counters, now, log }: { counters: Float64Array; now: number; log(line: string): void },
  ) {
    this.#mirror = mirror;
    this.#counters = counters;
    this.#log = log;
    this.#due = now + PERIOD_MILLIS;
  }

  /** Requests an audit that begins after this call; `done` gets its report. */
  request(done: (report: AuditReport) => void): void {
    this.#requests.push(done);
    if (this.#running === null) this.#due = 0;
  }

  /** Milliseconds until `turn` has something to do; -1: nothing. */
  nextDue(now: number): number {
    if (this.#running === null) return Math.max(0, Math.ceil(this.#due - now));
    const { resync, due } = this.#running;
    if (!resync.current) return resync.nextDue(now);
    return this.#mirror.current ? Math.max(0, Math.ceil(due - now)) : PAUSE_MILLIS;
  }

  /** Continues with the audit; the mirror's turns carry on its dumps. Returns how much was done. */
  turn(now: number): number {
    const running = this.#running;
    if (running === null) return now < this.#due ? 0 : this.#begin(now);
    if (running.disruptions !== this.#mirror.disruptions) {
      this.#stop(now);
      this.#due = now + PAUSE_MILLIS;
      return 0;
    }
    const work = running.resync.turn(now);
    if (work > 0 || now < running.due) return work;
    if (!running.resync.current || !this.#mirror.current) return 0;
    if (this.#compareSome(running)) this.#endComparison(running, now);
    return 1;
  }

  #begin(now: number): number {
    if (!this.#mirror.current) {
      this.#due = now + PAUSE_MILLIS;
      return 0;
    }
    this.#answering.push(...this.#requests.splice(0));
    const copy = new NetbaseWriter(heapView(NETBASE_BYTES), { readers: [], seed: randomSeed() });
    const resync = this.#mirror.copyInto(copy);
    this.#mirror.watchEvents((message, now) => resync.event(message, now));
    const { disruptions } = this.#mirror;
    const differing = new Map();
    this.#running = {
      ...{ began: now, disruptions, copy, resync, differing, first: null, from: null, due: 0 },
    };
    return 1;
  }

  #stop(now: number): void {
    this.#mirror.watchEvents(null);
    this.#running?.resync.abandon(now);
    this.#running = null;
  }

  /** Compares one turn's share. Returns whether the comparison is complete. */
  #compareSome(running: Running): boolean {
    if (running.from === null) {
      const theirs = described(running.copy);
      for (const [name, { table, content }] of described(this.#mirror.writer)) {
        if (theirs.get(name)?.content !== content) differs(running, table, name);
        theirs.delete(name);
      }
      for (const [name, { table }] of theirs) differs(running, table, name);
    }
    running.from = this.#mirror.writer.rib.compare(
      running.copy.rib,
      running.from ?? { prefix: 0, length: 0 },
      {
        most: PREFIXES_PER_TURN,
        differs: ({ table, destination, prefixLength }) => {
          const what = table === RT_TABLE_LOCAL ? "local route" : "route";
          differs(running, "routes", `${what} ${formatPrefix(destination, prefixLength)}`);
        },
      },
    );
    return running.from === null;
  }

  #endComparison(running: Running, now: number): void {
    if (running.first === null && running.differing.size > 0) {
      running.first = running.differing;
      running.differing = new Map();
      running.due = now + LATE_MILLIS;
      return;
    }
    this.#stop(now);
    this.#due = this.#requests.length > 0 ? 0 : now + PERIOD_MILLIS;
    this.#counters[NETLINK.index.audits]++;
    if (running.differing.size > 0) this.#repair(running.differing, now);
    const report = this.#report(running, now);
    for (const done of this.#answering.splice(0)) done(report);
  }

  #repair(differing: ReadonlyMap<string, AuditTable>, now: number): void {
    this.#mirror.resync(undefined, now);
    const names = [...differing.keys()];
    for (const table of differing.values()) {
      this.#counters[NETLINK.index[`audit_difference_${table}`]]++;
    }
    for (const name of names.slice(0, MOST_LOGGED)) {
      this.#log(`audit: ${name} was not as the kernel has it; reading everything anew`);
    }
    if (names.length > MOST_LOGGED) {
      this.#log(`audit: nor were ${names.length - MOST_LOGGED} others`);
    }
  }

  #report({ began, differing }: Running, now: number): AuditReport {
    const { interfaces, rib, neighbors } = this.#mirror.writer;
    const divergent = [...differing.values()];
    const table = (entries: number, table: AuditTable) => {
      return { entries, divergent: divergent.filter((its) => its === table).length };
    };
    return {
      tables: {
        interfaces: table(interfaces.size, "interfaces"),
        routes: table(rib.size, "routes"),
        neighbors: table(neighbors.size, "neighbors"),
      },
      divergent: divergent.length,
      millis: Math.round(now - began),
    };
  }
}

/** Notes a difference by its name, unless the first comparison did not show it. */
function differs({ first, differing }: Running, table: AuditTable, name: string): void {
  const counts = first?.has(name) ?? differing.size < MOST_DIFFERENCES;
  if (counts) differing.set(name, table);
}

/** Content of interfaces, and MACs that may be used, by name: no event reports a probe, or an entry's ageing. */
function described({ interfaces, neighbors }: NetbaseWriter) {
  const found = new Map<string, { table: AuditTable; content: string }>();
  for (const entry of interfaces.all()) {
    const content = JSON.stringify(entry);
    found.set(`interface ${entry.ifindex}`, { table: "interfaces", content });
  }
  neighbors.forEach(({ ifindex, address, state, macHead, macTail }) => {
    if ((state & NUD_VALID) === 0) return;
    const name = `neighbour ${formatAddress(address)} on interface ${ifindex}`;
    found.set(name, { table: "neighbors", content: `${macHead} ${macTail}` });
  });
  return found;
}
