/**
 * Answers that were built once, found again by the bytes of the question. A table of fixed size over
 * memory of fixed size: when either is full all is forgotten, so that names made up by strangers cost
 * the time to answer them and nothing else.
 */

import { LOWER, type Question } from "./question.ts";

const SLOTS = 1 << 16;
const SLOT_WORDS = 4;
/** Words of a slot: hash, where the answer is (0: the slot is free), its bytes, the question's. */
const [HASH, AT, SIZE, KEY] = [0, 1, 2, 3];
const ANSWER_BYTES = 16 << 20;
const HEADER_BYTES = 12;

/** The answers at hand. */
export class Prepared {
  readonly #slots = new Int32Array(SLOTS * SLOT_WORDS);
  readonly #words = new Int32Array(ANSWER_BYTES >>> 2);
  readonly #bytes = new Uint8Array(this.#words.buffer);
  #count = 0;
  #end = 8;
  #target = new Uint8Array();
  #targetWords = new Int32Array();

  /** The answer to `question`, a number to be used at once; -1 when there is none. */
  find(question: Question): number {
    const slots = this.#slots;
    for (let i = question.hash & (SLOTS - 1);; i = (i + 1) & (SLOTS - 1)) {
      const slot = i * SLOT_WORDS;
      const at = slots[slot + AT];
      if (at === 0) return -1;
      if (
        slots[slot + HASH] === question.hash &&
        slots[slot + KEY] === ((question.variant << 16) | question.end) &&
        this.#isAbout(at, question)
      ) return slot;
    }
  }

  /** Whether the answer at `at` has this question in it, whatever the case of its letters. */
  #isAbout(at: number, { bytes, offset, end }: Question): boolean {
    for (let i = HEADER_BYTES; i < end; i++) {
      if (LOWER[this.#bytes[at + i]] !== LOWER[bytes[offset + i]]) return false;
    }
    return true;
  }

  /** Keeps `answer`, whose question is `question`, and returns its number. */
  keep(question: Question, answer: Uint8Array): number {
    if (this.#count === SLOTS >>> 1 || this.#end + answer.length > ANSWER_BYTES) this.#clear();
    let i = question.hash & (SLOTS - 1);
    while (this.#slots[i * SLOT_WORDS + AT] !== 0) i = (i + 1) & (SLOTS - 1);
    const slot = i * SLOT_WORDS;
    this.#slots[slot + HASH] = question.hash;
    this.#slots[slot + AT] = this.#end;
    this.#slots[slot + SIZE] = answer.length;
    this.#slots[slot + KEY] = (question.variant << 16) | question.end;
    this.#bytes.set(answer, this.#end);
    this.#end += (answer.length + 7) & ~7;
    this.#count++;
    return slot;
  }

  #clear(): void {
    this.#slots.fill(0);
    this.#count = 0;
    this.#end = 8;
  }

  /** Bytes of the answer. */
  size(slot: number): number {
    return this.#slots[slot + SIZE];
  }

  /** Copies the first `size` bytes of the answer to `to` of `target`, a multiple of four. */
  copy(slot: number, target: Uint8Array, to: number, size: number): void {
    if (target !== this.#target) {
      const { buffer, byteOffset, byteLength } = target;
      this.#target = target as Uint8Array<ArrayBuffer>;
      this.#targetWords = new Int32Array(buffer as ArrayBuffer, byteOffset, byteLength >>> 2);
    }
    const words = this.#targetWords;
    let from = this.#slots[slot + AT] >>> 2;
    for (let w = to >>> 2, end = (to + size + 3) >>> 2; w < end; w++) {
      words[w] = this.#words[from++];
    }
  }
}
