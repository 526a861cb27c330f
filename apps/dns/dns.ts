/**
 * An authoritative name server (RFC 1035) for the zone files that its option `zone` names, one or a
 * list. It has no TCP: an answer that does not fit is truncated, and cannot be asked for again.
 *
 * All answers are made by dns-packet when it starts. A question then costs a lookup (`names.ts`) and a copy.
 *
 * Answers to one network are limited. Options: `rrl_ratelimit`, answers of one kind a
 * second to a /24, 200 by default, 0 for no limit; `rrl_slip`, 2 by default: one in so many limited answers
 * is sent truncated, 0 for none.
 */

import type { App, AppContext } from "../../tiles/app/contract.ts";
import { keepCode, Memory, OPCODE, Question, Writer } from "./answer.ts";
import { Names } from "./names.ts";
import { parseZoneFile, Zone } from "./zone.ts";

const [CLASS_IN, FIRST_META_TYPE, ANY] = [1, 128, 255];
/** Response codes (RFC 6895 §2.3). */
const [FORMERR, NOTIMP, REFUSED, BADVERS] = [1, 4, 5, 16];

/** Makes the name server. It reads the zone files at its start, and needs a grant for them (`read`). */
export default async function create(context: AppContext): Promise<App> {
  const limit = makeLimit(context.options);
  const memory = new Memory();
  const codes = Array.from({ length: BADVERS + 1 }, (_, rcode) => keepCode(memory, rcode));
  const names = new Names(memory, await loadZones(context), codes[REFUSED]);
  const queries = context.metric("dns.queries", "counter")!;
  const dropped = context.metric("dns.rrl_dropped", "counter")!;
  const truncated = context.metric("dns.rrl_truncated", "counter")!;
  const writer = new Writer(memory);
  const question = new Question();

  return {
    receive(requests, out) {
      while (requests.next()) {
        if (!question.read(requests) || context.refuses(requests)) continue;
        queries.value++;
        const complaint = complaintAbout(question);
        const answer = complaint > 0 ? codes[complaint] : names.find(question);
        const second = Math.floor(requests.receivedAt / 1e9);
        const verdict = limit?.judge(requests.sourceAddress, answer, second) ?? Verdict.send;
        if (verdict === Verdict.drop) {
          dropped.value++;
          continue;
        }
        const isCut = verdict === Verdict.truncate;
        if (isCut) truncated.value++;
        writer.reply(question, answer, out, isCut);
      }
    },
  };
}

/** Makes the limit that the options describe; null for none. Throws TypeError for a wrong option. */
function makeLimit(options: AppContext["options"]): RateLimit | null {
  const number = (name: string, usual: number, most: number) => {
    const { [name]: value = usual } = options;
    if (typeof value === "number" && value % 1 === 0 && value >= 0 && value <= most) return value;
    throw new TypeError(`options.${name}: must be a whole number from 0 to ${most}`);
  };
  const [ratelimit, slip] = [number("rrl_ratelimit", 200, 1e9), number("rrl_slip", 2, 10)];
  return ratelimit === 0 ? null : new RateLimit({ ratelimit, slip });
}

/** The response code for a query that is malformed or of an unsupported kind; 0 for a question. */
function complaintAbout(question: Question): number {
  if ((question.flags & OPCODE) !== 0) return NOTIMP;
  if (question.isMalformed) return FORMERR;
  if (question.ednsVersion !== 0) return BADVERS;
  if (question.classCode !== CLASS_IN) return REFUSED;
  // Types of questions only (RFC 6895 §3.1). AXFR, one of them, does not use UDP (RFC 5936 §4.2).
  const { type } = question;
  return type >= FIRST_META_TYPE && type < ANY ? NOTIMP : 0;
}

async function loadZones({ options, log }: AppContext): Promise<Zone[]> {
  const paths = [options.zone].flat();
  if (!paths.every((path) => typeof path === "string")) {
    throw new TypeError("options.zone: must be the path of a zone file, or a list of them");
  }
  return await Promise.all(paths.map(async (path) => {
    const text = await Deno.readTextFile(path);
    try {
      const zone = new Zone(parseZoneFile(text));
      log(`serves zone ${zone.origin || "."} of ${path}`);
      return zone;
    } catch (error) {
      throw new SyntaxError(`${path}: ${error instanceof Error ? error.message : error}`);
    }
  }));
}

// Response rate limiting, counted as NSD does (rrl-ratelimit and rrl-slip in nsd.conf(5)), so that queries
// with a forged source send few answers to the victim. Answers are counted per /24 of the client and per
// answer. All names that do not exist in a zone share one answer, and so do all names that one wildcard or one
// delegation covers.
//
// The rate is smoothed: half of the previous second's rate is added to the count of this second. Above the
// limit answers are dropped, except that every `slip`-th is sent truncated, which tells a resolver to ask over
// TCP or to ask another server. Queries above the limit count towards the rate too.

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
