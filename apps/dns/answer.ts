/**
 * Answers, made before anyone asks: the records are encoded by dns-packet and compressed once. To send
 * one costs a copy, and where the name that is asked for is longer or shorter than the one that the
 * answer was made for, the moving of its pointers.
 */

import packet from "dns-packet";
import type { Answers } from "../../tiles/app/contract.ts";
import {
  HEADER_BYTES,
  LOWER,
  OPCODE,
  type Question,
  RECURSION_DESIRED,
  RESPONSE,
} from "./question.ts";
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

const LEAST_BYTES = 1 << 16;

/** Memory that grows, in words of 32 bits, of 16 and as bytes. */
export class Memory {
  words = new Int32Array(LEAST_BYTES >>> 2);
  halves = new Uint16Array(this.words.buffer);
  bytes = new Uint8Array(this.words.buffer);
  /** Word 0 is nobody's: no place is 0. */
  #end = 1;

  /** Takes `bytes` bytes and returns the word that they begin at. */
  take(bytes: number): number {
    const at = this.#end;
    this.#end += (bytes + 3) >>> 2;
    if (this.#end > this.words.length) {
      const { words } = this;
      this.words = new Int32Array(this.#end * 2);
      this.halves = new Uint16Array(this.words.buffer);
      this.bytes = new Uint8Array(this.words.buffer);
      this.words.set(words);
    }
    return at;
  }
}

/** Bytes between a record's name and its data: type, class, TTL and length of the data. */
const FIXED_BYTES = 10;
const TYPE_AND_CLASS_BYTES = 4;
const POINTER = 0xc000;
/** Pointers have 14 bits, and may be moved by the length of a name. */
const LAST_PLACE = 0x3fff - 255;

/**
 * Where names stand in the data of a type: what comes before them, and how many. Only the types of RFC
 * 1035: who does not know a later type, such as SRV, could not read a pointer in it (RFC 3597 §4).
 */
const NAMES: Readonly<Record<number, readonly [before: number, count: number]>> = {
  2: [0, 1], // NS
  5: [0, 1], // CNAME
  6: [0, 2], // SOA
  12: [0, 1], // PTR
  15: [2, 1], // MX
};

/** The records of a message, their names compressed. Places in them are counted from `questionEnd`. */
export interface Compressed {
  readonly questionEnd: number;
  readonly records: Uint8Array;
  /** Where each record ends. */
  readonly ends: readonly number[];
  /** Where pointers are, but for those to the whole name of the question. */
  readonly pointers: readonly number[];
}

/** Compresses the records of `message`, which has a question, and no pointers yet. */
export function compress(message: Uint8Array): Compressed {
  return new Compressor(message).run();
}

class Compressor {
  readonly #from: Uint8Array;
  readonly #to: Uint8Array;
  /** What has been read and written. */
  #at = 0;
  #size = 0;
  /** Names and the ends of names: where they are, their bytes, and where they were written. */
  readonly #places: { from: number; bytes: number; to: number }[] = [];
  readonly #pointers: number[] = [];

  constructor(message: Uint8Array) {
    this.#from = message;
    this.#to = new Uint8Array(message.length);
  }

  run(): Compressed {
    this.#copy(HEADER_BYTES);
    this.#name();
    this.#copy(TYPE_AND_CLASS_BYTES);
    const questionEnd = this.#size;
    const ends: number[] = [];
    while (this.#at < this.#from.length) {
      this.#record();
      ends.push(this.#size - questionEnd);
    }
    const pointers = this.#pointers.map((at) => at - questionEnd);
    return { questionEnd, records: this.#to.subarray(questionEnd, this.#size), ends, pointers };
  }

  #record(): void {
    this.#name();
    const [type, length] = [this.#word(this.#at), this.#word(this.#at + FIXED_BYTES - 2)];
    this.#copy(FIXED_BYTES);
    const [end, begin] = [this.#at + length, this.#size];
    const [before, count] = NAMES[type] ?? [length, 0];
    this.#copy(before);
    for (let i = 0; i < count; i++) this.#name();
    this.#copy(end - this.#at);
    this.#put(begin - 2, this.#size - begin);
  }

  /** Writes a name, its end as a pointer when that was written before. */
  #name(): void {
    let end = this.#at;
    while (this.#from[end] !== 0) end += this.#from[end] + 1;
    for (; this.#at < end; this.#copy(this.#from[this.#at] + 1)) {
      const bytes = end - this.#at;
      const place = this.#places.find((place) => place.bytes === bytes && this.#isHere(place));
      if (place !== undefined) {
        if (place.to !== HEADER_BYTES) this.#pointers.push(this.#size);
        this.#put(this.#size, POINTER | place.to);
        this.#size += 2;
        this.#at = end + 1;
        return;
      }
      if (this.#size <= LAST_PLACE) {
        this.#places.push({ from: this.#at, bytes, to: this.#size });
      }
    }
    this.#copy(1);
  }

  /** Whether what stands there stands here too, its case aside. */
  #isHere({ from, bytes }: { from: number; bytes: number }): boolean {
    for (let i = 0; i < bytes; i++) {
      if (LOWER[this.#from[from + i]] !== LOWER[this.#from[this.#at + i]]) return false;
    }
    return true;
  }

  #copy(bytes: number): void {
    this.#to.set(this.#from.subarray(this.#at, this.#at + bytes), this.#size);
    this.#at += bytes;
    this.#size += bytes;
  }

  #word(at: number): number {
    return this.#from[at] << 8 | this.#from[at + 1];
  }
  #put(at: number, word: number): void {
    this.#to[at] = word >>> 8;
    this.#to[at + 1] = word & 0xff;
  }
}

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
