// SPDX-License-Identifier: Apache-2.0
/**
 * An authoritative name server (RFC 1035) for zone files. Its slow side (`tcp.ts`) has TCP: it passes queries
 * here, and answers back. `docs/apps.md` has the options.
 *
 * It makes all answers with dns-packet at the start. A question then costs a lookup (`names.ts`) and a copy.
 */

import { Buffer } from "node:buffer";
import packet from "dns-packet";
import types from "dns-packet/types.js";
import type { Address, App, AppContext, Metric } from "../../tiles/app/contract.ts";
import {
  Field,
  keepCode,
  keepReply,
  Memory,
  MOST_STREAM_BYTES,
  OPCODE,
  PAYLOAD_BYTES,
  Question,
  TICKET_BYTES,
  Writer,
} from "./answer.ts";
import { wholeOption } from "../options.ts";
import { Names } from "./names.ts";
import { parseZoneFile, Zone } from "./zone.ts";

const [CLASS_IN, CLASS_CHAOS, TXT, IXFR, AXFR, ANY] = [1, 3, 16, 251, 252, 255];
/** Response codes (RFC 6895 §2.3). */
const [FORMERR, NOTIMP, REFUSED, BADVERS] = [1, 4, 5, 16];

/** Names of class CH that ask for the version. */
const VERSION_NAMES = ["version.bind", "version.server"];
/** The longest text of an option, in bytes: so an answer without records always fits. */
const MOST_TEXT_BYTES = 128;

/** Makes the name server. It reads the zone files at its start, and needs a grant for them (`read`). */
export default async function create(context: AppContext): Promise<App> {
  const { options } = context;
  const ratelimit = wholeOption(options, "rrl_ratelimit", { usual: 200, least: 0, most: 1e9 });
  const slip = wholeOption(options, "rrl_slip", { usual: 2, least: 0, most: 10 });
  const limit = ratelimit === 0 ? null : new RateLimit({ ratelimit, slip });
  // Answers that do not fit a datagram are only available by TCP.
  const { mailbox } = context;
  const memory = new Memory(mailbox === undefined ? PAYLOAD_BYTES : MOST_STREAM_BYTES);
  const codes = Array.from({ length: BADVERS + 1 }, (_, rcode) => keepCode(memory, rcode));
  const names = new Names(memory, await loadZones(context), codes[REFUSED]);
  const counts = new Counts(context);
  const dropped = context.metric("dns.rrl_dropped", "counter")!;
  const truncated = context.metric("dns.rrl_truncated", "counter")!;
  const versions = keepVersions(memory, textOption(context.options, "version"));
  const writer = new Writer(memory, textOption(context.options, "nsid"));
  const question = new Question();
  const stream = new Uint8Array(mailbox === undefined ? 0 : TICKET_BYTES + MOST_STREAM_BYTES);

  const answerTo = (question: Question): number => {
    const complaint = complaintAbout(question);
    if (complaint > 0) return codes[complaint];
    if (question.classCode === CLASS_IN) return names.find(question);
    return versions.find(({ name }) => question.asksFor(name))?.answer ?? codes[REFUSED];
  };

  return {
    receive(requests, out) {
      while (requests.next()) {
        const { bytes, offset, size } = requests;
        if (!question.read(bytes, offset, size) || context.refuses(requests)) continue;
        counts.asked(question.type);
        const answer = answerTo(question);
        const second = Math.floor(requests.receivedAt / 1e9);
        const verdict = limit?.judge(requests.sourceAddress, answer, second) ?? Verdict.send;
        if (verdict === Verdict.drop) {
          dropped.value++;
          continue;
        }
        const isCut = verdict === Verdict.truncate;
        if (isCut) truncated.value++;
        counts.answered(memory.halves[answer + Field.rcode]);
        const total = writer.sizeOf(question, answer, question.payloadBytes, isCut);
        const at = out.reserve(total);
        if (at < 0) continue;
        writer.write(question, answer, isCut, out.bytes, at, total);
        out.reply(at, total);
      }
    },
    // A query by TCP: a ticket, which is returned with the answer, and the message. Its source is not forged.
    mail(mail) {
      let size = 0;
      if (question.read(mail, TICKET_BYTES, mail.length - TICKET_BYTES)) {
        counts.asked(question.type);
        const answer = answerTo(question);
        counts.answered(memory.halves[answer + Field.rcode]);
        size = writer.sizeOf(question, answer, MOST_STREAM_BYTES, false);
        writer.write(question, answer, false, stream, TICKET_BYTES, size);
      }
      stream.set(mail.subarray(0, TICKET_BYTES));
      mailbox!.post(stream.subarray(0, TICKET_BYTES + size));
    },
  };
}

/** Types that are counted by name; the others count as `other`. */
const TYPES = "A NS CNAME SOA PTR MX TXT AAAA SRV DS DNSKEY SVCB HTTPS ANY".split(" ");
/** Response codes by number; others are not used. */
const CODES = ["NOERROR", "FORMERR", "", "NXDOMAIN", "NOTIMP", "REFUSED"];

/** Queries by type, and answers by response code. */
class Counts {
  readonly #types: readonly Metric[];
  /** The index of a type's counter, by its number below 256. */
  readonly #byType = new Uint8Array(256).fill(TYPES.length);
  readonly #codes: readonly Metric[];

