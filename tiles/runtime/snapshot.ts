/**
 * The snapshot region: what the netlink tile answers when it was asked for something that only its
 * heap has. One answer at a time, lines of JSON. Written by the netlink tile, read by the status tile,
 * which asks by main and the control region.
 *
 *     word 0  number of the request that the answer is to
 *     word 1  bytes of the text
 *     byte 64…  the text, UTF-8
 */

import { slice, u32, u8, type View } from "../../ffi/region.ts";
import { ControlReader, type ControlRequest } from "./control.ts";
import { delay } from "./delay.ts";

/** Bytes of the region. */
export const SNAPSHOT_BYTES = 1 << 20;
const TEXT_AT = 64;
/** Bytes that an answer can have. */
export const MOST_ANSWER_BYTES = SNAPSHOT_BYTES - TEXT_AT;

const NUMBER = 0;
const LENGTH = 1;
/** How long an answer may take; an audit of a full table takes seconds. */
const ANSWER_MILLIS = 120_000;
/** How often the answer is polled for. */
const POLL_MILLIS = 1;

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

/** What the netlink tile says: about its answer, and the lines of it, each with its end. */
export interface Told<Head> {
  readonly head: Head;
  readonly lines: string;
}

/** The status tile's side: asks, one question at a time, by main and the control region. */
export class Question {
  readonly #ask: (request: ControlRequest) => void;
  readonly #timeoutMs: number;
  readonly #words: Uint32Array;
  readonly #text: Uint8Array;
  #number: number;
  #last: Promise<unknown> = Promise.resolve();

  /** `ask` brings a request to main. */
  constructor(
    { control, snapshot }: { control: View; snapshot: View },
    ask: (request: ControlRequest) => void,
    { timeoutMs = ANSWER_MILLIS } = {},
  ) {
    this.#ask = ask;
    this.#timeoutMs = timeoutMs;
    this.#words = u32(snapshot);
    this.#text = u8(slice(snapshot, TEXT_AT, MOST_ANSWER_BYTES));
    // Goes on from where a predecessor stopped.
    this.#number = new ControlReader(control).requestNumber;
  }

  /**
   * The answer to a request of `kind` (`Ask`), when those before it have theirs. Throws Error when there
   * is none in time.
   */
  ask<Head>(kind: number, ...words: readonly number[]): Promise<Told<Head>> {
    const answer = this.#last.then(() => this.#one<Head>(kind, words));
    this.#last = answer.catch(() => {});
    return answer;
  }

  /**
   * It is polled for: a notify would have V8 write, on the netlink tile's thread, to an
   * eventfd of this tile's event loop, which that thread may not.
   */
  async #one<Head>(kind: number, words: readonly number[]): Promise<Told<Head>> {
    this.#number = this.#number === 0xffffffff ? 1 : this.#number + 1;
    this.#ask({ number: this.#number, kind, arguments: words });
    const deadline = performance.now() + this.#timeoutMs;
    while (Atomics.load(this.#words, NUMBER) !== this.#number) {
      if (performance.now() > deadline) throw new Error("the netlink tile does not answer");
      await delay(POLL_MILLIS);
    }
    // What decodes does not read shared memory.
    const text = new TextDecoder().decode(this.#text.slice(0, this.#words[LENGTH]));
    const end = text.indexOf("\n");
    return { head: JSON.parse(text.slice(0, end)), lines: text.slice(end + 1) };
  }
}
