// SPDX-License-Identifier: Apache-2.0
/**
 * Answers, prepared in advance: dns-packet encodes the records, and `compress` compresses their
 * names (RFC 1035 §4.1.4). Sending one costs a copy. If the name in the question is longer or
 * shorter than the one that the answer was made for, its compression pointers are adjusted.
 */

import type { Buffer } from "node:buffer";
import packet from "dns-packet";
import type { Reply } from "./zone.ts";

// Queries (RFC 1035 §4.1) and their EDNS (RFC 6891), parsed in place without allocation.

/** Bytes of the header of queries and answers. */
const HEADER_BYTES = 12;
/** Bits of the header's third byte. */
export const [RESPONSE, OPCODE, RECURSION_DESIRED] = [0x80, 0x78, 0x01];
/** The largest answer without EDNS (RFC 1035 §4.2.1). */
const LEAST_PAYLOAD = 512;
const [MOST_LABEL_BYTES, MOST_NAME_BYTES, MOST_LABELS] = [63, 255, 127];
const OPT_TYPE = 41;
/** The DNSSEC OK bit in the upper half of an OPT record's flags (RFC 3225), and an option (RFC 5001). */
const [DNSSEC_OK, NSID] = [0x80, 3];

/** Lower case of every octet. Label lengths are smaller than letters, so they do not change. */
export const LOWER = Uint8Array.from(
  { length: 256 },
  (_, octet) => octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet,
);

/** A parsed query, valid until the next call of `read`. */
export class Question {
  bytes: Uint8Array = new Uint8Array();
  offset = 0;
  /** Bytes of the header and the question, or of the header if the question cannot be read. */
  end = 0;
  /** Offsets of the name's labels in the query, and their number. */
  readonly labels = new Uint16Array(MOST_LABELS);
  labelCount = 0;
  /** Whether the query violates RFC 1035 or RFC 6891. */
  isMalformed = false;
  hasEdns = false;
  ednsVersion = 0;
  /** The DNSSEC OK bit of the query, 0x80 or 0. */
  dnssecOk = 0;
  /** Whether the client requests the server's identifier. */
  wantsNsid = false;
  /** The largest answer that the client accepts. */
  payloadBytes = LEAST_PAYLOAD;

  /** Parses `size` bytes. Returns false if they are not a query and must not be answered. */
  read(bytes: Uint8Array, offset: number, size: number): boolean {
    if (size < HEADER_BYTES || (bytes[offset + 2] & RESPONSE) !== 0) return false;
    this.bytes = bytes;
    this.offset = offset;
    this.end = HEADER_BYTES;
    this.hasEdns = false;
    this.ednsVersion = 0;
    this.dnssecOk = 0;
    this.wantsNsid = false;
    this.payloadBytes = LEAST_PAYLOAD;
    const isQuestion = this.#readQuestion(size);
    // An OPT record is answered by one also if the question is malformed (RFC 6891 §6.1.1).
    const isEdns = this.#readEdns(isQuestion ? this.end : this.#endOfQuestions(size), size);
    this.isMalformed = !isQuestion || !isEdns;
    if (this.isMalformed) this.wantsNsid = false;
    return true;
  }

  /** The flags in the third byte of the header. */
  get flags(): number {
    return this.bytes[this.offset + 2];
  }
  get type(): number {
    return this.#word(this.end - 4);
  }
  get classCode(): number {
    return this.#word(this.end - 2);
  }

  /** Whether its name is `name`, in wire format and lower case. */
  asksFor(name: Uint8Array): boolean {
    const { bytes, offset } = this;
    if (this.end !== HEADER_BYTES + name.length + 4) return false;
    return name.every((octet, i) => LOWER[bytes[offset + HEADER_BYTES + i]] === octet);
  }

  /** Finds the labels of the only question. Returns false if it is malformed. */
  #readQuestion(size: number): boolean {
    const { bytes, offset, labels } = this;
    if (this.#word(4) !== 1 || this.#word(6) !== 0) return false;
    let [at, count] = [HEADER_BYTES, 0];
    for (let length = bytes[offset + at]; length !== 0; length = bytes[offset + at]) {
      // It ends within its name.
      if (at >= size) return false;
      // A pointer is larger than any length, and there are no names before the question.
      if (length > MOST_LABEL_BYTES) return false;
      labels[count++] = at;
      at += length + 1;
      if (at >= HEADER_BYTES + MOST_NAME_BYTES) return false;
    }
    if (at + 5 > size) return false;
    this.labelCount = count;
    this.end = at + 5;
    return true;
  }

