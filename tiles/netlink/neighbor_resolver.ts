// SPDX-License-Identifier: Apache-2.0
/**
 * Resolves the neighbours that net tiles need. A net tile writes interface and address to its solicit
 * link; `solicitReceiver` takes them and drops those that are not on-link or already known;
 * `NeighborResolver` decides whether and when to ask the kernel; `neighborSocket` asks it. The kernel's
 * answer reaches the mirror as an ordinary event, and the net tile through netbase. `NeighborAgeing`
 * keeps neighbours in use confirmed.
 *
 * This is the only path from untrusted traffic into the netlink tile. Made-up addresses may arrive at
 * line rate, so everything has a fixed size, and the kernel's work for a flood is bounded:
 *
 * - Only on-link addresses are solicited, each once at a time.
 * - Unanswered solicits occupy entries of the kernel's table, which all namespaces share. They may fill
 * a quarter of that table; together with those answered since its size was last read, half of it.
 * Beyond that, only gateways are solicited, and one address in demand between two reads of the size. A
 * client that resolves our address is in that table anyway, and the kernel drops entries that are
 * unused for a minute.
 * - Of the waiting addresses, gateways go first, then those most in demand: a flood repeats addresses
 * by chance, a client retries.
 * - An address that does not answer backs off, longer each time, and its entry is returned to the
 * kernel. While others wait, it has 200 ms to answer, not the kernel's 3 s.
 * - Each net tile has its own share of these limits, so that a flood at one does not affect another.
 *
 * A flood that repeats most of a prefix's addresses twice a second makes all of them look like clients,
 * more than a kernel can resolve. Then a client is solicited if its demand exceeds the flood's.
 *
 * Known neighbours that need a new confirmation take no new entry, and are not delayed by any of this.
 */

import type { View } from "../../ffi/region.ts";
import type { NetlinkLibrary } from "../../ffi/sockets.ts";
import { hash, type HashKey, keyOf, randomSeed, Use } from "../../netbase/hash.ts";
import { IFF_NOARP } from "../../netbase/interfaces.ts";
import {
  NUD_FAILED,
  NUD_NONE,
  NUD_REACHABLE,
  NUD_STALE,
  NUD_VALID,
} from "../../netbase/neighbors.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { KIND_GROUP, RTN_UNICAST } from "../../netbase/route.ts";
import type { NeighborWriter } from "../../netbase/tables_writer.ts";
import { SolicitConsumer } from "../net/arp_queue.ts";
import { NETLINK } from "../runtime/counters.ts";
import * as nl from "./rtnetlink.ts";

/** Solicits taken in one turn: less than a millisecond of work, so that events need not wait. */
const MOST_TAKEN = 4_096;

/**
 * The netlink tile's end of the solicit link of one net tile.
 *
 * `link` may be read-only; `reader` is not refreshed here; `gateways` are those of routes, true for
 * on-link ones (`RoutesTable`); `isFollowed` returns whether packets leave by an interface.
 */
