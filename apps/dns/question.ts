/**
 * A query (RFC 1035 §4.1) and its EDNS (RFC 6891), parsed in place without allocation.
 */

import type { Datagrams } from "../../tiles/app/contract.ts";

/** Bytes of the header of queries and answers. */
export const HEADER_BYTES = 12;
/** Bits of the header's third byte. */
export const [RESPONSE, OPCODE, RECURSION_DESIRED] = [0x80, 0x78, 0x01];
/** The largest answer without EDNS (RFC 1035 §4.2.1). */
const LEAST_PAYLOAD = 512;
const [MOST_LABEL_BYTES, MOST_NAME_BYTES, MOST_LABELS] = [63, 255, 127];
const OPT = 41;
/** The DNSSEC OK bit in the upper half of an OPT record's flags (RFC 3225), and an option (RFC 5001). */
const [DNSSEC_OK, NSID] = [0x80, 3];

/** Lower case of every octet. Lengths of labels are smaller than letters, so they are unchanged. */
export const LOWER = Uint8Array.from(
  { length: 256 },
  (_, octet) => octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet,
);

/** A parsed query, valid until the next call of `read`. */
export class Question {
  bytes: Uint8Array = new Uint8Array();
  /** Offset of the query in `bytes`. */
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
  /** The DNSSEC OK bit as it was sent, 0x80 or 0. */
  dnssecOk = 0;
  /** Whether the client asks which server it has reached. */
  wantsNsid = false;
  /** The largest answer that the client accepts. */
  payloadBytes = LEAST_PAYLOAD;

  /** Parses the current datagram. Returns false if it is not a query and must not be answered. */
  read(requests: Datagrams): boolean {
    const { bytes, offset, size } = requests;
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
    // If the query ends within its name, the bytes after it still belong to its frame.
    for (let length = bytes[offset + at]; length !== 0; length = bytes[offset + at]) {
      // A pointer is larger than any length, and has nothing to point to before the question.
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
      if (this.#word(fixed) === OPT) {
        // RFC 6891 §6.1.1: there is only one, an additional record of the root.
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
