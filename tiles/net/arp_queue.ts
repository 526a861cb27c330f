/**
 * What happens to a datagram whose neighbour is unknown: it is put in the ARP queue, the neighbour
 * is asked for, and when netbase has it, or has another way for the datagram, it goes on; when its
 * time is over it is dropped.
 */

import { hash, type HashKey, keyOf, Use } from "../../netbase/hash.ts";
import { CaptureFlag } from "../runtime/capture_ring.ts";
import { NET } from "../runtime/counters.ts";
import { ARP_QUEUE_ENTRIES } from "../runtime/plan.ts";
import type { SolicitProducer } from "../runtime/solicit_link.ts";
import type { Capture } from "./capture.ts";
import { PAYLOAD_AT } from "./frame.ts";
import type { Umem } from "./rings.ts";
import {
  dropCounter,
  Entry,
  Outcome,
  Rank,
  type Resolver,
  type RouteCache,
  UNRESOLVED,
} from "./route_cache.ts";
import type { Dispatch } from "./rx.ts";
import type { SocketSender } from "./sockets.ts";
import { REFUSED, Row, ROW_WORDS, type TxWriter } from "./tx.ts";

/** Datagrams that wait, in all and per neighbour. */
export const ARP_QUEUE_LIMITS = {
  total: ARP_QUEUE_ENTRIES,
  perNeighbor: 16,
  perNeighborCrowded: 2,
} as const;
/** How long one waits: as long as the kernel probes before it gives a neighbour up. */
export const ARP_QUEUE_MILLIS = 3000;
/** After how long all that are waited for are asked for again: a solicit may have been lost. */
export const REMIND_MILLIS = 1000;

/** What datagrams are held with. */
export interface ArpQueueParts {
  readonly umem: Umem;
  readonly cache: RouteCache;
  readonly resolver: Resolver;
  readonly solicits: Solicits;
  readonly wire: TxWriter;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly capture: Capture;
  readonly counters: Float64Array;
  /** As in `QueueParts`. */
  random(): number;
  readonly seed: number;
}

/** Datagrams that wait for a neighbour, and their release. */
export class ArpQueue {
  readonly #parts: ArpQueueParts;
  readonly #queue: PacketQueues;
  readonly #row = new Int32Array(ROW_WORDS);
  readonly #keys = new Int32Array(2 * ARP_QUEUE_LIMITS.total);
  #now = 0;
  #remindAt = 0;

