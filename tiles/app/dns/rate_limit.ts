/**
 * Response rate limiting, as NSD counts it (rrl-ratelimit and rrl-slip of nsd.conf(5)): whoever forges
 * the address of a victim gets few answers sent there. Answers are counted by who is to get them, a
 * /24, and by which answer it is; all names that are not in a zone have the same one, and so have all
 * that are there by the same wildcard or below the same delegation.
 *
 * The rate is smoothed: half of the last second's is added to what this second has brought. So whoever
 * stays above the limit gets nothing but every `slip`-th answer, truncated, by which a resolver learns
 * to ask by TCP or another server; and what he asks for meanwhile counts, too.
 */

/** What becomes of an answer. */
export const Verdict = { send: 0, drop: 1, truncate: 2 } as const;

/** How much is answered. */
export interface Limits {
  /** Answers a second, 1 or more. */
  readonly ratelimit: number;
  /** Of how many limited answers one is truncated instead of dropped; 0: none. */
  readonly slip: number;
}

/** Slots of the table, and words of a slot: a cache line's half. */
const [SLOT_BITS, SLOT_WORDS] = [18, 8];
const Word = { prefix: 0, answer: 1, second: 2, rate: 3, count: 4, limited: 5 } as const;
/** Seconds after which nothing is left of a rate. */
const FORGOTTEN = 16;

/**
 * The rates. A pair of prefix and answer has one slot that it can be in, and takes it from whoever is
 * there: the table never grows, and what a flood of made-up addresses pushes out begins anew. The hash
 * multiplies by secret numbers: nobody can choose whom to push out.
 */
export class RateLimit {
  readonly #words = new Uint32Array(SLOT_WORDS << SLOT_BITS);
  readonly #key: Uint32Array;
  /** A steady rate comes to twice itself, since half of what was before is added. */
  readonly #most: number;
  readonly #slip: number;

  /** `key`: three random words, the hash's key. */
  constructor({ ratelimit, slip }: Limits, key = crypto.getRandomValues(new Uint32Array(3))) {
    this.#key = key;
    this.#most = 2 * ratelimit;
    this.#slip = slip;
  }

  /**
   * Counts an answer, known by a number, to `address` (IPv4, host order) in a second since 1970, and says
   * what becomes of it.
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
    // Of two net tiles one may be a burst behind the other: the second before is this one too.
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
    // What the rate is, or will be at least when this second is over.
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
