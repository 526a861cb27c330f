// SPDX-License-Identifier: Apache-2.0
/**
 * The ARP queue: packets whose neighbour is being resolved. They wait in their own frames, in order,
 * for a bounded time, and are sent when the neighbour resolves. So the first answer to a new peer is
 * not lost.
 *
 * The queue is bounded per neighbour and in total. When it is full, a new packet displaces a random
 * neighbour of the same or a lower rank, or is refused. Ranks keep a flood of made-up sources, each of
 * which looks like a new peer, from displacing neighbours that are likely to resolve: gateways, which
 * come from routes and not from packets, and addresses that were requested before or are in the
 * kernel's table.
 */

import { u32, type View } from "../../ffi/region.ts";
import { hash, type HashKey, keyOf, Use } from "../../netbase/hash.ts";
import { fence } from "../../netbase/rcu.ts";
import { NET } from "../runtime/counters.ts";
import { ARP_QUEUE_ENTRIES } from "../runtime/plan.ts";
import { PACKET_WORDS } from "./rings.ts";

/** How likely a neighbour is to be real, lowest first. */
export const Rank = { stranger: 0, acquainted: 1, gateway: 2 } as const;
const RANKS = 3;

export interface ArpQueueLimits {
  /** Packets in total; also the most neighbours. */
  readonly total: number;
  /** Packets of one neighbour. A gateway, which serves many peers, may have half of the total. */
  readonly perNeighbor: number;
  /** Packets of one neighbour while the queue is more than half full. */
  readonly perNeighborCrowded: number;
}

/** The bounds of a net tile's queue. */
export const ARP_QUEUE_LIMITS: ArpQueueLimits = {
  ...{ total: ARP_QUEUE_ENTRIES, perNeighbor: 16, perNeighborCrowded: 2 },
};
/** How long a packet waits: as long as the kernel probes before it declares a neighbour failed. */
export const ARP_QUEUE_MILLIS = 3000;
/** When to request neighbours with waiting packets again: a solicit may have been lost. */
export const REMIND_MILLIS = 1000;

const NONE = -1;

/** Packets that wait for a neighbour. Neighbours and packets are small numbers into fixed arrays. */
export class ArpQueue {
  readonly #limits: ArpQueueLimits;
  readonly #solicits: Pick<Solicits, "ask">;
  readonly #drop: (packet: Int32Array, counter: number) => void;
  readonly #random: () => number;
  readonly #key: HashKey;
  readonly #dropped = new Int32Array(PACKET_WORDS);
  /** The output of `neighbors`. */
  readonly #waitedFor: Int32Array;
  #now = 0;
  #remindAt = 0;

  // Packets: descriptions, when they expire, and the next in the same queue or on the free list.
  readonly #packets: Int32Array;
  readonly #deadline: Float64Array;
  readonly #next: Int32Array;
  #freePacket = 0;
  #count = 0;

  // Neighbours: key, queue, rank, hash chain, and where they are in their rank's list.
  readonly #ifindex: Int32Array;
  readonly #address: Int32Array;
  readonly #first: Int32Array;
  readonly #last: Int32Array;
  readonly #waiting: Int32Array;
  readonly #rank: Int32Array;
  readonly #chain: Int32Array;
  readonly #slot: Int32Array;
  readonly #buckets: Int32Array;
  readonly #ranked: readonly Int32Array[];
  readonly #rankedCount = new Int32Array(RANKS);
  #freeNeighbor = 0;

