/**
 * Who is not to be asked for before a certain time: neighbours that did not answer, and those that
 * were asked to confirm themselves just now. A table of fixed size, in which whose rest ends first
 * makes room; being forgotten costs no more than one request too early.
 */

import { hash, type HashKey, keyOf, Use } from "../../netbase/hash.ts";

/** Entries that a neighbour may be in. */
const WAYS = 4;
/** How long after its rest it is remembered how often one did not answer. */
const REMEMBER_MILLIS = 10_000;
const MOST_FAILURES = 255;

/** Neighbours and when each may be asked for again. Addresses in host order. */
export class Rests {
  /** Interface and address of each entry. */
  readonly #names: Uint32Array;
  /** When its rest ends, monotonic milliseconds; 0: an entry that was never used. */
  readonly #until: Float64Array;
  readonly #failures: Uint8Array;
  readonly #setMask: number;
  readonly #key: HashKey;

  /** Room for 2 to the `sizeLog2`. `seed` keeps others from crowding one place. */
  constructor({ sizeLog2, seed }: { sizeLog2: number; seed: number }) {
    this.#names = new Uint32Array(2 << sizeLog2);
    this.#until = new Float64Array(1 << sizeLog2);
    this.#failures = new Uint8Array(1 << sizeLog2);
    this.#setMask = (1 << sizeLog2) / WAYS - 1;
    this.#key = keyOf(seed, Use.rests);
  }

  /** Whether it is to be left alone now. */
  resting(ifindex: number, address: number, now: number): boolean {
    const at = this.#find(ifindex, address);
    return at >= 0 && this.#until[at] > now;
  }

  /** How often in a row it did not answer, as far as is remembered. */
  failures(ifindex: number, address: number, now: number): number {
    const at = this.#find(ifindex, address);
    return at >= 0 && now - this.#until[at] <= REMEMBER_MILLIS ? this.#failures[at] : 0;
  }

  /** It rests until then, having failed so often. */
  rest(ifindex: number, address: number, { until, failures }: { until: number; failures: number }) {
    const found = this.#find(ifindex, address);
    const at = found < 0 ? ~found : found;
    this.#names[at * 2] = ifindex;
    this.#names[at * 2 + 1] = address;
    this.#until[at] = until;
    this.#failures[at] = Math.min(failures, MOST_FAILURES);
  }

  /** It has answered. */
  forget(ifindex: number, address: number): void {
    const at = this.#find(ifindex, address);
    if (at >= 0) this.#until[at] = this.#failures[at] = 0;
  }

  /** Its entry; below 0, as `~entry`, the one that it may take: whose rest ends first. */
  #find(ifindex: number, address: number): number {
    const { add, first: multiplier, second } = this.#key;
    const mixed = hash(ifindex, address, add, multiplier, second);
    const first = (mixed & this.#setMask) * WAYS;
    let soonest = first;
    for (let at = first; at < first + WAYS; at++) {
      if (this.#names[at * 2] === ifindex && this.#names[at * 2 + 1] === address) return at;
      if (this.#until[at] < this.#until[soonest]) soonest = at;
    }
    return ~soonest;
  }
}
