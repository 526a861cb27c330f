// SPDX-License-Identifier: Apache-2.0
/**
 * The audit compares the mirror with a second copy of the kernel's state, made for this purpose. The
 * copy gets the same events as the mirror from its first dump on, so when neither is stale they should
 * be equal. A difference counts only if two comparisons show it, because the copy may contain a change
 * whose event has not arrived yet. Then it is logged and counted, and the mirror rereads everything.
 *
 * The copy takes as much memory as the mirror until the audit ends.
 */

import { heapView } from "../../ffi/region.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { NUD_VALID } from "../../netbase/neighbors.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import { formatAddress, formatPrefix, RT_TABLE_LOCAL } from "../../netbase/route.ts";
import { NETLINK } from "../runtime/counters.ts";
import type { Mirror, Resync } from "./mirror.ts";

/** Milliseconds from the end of an audit to the next periodic one. */
const PERIOD_MILLIS = 300_000;
/** Pause before a disturbed audit restarts. */
const PAUSE_MILLIS = 20;
/** Some events are late: a link's carrier is reported up to a second after it changed. */
const LATE_MILLIS = 1_500;
/** Prefixes compared in one turn: some milliseconds of work. */
const PREFIXES_PER_TURN = 8_192;
/** The most differences that are counted, and the most that are logged. */
const MOST_DIFFERENCES = 65_536;
const MOST_LOGGED = 8;

/** The tables that are compared, with their names in the report. */
type AuditTable = "interfaces" | "routes" | "neighbors";

export interface AuditReport {
  readonly tables: Readonly<Record<AuditTable, { entries: number; divergent: number }>>;
  /** Sum over all tables. */
  readonly divergent: number;
  readonly millis: number;
}

/** The part of the mirror that the audit uses. */
export type AuditedMirror = Pick<
  Mirror,
  "writer" | "current" | "disruptions" | "copyInto" | "watchEvents" | "resync"
>;

/** A running audit. */
interface Running {
  readonly began: number;
  readonly disruptions: number;
  /** The second copy, and its resync. */
  readonly copy: NetbaseWriter;
  readonly resync: Resync;
  /** Names of the differences in this comparison, and in the first one; null: this is the first. */
  differing: Map<string, AuditTable>;
  first: ReadonlyMap<string, AuditTable> | null;
  /** Where the comparison of routes continues; null: it has not begun. */
  from: { prefix: number; length: number } | null;
  /** Time before which the comparison does not begin. */
  due: number;
}

export type Audit = ReturnType<typeof makeAudit>;

/** Runs audits: every five minutes, and on request. `counters` are the netlink tile's. */
export function makeAudit(
  mirror: AuditedMirror,
  { counters, now, log }: { counters: Float64Array; now: number; log(line: string): void },
) {
  let running: Running | null = null;
  /** When the next audit begins; monotonic milliseconds. */
  let nextAt = now + PERIOD_MILLIS;
  /** Callbacks of requests for the next audit, and for the one that is running. */
  const requests: ((report: AuditReport) => void)[] = [];
  const answering: ((report: AuditReport) => void)[] = [];

  function begin(now: number): number {
    if (!mirror.current) {
      nextAt = now + PAUSE_MILLIS;
      return 0;
    }
    answering.push(...requests.splice(0));
    const copy = new NetbaseWriter(heapView(NETBASE_BYTES), { readers: [], seed: randomSeed() });
    const resync = mirror.copyInto(copy);
    mirror.watchEvents((message, now) => resync.event(message, now));
    const { disruptions } = mirror;
    const differing = new Map();
    running = {
      ...{ began: now, disruptions, copy, resync, differing, first: null, from: null, due: 0 },
    };
    return 1;
  }

  function stop({ resync }: Running, now: number): void {
    mirror.watchEvents(null);
    resync.abandon(now);
    running = null;
  }

  function endComparison(audit: Running, now: number): void {
    if (audit.first === null && audit.differing.size > 0) {
      audit.first = audit.differing;
      audit.differing = new Map();
      audit.due = now + LATE_MILLIS;
      return;
    }
    stop(audit, now);
    nextAt = requests.length > 0 ? 0 : now + PERIOD_MILLIS;
    counters[NETLINK.index.audits]++;
    if (audit.differing.size > 0) repair(audit.differing, now);
    const report = reportOf(mirror.writer, audit, now);
    for (const done of answering.splice(0)) done(report);
  }

  function repair(differing: ReadonlyMap<string, AuditTable>, now: number): void {
    mirror.resync(undefined, now);
    const names = [...differing.keys()];
    for (const table of differing.values()) {
      counters[NETLINK.index[`audit_difference_${table}`]]++;
    }
    for (const name of names.slice(0, MOST_LOGGED)) {
      log(`audit: ${name} differed from the kernel; rereading everything`);
    }
    if (names.length > MOST_LOGGED) log(`audit: ${names.length - MOST_LOGGED} others differed`);
  }

  return {
    /** Requests an audit that begins after this call; `done` gets its report. */
    request(done: (report: AuditReport) => void): void {
      requests.push(done);
      if (running === null) nextAt = 0;
    },
    /** Milliseconds until `turn` has something to do; -1: nothing. */
    nextDue(now: number): number {
      if (running !== null && !running.resync.current) return running.resync.nextDue(now);
      if (running !== null && !mirror.current) return PAUSE_MILLIS;
      return Math.max(0, Math.ceil((running?.due ?? nextAt) - now));
    },
    /** Continues the audit; the mirror's turns continue its dumps. Returns how much was done. */
    turn(now: number): number {
      if (running === null) return now < nextAt ? 0 : begin(now);
      if (running.disruptions !== mirror.disruptions) {
        stop(running, now);
        nextAt = now + PAUSE_MILLIS;
        return 0;
      }
      const work = running.resync.turn(now);
      if (work > 0 || now < running.due) return work;
      if (!running.resync.current || !mirror.current) return 0;
      if (compareSome(mirror.writer, running)) endComparison(running, now);
      return 1;
    },
  };
}

/** Compares one turn's share. Returns whether the comparison is complete. */
function compareSome(writer: NetbaseWriter, audit: Running): boolean {
  if (audit.from === null) {
    const theirs = described(audit.copy);
    for (const [name, { table, content }] of described(writer)) {
      if (theirs.get(name)?.content !== content) differs(audit, table, name);
      theirs.delete(name);
    }
    for (const [name, { table }] of theirs) differs(audit, table, name);
  }
  audit.from = writer.rib.compare(audit.copy.rib, audit.from ?? { prefix: 0, length: 0 }, {
    most: PREFIXES_PER_TURN,
    differs({ table, destination, prefixLength }) {
      const what = table === RT_TABLE_LOCAL ? "local route" : "route";
      differs(audit, "routes", `${what} ${formatPrefix(destination, prefixLength)}`);
    },
  });
  return audit.from === null;
}

function reportOf(
  { interfaces, rib, neighbors }: NetbaseWriter,
  { began, differing }: Running,
  now: number,
): AuditReport {
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

/** Records a difference by its name, unless the first comparison did not find it. */
function differs({ first, differing }: Running, table: AuditTable, name: string): void {
  const counts = first?.has(name) ?? differing.size < MOST_DIFFERENCES;
  if (counts) differing.set(name, table);
}

/** Interfaces and usable MACs, by name, without probes and the ageing of entries, which no event reports. */
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