  /**
   * Calls `drop` with each packet that is displaced or expires, and the counter to increment. `random`
   * returns a number from 0 to below 1. `seed`, random, prevents chosen addresses from sharing a bucket.
   */
  constructor(limits: ArpQueueLimits, { solicits, drop, random, seed }: {
    solicits: Pick<Solicits, "ask">;
    drop: (packet: Int32Array, counter: number) => void;
    random: () => number;
    seed: number;
  }) {
    const { total } = limits;
    this.#limits = limits;
    this.#solicits = solicits;
    this.#drop = drop;
    this.#random = random;
    this.#key = keyOf(seed, Use.arpQueue);
    this.#waitedFor = new Int32Array(2 * total);
    this.#packets = new Int32Array(total * PACKET_WORDS);
    this.#deadline = new Float64Array(total);
    this.#next = freeList(total);
    this.#ifindex = new Int32Array(total);
    this.#address = new Int32Array(total);
    this.#first = new Int32Array(total);
    this.#last = new Int32Array(total);
    this.#waiting = new Int32Array(total);
    this.#rank = new Int32Array(total);
    this.#chain = freeList(total);
    this.#slot = new Int32Array(total);
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(total))).fill(NONE);
    this.#ranked = Array.from({ length: RANKS }, () => new Int32Array(total));
  }

  /** The number of waiting packets. */
  get count(): number {
    return this.#count;
  }

  /** The neighbour for which packets to (ifindex, address) wait; -1: none. */
  find(ifindex: number, address: number): number {
    let neighbor = this.#buckets[this.#bucket(ifindex, address)];
    while (
      neighbor !== NONE &&
      (this.#address[neighbor] !== address || this.#ifindex[neighbor] !== ifindex)
    ) neighbor = this.#chain[neighbor];
    return neighbor;
  }

  /**
   * Appends `packet` to the queue of a neighbour until `deadline` (monotonic milliseconds), and
   * requests the neighbour. False: there is no room, and the caller still owns the frame.
   */
  add(
    { ifindex, neighbor: address, rank }: { ifindex: number; neighbor: number; rank: number },
    packet: Int32Array,
    deadline: number = this.#now + ARP_QUEUE_MILLIS,
  ): boolean {
    if (this.#count === 0) this.#remindAt = this.#now + REMIND_MILLIS;
    this.#solicits.ask(ifindex, address);
    let neighbor = this.find(ifindex, address);
    // An address that is requested again while its first packet waits is no longer a stranger.
    if (neighbor !== NONE && rank > this.#rank[neighbor]) {
      this.#strike(neighbor);
      this.#enlist(neighbor, rank);
    }
    if (neighbor !== NONE && this.#waiting[neighbor] >= this.#most(this.#rank[neighbor])) {
      return false;
    }
    if (this.#freePacket === NONE && !this.#displace(rank, neighbor)) return false;
    if (neighbor === NONE) neighbor = this.#open(ifindex, address, rank);

    const at = this.#freePacket;
    this.#freePacket = this.#next[at];
    this.#packets.set(packet, at * PACKET_WORDS);
    this.#deadline[at] = deadline;
    this.#next[at] = NONE;
    if (this.#waiting[neighbor] === 0) this.#first[neighbor] = at;
    else this.#next[this.#last[neighbor]] = at;
    this.#last[neighbor] = at;
    this.#waiting[neighbor]++;
    this.#count++;
    return true;
  }

  /** Reads the first packet of `neighbor` into `packet`; it stays in the queue. Returns its deadline. */
  peek(neighbor: number, packet: Int32Array): number {
    const at = this.#first[neighbor];
    for (let i = 0; i < PACKET_WORDS; i++) packet[i] = this.#packets[at * PACKET_WORDS + i];
    return this.#deadline[at];
  }

  /**
   * Removes the first packet from the queue of `neighbor`; the caller now owns its frame. Returns how
   * many remain. After the last one the neighbour's number is invalid.
   */
  shift(neighbor: number): number {
    const at = this.#first[neighbor];
    this.#first[neighbor] = this.#next[at];
    this.#next[at] = this.#freePacket;
    this.#freePacket = at;
    this.#count--;
    const left = --this.#waiting[neighbor];
    if (left === 0) this.#close(neighbor);
    return left;
  }

  /**
   * Writes interface and address of each neighbour with waiting packets into `out`, the highest rank
   * first, and returns how many. `out` has room for `2 * total` words.
   */
  neighbors(out: Int32Array): number {
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

  /** Sets the time, monotonic milliseconds, drops expired packets, and requests the other neighbours again. */
  clock(nowMillis: number): void {
    this.#now = nowMillis;
    if (this.#count === 0) return;
    this.#expire(nowMillis);
    if (nowMillis >= this.#remindAt) this.#remind(nowMillis);
  }

  /** Drops everything, when the tile stops. */
  clear(): void {
    this.#expire(Infinity);
  }

  /** Milliseconds from `nowMillis` until the next drop or request; -1: nothing waits. */
  nextDue(nowMillis: number): number {
    if (this.#count === 0) return -1;
    let due = this.#remindAt;
    for (let rank = 0; rank < RANKS; rank++) {
      for (let i = 0; i < this.#rankedCount[rank]; i++) {
        due = Math.min(due, this.#deadline[this.#first[this.#ranked[rank][i]]]);
      }
    }
    return Math.max(0, Math.ceil(due - nowMillis));
  }

  #remind(nowMillis: number): void {
    this.#remindAt = nowMillis + REMIND_MILLIS;
    const waiting = this.#waitedFor;
    const count = this.neighbors(waiting);
    for (let i = 0; i < count; i++) this.#solicits.ask(waiting[2 * i], waiting[2 * i + 1]);
  }

  #expire(nowMillis: number): void {
    const waiting = this.#waitedFor;
    const count = this.neighbors(waiting);
    for (let i = 0; i < count; i++) {
      const neighbor = this.find(waiting[2 * i], waiting[2 * i + 1]);
      let left = 1;
      while (left > 0 && this.#deadline[this.#first[neighbor]] <= nowMillis) {
        left = this.#dropFirst(neighbor, NET.index.tx_drop_neighbor_unresolved);
      }
    }
  }

  /** Drops the first packet of `neighbor` and returns how many remain. */
  #dropFirst(neighbor: number, counter: number): number {
    this.peek(neighbor, this.#dropped);
    const left = this.shift(neighbor);
    this.#drop(this.#dropped, counter);
    return left;
  }

  #most(rank: number): number {
    const { total, perNeighbor, perNeighborCrowded } = this.#limits;
    if (rank === Rank.gateway) return total >>> 1;
    return this.#count * 2 > total ? perNeighborCrowded : perNeighbor;
  }

  /** Makes room by dropping all packets of one neighbour of at most `rank`, but not of `spared`. */
  #displace(rank: number, spared: number): boolean {
    for (let lowest = 0; lowest <= rank; lowest++) {
      const count = this.#rankedCount[lowest];
      if (count === 0) continue;
      const victim = this.#ranked[lowest][Math.floor(this.#random() * count)];
      if (victim === spared) return false;
      while (this.#dropFirst(victim, NET.index.tx_drop_arp_queue_full) > 0);
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

  /** Adds a neighbour to the list of its rank. */
  #enlist(neighbor: number, rank: number): void {
    this.#rank[neighbor] = rank;
    this.#slot[neighbor] = this.#rankedCount[rank]++;
    this.#ranked[rank][this.#slot[neighbor]] = neighbor;
  }

  /** Removes a neighbour from the list of its rank. */
  #strike(neighbor: number): void {
    const rank = this.#rank[neighbor];
    const moved = this.#ranked[rank][--this.#rankedCount[rank]];
    this.#ranked[rank][this.#slot[neighbor]] = moved;
    this.#slot[moved] = this.#slot[neighbor];
  }

  #bucket(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    return hash(ifindex, address, add, first, second) & (this.#buckets.length - 1);
  }
}

/** A linked list of 0 to `length` − 1, in that order. */
function freeList(length: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => i + 1 < length ? i + 1 : NONE);
}

/** Milliseconds before a neighbour is requested again. */
export const ASK_AGAIN_MILLIS = 100;
/** Recently requested neighbours that are remembered. Evicting one only costs a message. */
const RECENT = 1024;
/** Milliseconds after which the older half of the requested addresses is forgotten. */
const WINDOW_MILLIS = 2000;
/** Bits of a window: with ten thousand addresses in it, false positives are rare. */
const WINDOW_BITS = 1 << 18;

/**
 * The net tile's end of the solicit link. It skips a neighbour that was requested a moment ago. For
 * longer it remembers that an address was requested, which distinguishes a peer that tries again from a
 * flood of made-up addresses.
 */
export class Solicits {
  readonly #link: SolicitProducer;
  readonly #counters: Float64Array;
  readonly #key: HashKey;
  readonly #ifindex = new Int32Array(RECENT);
  readonly #address = new Int32Array(RECENT);
  readonly #asked = new Float64Array(RECENT).fill(-Infinity);
  /** Bloom filters of one hash each: addresses requested in this window, and in the one before. */
  #window = new Int32Array(WINDOW_BITS >>> 5);
  #before = new Int32Array(WINDOW_BITS >>> 5);
  #windowEnd = 0;
  #now = 0;

  /** `seed`, random, prevents chosen addresses from colliding. */
  constructor(
    link: SolicitProducer,
    { counters, seed }: { counters: Float64Array; seed: number },
  ) {
    this.#link = link;
    this.#counters = counters;
    this.#key = keyOf(seed, Use.solicits);
  }

  /** Sets the time, monotonic milliseconds. */
  clock(nowMillis: number): void {
    this.#now = nowMillis;
    if (nowMillis < this.#windowEnd) return;
    const oldest = this.#before;
    this.#before = this.#window;
    this.#window = oldest.fill(0);
    // After a long pause both windows are out of date.
    if (nowMillis >= this.#windowEnd + WINDOW_MILLIS) this.#before.fill(0);
    this.#windowEnd = nowMillis + WINDOW_MILLIS;
  }

  /** Whether this neighbour was requested lately. False positives, by the same hash, are rare. */
  askedBefore(ifindex: number, address: number): boolean {
    const bit = this.#hash(ifindex, address) & (WINDOW_BITS - 1);
    return (((this.#window[bit >>> 5] | this.#before[bit >>> 5]) >>> (bit & 31)) & 1) === 1;
  }

  /** Requests the neighbour `address` (host order) on `ifindex`, unless it was requested just now. */
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

  /**
   * Forgets that (ifindex, address) was requested, because it is now known. If it is lost at once, it
   * is requested again.
   */
  forget(ifindex: number, address: number): void {
    const at = this.#hash(ifindex, address) >>> 22;
    if (this.#address[at] !== address || this.#ifindex[at] !== ifindex) return;
    this.#asked[at] = -Infinity;
  }

  /** Publishes the requests; false: there were none. */
  publish(): boolean {
    return this.#link.publish();
  }

  #hash(ifindex: number, address: number): number {
    const { add, first, second } = this.#key;
    return hash(ifindex, address, add, first, second);
  }
}

// The solicit link: a net tile's only way to send a request. A message is two words, interface index and
// IPv4 address (host order), and nothing else, because this is the only path from untrusted traffic into
// the netlink tile. Only the net tile writes the ring. It never waits, and overwrites the oldest message.
// As a message may be overwritten while it is read, the reader copies it and then reads the cursor again.

/**
 * Messages that fit, a power of two: enough for a flood of ten million a second while the netlink tile
 * waits some milliseconds for a processor.
 */
export const SOLICIT_DEPTH = 65_536;

/** The number of the oldest messages that are unsafe: the producer may overwrite them before it publishes. */
const UNSAFE = SOLICIT_DEPTH >>> 2;

const PRODUCED = 0;
const MESSAGES_AT = 16;
export const SOLICIT_LINK_BYTES = Math.ceil((MESSAGES_AT + SOLICIT_DEPTH * 2) * 4 / 4096) * 4096;

/** The net tile's end. */
export class SolicitProducer {
  readonly #words: Uint32Array;
  #head: number;

  constructor(own: View) {
    this.#words = u32(own);
    this.#head = this.#words[PRODUCED];
  }

  /** Requests the neighbour `address` (host order) on `ifindex`, with the next publish. */
  push(ifindex: number, address: number): void {
    const at = MESSAGES_AT + (this.#head & (SOLICIT_DEPTH - 1)) * 2;
    this.#words[at] = ifindex;
    this.#words[at + 1] = address;
    this.#head = (this.#head + 1) >>> 0;
  }

  /** Publishes what was pushed by one store; false: nothing was pushed. */
  publish(): boolean {
    if (this.#words[PRODUCED] === this.#head) return false;
    Atomics.store(this.#words, PRODUCED, this.#head);
    // Later pushes must not become visible before the cursor.
    fence(this.#words, PRODUCED);
    return true;
  }
}

/** The netlink tile's end, one per net tile. */
export class SolicitConsumer {
  readonly #words: Uint32Array;
  /** For `fence()`: the region is read-only here. */
  readonly #own = new Uint32Array(new SharedArrayBuffer(4));
  #tail: number;
  /** Messages that were overwritten before they were read. */
  lapped = 0;

  /** Begins with the next message. */
  constructor(peer: View) {
    this.#words = u32(peer);
    this.#tail = Atomics.load(this.#words, PRODUCED);
  }

  /** Whether there are messages that were not taken yet. */
  get waiting(): boolean {
    return Atomics.load(this.#words, PRODUCED) !== this.#tail;
  }

  /** Takes at most `most` messages as pairs into `out` and returns how many. */
  take(out: Uint32Array, most: number): number {
    let head = Atomics.load(this.#words, PRODUCED);
    if (((head - this.#tail) >>> 0) > SOLICIT_DEPTH - UNSAFE) this.#skip(head);
    const waiting = (head - this.#tail) >>> 0;
    const count = Math.min(most, waiting, out.length >>> 1);
    for (let i = 0; i < count; i++) {
      const at = MESSAGES_AT + ((this.#tail + i) & (SOLICIT_DEPTH - 1)) * 2;
      out[i * 2] = this.#words[at];
      out[i * 2 + 1] = this.#words[at + 1];
    }
    // The producer overwrites slots from `head` on before it publishes them.
    fence(this.#own, 0);
    head = Atomics.load(this.#words, PRODUCED);
    const behind = (head - this.#tail) >>> 0;
    if (behind > SOLICIT_DEPTH - UNSAFE) {
      this.#skip(head);
      return 0;
    }
    this.#tail = (this.#tail + count) >>> 0;
    return count;
  }

  /** Skips overwritten messages, and the older half of the rest, which will be overwritten soon. */
  #skip(head: number): void {
    const tail = (head - SOLICIT_DEPTH / 2) >>> 0;
    this.lapped += (tail - this.#tail) >>> 0;
    this.#tail = tail;
  }
}
