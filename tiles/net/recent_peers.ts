/**
 * The addresses that have sent to an app, and that it may therefore send to without being asked: a table
 * per app and net tile, written by that net tile and read by the others, since an app may send by any of
 * them.
 *
 * Two open-addressed halves: addresses go into one, and when that has its fill, the other, older one is
 * cleared and becomes the next. So the last `KEPT` addresses are known, whatever strangers send, and no
 * address that sent nothing is. The most recent address is always known.
 *
 * An address is within `PROBES` slots of its hash. If others occupy all of those, it replaces one of
 * them; since at most half of the slots are taken, that happens once in some four hundred halves. The
 * hash is keyed, so nobody can choose addresses that collide (`netbase/hash.ts`). Its key is in the
 * table's header, for the readers.
 *
 * Readers need no lock: a slot is one word, which is empty or holds an address.
 */

import { i32, type View } from "../../ffi/view.ts";
import { hash, keyOf, Use } from "../../netbase/hash.ts";

const SLOT_BITS = 16;
const SLOTS = 1 << SLOT_BITS;
/** Addresses that are remembered at least. */
const KEPT = SLOTS >>> 1;
/** Slots of a half that an address may be in. */
const PROBES = 64;
/**
 * Words: which half is the younger; three of the hash's key, 0 until the writer has come; slots taken in
 * the younger half; the halves.
 */
const [YOUNGER, KEY_AT, COUNT, HALVES_AT] = [0, 1, 4, 16];

/** Bytes of a table. */
export const RECENT_PEERS_BYTES = (HALVES_AT + 2 * SLOTS) * 4;

/** A table, its writer's or a reader's. Addresses in host order, as signed words; 0 is none. */
export class RecentPeers {
  readonly #words: Int32Array;
  #victim = 0;

  /**
   * Joins the table at `view`, zeroed at first. Its writer brings a random `seed`; a writer that takes
   * over from another goes on with its addresses and its key.
   */
  constructor(view: View, seed?: number) {
    const words = this.#words = i32(view);
    if (seed === undefined) return;
    if (words[KEY_AT + 1] !== 0) return;
    const { add, first, second } = keyOf(seed, Use.recentPeers);
    words.set([add, first, second], KEY_AT);
  }

  /** Adds an address, as the most recent. The writer's alone. Returns whether others were forgotten for it. */
  add(address: number): boolean {
    const words = this.#words;
    const half = words[YOUNGER];
    const first = this.#hash(address);
    const at = this.#find(half, first, address);
    if (at < 0) {
      words[this.#slot(half, first + this.#victim++ % PROBES)] = address;
      return true;
    }
    if (words[at] === address) return false;
    words[at] = address;
    if (++words[COUNT] < KEPT) return false;
    words[COUNT] = 0;
    const older = 1 - half;
    words.fill(0, HALVES_AT + older * SLOTS, HALVES_AT + (older + 1) * SLOTS);
    words[YOUNGER] = older;
    return true;
  }

  /** Whether an address is in the table. */
  has(address: number): boolean {
    if (address === 0) return false;
    const words = this.#words;
    const first = this.#hash(address);
    const one = this.#find(0, first, address);
    if (one >= 0 && words[one] === address) return true;
    const other = this.#find(1, first, address);
    return other >= 0 && words[other] === address;
  }

  /** The slot of a half that an address is in, or would be; -1: others have all its slots. */
  #find(half: number, first: number, address: number): number {
    const words = this.#words;
    for (let i = 0; i < PROBES; i++) {
      const at = this.#slot(half, first + i);
      const found = words[at];
      if (found === address || found === 0) return at;
    }
    return -1;
  }

  #slot(half: number, slot: number): number {
    return HALVES_AT + half * SLOTS + (slot & (SLOTS - 1));
  }

  #hash(address: number): number {
    const words = this.#words;
    return hash(0, address, words[KEY_AT], words[KEY_AT + 1], words[KEY_AT + 2]);
  }
}
