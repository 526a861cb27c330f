/**
 * An authoritative name server (RFC 1035) for the zone files that its option `zone` names, one or a
 * list. It has no TCP: an answer that does not fit is truncated, and cannot be asked for again.
 *
 * All answers are made by dns-packet when it starts. A question then costs a lookup (`names.ts`) and a copy.
 *
 * Answers to one network are limited (`rate_limit.ts`). Options: `rrl_ratelimit`, answers of one kind a
 * second to a /24, 200 by default, 0 for no limit; `rrl_slip`, 2 by default: one in so many limited answers
 * is sent truncated, 0 for none.
 */

import type { App, AppContext, Metric } from "../../tiles/app/contract.ts";
import types from "dns-packet/types.js";
import { Field, keepCode, Memory, Writer } from "./answer.ts";
import { Names } from "./names.ts";
import { OPCODE, Question } from "./question.ts";
import { RateLimit, Verdict } from "./rate_limit.ts";
import { Zone } from "./zone.ts";
import { parseZoneFile } from "./zone_file.ts";

const [CLASS_IN, FIRST_META_TYPE, ANY] = [1, 128, 255];
/** Response codes (RFC 6895 §2.3). */
const [FORMERR, NOTIMP, REFUSED, BADVERS] = [1, 4, 5, 16];

/** Makes the name server. It reads the zone files at its start, and needs a grant for them (`read`). */
export default async function create(context: AppContext): Promise<App> {
  const limit = makeLimit(context.options);
  const memory = new Memory();
  const codes = Array.from({ length: BADVERS + 1 }, (_, rcode) => keepCode(memory, rcode));
  const names = new Names(memory, await loadZones(context), codes[REFUSED]);
  const counts = new Counts(context);
  const dropped = context.metric("dns.rrl_dropped", "counter")!;
  const truncated = context.metric("dns.rrl_truncated", "counter")!;
  const writer = new Writer(memory);
  const question = new Question();

  return {
    receive(requests, out) {
      while (requests.next()) {
        if (!question.read(requests) || context.refuses(requests)) continue;
        counts.asked(question.type);
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
        counts.answered(memory.halves[answer + Field.rcode]);
        writer.reply(question, answer, out, isCut);
      }
    },
  };
}

/** Types that are counted by their names; the others are `other`. */
const TYPES = "A NS CNAME SOA PTR MX TXT AAAA SRV DS DNSKEY SVCB HTTPS ANY".split(" ");
/** Response codes by their numbers; no other is given. */
const CODES = ["NOERROR", "FORMERR", "", "NXDOMAIN", "NOTIMP", "REFUSED"];

/** Queries by type, and answers by response code. */
class Counts {
  readonly #types: readonly Metric[];
  /** Which of these counts a type, by its number below 256. */
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
