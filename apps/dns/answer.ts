/**
 * Answers, made before anyone asks: the records are encoded by dns-packet and compressed once. To send
 * one costs a copy, and where the name that is asked for is longer or shorter than the one that the
 * answer was made for, the moving of its pointers.
 */

import packet from "dns-packet";
import { compress } from "./compress.ts";
import type { Memory } from "./memory.ts";
import type { Reply } from "./zone.ts";

/** The largest answer that we send, and say that we take: it crosses any network unfragmented. */
export const PAYLOAD_BYTES = 1232;
/** Bits of the header's third byte: we are the authority; records are left out. */
export const [AUTHORITATIVE, TRUNCATED] = [0x04, 0x02];
const NXDOMAIN = 3;

/** What an answer is made of, in words of 16 bits. */
export const Field = {
  /** Response code (RFC 6895 §2.3), and what there is to say in the third byte of the header. */
  rcode: 0,
  flags: 1,
  /** How many records there are of each section. */
  answers: 2,
  authorities: 3,
  additionals: 4,
  /** Bytes of all records, and of those that are not to be left out. */
  whole: 5,
  required: 6,
  /** Where the question ends that its pointers are right for, and how many pointers there are. */
  questionEnd: 7,
  pointers: 8,
  /**
   * Where pointers are, but for those to the whole name of the question, counted from where the records
   * begin; and then the records.
   */
  lists: 9,
} as const;

/** Makes an answer without records, and returns where it is in the halves of `memory`. */
export function keepCode(memory: Memory, rcode: number): number {
  return keep(memory, [rcode, 0, 0, 0, 0, 0, 0, 0], [], new Uint8Array());
}

/** Makes the answer that says `reply` to questions about `name`, and returns where it is. */
export function keepReply(memory: Memory, reply: Reply, name: string): number {
  const { answers, authorities, additionals, rcode, authoritative } = reply;
  const questions = [{ name, type: "A" }];
  const message = packet.encode({ type: "response", questions, answers, authorities, additionals });
  const { questionEnd, ends, pointers, records } = compress(message);
  // What is added unasked may be left out, but not the way to a delegation: RFC 2181 §9.
  const required = answers.length + authorities.length + (authoritative ? 0 : additionals.length);
  // What is too large for anyone is not kept.
  const kept = [ends.length, required, 0].find((count) => endOf(ends, count) <= PAYLOAD_BYTES)!;
  const whole = endOf(ends, kept);
  return keep(
    memory,
    [
      rcode === "NXDOMAIN" ? NXDOMAIN : 0,
      (authoritative ? AUTHORITATIVE : 0) | (kept < required ? TRUNCATED : 0),
      kept && answers.length,
      kept && authorities.length,
      kept && kept - answers.length - authorities.length,
      whole,
      endOf(ends, Math.min(required, kept)),
      questionEnd,
    ],
    pointers.filter((at) => at < whole),
    records.subarray(0, whole),
  );
}

/** Where the first `count` records end. */
function endOf(ends: readonly number[], count: number): number {
  return count === 0 ? 0 : ends[count - 1];
}

/** Keeps an answer; `head` is its fields as they follow each other, up to the number of pointers. */
function keep(
  memory: Memory,
  head: readonly number[],
  pointers: readonly number[],
  records: Uint8Array,
): number {
  const at = memory.take((Field.lists + pointers.length) * 2 + records.length) * 2;
  memory.halves.set([...head, pointers.length, ...pointers], at);
  memory.bytes.set(records, (at + Field.lists + pointers.length) * 2);
  return at;
}
