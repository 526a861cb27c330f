/**
 * The addresses that an app has heard from, and so may send to unasked: a table per app and net tile,
 * written by that net tile and read by the others, since an app may send by any of them.
 *
 * Two open-addressed halves: addresses go into one, and when that has its fill the other, older one is
 * forgotten and becomes the next. So at least the last `KEPT` addresses are known whatever strangers
 * send, and never one that nobody sent from; who asked just now is always among them.
 */

import { i32, type View } from "../../ffi/view.ts";

const SLOT_BITS = 16;
const SLOTS = 1 << SLOT_BITS;
/** Addresses that are remembered at least. */
const KEPT = SLOTS >>> 1;
/** Word that says which half is the younger, and where the halves begin. */
const [YOUNGER, HALVES_AT] = [0, 16];

/** Bytes of a table. */
export const HEARD_BYTES = (HALVES_AT + 2 * SLOTS) * 4;

/** A table, its writer's or a reader's. Addresses in host order, as signed words; 0 is none. */
export class Heard {
  readonly #words: Int32Array;
  /** Addresses in the younger half. */
  #count = 0;

  /** Joins the table at `view`, zeroed at first. */
  constructor(view: View) {
    this.#words = i32(view);
  }

  /** Puts an address in, among the youngest. The writer's alone. Whether others were forgotten for it. */
  add(address: number): boolean {
    const words = this.#words;
    const at = this.#find(words[YOUNGER], address);
    if (words[at] === address) return false;
    words[at] = address;
    if (++this.#count < KEPT) return false;
    this.#count = 0;
    const older = 1 - words[YOUNGER];
    words.fill(0, HALVES_AT + older * SLOTS, HALVES_AT + (older + 1) * SLOTS);
    words[YOUNGER] = older;
    return true;
  }

  /** Whether an address is in. */
  has(address: number): boolean {
    if (address === 0) return false;
    return this.#words[this.#find(0, address)] === address ||
      this.#words[this.#find(1, address)] === address;
  }

  /** Where an address is in a half, or would be: the halves never fill up, so there is an end. */
  #find(half: number, address: number): number {
    const words = this.#words;
    const base = HALVES_AT + half * SLOTS;
    let slot = Math.imul(address, 0x9e3779b1) >>> (32 - SLOT_BITS);
    for (;; slot = (slot + 1) & (SLOTS - 1)) {
      const there = words[base + slot];
      if (there === address || there === 0) return base + slot;
    }
  }
}
