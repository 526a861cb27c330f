/**
 * The mirror: keeps a netbase equal to the kernel's network state. It joins the kernel's groups,
 * then reads everything, then follows events; whenever it may have missed something it reads that
 * anew.
 *
 * This is all of the netlink tile that `show`, `route get`, tests and benchmarks need: it runs in
 * any thread, as any user.
 */

import { EINVAL, SystemError } from "../../ffi/errno.ts";
import { type NetlinkLibrary, pollSet } from "../../ffi/netlink.ts";
import { Sync } from "../../netbase/layout.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import { type Audited, auditedInterfaces, auditedNeighbors, auditedRoutes } from "./audited.ts";
import * as nl from "./codec.ts";
import { Dumper } from "./dump.ts";
import { InterfacesPart } from "./interfaces_part.ts";
import { LookupOrderQuestion } from "./lookup_order.ts";
import type { MessageCursor } from "./codec.ts";
import { type NeighborListener, NeighborsPart } from "./neighbors_part.ts";
import { NextHopsPart } from "./next_hops_part.ts";
import { ALL_PARTS, type MirrorPart, Notices, Part } from "./part.ts";
import { RoutesPart } from "./routes_part.ts";
import { RulesPart } from "./rules_part.ts";
import { type MessageHandler, NetlinkSocket, OVERRUN } from "./socket.ts";
import { Synchroniser } from "./synchroniser.ts";

/**
 * Receive buffer of the monitor socket. An event takes about 830 bytes of it, so this holds some
 * 150,000 (the kernel doubles it) where SO_RCVBUFFORCE is allowed; it is used only when needed.
 */
const RECEIVE_BUFFER = 64 << 20;
/** Datagrams taken with one call. */
const BURST = 64;
/** How long a blocking read may take. */
const PATIENCE_MILLIS = 60_000;
/** Bursts after which changes are shown though more events wait. */
const MOST_BURSTS_UNSHOWN = 32;
const GROUPS = [
  nl.RTNLGRP_LINK,
  nl.RTNLGRP_NEIGH,
  nl.RTNLGRP_IPV4_IFADDR,
  nl.RTNLGRP_IPV4_ROUTE,
  nl.RTNLGRP_IPV4_RULE,
  nl.RTNLGRP_IPV4_NETCONF,
];

/** What a mirror is made with. */
export interface MirrorOptions {
  readonly library: NetlinkLibrary;
  readonly writer: NetbaseWriter;
  /** Interfaces whose neighbours are kept, all when left out; see `followNeighborsOf`. */
  readonly neighborsOf?: ReadonlySet<number>;
  readonly neighbors?: NeighborListener;
  /** Bytes of receive buffer asked for, unless the usual. */
  readonly receiveBuffer?: number;
  /** A line for the log. */
  log?(line: string): void;
}

/** Follows the kernel. */
export class Mirror implements MessageHandler {
  readonly writer: NetbaseWriter;
  readonly routes: RoutesPart;
  readonly rules: RulesPart;
  readonly dumper: Dumper;
  /** What an audit compares. */
  readonly audited: readonly Audited[];
  /** Events applied, messages refused by the codec, and overruns of the receive buffer. */
  events = 0;
  malformedMessages = 0;
  overruns = 0;
  readonly notices: Notices;
  readonly #library: NetlinkLibrary;
  readonly #monitor: NetlinkSocket;
  readonly #synchroniser: Synchroniser;
  readonly #neighbors: NeighborsPart;
  readonly #question: LookupOrderQuestion;
  /** The part that each message type is about. */
  readonly #partOf = new Map<number, MirrorPart>();
  /** Events or a dump have changed something that is not committed yet. */
  #unshown = false;
  #burstsUnshown = 0;
  /** The last burst was a full one. */
  #moreWaits = false;
  /** Events were lost, and what the kernel has left of those before them is not all taken yet. */
  #draining = false;
  #now = 0;
  #state = -1;
  #eventWatcher: ((message: MessageCursor) => void) | null = null;

