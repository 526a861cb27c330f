/**
 * An authoritative name server (RFC 1035) for the zone files that its option `zone` names, one or a
 * list. UDP alone: what does not fit is truncated, and there is no TCP to ask again by.
 *
 * An answer is built once, by dns-packet, and kept: the next question of the same bytes costs a
 * look-up and a copy.
 */

import packet from "dns-packet";
import type { App, AppContext } from "./contract.ts";
import { compress } from "./dns/compress.ts";
import { Prepared } from "./dns/prepared.ts";
import { LEAST_PAYLOAD, Question } from "./dns/question.ts";
import { Zone } from "./dns/zone.ts";
import { parseZoneFile } from "./dns/zone_file.ts";

/** The largest answer that we send, and say that we take: it crosses any network unfragmented. */
const PAYLOAD_BYTES = 1232;
/** Bits of the header's third byte (RFC 1035 §4.1.1). */
const [OPCODE, TRUNCATED] = [0x78, 0x02];
const [FORMERR, NXDOMAIN, NOTIMP, REFUSED] = [1, 3, 4, 5];
/** What the OPT record says of an answer whose EDNS version we do not know: BADVERS (RFC 6891). */
const BADVERS_HIGH = 1;
/** Our OPT record, as bytes, for answers that are cut short. */
const OPT = Uint8Array.of(0, 0, 41, PAYLOAD_BYTES >>> 8, PAYLOAD_BYTES & 0xff, 0, 0, 0, 0, 0, 0);

/** Makes the name server. Its start reads the zone files, which it has to be granted (`read`). */
export default async function create(context: AppContext): Promise<App> {
  const zones = await loadZones(context);
  const queries = context.metric("dns.queries", "counter")!;
  const built = context.metric("dns.answers_built", "counter")!;
  const prepared = new Prepared();
  const question = new Question();

  return {
    receive(requests, out) {
      while (requests.next()) {
        if (!question.read(requests)) continue;
        queries.value++;
        let kept = prepared.find(question);
        if (kept < 0) {
          kept = prepared.keep(question, answer(question, zones));
          built.value++;
        }
        const whole = prepared.size(kept);
        const cut = whole > Math.min(question.payloadBytes, PAYLOAD_BYTES);
        const size = cut ? question.end + (question.edns ? OPT.length : 0) : whole;
        const at = out.reserve(size);
        if (at < 0) continue;
        prepared.copy(kept, out.bytes, at, size);
        question.copyTo(out.bytes, at);
        if (cut) truncate(out.bytes, at, question);
        out.reply(at, size);
      }
    },
  };
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

/** Leaves of an answer the header, the question and the OPT record, and says so. */
function truncate(bytes: Uint8Array, at: number, { end, edns }: Question): void {
  bytes[at + 2] |= TRUNCATED;
  bytes.fill(0, at + 6, at + 12);
  if (!edns) return;
  bytes[at + 11] = 1;
  bytes.set(OPT, at + end);
}

/** Builds the whole answer to a question. */
function answer(question: Question, zones: readonly Zone[]): Uint8Array {
  const { name, edns } = question;
  const opt = { type: "OPT", name: ".", udpPayloadSize: PAYLOAD_BYTES };
  const failed = (flags: number, extendedRcode = 0) =>
    encode(question, { flags, additionals: edns ? [{ ...opt, extendedRcode }] : [] });
  if ((question.variant & OPCODE) !== 0) return failed(NOTIMP);
  if (question.isMalformed) return failed(FORMERR);
  if (question.ednsVersion !== 0) return failed(0, BADVERS_HIGH);
  if (name === null || question.classCode !== 1) return failed(REFUSED);
  // The zone with the longest name that has it: a child before its parent.
  const zone = zones.filter((zone) => zone.has(name.toLowerCase()))
    .reduce<Zone | null>((a, b) => a && a.origin.length > b.origin.length ? a : b, null);
  if (zone === null) return failed(REFUSED);
  const { rcode, authoritative, answers, authorities, additionals } = zone.ask(name, question.type);
  const whole = (additionals: readonly object[]) =>
    encode(question, {
      flags: (authoritative ? packet.AUTHORITATIVE_ANSWER : 0) |
        (rcode === "NXDOMAIN" ? NXDOMAIN : 0),
      answers,
      authorities,
      additionals: [...additionals, ...edns ? [opt] : []],
    });
  const full = whole(additionals);
  // What is added unasked goes before anything is truncated, except the way to a delegation: RFC 2181 §9.
  const fits = full.length <= (edns ? PAYLOAD_BYTES : LEAST_PAYLOAD);
  return fits || !authoritative ? full : whole([]);
}

/** The answer's bytes, with the question's own in it. */
function encode({ bytes, offset, end }: Question, parts: object): Uint8Array {
  const [header, records] = [12, packet.encode({ type: "response", ...parts })];
  const whole = new Uint8Array(end + records.length - header);
  whole.set(records.subarray(0, header));
  whole.set(bytes.subarray(offset + header, offset + end), header);
  whole.set(records.subarray(header), end);
  whole[2] |= bytes[offset + 2] & OPCODE;
  whole[5] = end > header ? 1 : 0;
  return compress(whole, end);
}
