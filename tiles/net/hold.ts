/**
 * The hold queue: datagrams whose neighbour is being resolved. They wait in frames of their own, in
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

import { hash, type HashKey, keyOf, Use } from "../../netbase/hash_table.ts";
import { Row, ROW_WORDS } from "./rows.ts";

/** How likely a neighbour is to be real, lowest first. */
export const Rank = { stranger: 0, acquainted: 1, gateway: 2 } as const;

/** Bounds of a hold queue. */
export interface HoldLimits {
  /** Datagrams in all; also the most neighbours. */
  readonly total: number;
  /** Datagrams of one neighbour; a gateway, which stands for many peers, may have half of all. */
  readonly perNeighbor: number;
  /** Datagrams of one neighbour while the queue is more than half full. */
  readonly perNeighborCrowded: number;
}

/** What a hold queue works with. */
export interface HoldParts {
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
export class HoldQueue {
  readonly #limits: HoldLimits;
  readonly #drop: HoldParts["drop"];
  readonly #random: HoldParts["random"];
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

  constructor(limits: HoldLimits, { drop, random, seed }: HoldParts) {
    const { total } = limits;
    this.#limits = limits;
    this.#drop = drop;
    this.#random = random;
    this.#key = keyOf(seed, Use.hold);
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
