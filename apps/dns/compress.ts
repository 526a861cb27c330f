/**
 * Name compression (RFC 1035 §4.1.4): a name, or the end of one, that stands earlier in the message is
 * a pointer there. Names that an answer repeats are the question's most of the time, and then the
 * pointer goes into the question.
 */

import { HEADER_BYTES, LOWER } from "./question.ts";

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