  /** The end of all questions of a malformed query, or a number beyond `size`. */
  #endOfQuestions(size: number): number {
    let at = HEADER_BYTES;
    for (let left = this.#word(4); left > 0 && at < size; left--) {
      at = this.#endOfName(at, size) + 4;
    }
    return at;
  }

  /** Looks for an OPT record in the records from `at` on. Returns false if a record is malformed. */
  #readEdns(at: number, size: number): boolean {
    let isGood = true;
    for (let left = this.#word(6) + this.#word(8) + this.#word(10); left > 0; left--) {
      const fixed = this.#endOfName(at, size);
      const next = fixed + 10 + this.#word(fixed + 8);
      if (next > size) return false;
      if (this.#word(fixed) === OPT_TYPE) {
        // RFC 6891 §6.1.1: there may be only one, an additional record of the root.
        if (this.hasEdns || fixed !== at + 1 || left > this.#word(10)) isGood = false;
        this.hasEdns = true;
        this.payloadBytes = Math.max(LEAST_PAYLOAD, this.#word(fixed + 2));
        this.ednsVersion = this.bytes[this.offset + fixed + 5];
        this.dnssecOk = this.bytes[this.offset + fixed + 6] & DNSSEC_OK;
        if (!this.#readOptions(fixed + 10, next)) isGood = false;
      }
      at = next;
    }
    return isGood;
  }

  /** Reads the options from `at` to `end`. Returns false if one is longer than the record. */
  #readOptions(at: number, end: number): boolean {
    for (; at + 4 <= end; at += 4 + this.#word(at + 2)) {
      if (this.#word(at) === NSID) this.wantsNsid = true;
    }
    return at === end;
  }

  /** The end of the name at `at`, or a number beyond `size`. */
  #endOfName(at: number, size: number): number {
    const { bytes, offset } = this;
    while (at < size) {
      const length = bytes[offset + at];
      if (length > MOST_LABEL_BYTES) return at + 2;
      at += length + 1;
      if (length === 0) return at;
    }
    return at;
  }

  #word(at: number): number {
    return this.bytes[this.offset + at] << 8 | this.bytes[this.offset + at + 1];
  }
}

/** The largest answer that we send by UDP, and the size that we advertise. No network fragments it. */
export const PAYLOAD_BYTES = 1232;
/** The ticket that the mail of a TCP query and of its answer contain, and the largest answer by TCP. */
export const [TICKET_BYTES, MOST_STREAM_BYTES] = [4, 65_532];
/** Bits AA and TC of the header's third byte. */
export const [AUTHORITATIVE, TRUNCATED] = [0x04, 0x02];
const NXDOMAIN = 3;

/** The fields of an answer, as 16-bit words. */
export const Field = {
  /** Response code (RFC 6895 §2.3), and bits of the third byte of the header. */
  rcode: 0,
  flags: 1,
  answers: 2,
  authorities: 3,
  additionals: 4,
  /** Bytes of all records, and of the records that must not be left out. */
  whole: 5,
  required: 6,
  /** End of the question for which the pointers were made, and the number of pointers. */
  questionEnd: 7,
  pointers: 8,
  /** Offsets of the pointers, without those to the whole name of the question; then the records. */
  lists: 9,
} as const;

/** Makes an answer without records. Returns its index in the halves of `memory`. */
export function keepCode(memory: Memory, rcode: number): number {
  return keep(memory, [rcode, 0, 0, 0, 0, 0, 0, 0], [], new Uint8Array());
}