export function solicitReceiver(
  link: View,
  resolver: NeighborResolver,
  { reader, gateways, isFollowed, counters }: {
    readonly reader: NetbaseReader;
    readonly gateways: NeighborMap<boolean>;
    readonly counters: Float64Array;
    isFollowed(ifindex: number): boolean;
  },
) {
  const solicits = new SolicitConsumer(link);
  const pairs = new Uint32Array(MOST_TAKEN * 2);

  /** Most addresses of a flood are not on-link, so that is checked first. */
  function take(ifindex: number, address: number, now: number): void {
    const { neighbors } = reader;
    if (!isOnLink(ifindex, address)) {
      counters[NETLINK.index.solicit_drop_off_link]++;
      return;
    }
    const record = neighbors.find(ifindex, address);
    const usable = record >= 0 && (neighbors.state(record) & NUD_VALID) !== 0;
    if (usable && neighbors.refreshWanted(record)) {
      resolver.confirm(ifindex, address, now);
    } else if (usable || (record >= 0 && (neighbors.flags(record) & nl.NTF_KEPT) !== 0)) {
      // It is known, or the control plane that keeps its entry resolves it.
      counters[NETLINK.index.solicit_drop_duplicate]++;
    } else if (!hasArp(ifindex)) {
      counters[NETLINK.index.solicit_drop_off_link]++;
    } else {
      const isGateway = gateways.has(ifindex, address);
      resolver.resolve({ ifindex, address, isGateway }, now);
    }
  }

  /** Whether a route without gateway leads to `address` on that link, or it is an on-link gateway. */
  function isOnLink(ifindex: number, address: number): boolean {
    const { fib, nextHops } = reader;
    if (!isFollowed(ifindex)) return false;
    const id = fib.lookup(address);
    const isGroup = id !== 0 && nextHops.kind(id) === KIND_GROUP;
    for (let i = 0; i < (isGroup ? nextHops.memberCount(id) : 1); i++) {
      if (leadsTo(ifindex, isGroup ? nextHops.memberId(id, i) : id)) return true;
    }
    return gateways.get(ifindex, address) === true;
  }

  function leadsTo(ifindex: number, id: number): boolean {
    const { nextHops } = reader;
    return nextHops.ifindex(id) === ifindex && nextHops.gateway(id) === 0 &&
      nextHops.kind(id) === RTN_UNICAST;
  }

  /** Whether the kernel currently resolves neighbours on an interface. */
  function hasArp(ifindex: number): boolean {
    const { interfaces } = reader;
    const record = interfaces.find(ifindex);
    return record >= 0 && interfaces.isUp(record) && (interfaces.flags(record) & IFF_NOARP) === 0;
  }

  return {
    resolver,
    /** Solicits that were overwritten before they were taken. */
    lapped: () => solicits.lapped,
    isPending: () => solicits.waiting,
    /** Takes solicits, and solicits as many neighbours as the limits allow. Returns how much was done. */
    turn(now: number): number {
      const count = solicits.waiting ? solicits.take(pairs, MOST_TAKEN) : 0;
      counters[NETLINK.index.solicits_received] += count;
      for (let i = 0; i < count; i++) take(pairs[i * 2], pairs[i * 2 + 1], now);
      return count + resolver.turn(now);
    },
  };
}

/** The part of `neighborSocket` that the resolver uses. */
export type NeighborKernel = Pick<ReturnType<typeof neighborSocket>, "solicit" | "release">;

/** A known neighbour is confirmed at most once in this time. */
const CONFIRM_MILLIS = 100;
/** An address that waits longer than this is dropped, because its packet is gone. */
const PATIENCE_MILLIS = 1_000;
/** Time to answer (the kernel gives up after about 3 s), and the time while others wait. */
const ANSWER_MILLIS = 5_000;
const HURRIED_MILLIS = 200;
/** Back-off after the first failure, doubled each time, ± a quarter. */
const FIRST_BACK_OFF_MILLIS = 1_000;
const MOST_BACK_OFF_MILLIS = 60_000;
/** Unanswered solicits a second, and in a burst. The kernel, with a full table, sends as many. */
const RATE = 1_000;
const BURST = 256;
const MOST_QUEUED = 256;
/** Neighbours that back off, and log2 of the demand cells, of all net tiles together. */
const MOST_BACKING_OFF = 1 << 16;
const DEMAND_LOG2 = 20;
/** The kernel's default gc_thresh3, and how many gateways may be unanswered in any case. */
const DEFAULT_CAPACITY = 1024;
const LEAST_OUTSTANDING = 16;

/** The rank of gateways. The rank of other addresses is their demand. */
const GATEWAY = Infinity;
/** The lowest rank of an address in demand; the shares of solicits for such addresses and for others. */
const IN_DEMAND = 2;
const IN_DEMAND_SHARE = 0.75;
const ONCE_SHARE = 0.25;

/** An unknown neighbour that is queued or solicited. */
interface Pending extends nl.NeighborKey {
  rank: number;
  since: number;
}

/** Solicits neighbours for one net tile; see the head of this file. */
export class NeighborResolver {
  readonly #kernel: NeighborKernel;
  readonly #counters: Float64Array;
  readonly #random: () => number;
  readonly #sharers: number;
  readonly #demand: DemandCounter;
  readonly #backOff: BackOff;
  readonly #pending: NeighborMap<Pending>;
  /** By rank, and within a rank by arrival. */
  readonly #queue: Pending[] = [];
  /** Solicited and unanswered, the oldest first. */
  readonly #outstanding = new Set<Pending>();
  #tokens = BURST;
  #refilledAt = 0;
  #mostOutstanding = 0;
  /** How many entries may be added before the table is half full, by its size when last read. */
  #room = 0;
  /** How many addresses in demand were solicited since then although the table was half full. */
  #beyond = 0;

