/**
 * Response rate limiting, counted as NSD does (rrl-ratelimit and rrl-slip in nsd.conf(5)), so that
 * queries with a forged source send few answers to the victim. Answers are counted per /24 of the
 * client and per answer. All names that do not exist in a zone share one answer, and so do all names
 * that one wildcard or one delegation covers.
 *
 * The rate is smoothed: half of the previous second's rate is added to the count of this second. Above
 * the limit answers are dropped, except that every `slip`-th is sent truncated, which tells a resolver
 * to ask over TCP or to ask another server. Queries above the limit count towards the rate too.
 */

/** What happens to an answer. */
export const Verdict = { send: 0, drop: 1, truncate: 2 } as const;

/** The limits. */
export interface Limits {
  /** Answers a second, 1 or more. */
  readonly ratelimit: number;
  /** One in so many limited answers is truncated instead of dropped; 0: none. */
  readonly slip: number;
}

/** Slots of the table, and words of a slot, which is half a cache line. */
const [SLOT_BITS, SLOT_WORDS] = [18, 8];
const Word = { prefix: 0, answer: 1, second: 2, rate: 3, count: 4, limited: 5 } as const;
/** Seconds after which a rate has decayed to zero. */
const FORGOTTEN = 16;

/**
 * The rates. The hash of a prefix and an answer names their only slot; a new pair replaces the one in
 * it, so the table never grows. A pair that a flood of forged addresses replaces starts again from
 * zero. The hash is keyed, so nobody can choose which pair to replace.
 */
export class RateLimit {
  readonly #words = new Uint32Array(SLOT_WORDS << SLOT_BITS);
  readonly #key: Uint32Array;
  /** A steady rate adds up to twice itself, since half of the previous sum is added. */
  readonly #most: number;
  readonly #slip: number;

  /** `key`: three random words, the hash's key. */
  constructor({ ratelimit, slip }: Limits, key = crypto.getRandomValues(new Uint32Array(3))) {
    this.#key = key;
    this.#most = 2 * ratelimit;
    this.#slip = slip;
  }

  /**
   * Counts the answer with this number to `address` (IPv4, host order) in `second` since 1970. Returns
   * what to do with it, a {@linkcode Verdict}.
   */
  judge(address: number, answer: number, second: number): number {
    const words = this.#words;
    const prefix = address >>> 8;
    const at = this.#slot(prefix, answer);
    if (words[at + Word.prefix] !== prefix || words[at + Word.answer] !== answer) {
      words[at + Word.prefix] = prefix;
      words[at + Word.answer] = answer;
      words[at + Word.second] = second;
      words[at + Word.rate] = 0;
      words[at + Word.count] = 0;
      words[at + Word.limited] = 0;
    }
    const elapsed = second - words[at + Word.second];
    // One net tile may be a burst behind another, so the previous second counts as this one.
    if (elapsed !== 0 && elapsed !== -1) {
      words[at + Word.rate] = elapsed > 0 && elapsed <= FORGOTTEN
        ? (words[at + Word.rate] >>> elapsed) + (words[at + Word.count] >>> (elapsed - 1))
        : 0;
      words[at + Word.count] = 0;
      words[at + Word.second] = second;
    }
    const rate = words[at + Word.rate];
    const count = ++words[at + Word.count];
    const half = rate >>> 1;
    // The rate now, or the least that it will be at the end of this second.
    if ((count > half ? count + half : rate) < this.#most) return Verdict.send;
    const limited = ++words[at + Word.limited];
    return this.#slip > 0 && limited % this.#slip === 0 ? Verdict.truncate : Verdict.drop;
  }

  /** Where the slot of a pair begins. */
  #slot(prefix: number, answer: number): number {
    const key = this.#key;
    let hash = Math.imul(prefix + key[0], key[1] | 1);
    hash = (hash ^ (hash >>> 15)) + Math.imul(answer, key[2] | 1);
    hash = Math.imul(hash ^ (hash >>> 13), key[2] | 1);
    return ((hash ^ (hash >>> 16)) & ((1 << SLOT_BITS) - 1)) * SLOT_WORDS;
  }
}
