/**
 * Questions that only the netlink tile can answer, from its heap: status tile → main → control region
 * → netlink tile → snapshot region → status tile. One at a time.
 */

import type { View } from "../../ffi/view.ts";
import { ControlReader, type ControlRequest } from "../runtime/control.ts";
import { SnapshotReader } from "../runtime/snapshot.ts";

/** How long an answer may take; an audit of a full table takes seconds. */
const ANSWER_MILLIS = 120_000;

/** What the netlink tile says: about its answer, and the lines of it, each with its end. */
export interface Told<Head> {
  readonly head: Head;
  readonly lines: string;
}

/** Asks the netlink tile. */
export class Question {
  readonly #ask: (request: ControlRequest) => void;
  readonly #snapshot: SnapshotReader;
  #number: number;
  #last: Promise<unknown> = Promise.resolve();

  /** `ask` brings a request to main. */
  constructor(
    { control, snapshot }: { control: View; snapshot: View },
    ask: (request: ControlRequest) => void,
  ) {
    this.#ask = ask;
    this.#snapshot = new SnapshotReader(snapshot);
    // Goes on from where a predecessor stopped.
    this.#number = new ControlReader(control).requestNumber;
  }

  /** The answer to a request of `kind` (`Ask`), when those before it have theirs. Throws Error. */
  ask<Head>(kind: number, ...words: readonly number[]): Promise<Told<Head>> {
    const answer = this.#last.then(() => this.#one<Head>(kind, words));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #one<Head>(kind: number, words: readonly number[]): Promise<Told<Head>> {
    this.#number = this.#number === 0xffffffff ? 1 : this.#number + 1;
    this.#ask({ number: this.#number, kind, arguments: words });
    const text = await this.#snapshot.answer(this.#number, ANSWER_MILLIS);
    const end = text.indexOf("\n");
    return { head: JSON.parse(text.slice(0, end)), lines: text.slice(end + 1) };
  }
}