  /** Opens the sockets and begins nothing. Throws SystemError. */
  constructor(options: MirrorOptions) {
    const { library, writer } = options;
    const log = (line: string) => options.log?.(line);
    this.writer = writer;
    this.#library = library;
    this.notices = new Notices(log);
    const { notices } = this;
    this.#monitor = openMonitor(library, options.receiveBuffer ?? RECEIVE_BUFFER);
    this.dumper = new Dumper(library);
    const nextHops = new NextHopsPart(writer.rib);
    this.routes = new RoutesPart(writer.rib, { nextHops, notices });
    this.rules = new RulesPart(writer.rib, notices);
    this.#neighbors = new NeighborsPart(writer, {
      interfaces: options.neighborsOf ?? null,
      notices,
      listener: options.neighbors ?? null,
    });
    this.audited = [
      auditedInterfaces(writer),
      auditedRoutes(writer, this.routes),
      auditedNeighbors(writer, this.#neighbors),
    ];
    const interfaces = new InterfacesPart(writer, { routes: this.routes, nextHops, notices });
    const parts: MirrorPart[] = [interfaces, this.rules, nextHops, this.routes, this.#neighbors];
    for (const part of parts) {
      for (const type of part.types) this.#partOf.set(type, part);
    }
    this.#synchroniser = new Synchroniser(this.dumper, { parts, log });
    this.#question = new LookupOrderQuestion(writer.rib, this.dumper);
    this.#synchroniser.lost(0);
  }

  /** Whether everything has been read at least once. */
  get complete(): boolean {
    return this.#synchroniser.complete && this.#question.settled;
  }

  /** Whether nothing is known to be stale, under way or waiting. */
  get settled(): boolean {
    return this.complete && this.#synchroniser.settled && this.shown && !this.#moreWaits;
  }

  /** Whether netbase shows all that was applied. */
  get shown(): boolean {
    return !this.#unshown;
  }

  /** Descriptors to be polled for reading; the first one becomes ready when there is an event. */
  get descriptors(): readonly number[] {
    return [this.#monitor.fd, this.dumper.fd];
  }

  get syncCounts(): Synchroniser["counts"] {
    return this.#synchroniser.counts;
  }

  /** Follows the neighbours of these interfaces from now on. */
  followNeighborsOf(interfaces: ReadonlySet<number>): void {
    this.#neighbors.interfaces = interfaces;
    this.#synchroniser.want(Part.neighbors, performance.now());
  }

  /** Whether everything has been read, and nothing is being read anew or about to be. */
  get current(): boolean {
    return this.#synchroniser.complete && this.#synchroniser.settled;
  }

  /** Calls `watcher` after each event that was applied; null: nobody. */
  watchEvents(watcher: ((message: MessageCursor) => void) | null): void {
    this.#eventWatcher = watcher;
  }

  /** Reads all of `parts` (bits of `Part`) anew. */
  resync(parts = ALL_PARTS): void {
    this.#synchroniser.want(parts, performance.now());
  }

  /** One burst of events, one of a dump; shows what changed. How much there was to do. */
  turn(now = performance.now()): number {
    this.#now = now;
    const events = this.#readEvents();
    let read = this.dumper.turn();
    // What is still taken is older than a dump that began now, and what happens meanwhile is lost
    // without another word: after an overrun the kernel drops all until its queue is empty.
    if (!this.#draining) {
      read += this.#synchroniser.turn(now) + this.#question.turn(this.rules.touched);
    }
    if (read > 0) this.#unshown = true;
    this.#show();
    return events + read;
  }

  /** Milliseconds until `turn` has something to do besides events; -1: nothing. */
  nextDue(now: number): number {
    return this.dumper.busy || this.#unshown ? 0 : this.#synchroniser.nextDue(now);
  }

  /** Turns, blocking, until `complete`; the first full copy. Throws Error when that takes a minute. */
  sync(): void {
    this.#turnUntil(() => this.complete);
  }

  /**
   * Turns, blocking, until everything that the kernel has said is in netbase and nothing is stale.
   * Throws Error when that takes a minute.
   */
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
      this.#moreWaits = this.#draining = true;
      this.#synchroniser.lost(this.#now);
      return 1;
    }
    this.#moreWaits = count === BURST;
    this.#draining &&= this.#moreWaits;
    return count;
  }

  /** One event. */
  message(message: MessageCursor): void {
    const part = this.#partOf.get(message.type);
    if (part === undefined) return;
    this.events++;
    this.#unshown = true;
    this.#synchroniser.event(part, message, this.#now);
    this.#eventWatcher?.(message);
  }

  /** An event that could not be read: whatever it said, it is looked up. */
  malformed(reason: string): void {
    this.malformedMessages++;
    this.notices.once(`an event could not be read: ${reason}`);
    this.#synchroniser.want(ALL_PARTS, this.#now);
  }

  #show(): void {
    // While more waits, what would be shown is a state that the kernel has left already.
    const wait = this.#moreWaits && ++this.#burstsUnshown < MOST_BURSTS_UNSHOWN;
    if (this.#unshown && !wait) {
      this.writer.commit();
      // A default route that moves together with others may wait for a net tile's burst to end.
      this.#unshown = this.writer.pending;
      this.#burstsUnshown = 0;
      if (this.routes.orderMayMatter) this.#question.routesChanged();
      this.routes.orderMayMatter = false;
    }
    this.#tellState();
  }

  #tellState(): void {
    const { settled, complete } = this.#synchroniser;
    const state = !complete ? Sync.syncing : settled ? Sync.synced : Sync.stale;
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
    // Before Linux 5.3 there are no next-hop objects, and no such group.
    if (!(error instanceof SystemError) || error.errno !== EINVAL) throw error;
    return new NetlinkSocket(library, { ...options, groups: GROUPS });
  }
}