  constructor(parts: ArpQueueParts) {
    this.#parts = parts;
    this.#queue = new PacketQueues(ARP_QUEUE_LIMITS, {
      drop: (_frame, row) => this.#drop(row, NET.index.tx_drop_arp_queue_full),
      random: parts.random,
      seed: parts.seed,
    });
  }

  /** Datagrams that wait. */
  get count(): number {
    return this.#queue.count;
  }

  /**
   * Holds the datagram of `row`, whose payload is in place in its frame, for the neighbour that the
   * resolver just missed, and asks for that. Returns 0, or the number of the counter to move; the
   * frame is this queue's to free in any case.
   */
  hold(row: Int32Array): number {
    if (this.#queue.count === 0) this.#remindAt = this.#now + REMIND_MILLIS;
    if (this.#wait(row, this.#now + ARP_QUEUE_MILLIS)) {
      this.#parts.counters[NET.index.tx_queued]++;
      return 0;
    }
    // Counted, and shown, by the caller.
    this.#parts.umem.give(row[Row.frame]);
    return NET.index.tx_drop_arp_queue_full;
  }

  /** Lets go what waits for (ifindex, address), if it can go now. True when something waited. */
  release(ifindex: number, address: number): boolean {
    if (this.#queue.count === 0) return false;
    const { resolver, solicits } = this.#parts;
    const row = this.#row;
    let any = false;
    // Each turn takes one datagram out of this queue. Others may join or displace neighbours
    // meanwhile, so the queue is found anew.
    for (;;) {
      const neighbor = this.#queue.find(ifindex, address);
      if (neighbor < 0) return any;
      any = true;
      this.#queue.peek(neighbor, row);
      const e = resolver.resolve(row[Row.destination], row[Row.source], row[Row.ports]);
      if (
        e === UNRESOLVED && resolver.ifindex === ifindex && resolver.neighbor === address
      ) return any;
      solicits.forget(ifindex, address);
      const deadline = this.#queue.deadline(neighbor);
      this.#queue.shift(neighbor);
      if (e !== UNRESOLVED) this.#send(e);
      else if (!this.#wait(row, deadline)) this.#drop(row, NET.index.tx_drop_arp_queue_full);
    }
  }

  /** Lets go all that can go now. To be called when netbase changed, before anything newer is sent. */
  releaseAll(): void {
    if (this.#queue.count === 0) return;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) this.release(this.#keys[2 * i], this.#keys[2 * i + 1]);
  }

  /** Tells the time, monotonic milliseconds, and drops what waited too long. */
  clock(nowMillis: number): void {
    this.#now = nowMillis;
    if (this.#queue.count === 0) return;
    this.#expire(nowMillis);
    if (nowMillis >= this.#remindAt) this.#remind(nowMillis);
  }

  /** Drops everything: the tile stops. */
  clear(): void {
    this.#expire(Infinity);
  }

  /** Milliseconds from `nowMillis` until something is to be dropped or asked; -1: nothing waits. */
  nextDue(nowMillis: number): number {
    if (this.#queue.count === 0) return -1;
    let due = this.#remindAt - nowMillis;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      due = Math.min(due, this.#queue.deadline(neighbor) - nowMillis);
    }
    return Math.max(0, Math.ceil(due));
  }

  /** Asks once more for everybody who is waited for. */
  #remind(nowMillis: number): void {
    this.#remindAt = nowMillis + REMIND_MILLIS;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      this.#parts.solicits.ask(this.#keys[2 * i], this.#keys[2 * i + 1]);
    }
  }

  #expire(nowMillis: number): void {
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      let left = 1;
      while (left > 0 && this.#queue.deadline(neighbor) <= nowMillis) {
        this.#queue.peek(neighbor, this.#row);
        left = this.#queue.shift(neighbor);
        this.#drop(this.#row, NET.index.tx_drop_neighbor_unresolved);
      }
    }
  }

  /** Puts `row` in the queue of the neighbour that the resolver just missed, and asks for that. */
  #wait(row: Int32Array, deadline: number): boolean {
    const { resolver, solicits } = this.#parts;
    const { ifindex, neighbor, rank } = resolver;
    solicits.ask(ifindex, neighbor);
    return this.#queue.add(ifindex, neighbor, rank, { row, deadline });
  }

  /** Sends the row at hand as the entry at `e` says, or drops it. */
  #send(e: number): void {
    const { cache, wire } = this.#parts;
    const row = this.#row;
    const outcome = cache.words[e + Entry.outcome];
    if (outcome >= 0 && row[Row.length] <= (outcome & 0xffff)) {
      row[Row.entry] = e;
      if (wire.put(row, 1) > 0) this.#drop(row, REFUSED - row[Row.entry]);
    } else if (outcome >= 0 || outcome === Outcome.kernel) {
      this.#handOver(outcome >= 0 ? NET.index.tx_drop_exceeds_mtu : NET.index.tx_drop_no_socket);
    } else {
      this.#drop(row, dropCounter(outcome));
    }
  }

  /** Has the kernel send the row at hand, or drops it by `counter` where the port has no socket. */
  #handOver(counter: number): void {
    const { dispatch, sender, umem } = this.#parts;
    const row = this.#row;
    const fd = dispatch.fd(row[Row.ports] >>> 16);
    if (fd < 0) {
      this.#drop(row, counter);
      return;
    }
    sender.send(fd, umem.bytes, row[Row.frame] + PAYLOAD_AT, row);
    sender.flush();
    umem.give(row[Row.frame]);
  }

  /** Drops a datagram whose payload is in its frame. */
  #drop(row: Int32Array, counter: number): void {
    const { counters, capture, umem } = this.#parts;
    counters[counter]++;
    umem.give(row[Row.frame]);
    if (!capture.wanted) return;
    const payload = row[Row.frame] + PAYLOAD_AT;
    capture.datagram(CaptureFlag.out, counter, row, 0, umem.bytes, payload);
  }
}

/*
 * The ARP queue: datagrams whose neighbour is being resolved. They wait in frames of their own, in
 * order, for a bounded time, and go out when the neighbour resolves, so that the first answer to a
 * new peer is not lost.
 *
 * The queue is bounded per neighbour and in all. When it is full a newcomer displaces a neighbour of
 * its own rank or a lower one, picked at random, or else is refused. Ranks keep a flood of made-up
 * sources, each of which looks like a new peer, from crowding out those that are likely to resolve:
 * a gateway is named by a route, not by a packet, and whoever was asked for before, or is in the
 * kernel's table, is more than a number out of a flood.
 *
 * Here is only who waits for whom; frames are made in `detour.ts` and sent from `holding.ts`.
 */