  constructor({ metric }: Pick<AppContext, "metric">) {
    this.#types = [...TYPES, "other"].map((type) => metric("dns.queries", "counter", { type })!);
    TYPES.forEach((name, i) => this.#byType[types.toType(name)] = i);
    this.#codes = Array.from({ length: BADVERS + 1 }, (_, code) => {
      const rcode = CODES[code] || (code === BADVERS ? "BADVERS" : "");
      return rcode === "" ? { value: 0 } : metric("dns.answers", "counter", { rcode })!;
    });
  }

  asked(type: number): void {
    this.#types[type < this.#byType.length ? this.#byType[type] : TYPES.length].value++;
  }

  answered(rcode: number): void {
    this.#codes[rcode].value++;
  }
}

/** The response code for a query that is malformed or of an unsupported kind; 0 for a question. */
function complaintAbout(question: Question): number {
  if ((question.flags & OPCODE) !== 0) return NOTIMP;
  if (question.isMalformed) return FORMERR;
  if (question.ednsVersion !== 0) return BADVERS;
  const { type, classCode } = question;
  if (classCode === CLASS_CHAOS && (type === TXT || type === ANY)) return 0;
  if (classCode !== CLASS_IN) return REFUSED;
  // Zone transfers: AXFR does not use UDP (RFC 5936 §4.2).
  return type === IXFR || type === AXFR ? NOTIMP : 0;
}

/** The answers with the version, and the names in wire format that request it; none without a text. */
function keepVersions(memory: Memory, text: Uint8Array) {
  return VERSION_NAMES.slice(0, text.length === 0 ? 0 : undefined).map((name) => {
    const record = { line: 0, name, ttl: 0, type: "TXT", class: "CH", data: Buffer.from(text) };
    const reply = {
      rcode: "NOERROR",
      authoritative: false,
      authorities: [],
      additionals: [],
    } as const;
    return {
      name: packet.name.encode(name),
      answer: keepReply(memory, { ...reply, answers: [record] }, name),
    };
  });
}

/** The bytes of a text option, none if it is not set. Throws TypeError if it is not a text, or too long. */
function textOption(options: AppContext["options"], name: string): Uint8Array {
  const { [name]: value = "" } = options;
  const bytes = new TextEncoder().encode(String(value));
  if (typeof value === "string" && bytes.length <= MOST_TEXT_BYTES) return bytes;
  throw new TypeError(`options.${name}: must be a text of at most ${MOST_TEXT_BYTES} bytes`);
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
// with a forged source send few answers to the victim. Answers are counted per /24 of the client (/56 with
// IPv6) and per answer. All names that do not exist in a zone share one answer, and so do all names that one wildcard or one
// delegation covers.
//
// The rate is smoothed: half of the previous second's rate is added to the count of this second. Above
// the limit answers are dropped, except that every `slip`-th is sent truncated, so that a resolver
// retries over TCP or with another server. Queries above the limit count towards the rate too.

export const Verdict = { send: 0, drop: 1, truncate: 2 } as const;

interface Limits {
  /** Answers a second, 1 or more. */
  readonly ratelimit: number;
  /** One of this many limited answers is truncated instead of dropped; 0: none. */
  readonly slip: number;
}

/** Slots of the table, and words of a slot, which is half a cache line. */
const [SLOT_BITS, SLOT_WORDS] = [18, 8];
const Word = { prefix: 0, answer: 1, second: 2, rate: 3, count: 4, limited: 5 } as const;
/** Seconds after which a rate has decayed to zero. */
const FORGOTTEN = 16;

/**
 * The rates. The hash of a prefix and an answer gives their only slot; a new pair replaces the old
 * one, so the table never grows. A pair that a flood of forged addresses replaces starts again from
 * zero. The hash is keyed, so attackers cannot choose which pair to replace.
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

  /** Counts an answer, by its number, in a second since 1970. Returns what to do with it, a {@linkcode Verdict}. */
  judge(address: Address, answer: number, second: number): number {
    const words = this.#words;
    const prefix = this.#prefix(address);
    const at = this.#slot(prefix, answer);
    if (words[at + Word.prefix] !== prefix || words[at + Word.answer] !== answer) {
      words.fill(0, at, at + SLOT_WORDS);
      words[at + Word.prefix] = prefix;
      words[at + Word.answer] = answer;
      words[at + Word.second] = second;
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
    // The current rate, or the least rate at the end of this second.
    if ((count > half ? count + half : rate) < this.#most) return Verdict.send;
    const limited = ++words[at + Word.limited];
    return this.#slip > 0 && limited % this.#slip === 0 ? Verdict.truncate : Verdict.drop;
  }

  /** The client's network as a word. */
  #prefix({ isIPv4, words }: Address): number {
    if (isIPv4) return words[3] >>> 8;
    return (Math.imul(words[0], this.#key[1] | 1) + (words[1] >>> 8)) >>> 0;
  }

  /** The beginning of a pair's slot. */
  #slot(prefix: number, answer: number): number {
    const key = this.#key;
    let hash = Math.imul(prefix + key[0], key[1] | 1);
    hash = (hash ^ (hash >>> 15)) + Math.imul(answer, key[2] | 1);
    hash = Math.imul(hash ^ (hash >>> 13), key[2] | 1);
    return ((hash ^ (hash >>> 16)) & ((1 << SLOT_BITS) - 1)) * SLOT_WORDS;
  }
}
