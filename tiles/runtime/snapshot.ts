/**
 * The snapshot region: what the netlink tile answers when it was asked for something that only its
 * heap has. One answer at a time, lines of JSON. Written by the netlink tile, read by the status tile.
 *
 *     word 0  number of the request that the answer is to
 *     word 1  bytes of the text
 *     byte 64…  the text, UTF-8
 */

import { slice, u32, u8, type View } from "../../ffi/view.ts";
import { delay } from "./delay.ts";

/** Bytes of the region. */
export const SNAPSHOT_BYTES = 1 << 20;
const TEXT_AT = 64;
/** Bytes that an answer can have. */
export const MOST_ANSWER_BYTES = SNAPSHOT_BYTES - TEXT_AT;

const NUMBER = 0;
const LENGTH = 1;
/** How often is looked whether the answer is there, while one is waited for. */
const LOOK_MILLIS = 1;

/** The netlink tile's side. */
export class SnapshotWriter {
  readonly #words: Uint32Array;
  readonly #text: Uint8Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.#text = u8(slice(view, TEXT_AT, MOST_ANSWER_BYTES));
  }

  /** Answers request `number`. RangeError: the text is too long. */
  answer(number: number, text: string): void {
    const { read, written } = new TextEncoder().encodeInto(text, this.#text);
    if (read < text.length) throw new RangeError(`${text.length} characters are no answer`);
    this.#words[LENGTH] = written;
    Atomics.store(this.#words, NUMBER, number);
  }
}

/** The status tile's side. */
export class SnapshotReader {
  readonly #words: Uint32Array;
  readonly #text: Uint8Array;

  constructor(view: View) {
    this.#words = u32(view);
    this.#text = u8(slice(view, TEXT_AT, MOST_ANSWER_BYTES));
  }

  /**
   * The answer to request `number`. Throws Error when none has come after `timeoutMs`. It is looked for
   * again and again: a notify would have V8 write, on the netlink tile's thread, to an eventfd of this
   * tile's event loop, which that thread may not.
   */
  async answer(number: number, timeoutMs: number): Promise<string> {
    const deadline = performance.now() + timeoutMs;
    while (Atomics.load(this.#words, NUMBER) !== number) {
      if (performance.now() > deadline) throw new Error("the netlink tile does not answer");
      await delay(LOOK_MILLIS);
    }
    // What decodes does not read shared memory.
    return new TextDecoder().decode(this.#text.slice(0, this.#words[LENGTH]));
  }
}