/** Bounds of a ARP queue. */
export interface QueueLimits {
  /** Datagrams in all; also the most neighbours. */
  readonly total: number;
  /** Datagrams of one neighbour; a gateway, which stands for many peers, may have half of all. */
  readonly perNeighbor: number;
  /** Datagrams of one neighbour while the queue is more than half full. */
  readonly perNeighborCrowded: number;
}

/** What a ARP queue works with. */
export interface QueueParts {
  /** Called with the frame and the row of each datagram that is displaced. */
  drop(frame: number, row: Int32Array): void;
  /** From 0 to below 1. */
  random(): number;
  /** Random: nobody is to choose addresses that meet in one bucket. */
  readonly seed: number;
}

const NONE = -1;
const RANKS = 3;

/** Who waits for whom. Neighbours and datagrams are small numbers into fixed arrays. */
export class PacketQueues {
  readonly #limits: QueueLimits;
  readonly #drop: QueueParts["drop"];
  readonly #random: QueueParts["random"];
  readonly #key: HashKey;
  readonly #displaced = new Int32Array(ROW_WORDS);

  // Datagrams: rows, when they are let go, and the next in the same queue or on the free list.
  readonly #held: Int32Array;
  readonly #deadline: Float64Array;
  readonly #next: Int32Array;
  #freeHeld = 0;
  #count = 0;

  // Neighbours: key, queue, rank, hash chain, and where they stand in their rank's list.
  readonly #ifindex: Int32Array;
  readonly #address: Int32Array;
  readonly #first: Int32Array;
  readonly #last: Int32Array;
  readonly #waiting: Int32Array;
  readonly #rank: Int32Array;
  readonly #chain: Int32Array;
  readonly #place: Int32Array;
  readonly #buckets: Int32Array;
  readonly #ranked: readonly Int32Array[];
  readonly #rankedCount = new Int32Array(RANKS);
  #freeNeighbor = 0;

