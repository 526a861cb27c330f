/**
 * Who was asked for not long ago: a table of fixed size that forgets the oldest first. It tells an
 * address that is asked for a second time from the endless first times of a spoofed flood.
 *
 * @module
 */

/** Entries that a neighbour may be in. */
const WAYS = 4;
/** Words of an entry: interface, address, and the time, in milliseconds since the start. */
const ENTRY_WORDS = 3;

/** Neighbours and when each was noted. */
export class Recent {
  readonly #words: Uint32Array;
  readonly #setMask: number;
  readonly #seed: number;

  /**
   * Room for 2 to the `sizeLog2` neighbours. `seed` keeps others from choosing addresses that crowd
   * one place.
   */
  constructor({ sizeLog2, seed }: { sizeLog2: number; seed: number }) {
    this.#words = new Uint32Array((1 << sizeLog2) * ENTRY_WORDS);
    this.#setMask = (1 << sizeLog2) / WAYS - 1;
    this.#seed = seed;
  }

  /**
   * Whether a neighbour was noted within the last `windowMillis`; when it was not, it is noted now.
   * So what is asked for without end is news once per window.
   */
  note(ifindex: number, address: number, nowMillis: number, windowMillis: number): boolean {
    const words = this.#words;
    // 0 stands for an entry that was never used, so time begins at 1.
    const now = Math.floor(nowMillis) + 1;
    const first = this.#set(ifindex, address);
    let oldest = first;
    for (let way = 0, at = first; way < WAYS; way++, at += ENTRY_WORDS) {
      if (words[at] === ifindex && words[at + 1] === address && words[at + 2] !== 0) {
        if (now - words[at + 2] <= windowMillis) return true;
        words[at + 2] = now;
        return false;
      }
      if (words[at + 2] < words[oldest + 2]) oldest = at;
    }
    words[oldest] = ifindex;
    words[oldest + 1] = address;
    words[oldest + 2] = now;
    return false;
  }

  #set(ifindex: number, address: number): number {
    let hash = Math.imul(address ^ this.#seed, 0x9e3779b1) ^ Math.imul(ifindex, 0x85ebca6b);
    hash = Math.imul(hash ^ hash >>> 15, 0xc2b2ae35);
    return ((hash ^ hash >>> 16) & this.#setMask) * WAYS * ENTRY_WORDS;
  }
}
