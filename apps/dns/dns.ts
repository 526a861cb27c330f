/**
 * An authoritative name server (RFC 1035) for the zone files that its option `zone` names, one or a
 * list. UDP alone: what does not fit is truncated, and there is no TCP to ask again by.
 *
 * All answers are made when it starts, by dns-packet: a question costs a look-up (`names.ts`) and
 * a copy, whether anyone has asked it before or not.
 *
 * How many answers go to one network is limited (`rate_limit.ts`). Options: `rrl_ratelimit`,
 * answers of one kind a second to a /24, 200 when left out, 0 for no limit; `rrl_slip`, 2 when left out:
 * of how many limited answers one is sent truncated; 0: none.
 */

import type { App, AppContext } from "../../tiles/app/contract.ts";
import { keepCode, Memory, Writer } from "./answer.ts";
import { Names } from "./names.ts";
import { OPCODE, Question } from "./question.ts";
import { RateLimit, Verdict } from "./rate_limit.ts";
import { Zone } from "./zone.ts";
import { parseZoneFile } from "./zone_file.ts";

const [CLASS_IN, FIRST_META_TYPE, ANY] = [1, 128, 255];
/** Response codes (RFC 6895 §2.3). */
const [FORMERR, NOTIMP, REFUSED, BADVERS] = [1, 4, 5, 16];

/** Makes the name server. Its start reads the zone files, which it has to be granted (`read`). */
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

/** The limit that the options say; null: none. Throws TypeError where they say what cannot be. */
function makeLimit(options: AppContext["options"]): RateLimit | null {
  const number = (name: string, usual: number, most: number) => {
    const { [name]: value = usual } = options;
    if (typeof value === "number" && value % 1 === 0 && value >= 0 && value <= most) return value;
    throw new TypeError(`options.${name}: must be a whole number from 0 to ${most}`);
  };
  const [ratelimit, slip] = [number("rrl_ratelimit", 200, 1e9), number("rrl_slip", 2, 10)];
  return ratelimit === 0 ? null : new RateLimit({ ratelimit, slip });
}

/** The code to answer with what is no question about a name, or none that we know; 0: it is one. */
function complaintAbout(question: Question): number {
  if ((question.flags & OPCODE) !== 0) return NOTIMP;
  if (question.isMalformed) return FORMERR;
  if (question.ednsVersion !== 0) return BADVERS;
  if (question.classCode !== CLASS_IN) return REFUSED;
  // RFC 6895 §3.1: of questions and not of records. AXFR, one of them, is not for UDP (RFC 5936 §4.2).
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