  constructor(limits: QueueLimits, { drop, random, seed }: QueueParts) {
    const { total } = limits;
    this.#limits = limits;
    this.#drop = drop;
    this.#random = random;
    this.#key = keyOf(seed, Use.arpQueue);
    this.#held = new Int32Array(total * ROW_WORDS);
    this.#deadline = new Float64Array(total);
    this.#next = freeList(total);
    this.#ifindex = new Int32Array(total);
    this.#address = new Int32Array(total);
    this.#first = new Int32Array(total);
    this.#last = new Int32Array(total);
    this.#waiting = new Int32Array(total);
    this.#rank = new Int32Array(total);
    this.#chain = freeList(total);
    this.#place = new Int32Array(total);
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(total))).fill(NONE);
    this.#ranked = Array.from({ length: RANKS }, () => new Int32Array(total));
  }

  /** Datagrams that wait. */
  get count(): number {
    return this.#count;
  }

  /** The neighbour that datagrams for (ifindex, address) wait for, -1 when none do. */
  find(ifindex: number, address: number): number {
    let neighbor = this.#buckets[this.#bucket(ifindex, address)];
    while (
      neighbor !== NONE &&
      (this.#address[neighbor] !== address || this.#ifindex[neighbor] !== ifindex)
    ) neighbor = this.#chain[neighbor];
    return neighbor;
  }

  /**
   * Puts the datagram of `row` at the end of the queue for (ifindex, address), until `deadline`
   * (monotonic milliseconds). False when there is no room for it; its frame is then still the
   * caller's.
   */
  add(
    ifindex: number,
    address: number,
    rank: number,
    { row, deadline }: { row: Int32Array; deadline: number },
  ): boolean {
    let neighbor = this.find(ifindex, address);
    // Who is asked for again while the first still waits is a stranger no more.
    if (neighbor !== NONE && rank > this.#rank[neighbor]) this.#raise(neighbor, rank);
    if (neighbor !== NONE && this.#waiting[neighbor] >= this.#most(this.#rank[neighbor])) {
      return false;
    }
    if (this.#freeHeld === NONE && !this.#displace(rank, neighbor)) return false;
    if (neighbor === NONE) neighbor = this.#open(ifindex, address, rank);

    const at = this.#freeHeld;
    this.#freeHeld = this.#next[at];
    for (let word = 0; word < ROW_WORDS; word++) this.#held[at * ROW_WORDS + word] = row[word];
    this.#deadline[at] = deadline;
    this.#next[at] = NONE;
    if (this.#waiting[neighbor] === 0) this.#first[neighbor] = at;
    else this.#next[this.#last[neighbor]] = at;
    this.#last[neighbor] = at;
    this.#waiting[neighbor]++;
    this.#count++;
    return true;
  }

  /** Reads the first datagram of `neighbor` into `row`; it stays in the queue. */
  peek(neighbor: number, row: Int32Array): void {
    const at = this.#first[neighbor] * ROW_WORDS;
    for (let word = 0; word < ROW_WORDS; word++) row[word] = this.#held[at + word];
  }

  /**
   * Takes the first datagram of `neighbor` out of the queue; its frame is the caller's. Returns how
   * many still wait there. With the last one the neighbour's number is void.
   */
  shift(neighbor: number): number {
    const at = this.#first[neighbor];
    this.#first[neighbor] = this.#next[at];
    this.#next[at] = this.#freeHeld;
    this.#freeHeld = at;
    this.#count--;
    const left = --this.#waiting[neighbor];
    if (left === 0) this.#close(neighbor);
    return left;
  }

  /**
   * Writes all neighbours that are waited for into `out`, ifindex and address of each, the highest
   * rank first, and returns how many. Room for `2 * total` words.
   */
  keys(out: Int32Array): number {
    let count = 0;
    for (let rank = RANKS - 1; rank >= 0; rank--) {
      const ranked = this.#ranked[rank];
      for (let i = 0; i < this.#rankedCount[rank]; i++) {
        out[2 * count] = this.#ifindex[ranked[i]];
        out[2 * count + 1] = this.#address[ranked[i]];
        count++;
      }
    }
    return count;
  }

  /** When the first datagram of `neighbor` is let go. */
  deadline(neighbor: number): number {
    return this.#deadline[this.#first[neighbor]];
  }

  #most(rank: number): number {
    const { total, perNeighbor, perNeighborCrowded } = this.#limits;
    if (rank === Rank.gateway) return total >>> 1;
    return this.#count * 2 > total ? perNeighborCrowded : perNeighbor;
  }

  /** Makes room by dropping all of a neighbour of at most `rank`, but not of `spared`. */
  #displace(rank: number, spared: number): boolean {
    for (let lowest = 0; lowest <= rank; lowest++) {
      const count = this.#rankedCount[lowest];
      if (count === 0) continue;
      const victim = this.#ranked[lowest][Math.floor(this.#random() * count)];
      if (victim === spared) return false;
      for (let left = this.#waiting[victim]; left > 0; left--) {
        this.peek(victim, this.#displaced);
        this.shift(victim);
        this.#drop(this.#displaced[Row.frame], this.#displaced);
      }
      return true;
    }
    return false;
  }

  #open(ifindex: number, address: number, rank: number): number {
    const neighbor = this.#freeNeighbor;
    this.#freeNeighbor = this.#chain[neighbor];
    const bucket = this.#bucket(ifindex, address);
    this.#ifindex[neighbor] = ifindex;
    this.#address[neighbor] = address;
    this.#waiting[neighbor] = 0;
    this.#chain[neighbor] = this.#buckets[bucket];
    this.#buckets[bucket] = neighbor;
    this.#enlist(neighbor, rank);
    return neighbor;
  }

  #close(neighbor: number): void {
    const bucket = this.#bucket(this.#ifindex[neighbor], this.#address[neighbor]);
    if (this.#buckets[bucket] === neighbor) this.#buckets[bucket] = this.#chain[neighbor];
    else {
      let before = this.#buckets[bucket];
      while (this.#chain[before] !== neighbor) before = this.#chain[before];
      this.#chain[before] = this.#chain[neighbor];
    }
    this.#chain[neighbor] = this.#freeNeighbor;
    this.#freeNeighbor = neighbor;
    this.#strike(neighbor);
  }

  #raise(neighbor: number, rank: number): void {
    this.#strike(neighbor);
    this.#enlist(neighbor, rank);
  }

  /** Puts a neighbour on the list of its rank. */
  #enlist(neighbor: number, rank: number): void {
    this.#rank[neighbor] = rank;
    this.#place[neighbor] = this.#rankedCount[rank]++;
    this.#ranked[rank][this.#place[neighbor]] = neighbor;
  }

  /** Takes it off again. */
  #strike(neighbor: number): void {
    const rank = this.#rank[neighbor];
    const moved = this.#ranked[rank][--this.#rankedCount[rank]];
    this.#ranked[rank][this.#place[neighbor]] = moved;
    this.#place[moved] = this.#place[neighbor];
  }

  #bucket(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    return hash(ifindex, address, add, first, second) & (this.#buckets.length - 1);
  }
}

