/**
 * The netlink tile's end of one net tile's solicit link, with a limit on how much of it is looked at:
 * what comes faster is a flood of ever new addresses, of which the ring keeps the latest.
 *
 * @module
 */

import type { View } from "../../ffi/view.ts";
import { SolicitConsumer } from "../runtime/solicit_link.ts";

/** Requests looked at in a second on the long run, and in one go. */
const RATE = 65_536;
const BURST = 8_192;
/** Requests taken with one turn; with less credit than this the link is left alone. */
const TURN = 256;

/** Takes requests. */
export class Intake {
  readonly #consumer: SolicitConsumer;
  readonly #pairs = new Uint32Array(TURN * 2);
  #credit = BURST;
  #refilledAt = 0;

  /** `view`: the link, read-only. */
  constructor(view: View) {
    this.#consumer = new SolicitConsumer(view);
  }

  /** Requests that were overwritten before they were looked at. */
  get lapped(): number {
    return this.#consumer.lapped;
  }

  /** Whether there is something that may be taken now. */
  get pending(): boolean {
    return this.#credit >= TURN && this.#consumer.waiting;
  }

  /** Calls `each` with what may be taken now. How many there were. */
  turn(now: number, each: (ifindex: number, address: number) => void): number {
    this.#credit = Math.min(BURST, this.#credit + (now - this.#refilledAt) * RATE / 1000);
    this.#refilledAt = now;
    if (!this.pending) return 0;
    const count = this.#consumer.take(this.#pairs, TURN);
    this.#credit -= count;
    for (let i = 0; i < count; i++) each(this.#pairs[i * 2], this.#pairs[i * 2 + 1]);
    return count;
  }

  /** Milliseconds until what waits may be taken; -1: nothing waits for time. */
  nextDue(): number {
    if (this.#credit >= TURN || !this.#consumer.waiting) return -1;
    return Math.ceil((TURN - this.#credit) * 1000 / RATE);
  }
}
