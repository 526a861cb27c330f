// SPDX-License-Identifier: Apache-2.0
/**
 * The mirror keeps a netbase equal to the kernel's network state. It joins the kernel's multicast
 * groups, then reads all tables, then follows events. A table that may be stale is read again.
 *
 * The path of an event: `Mirror.turn` receives datagrams, `Mirror.message` gets each message,
 * `Resync.event` finds its table, and the table (`tables.ts`) decodes it and applies it to netbase's
 * writer. `Mirror.turn` then commits, and net tiles read the new cells.
 *
 * The commands `show` and `route get`, tests and benchmarks use the mirror without the rest of the
 * netlink tile. It runs in any thread, as any user.
 */

import { EINVAL, errnoName, pollSet, SystemError } from "../../ffi/library.ts";
import type { NetlinkLibrary } from "../../ffi/sockets.ts";
import { Sync } from "../../netbase/layout.ts";
import type { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import * as nl from "./rtnetlink.ts";
import { type DumpEnd, Dumper, type MessageHandler, NetlinkSocket, OVERRUN } from "./rtnetlink.ts";
import {
  ALL_TABLES,
  InterfacesTable,
  type NeighborListener,
  NeighborsTable,
  NextHopsTable,
  Notices,
  RoutesTable,
  RulesTable,
  type Table,
  TableBit,
} from "./tables.ts";

/** Receive buffer of the monitor socket, used on demand: 150,000 events of 830 bytes, as the kernel doubles it. */
const RECEIVE_BUFFER = 64 << 20;
const BURST = 64;
const PATIENCE_MILLIS = 60_000;
/** Bursts after which changes are committed although more events are queued. */
const MOST_BURSTS_UNSHOWN = 32;
const GROUPS = [
  nl.RTNLGRP_LINK,
  nl.RTNLGRP_NEIGH,
  nl.RTNLGRP_IPV4_IFADDR,
  nl.RTNLGRP_IPV4_ROUTE,
  nl.RTNLGRP_IPV4_RULE,
  nl.RTNLGRP_IPV4_NETCONF,
];

export interface MirrorOptions {
  readonly library: NetlinkLibrary;
  readonly writer: NetbaseWriter;
  /** Interfaces whose neighbours are stored, all by default; see `followNeighborsOf`. */
  readonly neighborsOf?: ReadonlySet<number>;
  readonly neighborChanged?: NeighborListener;
  /** Bytes of receive buffer to request instead of the default. */
  readonly receiveBuffer?: number;
  log?(line: string): void;
}

export class Mirror implements MessageHandler {
  readonly writer: NetbaseWriter;
  readonly routes: RoutesTable;
  readonly rules: RulesTable;
  readonly dumper: Dumper;
  readonly notices: Notices;
  /** Events applied, messages that the codec rejected, and overruns of the receive buffer. */
  events = 0;
  malformedMessages = 0;
  overruns = 0;
  /** How often events were lost or unreadable, or the followed interfaces changed: an audit restarts. */
  disruptions = 0;
  readonly #library: NetlinkLibrary;
  readonly #monitor: NetlinkSocket;
  readonly #resync: Resync;
  readonly #neighbors: NeighborsTable;
  /** Events or a dump have made changes that are not committed yet. */
  #unshown = false;
  #burstsUnshown = 0;
  /** The last burst was full. */
  #moreWaits = false;
  /** Events were lost, and some that were queued before them are not received yet. */
  #draining = false;
  #now = 0;
  #state = -1;
  #watcher: ((message: nl.MessageCursor, now: number) => void) | null = null;

  /** Opens the sockets, but reads nothing yet. Throws SystemError. */
  constructor(options: MirrorOptions) {
    const { library, writer } = options;
    const log = (line: string) => options.log?.(line);
    this.writer = writer;
    this.#library = library;
    const notices = this.notices = new Notices(log);
    this.#monitor = openMonitor(library, options.receiveBuffer ?? RECEIVE_BUFFER);
    this.dumper = new Dumper(library);
    this.rules = new RulesTable(writer.rib, this.dumper, notices);
    const { interfaces, nextHops, routes, neighbors } = makeTables(writer, {
      notices,
      note: (route) => this.rules.note(route),
      interfaces: options.neighborsOf ?? null,
      listener: options.neighborChanged,
    });
    this.routes = routes;
    this.#neighbors = neighbors;
    const tables = [interfaces, this.rules, nextHops, routes, neighbors];
    this.#resync = new Resync(this.dumper, { tables, log });
  }

  /** Whether everything has been read at least once. */
  get complete(): boolean {
    return this.#resync.complete && this.rules.settled;
  }

  /** Whether everything has been read, and no table is stale or being read. */
  get current(): boolean {
    return this.#resync.current;
  }

  /** Whether the mirror is current, and netbase shows every event received. */
  get settled(): boolean {
    return this.complete && this.current && this.shown && !this.#moreWaits;
  }

  get shown(): boolean {
    return !this.#unshown;
  }

  /** Descriptors to poll for reading; the first is ready when there is an event. */
  get descriptors(): readonly number[] {
    return [this.#monitor.fd, this.dumper.fd];
  }

  get syncCounts(): Resync["counts"] {
    return this.#resync.counts;
  }

  /** Stores the neighbours of these interfaces from now on. */
  followNeighborsOf(interfaces: ReadonlySet<number>, now: number): void {
    this.disruptions++;
    this.#neighbors.interfaces = interfaces;
    this.#resync.markStale(TableBit.neighbors, now);
  }

  /** Makes a second copy of the kernel's state, by the same dumper. `watchEvents` provides its events. */
  copyInto(writer: NetbaseWriter): Resync {
    const tables = makeTables(writer, {
      notices: new Notices(() => {}),
      interfaces: this.#neighbors.interfaces,
    });
    return new Resync(this.dumper, { tables: Object.values(tables), log() {} });
  }

  /** Calls `watcher` with each event that was applied; null: none. */
  watchEvents(watcher: ((message: nl.MessageCursor, now: number) => void) | null): void {
    this.#watcher = watcher;
  }

  /** Rereads tables (bits of `TableBit`), all by default. */
  resync(tables = ALL_TABLES, now = performance.now()): void {
    this.#resync.markStale(tables, now);
  }

  /** Receives a burst of events and one of a dump, and commits the changes. Returns how much was done. */
  turn(now = performance.now()): number {
    this.#now = now;
    const events = this.#readEvents();
    let read = this.dumper.turn(now);
    // After an overrun the kernel drops events until its queue is empty. Queued events are older than a
    // dump that begins now, and a dump now would miss those dropped meanwhile.
    if (!this.#draining) read += this.#resync.turn(now) + this.rules.turn();
    if (read > 0) this.#unshown = true;
    this.#show();
    return events + read;
  }

  /** Milliseconds until `turn` has something to do besides events; -1: nothing. */
  nextDue(now: number): number {
    return this.dumper.busy || this.#unshown ? 0 : this.#resync.nextDue(now);
  }

  /** Blocks until `complete`, the first full copy. Throws Error after a minute. */
  sync(): void {
    this.#turnUntil(() => this.complete);
  }

  /** Blocks until `settled`. Throws Error after a minute. */
  settle(): void {
    this.turn();
    this.#turnUntil(() => this.settled);
  }

  #turnUntil(done: () => boolean): void {
    const polled = pollSet(this.descriptors);
    const end = performance.now() + PATIENCE_MILLIS;
    while (!done()) {
      if (this.turn() > 0) continue;
      const now = performance.now();
      if (now > end) {
        throw new Error(`the kernel's state was not read within ${PATIENCE_MILLIS} ms`);
      }
      const due = this.nextDue(now);
      this.#library.wait(polled, due < 0 ? 100 : Math.min(due, 100));
    }
  }

  #readEvents(): number {
    const count = this.#monitor.receive(this);
    if (count === OVERRUN) {
      this.overruns++;
      this.disruptions++;
      this.#moreWaits = this.#draining = true;
      this.#resync.eventsLost(this.#now);
      return 1;
    }
    this.#moreWaits = count === BURST;
    this.#draining &&= this.#moreWaits;
    return count;
  }

  message(message: nl.MessageCursor): void {
    if (!this.#resync.event(message, this.#now)) return;
    this.events++;
    this.#unshown = true;
    this.#watcher?.(message, this.#now);
  }

  /** An event could not be read, so everything may be stale. */
  malformed(reason: string): void {
    this.malformedMessages++;
    this.disruptions++;
    this.notices.once(`malformed netlink event: ${reason}`);
    this.resync(ALL_TABLES, this.#now);
  }

  #show(): void {
    // While more events are queued, netbase would show a state that the kernel has already left.
    const wait = this.#moreWaits && ++this.#burstsUnshown < MOST_BURSTS_UNSHOWN;
    if (this.#unshown && !wait) {
      this.writer.commit();
      // A default route that moves with others may have to wait for the end of a net tile's burst.
      this.#unshown = this.writer.pending;
      this.#burstsUnshown = 0;
      this.rules.committed();
    }
    const { complete, current } = this.#resync;
    const state = !complete ? Sync.syncing : current ? Sync.synced : Sync.stale;
    if (state === this.#state) return;
    this.#state = state;
    this.writer.setSync(state, Date.now());
  }

  close(): void {
    this.#monitor.close();
    this.dumper.close();
  }
}

function openMonitor(library: NetlinkLibrary, receiveBuffer: number): NetlinkSocket {
  const options = { receiveBuffer, strict: false, burst: BURST };
  try {
    return new NetlinkSocket(library, { ...options, groups: [...GROUPS, nl.RTNLGRP_NEXTHOP] });
  } catch (error) {
    // Kernels before Linux 5.3 have neither next-hop objects nor this group.
    if (!(error instanceof SystemError) || error.errno !== EINVAL) throw error;
    return new NetlinkSocket(library, { ...options, groups: GROUPS });
  }
}

/** The tables of a copy in `writer`, in the order in which they are read. */
function makeTables(
  writer: NetbaseWriter,
  { notices, note, interfaces: neighborsOf, listener }:
    & Omit<ConstructorParameters<typeof RoutesTable>[1], "nextHops">
    & ConstructorParameters<typeof NeighborsTable>[1],
) {
  const nextHops = new NextHopsTable(writer.rib);
  const routes = new RoutesTable(writer.rib, { nextHops, notices, note });
  const interfaces = new InterfacesTable(writer, { routes, nextHops, notices });
  const neighbors = new NeighborsTable(writer, { interfaces: neighborsOf, notices, listener });
  return { interfaces, nextHops, routes, neighbors };
}

/** How long a stale table waits for others that may become stale as well. */
const COALESCE_MILLIS = 1;
/** Pause after a read, as a multiple of its duration, and its maximum. */
const REST = 4;
const MOST_REST_MILLIS = 10_000;
/** Back-off after a failed attempt: doubled from the first to the maximum, ± a quarter. */
const FIRST_RETRY_MILLIS = 10;
const MOST_RETRY_MILLIS = 1_000;
/** Consecutive failures before one is logged. */
const ATTEMPTS_TO_LOG = 8;

/** When a table will be read. */
interface Schedule {
  readonly table: Table;
  /** Monotonic milliseconds before which a stale table is not read. */
  due: number;
  /** End of the pause after its last read. */
  restUntil: number;
  failed: number;
}

/**
 * Applies events to tables, and rereads tables that may be stale, by mark and sweep.
 *
 * A dump and concurrent events have no common order. So events for a table that is being dumped are
 * recorded and replayed after the dump; then they are at least as new as the dump. They are also
 * applied at once, to avoid delay, except for ordered tables, whose order would be lost. A dump that
 * the kernel reports as inconsistent (NLM_F_DUMP_INTR) is discarded and retried later. After a read a
 * table pauses in proportion to the read's duration, so that reading takes at most a fifth of the time.
 */
export class Resync {
  /** Dumps begun, interrupted ones, and tables read. */
  readonly counts = { dumps: 0, interrupted: 0, resyncs: 0 };
  readonly #dumper: Dumper;
  readonly #schedules: readonly Schedule[];
  readonly #tableOf = new Map<number, Table>();
  readonly #events = new ChangeLog();
  readonly #log: (line: string) => void;
  /** All tables, the stale ones, and those that were never read, as bits. */
  readonly #all: number;
  #stale: number;
  #unread: number;
  #running: Schedule | null = null;
  #startedAt = 0;

  /** `tables` in the order in which they are read; initially all are stale. */
  constructor(dumper: Dumper, { tables, log }: {
    readonly tables: readonly Table[];
    log(line: string): void;
  }) {
    this.#dumper = dumper;
    this.#schedules = tables.map((table) => ({ table, due: 0, restUntil: 0, failed: 0 }));
    for (const table of tables) for (const type of table.types) this.#tableOf.set(type, table);
    this.#all = this.#stale = this.#unread = tables.reduce((bits, { bit }) => bits | bit, 0);
    this.#log = log;
  }

  /** Whether every table has been read at least once. */
  get complete(): boolean {
    return this.#unread === 0;
  }

  /** Whether every table has been read, and none is stale or being read. */
  get current(): boolean {
    return this.complete && this.#stale === 0 && this.#running === null;
  }

  /** Marks these tables, as bits, as possibly stale. They are read soon. */
  markStale(tables: number, now: number): void {
    const news = tables & this.#all & ~this.#stale;
    for (const schedule of this.#schedules) {
      if ((news & schedule.table.bit) === 0) continue;
      schedule.due = Math.max(now + COALESCE_MILLIS, schedule.restUntil);
    }
    this.#stale |= news;
  }

  /** Called when events were lost: all tables are read without delay. */
  eventsLost(now: number): void {
    this.abandon(now);
    this.#stale = this.#all;
    for (const schedule of this.#schedules) schedule.due = now;
  }

  /** Abandons the current read, if any. */
  abandon(now: number): void {
    if (this.#running === null) return;
    const { table } = this.#running;
    this.#dumper.abandon();
    this.#running = null;
    this.#applyRecorded(table, { replayed: false, now });
  }

  /** Applies an event to its table, now or after its dump. False: it belongs to no table. */
  event(message: nl.MessageCursor, now: number): boolean {
    const table = this.#tableOf.get(message.type);
    if (table === undefined) return false;
    const dumping = this.#running?.table === table;
    if (dumping) this.#events.add(message);
    const stale = dumping && table.ordered ? 0 : table.apply(message, "event");
    if (stale !== 0) this.markStale(stale, now);
    return true;
  }

  /** Milliseconds until the next read; -1: none is due. */
  nextDue(now: number): number {
    let next = Infinity;
    for (const { table, due } of this.#schedules) {
      if ((this.#stale & table.bit) !== 0) next = Math.min(next, due);
    }
    return next === Infinity ? -1 : Math.max(0, Math.ceil(next - now));
  }

  /** Begins the read that is due; the dumper's turns continue it. Returns how much was done. */
  turn(now: number): number {
    if (this.#stale === 0 || this.#dumper.busy) return 0;
    const schedule = this.#schedules.find(({ table, due }) =>
      (this.#stale & table.bit) !== 0 && due <= now
    );
    if (schedule === undefined) return 0;
    const { table } = schedule;
    this.#running = schedule;
    this.#stale &= ~table.bit;
    this.#startedAt = now;
    this.#events.clear();
    table.beginSync();
    this.counts.dumps += table.dumps.length;
    const begun = this.#dumper.dump(table.dumps, {
      reply: (message) => void table.apply(message, "dump"),
      done: (end, errno, now) => this.#ended(schedule, end, errno, now),
    });
    if (!begun) this.#failed(schedule, "damaged", now);
    return 1;
  }

  #ended(schedule: Schedule, end: DumpEnd, errno: number, now: number): void {
    // A table that the kernel lacks counts as empty: next-hop objects before 5.3, policy rules.
    const absent = end === "refused" && schedule.table.optional;
    if (end !== "done" && !absent) {
      this.#failed(schedule, end, now, errno);
    } else if (this.#events.overflowed) this.#failed(schedule, "damaged", now);
    else this.#finish(schedule, now);
  }

  #finish(schedule: Schedule, now: number): void {
    const { table } = schedule;
    this.#running = null;
    this.#applyRecorded(table, { replayed: true, now });
    table.endSync();
    schedule.failed = 0;
    schedule.restUntil = now + Math.min((now - this.#startedAt) * REST, MOST_REST_MILLIS);
    this.#unread &= ~table.bit;
    this.counts.resyncs++;
  }

  /** Applies events recorded during a dump: all if it was complete (`replayed`), else those of ordered tables. */
  #applyRecorded(table: Table, { replayed, now }: { replayed: boolean; now: number }): void {
    let stale = 0;
    if (replayed || table.ordered) {
      const source = replayed ? "replay" : "event";
      this.#events.forEach((message) => stale |= table.apply(message, source));
    }
    this.#events.clear();
    this.markStale(stale, now);
  }

  #failed(schedule: Schedule, end: DumpEnd, now: number, errno = 0): void {
    const { table } = schedule;
    this.#running = null;
    this.#applyRecorded(table, { replayed: false, now });
    if (end === "interrupted") this.counts.interrupted++;
    const delay = Math.min(FIRST_RETRY_MILLIS * 2 ** schedule.failed, MOST_RETRY_MILLIS);
    schedule.due = now + delay * (0.75 + Math.random() / 2);
    schedule.failed++;
    this.#stale |= table.bit;
    if (schedule.failed !== ATTEMPTS_TO_LOG) return;
    const why = end === "refused" ? `refused with ${errnoName(errno)}` : end;
    const what = table.dumps.join(" and ");
    this.#log(
      `reading the kernel's ${what} was ${why} ${schedule.failed} times in a row; still trying`,
    );
  }
}

const FIRST_BYTES = 1 << 16;
/** Half a million route events. If there are more, the dump is discarded and retried. */
const MOST_BYTES = 64 << 20;

/** Events recorded for replay while a table is read. */
export class ChangeLog {
  overflowed = false;
  #bytes = new Uint8Array(FIRST_BYTES);
  #used = 0;

  clear(): void {
    this.#used = 0;
    this.overflowed = false;
    if (this.#bytes.length > FIRST_BYTES) this.#bytes = new Uint8Array(FIRST_BYTES);
  }

  add({ u8, bodyAt, end }: nl.MessageCursor): void {
    const from = bodyAt - nl.NLMSG_HDRLEN;
    const needed = this.#used + nl.padded(end - from);
    if (needed > this.#bytes.length && !this.#grow(needed)) return;
    this.#bytes.set(u8.subarray(from, end), this.#used);
    this.#used = needed;
  }

  #grow(needed: number): boolean {
    if (needed > MOST_BYTES) this.overflowed = true;
    if (this.overflowed) return false;
    const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    larger.set(this.#bytes.subarray(0, this.#used));
    this.#bytes = larger;
    return true;
  }

  /** Calls `each` with a cursor at each message, in order. */
  forEach(each: (message: nl.MessageCursor) => void): void {
    const cursor = new nl.MessageCursor(this.#bytes);
    cursor.begin(0, this.#used);
    while (cursor.next()) each(cursor);
  }
}