  /**
   * `counters` are the netlink tile's; `random` returns a number from 0 to below 1; a random `seed`
   * prevents chosen collisions; `sharers` is the number of net tiles.
   */
  constructor(kernel: NeighborKernel, { counters, random, seed, sharers }: {
    readonly counters: Float64Array;
    readonly seed: number;
    readonly sharers: number;
    random(): number;
  }) {
    this.#kernel = kernel;
    this.#counters = counters;
    this.#random = random;
    this.#sharers = sharers;
    this.#pending = new NeighborMap(seed);
    const less = Math.ceil(Math.log2(sharers));
    this.#demand = new DemandCounter({ sizeLog2: Math.max(10, DEMAND_LOG2 - less), seed });
    this.#backOff = new BackOff({ most: Math.ceil(MOST_BACKING_OFF / sharers), seed });
    this.setTable({ others: 0, capacity: DEFAULT_CAPACITY });
  }

  get outstanding(): number {
    return this.#outstanding.size;
  }

  get busy(): boolean {
    return this.#outstanding.size > 0 || this.#queue.length > 0;
  }

  /** Sets the size of the kernel's table (gc_thresh3), and the number of its entries not caused by Tegula. */
  setTable({ others, capacity }: { others: number; capacity: number }): void {
    this.#room = Math.floor((capacity / 2 - others) / this.#sharers);
    this.#mostOutstanding = Math.floor(capacity / 4 / this.#sharers);
    this.#beyond = 0;
  }

  /** Confirms a known neighbour that is in use. */
  confirm(ifindex: number, address: number, now: number): void {
    if (this.#backOff.isActive(ifindex, address, now)) {
      this.#counters[NETLINK.index.solicit_drop_duplicate]++;
      return;
    }
    this.#backOff.set(ifindex, address, { until: now + CONFIRM_MILLIS, failures: 0 });
    this.#solicit(ifindex, address);
  }

  resolve(
    { ifindex, address, isGateway }: nl.NeighborKey & { readonly isGateway: boolean },
    now: number,
  ): void {
    this.#demand.clock(now);
    const demand = this.#demand.count(ifindex, address);
    const rank = isGateway ? GATEWAY : demand;
    // Most addresses of a flood are dropped here.
    if (this.#queue.length === MOST_QUEUED && rank <= this.#queue[MOST_QUEUED - 1].rank) {
      this.#counters[NETLINK.index.solicit_drop_rate_limited]++;
      return;
    }
    const pending = this.#pending.get(ifindex, address);
    if (pending !== undefined) {
      if (rank > pending.rank) this.#raise(pending, rank);
      this.#counters[NETLINK.index.solicit_drop_duplicate]++;
    } else if (this.#backOff.isActive(ifindex, address, now)) {
      this.#counters[NETLINK.index.solicit_drop_duplicate]++;
    } else {
      if (this.#queue.length === MOST_QUEUED) this.#drop(MOST_QUEUED - 1);
      const added = { ifindex, address, rank, since: now };
      this.#enqueue(added);
      this.#pending.set(ifindex, address, added);
    }
  }

  #enqueue(pending: Pending): void {
    const behind = this.#queue.findIndex(({ rank }) => rank < pending.rank);
    this.#queue.splice(behind < 0 ? this.#queue.length : behind, 0, pending);
  }

  #raise(pending: Pending, rank: number): void {
    pending.rank = rank;
    if (this.#outstanding.has(pending)) return;
    this.#queue.splice(this.#queue.indexOf(pending), 1);
    this.#enqueue(pending);
  }