/** Links of a list that holds 0 to `length` − 1, beginning with 0. */
function freeList(length: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => i + 1 < length ? i + 1 : NONE);
}

/*
 * Asking for neighbours: the net tile's end of the solicit link, and what it remembers of whom it
 * asked for. Asking for the same one again within a moment says nothing new and is left out; that an
 * address was asked for some time ago is remembered, since it sets apart a peer that tries again from
 * one of a flood of made-up addresses.
 */

/** Milliseconds for which a neighbour is not asked for again. */
export const ASK_AGAIN_MILLIS = 100;
/** Neighbours that this is remembered of; others push them out, which only costs a message. */
const RECENT = 1024;
/** Milliseconds after which the older half of what was asked for is forgotten. */
const WINDOW_MILLIS = 2000;
/** Bits of a window: at some ten thousand different addresses in one, few strangers pass for known. */
const WINDOW_BITS = 1 << 18;

/** What a net tile asks the netlink tile for. */
export class Solicits {
  readonly #link: SolicitProducer;
  readonly #counters: Float64Array;
  readonly #key: HashKey;
  readonly #ifindex = new Int32Array(RECENT);
  readonly #address = new Int32Array(RECENT);
  readonly #asked = new Float64Array(RECENT).fill(-Infinity);
  /** Bloom filters of one hash each: what was asked for in this window, and in the one before. */
  #window = new Int32Array(WINDOW_BITS >>> 5);
  #before = new Int32Array(WINDOW_BITS >>> 5);
  #windowEnd = 0;
  #now = 0;

  /** `seed`, random, keeps others from choosing whom they are taken for. */
  constructor(
    link: SolicitProducer,
    { counters, seed }: { counters: Float64Array; seed: number },
  ) {
    this.#link = link;
    this.#counters = counters;
    this.#key = keyOf(seed, Use.solicits);
  }

  /** Tells the time, monotonic milliseconds. */
  clock(nowMillis: number): void {
    this.#now = nowMillis;
    if (nowMillis < this.#windowEnd) return;
    const oldest = this.#before;
    this.#before = this.#window;
    this.#window = oldest.fill(0);
    // After a long silence both windows are history.
    if (nowMillis >= this.#windowEnd + WINDOW_MILLIS) this.#before.fill(0);
    this.#windowEnd = nowMillis + WINDOW_MILLIS;
  }

  /** Whether this neighbour was asked for lately. May be wrong about one in some. */
  askedBefore(ifindex: number, address: number): boolean {
    const bit = this.#hash(ifindex, address) & (WINDOW_BITS - 1);
    return (((this.#window[bit >>> 5] | this.#before[bit >>> 5]) >>> (bit & 31)) & 1) === 1;
  }

  /** Asks for the neighbour `address` (host order) on `ifindex`, unless that was done just now. */
  ask(ifindex: number, address: number): void {
    const mixed = this.#hash(ifindex, address);
    const at = mixed >>> 22;
    if (
      this.#address[at] === address && this.#ifindex[at] === ifindex &&
      this.#now < this.#asked[at] + ASK_AGAIN_MILLIS
    ) return;
    this.#address[at] = address;
    this.#ifindex[at] = ifindex;
    this.#asked[at] = this.#now;
    const bit = mixed & (WINDOW_BITS - 1);
    this.#window[bit >>> 5] |= 1 << (bit & 31);
    this.#link.push(ifindex, address);
    this.#counters[NET.index.solicits]++;
  }

  /** (ifindex, address) is known now; should it be lost again at once, it may be asked for again. */
  forget(ifindex: number, address: number): void {
    const at = this.#hash(ifindex, address) >>> 22;
    if (this.#address[at] !== address || this.#ifindex[at] !== ifindex) return;
    this.#asked[at] = -Infinity;
  }

  /** Publishes what was asked for; false when there was nothing. */
  publish(): boolean {
    return this.#link.publish();
  }

  #hash(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    return hash(ifindex, address, add, first, second);
  }
}
