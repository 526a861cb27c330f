/**
 * Asking for neighbours: the net tile's end of the solicit link, and what it remembers of whom it
 * asked for. Asking for the same one again within a moment says nothing new and is left out; that an
 * address was asked for some time ago is remembered, since it sets apart a peer that tries again from
 * one of a flood of made-up addresses.
 */

import { hash, type HashKey, keyOf, Use } from "../../netbase/hash_table.ts";
import { NET } from "../runtime/counters.ts";
import type { SolicitProducer } from "../runtime/solicit_link.ts";

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
