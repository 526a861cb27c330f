/**
 * The question of a query (RFC 1035 §4.1), read where it stands and without making anything of it, so
 * that an answer that is prepared can be found by its bytes.
 */

import types from "dns-packet/types.js";
import type { Datagrams } from "../contract.ts";

const HEADER_BYTES = 12;
const OPT = 41;
/** Bits of the header's third byte. */
const [RESPONSE, OPCODE, RECURSION_DESIRED] = [0x80, 0x78, 0x01];
/** Payload that anyone takes who does not say so by EDNS (RFC 1035 §4.2.1). */
export const LEAST_PAYLOAD = 512;

/** Lower case of every octet. Lengths of labels are below the letters, and stay what they are. */
export const LOWER = Uint8Array.from(
  { length: 256 },
  (_, octet) => octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet,
);

/** What is asked. Good until the next call of `read`. */
export class Question {
  bytes: Uint8Array = new Uint8Array();
  /** Where the query begins in `bytes`. */
  offset = 0;
  /** Bytes of the header and the question; those of the header alone when there is none to read. */
  end = 0;
  /** Hash of the question, whatever the case of its letters, and of the variant. */
  hash = 0;
  /** What else the answer depends on: EDNS, its version, another operation than a query. */
  variant = 0;
  edns = false;
  ednsVersion = 0;
  /** Bytes that the asker takes. */
  payloadBytes = LEAST_PAYLOAD;

  /** Reads the query at hand. False when it is none, and nothing is to be answered. */
  read(requests: Datagrams): boolean {
    const { bytes, offset, size } = requests;
    if (size < HEADER_BYTES || (bytes[offset + 2] & RESPONSE) !== 0) return false;
    this.bytes = bytes;
    this.offset = offset;
    this.#readQuestion(size);
    this.#readEdns(size);
    const flags = bytes[offset + 2] & OPCODE;
    this.variant = (this.edns ? 1 : 0) | (this.ednsVersion !== 0 ? 2 : 0) | flags;
    this.hash = Math.imul(this.hash ^ this.variant, 0x9e3779b1);
    this.hash ^= this.hash >>> 15;
    return true;
  }

  #readQuestion(size: number): void {
    const { bytes, offset } = this;
    this.end = HEADER_BYTES;
    this.hash = 0;
    // One question, and no answers to it.
    for (let i = 4; i < 10; i++) if (bytes[offset + i] !== (i === 5 ? 1 : 0)) return;
    let at = HEADER_BYTES;
    let hash = 0;
    for (let length = bytes[offset + at]; length !== 0; length = bytes[offset + at]) {
      if (length > 63 || at + length + 1 >= size || at - HEADER_BYTES > 254) return;
      for (const last = at + length; at <= last; at++) {
        hash = Math.imul(hash ^ LOWER[bytes[offset + at]], 0x01000193);
      }
    }
    if (at + 5 > size) return;
    this.end = at + 5;
    this.hash = hash ^ (this.typeCode << 16) ^ this.classCode;
  }

  /** Looks for an OPT record right after the question (RFC 6891 §6.1). */
  #readEdns(size: number): void {
    const { bytes } = this;
    const at = this.offset + this.end;
    const isOpt = bytes[this.offset + 11] > 0 && this.end + 11 <= size && bytes[at] === 0 &&
      bytes[at + 1] === 0 && bytes[at + 2] === OPT;
    this.edns = isOpt;
    this.ednsVersion = isOpt ? bytes[at + 6] : 0;
    const told = isOpt ? bytes[at + 3] << 8 | bytes[at + 4] : 0;
    this.payloadBytes = Math.max(LEAST_PAYLOAD, told);
  }

  get typeCode(): number {
    const at = this.offset + this.end;
    return this.bytes[at - 4] << 8 | this.bytes[at - 3];
  }
  get classCode(): number {
    const at = this.offset + this.end;
    return this.bytes[at - 2] << 8 | this.bytes[at - 1];
  }

  /** Name of the type, as in "AAAA"; "ANY" for 255. */
  get type(): string {
    return this.typeCode === 255 ? "ANY" : types.toString(this.typeCode);
  }

  /** Whether there is no question to read. */
  get isMalformed(): boolean {
    return this.end === HEADER_BYTES;
  }

  /**
   * The name as it was asked for, without a last dot. Null when its labels have something in them
   * that no name of a zone file here can have: dots, blanks, octets that are not ASCII.
   */
  get name(): string | null {
    const labels: string[] = [];
    for (let at = this.offset + HEADER_BYTES; this.bytes[at] !== 0; at += this.bytes[at] + 1) {
      labels.push(String.fromCharCode(...this.bytes.slice(at + 1, at + 1 + this.bytes[at])));
    }
    return labels.every((label) => /^[!-\-/-~]+$/.test(label)) ? labels.join(".") : null;
  }

  /**
   * Writes into an answer at `at` what is the query's own: its number, whether it wished for
   * recursion, and the question letter by letter.
   */
  copyTo(answer: Uint8Array, at: number): void {
    const { bytes, offset } = this;
    answer[at] = bytes[offset];
    answer[at + 1] = bytes[offset + 1];
    answer[at + 2] |= bytes[offset + 2] & RECURSION_DESIRED;
    for (let i = HEADER_BYTES; i < this.end; i++) answer[at + i] = bytes[offset + i];
  }
}
