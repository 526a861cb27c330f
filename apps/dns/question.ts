/**
 * A query (RFC 1035 §4.1) and its EDNS (RFC 6891), read where they stand and without making anything
 * of them.
 */

import type { Datagrams } from "../../tiles/app/contract.ts";

/** Bytes of the header of queries and answers. */
export const HEADER_BYTES = 12;
/** Bits of the header's third byte. */
export const [RESPONSE, OPCODE, RECURSION_DESIRED] = [0x80, 0x78, 0x01];
/** Payload that anyone takes who does not say so by EDNS (RFC 1035 §4.2.1). */
const LEAST_PAYLOAD = 512;
const [MOST_LABEL_BYTES, MOST_NAME_BYTES, MOST_LABELS] = [63, 255, 127];
const OPT = 41;

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
  /** Bytes of the header and the question; of the header alone when there is no question to read. */
  end = 0;
  /** Where the labels of the name begin, counted from the query's beginning, and how many they are. */
  readonly labels = new Uint16Array(MOST_LABELS);
  labelCount = 0;
  /** Whether the query is not as RFC 1035 and RFC 6891 want it. */
  isMalformed = false;
  hasEdns = false;
  ednsVersion = 0;
  /** Bytes that the asker takes. */
  payloadBytes = LEAST_PAYLOAD;

  /** Reads the query at hand. False when it is none, and nothing is to be answered. */
  read(requests: Datagrams): boolean {
    const { bytes, offset, size } = requests;
    if (size < HEADER_BYTES || (bytes[offset + 2] & RESPONSE) !== 0) return false;
    this.bytes = bytes;
    this.offset = offset;
    this.end = HEADER_BYTES;
    this.hasEdns = false;
    this.ednsVersion = 0;
    this.payloadBytes = LEAST_PAYLOAD;
    this.isMalformed = !this.#readQuestion(size) || !this.#readEdns(size);
    return true;
  }

  /** The flags of the header that stand in its third byte. */
  get flags(): number {
    return this.bytes[this.offset + 2];
  }
  get type(): number {
    return this.#word(this.end - 4);
  }
  get classCode(): number {
    return this.#word(this.end - 2);
  }

  /** Finds the labels of the one question that a query has. */
  #readQuestion(size: number): boolean {
    const { bytes, offset, labels } = this;
    if (this.#word(4) !== 1 || this.#word(6) !== 0) return false;
    let [at, count] = [HEADER_BYTES, 0];
    // What is past the end of a query that ends amid its name are bytes of its frame still.
    for (let length = bytes[offset + at]; length !== 0; length = bytes[offset + at]) {
      // Pointers have larger numbers than any length: a question is where they would point to.
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

  /** Looks for an OPT record among those after the question; false when one of them is broken. */
  #readEdns(size: number): boolean {
    let at = this.end;
    for (let left = this.#word(8) + this.#word(10); left > 0; left--) {
      const fixed = this.#endOfName(at, size);
      const next = fixed + 10 + this.#word(fixed + 8);
      if (next > size) return false;
      if (this.#word(fixed) === OPT) {
        // RFC 6891 §6.1.1: of the root, and one alone.
        if (this.hasEdns || fixed !== at + 1) return false;
        this.hasEdns = true;
        this.payloadBytes = Math.max(LEAST_PAYLOAD, this.#word(fixed + 2));
        this.ednsVersion = this.bytes[this.offset + fixed + 5];
      }
      at = next;
    }
    return true;
  }

  /** Where the name at `at` ends, or past `size`. */
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