  #drop(index: number): void {
    const [{ ifindex, address }] = this.#queue.splice(index, 1);
    this.#pending.delete(ifindex, address);
    this.#counters[NETLINK.index.solicit_drop_rate_limited]++;
  }

  /** Gives up addresses that do not answer, solicits queued ones within the limits, and returns how many. */
  turn(now: number): number {
    this.#tokens = Math.min(BURST, this.#tokens + (now - this.#refilledAt) * this.#rate);
    this.#refilledAt = now;
    let solicited = 0;
    // Some time out although no other address waits for room.
    for (const pending of this.#outstanding) {
      if (now - pending.since <= ANSWER_MILLIS) break;
      this.#fail(pending, now);
    }
    for (let i = this.#queue.length - 1; i >= 0; i--) {
      if (now - this.#queue[i].since > PATIENCE_MILLIS) this.#drop(i);
    }
    while (this.#queue.length > 0 && this.#tokens >= 1 && this.#hasRoom(this.#queue[0].rank, now)) {
      solicited += this.#solicitUnknown(this.#queue.shift()!, now);
    }
    return solicited;
  }

  /** Whether one more of `rank` may be solicited. Gives up old ones to make room. */
  #hasRoom(rank: number, now: number): boolean {
    const most = this.#most(rank);
    if (most < 1) return rank >= IN_DEMAND && this.#beyond++ === 0;
    while (this.#outstanding.size >= most) {
      const [oldest] = this.#outstanding;
      if (now - oldest.since < HURRIED_MILLIS) return false;
      this.#kernel.release(oldest.ifindex, oldest.address);
      this.#fail(oldest, now);
    }
    return true;
  }

  /** How many may be unanswered for one more of `rank` to be solicited. */
  #most(rank: number): number {
    const most = Math.min(this.#mostOutstanding, this.#room);
    if (rank === GATEWAY) return Math.max(LEAST_OUTSTANDING, most);
    return most * (rank >= IN_DEMAND ? IN_DEMAND_SHARE : ONCE_SHARE);
  }

  get #rate(): number {
    return RATE / 1000 / this.#sharers;
  }

  #solicitUnknown(pending: Pending, now: number): number {
    if (!this.#solicit(pending.ifindex, pending.address)) {
      this.#fail(pending, now);
      return 0;
    }
    pending.since = now;
    this.#outstanding.add(pending);
    this.#tokens--;
    return 1;
  }

  #solicit(ifindex: number, address: number): boolean {
    const sent = this.#kernel.solicit(ifindex, address);
    this.#counters[sent ? NETLINK.index.solicits_sent : NETLINK.index.solicit_drop_refused]++;
    return sent;
  }

  #fail(pending: Pending, now: number): void {
    const { ifindex, address } = pending;
    const failures = this.#backOff.failures(ifindex, address, now);
    const millis = Math.min(FIRST_BACK_OFF_MILLIS * 2 ** failures, MOST_BACK_OFF_MILLIS);
    const until = now + millis * (0.75 + this.#random() / 2);
    this.#backOff.set(ifindex, address, { until, failures: failures + 1 });
    this.#outstanding.delete(pending);
    this.#pending.delete(ifindex, address);
  }

  /** Called when the kernel reports a neighbour in a NUD_* state; NUD_NONE: it was removed. */
  neighborChanged(
    { ifindex, address, state }: nl.NeighborKey & { readonly state: number },
    now: number,
  ): void {
    const pending = this.#pending.get(ifindex, address);
    if ((state & NUD_VALID) !== 0) {
      this.#backOff.clear(ifindex, address);
      if (pending === undefined) return;
      this.#pending.delete(ifindex, address);
      if (this.#outstanding.delete(pending)) {
        this.#tokens = Math.min(BURST, this.#tokens + 1);
        this.#room--;
      } else this.#queue.splice(this.#queue.indexOf(pending), 1);
    } else if (pending !== undefined && this.#outstanding.has(pending)) {
      if (state === NUD_FAILED || state === NUD_NONE) this.#fail(pending, now);
      if (state === NUD_FAILED) this.#kernel.release(ifindex, address);
    }
  }

  /** Whole milliseconds until a queued address may be solicited; -1: none waits only for time. */
  nextDue(now: number): number {
    if (this.#queue.length === 0) return -1;
    if (this.#tokens < 1) return Math.ceil((1 - this.#tokens) / this.#rate);
    const [oldest] = this.#outstanding;
    // With a full table nothing can be given up, but its next size may allow more.
    const isFull = oldest === undefined || this.#most(this.#queue[0].rank) < 1;
    const due = isFull ? HURRIED_MILLIS : oldest.since + HURRIED_MILLIS - now;
    return Math.max(1, Math.ceil(due));
  }
}

/** A count covers the current window and the one before. */
const WINDOW_MILLIS = 500;
/** A cell contains the number of its last window, the count in that, and the count in the one before. */
const COUNT_BITS = 4;
const MOST_COUNT = (1 << COUNT_BITS) - 1;
const WINDOWS = 1 << (16 - 2 * COUNT_BITS);

/** Counts recent requests for each neighbour: a count-min sketch, as a flood exceeds any table. */
export class DemandCounter {
  readonly #rows: readonly [Uint16Array, Uint16Array];
  readonly #shift: number;
  readonly #key: HashKey;
  #window = 0;
  #windowEnd = 0;

  /** Two rows of 2^`sizeLog2` cells of two bytes. A random `seed` prevents chosen collisions. */
  constructor({ sizeLog2, seed }: { sizeLog2: number; seed: number }) {
    this.#rows = [new Uint16Array(1 << sizeLog2), new Uint16Array(1 << sizeLog2)];
    this.#shift = 32 - sizeLog2;
    this.#key = keyOf(seed, Use.demand);
  }

  /** Sets the time, monotonic milliseconds. */
  clock(now: number): void {
    if (now < this.#windowEnd) return;
    // After a pause of a whole window, older counts are void.
    const passed = now < this.#windowEnd + WINDOW_MILLIS ? 1 : 2;
    this.#window = (this.#window + passed) % WINDOWS;
    this.#windowEnd = now + WINDOW_MILLIS;
  }

  /** Counts a request, returns the recent count: never too low, up to a maximum; too high if cells are shared. */
  count(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    const mixed = hash(ifindex, address, add, first, second);
    const one = this.#add(this.#rows[0], mixed >>> this.#shift);
    const other = this.#add(this.#rows[1], Math.imul(mixed, 0x27d4eb2f) >>> this.#shift);
    return one < other ? one : other;
  }

  #add(row: Uint16Array, at: number): number {
    const cell = row[at];
    const age = (this.#window - (cell >>> 2 * COUNT_BITS)) & (WINDOWS - 1);
    // When a window has passed, the current window becomes the one before.
    const counts = age === 0 ? cell : age === 1 ? (cell & MOST_COUNT) << COUNT_BITS : 0;
    const now = Math.min(MOST_COUNT, (counts & MOST_COUNT) + 1);
    const before = (counts >>> COUNT_BITS) & MOST_COUNT;
    row[at] = this.#window << 2 * COUNT_BITS | before << COUNT_BITS | now;
    return now + before;
  }
}

/** How long after a back-off the failures are remembered. */
const REMEMBER_MILLIS = 10_000;

/** Neighbours not to be solicited before a time. If too many, all are forgotten, and some solicits are early. */
export class BackOff {
  readonly #entries: NeighborMap<{ readonly until: number; readonly failures: number }>;
  readonly #most: number;

  /** A random `seed` prevents chosen collisions. */
  constructor({ most, seed }: { most: number; seed: number }) {
    this.#entries = new NeighborMap(seed);
    this.#most = most;
  }

  isActive(ifindex: number, address: number, now: number): boolean {
    return (this.#entries.get(ifindex, address)?.until ?? 0) > now;
  }

  /** Consecutive failures, as far as remembered. */
  failures(ifindex: number, address: number, now: number): number {
    const { until, failures } = this.#entries.get(ifindex, address) ?? { until: 0, failures: 0 };
    return now - until <= REMEMBER_MILLIS ? failures : 0;
  }

  /** Sets a back-off until `until`, monotonic milliseconds. */
  set(ifindex: number, address: number, entry: { until: number; failures: number }): void {
    if (this.#entries.size === this.#most) this.#entries.clear();
    this.#entries.set(ifindex, address, entry);
  }

  clear(ifindex: number, address: number): void {
    this.#entries.delete(ifindex, address);
  }
}

/**
 * Makes the kernel resolve neighbours, by RTM_NEWNEIGH with NTF_USE. The kernel replies only with
 * errors: an entry to delete may already be gone. Replies are not read, and the kernel drops those that
 * exceed the socket's buffer. Addresses are in host order. Throws SystemError.
 */
export function neighborSocket(library: NetlinkLibrary) {
  const options = { groups: [], receiveBuffer: 0, strict: false, burst: 1 };
  const socket = new nl.NetlinkSocket(library, options);
  const writer = new nl.MessageWriter();
  const send = (type: Parameters<typeof nl.writeNeighbor>[1], neighbor: nl.NeighborKey) =>
    socket.send(writer.bytes, nl.writeNeighbor(writer, type, neighbor)) === 0;
  return {
    fd: socket.fd,
    /** Makes the kernel resolve or confirm a neighbour. False: it accepts no request now. */
    solicit: (ifindex: number, address: number) => send(nl.RTM_NEWNEIGH, { ifindex, address }),
    /** Removes an unanswered entry from the kernel's table. */
    release: (ifindex: number, address: number) => void send(nl.RTM_DELNEIGH, { ifindex, address }),
    close: () => socket.close(),
  };
}

/*
 * Keeps neighbours in use confirmed. The kernel ages an entry by its own use, and does not see ours: a
 * neighbour that Tegula answers all day would become STALE and be collected. So shortly before a
 * confirmation expires, and again when it has expired, the neighbour is marked "refresh wanted" in
 * netbase. The next net tile that sends to it writes it to its solicit link. The kernel counts the
 * solicit as a use, and confirms the neighbour itself. An unused neighbour is not solicited.
 *
 * No event reports how long a confirmation lasts, and how full the kernel's table is, which all
 * namespaces share. `neighborTablePoll` reads both periodically.
 */

/** How long a confirmation lasts on an interface, and the time before its end in which a use counts. */
type Times = Pick<nl.NeighborTableMessage, "reachableMillis" | "delayProbeMillis">;

/** The kernel's defaults (net/ipv4/arp.c), until its settings are read. */
const DEFAULT_TIMES: Times = { reachableMillis: 30_000, delayProbeMillis: 5_000 };
/** A use counts in the last DELAY_PROBE_TIME of a confirmation; the mark is set when this part of it is left. */
const LEAD = 0.6;
/** Deadlines are rounded up to a multiple of this, so that one check serves many. */
const GRID_MILLIS = 100;

export class NeighborAgeing {
  readonly #neighbors: NeighborWriter;
  readonly #times = new Map<number, Times>();
  #default = DEFAULT_TIMES;
  /** When to mark each REACHABLE neighbour, monotonic milliseconds. */
  readonly #deadlines = new NeighborMap<nl.NeighborKey & { readonly deadline: number }>();
  #next = Infinity;

  constructor(neighbors: NeighborWriter) {
    this.#neighbors = neighbors;
  }

  /** Sets the times of an interface; index 0: the default. */
  setTimes({ ifindex, ...times }: Times & { readonly ifindex: number }): void {
    if (times.reachableMillis === 0) return;
    if (ifindex === 0) this.#default = times;
    else this.#times.set(ifindex, times);
  }

  /** Forgets the times of all other interfaces, so that a reused index gets the default. */
  keepInterfaces(present: ReadonlySet<number>): void {
    for (const ifindex of this.#times.keys()) {
      if (!present.has(ifindex)) this.#times.delete(ifindex);
    }
  }

  neighborChanged(
    { ifindex, address, state, flags, confirmedMillis }: Omit<
      nl.NeighborMessage,
      "type" | "hasMac"
    >,
    now: number,
  ): void {
    // The control plane that keeps an entry has it resolved. A solicit from here would clear its mark.
    if ((flags & nl.NTF_KEPT) !== 0) {
      this.#deadlines.delete(ifindex, address);
    } else if (state === NUD_REACHABLE) {
      const { reachableMillis, delayProbeMillis } = this.#times.get(ifindex) ?? this.#default;
      const lead = Math.min(delayProbeMillis * LEAD, reachableMillis / 2);
      const left = reachableMillis - Math.max(0, confirmedMillis) - lead;
      const deadline = Math.ceil((now + Math.max(0, left)) / GRID_MILLIS) * GRID_MILLIS;
      this.#deadlines.set(ifindex, address, { ifindex, address, deadline });
      this.#next = Math.min(this.#next, deadline);
    } else {
      // In DELAY and PROBE the kernel confirms it; PERMANENT and NOARP never expire; NONE is gone.
      this.#deadlines.delete(ifindex, address);
      if (state === NUD_STALE) this.#neighbors.wantRefresh(ifindex, address);
    }
  }

  /** Milliseconds until the next neighbour may have to be marked; -1: none. */
  nextDue(now: number): number {
    return this.#next === Infinity ? -1 : Math.max(0, Math.ceil(this.#next - now));
  }

  /** Marks the neighbours that are due; returns how many. */
  turn(now: number): number {
    if (now < this.#next) return 0;
    let marked = 0;
    this.#next = Infinity;
    for (const { ifindex, address, deadline } of this.#deadlines.values()) {
      if (deadline > now) {
        this.#next = Math.min(this.#next, deadline);
      } else {
        this.#deadlines.delete(ifindex, address);
        if (this.#neighbors.wantRefresh(ifindex, address)) marked++;
      }
    }
    return marked;
  }
}

/** Milliseconds between two reads, while neighbours are solicited and otherwise. */
const BUSY_MILLIS = 500;
const QUIET_MILLIS = 10_000;

/** Begins to read the neighbour table's parameters, by a shared dumper, when it is time; `notify` gets each. */
export function neighborTablePoll(
  dumper: nl.Dumper,
  notify: (table: nl.NeighborTableMessage) => void,
): (now: number, options: { busy: boolean }) => void {
  let polledAt = -Infinity;
  return (now, { busy }) => {
    if (dumper.busy || now - polledAt < (busy ? BUSY_MILLIS : QUIET_MILLIS)) return;
    polledAt = now;
    dumper.dump(["neighborTables"], {
      reply(message) {
        const table = nl.decodeNeighborTable(message);
        if (table !== null) notify(table);
      },
      // The next read provides what an interrupted one lacks.
      done() {},
    });
  };
}

/** Maps `address` to another word, one to one: two rounds as in `hash`. */
export function scramble(address: number, { add, first, second }: HashKey): number {
  const mixed = Math.imul(address + add, first);
  const again = Math.imul(mixed ^ (mixed >>> 16), second);
  return again ^ (again >>> 16);
}

/**
 * A map from neighbours, each an interface and an IPv4 address on it. Strangers choose the addresses,
 * and V8's `Map` hashes numbers with a known function: each of ten thousand addresses chosen to collide
 * in one of its chains costs 10 to 40 µs. So the keys of this map are the addresses scrambled by a
 * secret key, which nobody can predict.
 *
 * Two maps deep: interface indices have up to 31 bits and addresses 32, which together exceed the exact
 * range of a number. Interfaces are few, and chosen by the administrator.
 */
export class NeighborMap<Value> {
  readonly #interfaces = new Map<number, Map<number, Value>>();
  readonly #key: HashKey;

  constructor(seed = randomSeed()) {
    this.#key = keyOf(seed, Use.neighborMap);
  }

  get size(): number {
    return this.#interfaces.values().reduce((sum, addresses) => sum + addresses.size, 0);
  }

  get(ifindex: number, address: number): Value | undefined {
    return this.#interfaces.get(ifindex)?.get(scramble(address, this.#key));
  }

  has(ifindex: number, address: number): boolean {
    return this.#interfaces.get(ifindex)?.has(scramble(address, this.#key)) === true;
  }

  set(ifindex: number, address: number, value: Value): void {
    const addresses = this.#interfaces.getOrInsertComputed(ifindex, () => new Map());
    addresses.set(scramble(address, this.#key), value);
  }

  delete(ifindex: number, address: number): boolean {
    const addresses = this.#interfaces.get(ifindex);
    if (addresses?.delete(scramble(address, this.#key)) !== true) return false;
    if (addresses.size === 0) this.#interfaces.delete(ifindex);
    return true;
  }

  /** All values. The current one may be deleted during the iteration. */
  *values(): IterableIterator<Value> {
    for (const addresses of this.#interfaces.values()) yield* addresses.values();
  }

  clear(): void {
    this.#interfaces.clear();
  }
}
