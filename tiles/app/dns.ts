/**
 * An authoritative name server (RFC 1035) for the zone files that its option `zone` names, one or a
 * list. UDP alone: what does not fit is truncated, and there is no TCP to ask again by.
 *
 * All answers are made when it starts, by dns-packet: a question costs a look-up (`dns/names.ts`) and
 * a copy, whether anyone has asked it before or not.
 */

import type { App, AppContext } from "./contract.ts";
import { keepCode } from "./dns/answer.ts";
import { Memory } from "./dns/memory.ts";
import { Names } from "./dns/names.ts";
import { OPCODE, Question } from "./dns/question.ts";
import { Writer } from "./dns/writer.ts";
import { Zone } from "./dns/zone.ts";
import { parseZoneFile } from "./dns/zone_file.ts";

const [CLASS_IN, FIRST_META_TYPE, ANY] = [1, 128, 255];
/** Response codes (RFC 6895 §2.3). */
const [FORMERR, NOTIMP, REFUSED, BADVERS] = [1, 4, 5, 16];

/** Makes the name server. Its start reads the zone files, which it has to be granted (`read`). */
export default async function create(context: AppContext): Promise<App> {
  const memory = new Memory();
  const codes = Array.from({ length: BADVERS + 1 }, (_, rcode) => keepCode(memory, rcode));
  const names = new Names(memory, await loadZones(context), codes[REFUSED]);
  const queries = context.metric("dns.queries", "counter")!;
  const writer = new Writer(memory);
  const question = new Question();

  return {
    receive(requests, out) {
      while (requests.next()) {
        if (!question.read(requests)) continue;
        queries.value++;
        const complaint = complaintAbout(question);
        writer.reply(question, complaint > 0 ? codes[complaint] : names.find(question), out);
      }
    },
  };
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
    throw new TypeError("its option zone is to be the path of a zone file, or a list of them");
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
