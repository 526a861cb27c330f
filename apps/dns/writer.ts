/**
 * Writes answers: the header, the question as it was asked, letter by letter, the records where they
 * fit, and an OPT record where the query has one (RFC 6891 §6.1.1).
 */

import type { Answers } from "../../tiles/app/contract.ts";
import { Field, PAYLOAD_BYTES, TRUNCATED } from "./answer.ts";
import type { Memory } from "./memory.ts";
import { HEADER_BYTES, OPCODE, type Question, RECURSION_DESIRED, RESPONSE } from "./question.ts";

/** Our OPT record, and where in it the part of the response code is that the header has no room for. */
const OPT = Uint8Array.of(0, 0, 41, PAYLOAD_BYTES >>> 8, PAYLOAD_BYTES & 0xff, 0, 0, 0, 0, 0, 0);
const RCODE_AT = 5;

/** Writes the answers that are in a memory, which does not grow any more. */
export class Writer {
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;

  constructor({ halves, bytes }: Memory) {
    this.#halves = halves;
    this.#bytes = bytes;
  }

  /**
   * Answers `question`, if there is room, by what is at `answer` of the halves; `isCut`: truncated,
   * whatever room there is.
   */
  reply(question: Question, answer: number, out: Answers, isCut: boolean): void {
    const halves = this.#halves;
    const { end, hasEdns } = question;
    const fixed = end + (hasEdns ? OPT.length : 0);
    const room = Math.min(question.payloadBytes, PAYLOAD_BYTES) - fixed;
    // RFC 2181 §9: what need not be sent is left out before anything is truncated. Of an answer that is
    // truncated nothing is of use.
    let size = halves[answer + Field.whole];
    if (size > room) size = halves[answer + Field.required];
    if (size > room || isCut) size = 0;
    const at = out.reserve(fixed + size);
    if (at < 0) return;
    const { bytes } = out;
    copy(question.bytes, question.offset, bytes, at, end);
    this.#header(question, answer, size, bytes, at);
    if (isCut) bytes[at + 2] |= TRUNCATED;
    this.#records(answer, size, bytes, at, end);
    if (hasEdns) {
      const opt = at + end + size;
      copy(OPT, 0, bytes, opt, OPT.length);
      bytes[opt + RCODE_AT] = halves[answer + Field.rcode] >>> 4;
    }
    out.reply(at, fixed + size);
  }

  /** Writes all of the header but the number, which is there. `size`: bytes of the records. */
  #header(question: Question, answer: number, size: number, bytes: Uint8Array, at: number): void {
    const halves = this.#halves;
    const isWhole = size === halves[answer + Field.whole];
    const isCut = size < halves[answer + Field.required];
    bytes[at + 2] = RESPONSE | (question.flags & (OPCODE | RECURSION_DESIRED)) |
      halves[answer + Field.flags] | (isCut ? TRUNCATED : 0);
    bytes[at + 3] = halves[answer + Field.rcode] & 0x0f;
    putWord(bytes, at + 4, question.end > HEADER_BYTES ? 1 : 0);
    putWord(bytes, at + 6, isCut ? 0 : halves[answer + Field.answers]);
    putWord(bytes, at + 8, isCut ? 0 : halves[answer + Field.authorities]);
    const additionals = isWhole ? halves[answer + Field.additionals] : 0;
    putWord(bytes, at + 10, additionals + (question.hasEdns ? 1 : 0));
  }

  /** Writes `size` bytes of records, and moves pointers in them as the question is longer or shorter. */
  #records(answer: number, size: number, bytes: Uint8Array, at: number, end: number): void {
    const halves = this.#halves;
    const pointers = answer + Field.lists;
    const records = pointers + halves[answer + Field.pointers];
    copy(this.#bytes, records * 2, bytes, at + end, size);
    const longer = end - halves[answer + Field.questionEnd];
    if (longer === 0) return;
    for (let i = pointers; i < records && halves[i] < size; i++) {
      const place = at + end + halves[i];
      putWord(bytes, place, (bytes[place] << 8 | bytes[place + 1]) + longer);
    }
  }
}

function copy(from: Uint8Array, at: number, to: Uint8Array, toAt: number, count: number): void {
  for (let i = 0; i < count; i++) to[toAt + i] = from[at + i];
}

function putWord(bytes: Uint8Array, at: number, word: number): void {
  bytes[at] = word >>> 8;
  bytes[at + 1] = word & 0xff;
}