/** Makes the answer `reply` to questions about `name`. Returns its index in the halves of `memory`. */
export function keepReply(memory: Memory, reply: Reply, name: string): number {
  const { answers, authorities, additionals, rcode, authoritative } = reply;
  const questions = [{ name, type: "A" }];
  const message = packet.encode({ type: "response", questions, answers, authorities, additionals });
  const { questionEnd, ends, pointers, records } = compress(message);
  // Additional records may be left out, except the addresses of a delegation (RFC 2181 §9).
  const required = answers.length + authorities.length + (authoritative ? 0 : additionals.length);
  // Records that never fit are not stored.
  const kept = [ends.length, required, 0].find((count) => endOf(ends, count) <= memory.most)!;
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

/** The end of the first `count` records. */
function endOf(ends: readonly number[], count: number): number {
  return count === 0 ? 0 : ends[count - 1];
}

/** Stores an answer. `head` has its fields in order, up to the number of pointers. */
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

/**
 * Growing memory for names and answers, as 32-bit words, as 16-bit halves and as bytes. It is filled when
 * the server starts, and stores data that is used together in one place. As objects, each answer would be
 * spread over the heap, and cache misses would cost more than all the computation for a question.
 */
export class Memory {
  words = new Int32Array(LEAST_BYTES >>> 2);
  halves = new Uint16Array(this.words.buffer);
  bytes = new Uint8Array(this.words.buffer);
  readonly most: number;
  /** Word 0 is unused, so that 0 is never an index. */
  #end = 1;

  constructor(most = PAYLOAD_BYTES) {
    this.most = most;
  }

  /** Allocates `bytes` bytes. Returns the index of their first word. */
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

/** Names in types of RFC 1035: bytes before them, and their number. Other types get no pointers (RFC 3597 §4). */
const NAMES: Readonly<Record<number, readonly [before: number, count: number]>> = {
  2: [0, 1], // NS
  5: [0, 1], // CNAME
  6: [0, 2], // SOA
  12: [0, 1], // PTR
  15: [2, 1], // MX
};

/**
 * Compresses the records of `message`, which has one question and no pointers. Ends of records and offsets of
 * pointers begin at `questionEnd`; pointers to the whole name of the question are left out.
 */
function compress(message: Buffer) {
  const to = new Uint8Array(message.length);
  /** Read and write positions. */
  let [at, size] = [0, 0];
  /** Where names and their suffixes were written, by their bytes in lower case. */
  const places = new Map<string, number>();
  const pointers: number[] = [];
  const copy = (bytes: number) => {
    to.set(message.subarray(at, at + bytes), size);
    at += bytes;
    size += bytes;
  };
  /** Writes a name. A suffix that was written before becomes a pointer. */
  const copyName = () => {
    let end = at;
    while (message[end] !== 0) end += message[end] + 1;
    for (; at < end; copy(message[at] + 1)) {
      const suffix = String.fromCharCode(...message.subarray(at, end).map((octet) => LOWER[octet]));
      const place = places.get(suffix);
      if (place !== undefined) {
        if (place !== HEADER_BYTES) pointers.push(size);
        putWord(to, size, POINTER | place);
        size += 2;
        at = end + 1;
        return;
      }
      if (size <= LAST_PLACE) places.set(suffix, size);
    }
    copy(1);
  };
  copy(HEADER_BYTES);
  copyName();
  copy(TYPE_AND_CLASS_BYTES);
  const questionEnd = size;
  const ends: number[] = [];
  while (at < message.length) {
    copyName();
    const type = message.readUInt16BE(at);
    const length = message.readUInt16BE(at + FIXED_BYTES - 2);
    copy(FIXED_BYTES);
    const [end, begin] = [at + length, size];
    const [before, count] = NAMES[type] ?? [length, 0];
    copy(before);
    for (let i = 0; i < count; i++) copyName();
    copy(end - at);
    putWord(to, begin - 2, size - begin);
    ends.push(size - questionEnd);
  }
  const records = to.subarray(questionEnd, size);
  return { questionEnd, records, ends, pointers: pointers.map((at) => at - questionEnd) };
}

/** Offsets in an OPT record: the upper bits of the response code, and the flags. */
const [RCODE_AT, FLAGS_AT] = [5, 7];

function optRecord(...options: readonly number[]): Uint8Array {
  const fixed = [0, 0, 41, PAYLOAD_BYTES >>> 8, PAYLOAD_BYTES & 0xff, 0, 0, 0, 0];
  return Uint8Array.of(...fixed, 0, options.length, ...options);
}
const OPT = optRecord();

/** Writes answers, with an OPT record if the query has one (RFC 6891 §6.1.1). Its memory must not grow. */
export class Writer {
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;
  /** The OPT record for clients that ask for the server's identifier (NSID, RFC 5001). */
  readonly #named: Uint8Array;
  readonly #most: number;

  /** `nsid`: the server's identifier, at most 128 bytes; empty for none. */
  constructor({ halves, bytes, most }: Memory, nsid: Uint8Array) {
    this.#most = most;
    this.#halves = halves;
    this.#bytes = bytes;
    this.#named = nsid.length === 0 ? OPT : optRecord(0, 3, 0, nsid.length, ...nsid);
  }

  /** Bytes of an answer with at most `most` bytes. `isCut`: it is truncated even if it fits. */
  sizeOf(question: Question, answer: number, most: number, isCut: boolean): number {
    const fixed = question.end + (question.hasEdns ? this.#opt(question).length : 0);
    return fixed + this.#recordBytes(answer, Math.min(most, this.#most) - fixed, isCut);
  }

  #opt({ wantsNsid }: Question): Uint8Array {
    return wantsNsid ? this.#named : OPT;
  }

  /** Bytes of the records that fit into `room`. */
  #recordBytes(answer: number, room: number, isCut: boolean): number {
    const halves = this.#halves;
    // RFC 2181 §9: leave out optional records before truncating. Clients ignore the records of a
    // truncated answer, so it has none.
    let size = halves[answer + Field.whole];
    if (size > room) size = halves[answer + Field.required];
    return size > room || isCut ? 0 : size;
  }

  /** Writes the answer, whose size `total` is from `sizeOf`, to `at` in `bytes`. */
  write(
    question: Question,
    answer: number,
    isCut: boolean,
    bytes: Uint8Array,
    at: number,
    total: number,
  ): void {
    const { end, hasEdns } = question;
    const edns = this.#opt(question);
    const size = total - end - (hasEdns ? edns.length : 0);
    copy(question.bytes, question.offset, bytes, at, end);
    this.#header(question, answer, size, bytes, at);
    if (isCut) bytes[at + 2] |= TRUNCATED;
    this.#records(answer, size, bytes, at, end);
    if (!hasEdns) return;
    const opt = at + end + size;
    copy(edns, 0, bytes, opt, edns.length);
    bytes[opt + RCODE_AT] = this.#halves[answer + Field.rcode] >>> 4;
    bytes[opt + FLAGS_AT] = question.dnssecOk;
  }

  /** Writes the header except its ID, which is already written. `size`: bytes of the records. */
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

  /** Writes `size` bytes of records, and adjusts their pointers to the length of the question. */
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
