/**
 * The solicit link: a net tile's only way to ask for something. A message is two words, interface
 * index and IPv4 address (host order), nothing else, because it is the one path from untrusted traffic into the
 * netlink tile. The ring is written by the net tile alone and lossy on purpose: the producer never
 * waits and never looks at the consumer; a consumer that was lapped skips what was overwritten. A
 * message torn by being overwritten while it is read is thrown away by the second look at the cursor.
 */

import { u32, type View } from "../../ffi/view.ts";
import { fence } from "../../netbase/rcu.ts";

/**
 * Messages that fit, a power of two: what a flood of ten million a second puts in while the netlink
 * tile waits some milliseconds for a processor.
 */
export const SOLICIT_DEPTH = 65_536;

/** Of these, the oldest that are not safe to read: the producer may be overwriting them unpublished. */
const UNSAFE = SOLICIT_DEPTH >>> 2;

const PRODUCED = 0;
const MESSAGES_AT = 16;
/** Bytes of the region, in pages. */
export const SOLICIT_LINK_BYTES = Math.ceil((MESSAGES_AT + SOLICIT_DEPTH * 2) * 4 / 4096) * 4096;

/** The net tile's end. */
export class SolicitProducer {
  readonly #words: Uint32Array;
  #head: number;

  constructor(own: View) {
    this.#words = u32(own);
    this.#head = this.#words[PRODUCED];
  }

  /** Asks for the neighbour `address` (host order) on `ifindex`; goes out with the next publish. */
  push(ifindex: number, address: number): void {
    const at = MESSAGES_AT + (this.#head & (SOLICIT_DEPTH - 1)) * 2;
    this.#words[at] = ifindex;
    this.#words[at + 1] = address;
    this.#head = (this.#head + 1) >>> 0;
  }

  /** Publishes what was pushed by one store; false when there was nothing. */
  publish(): boolean {
    if (this.#words[PRODUCED] === this.#head) return false;
    Atomics.store(this.#words, PRODUCED, this.#head);
    // What is pushed from now on must not be seen before the cursor is.
    fence(this.#words, PRODUCED);
    return true;
  }
}

/** The netlink tile's end, one per net tile. */
export class SolicitConsumer {
  readonly #words: Uint32Array;
  /** For `fence()`: the region cannot be written. */
  readonly #own = new Uint32Array(new SharedArrayBuffer(4));
  #tail: number;
  /** Messages that were overwritten before they were read. */
  lapped = 0;

  /** Begins with what is asked from now on. */
  constructor(peer: View) {
    this.#words = u32(peer);
    this.#tail = Atomics.load(this.#words, PRODUCED);
  }

  /** Whether anything has been asked that was not taken yet. */
  get waiting(): boolean {
    return Atomics.load(this.#words, PRODUCED) !== this.#tail;
  }

  /** Takes at most `most` messages as pairs into `out` and returns how many. */
  take(out: Uint32Array, most: number): number {
    let head = Atomics.load(this.#words, PRODUCED);
    if (((head - this.#tail) >>> 0) > SOLICIT_DEPTH - UNSAFE) this.#skip(head);
    const waiting = (head - this.#tail) >>> 0;
    const count = Math.min(most, waiting, out.length >>> 1);
    for (let i = 0; i < count; i++) {
      const at = MESSAGES_AT + ((this.#tail + i) & (SOLICIT_DEPTH - 1)) * 2;
      out[i * 2] = this.#words[at];
      out[i * 2 + 1] = this.#words[at + 1];
    }
    // The producer overwrites slots from `head` on before it publishes them.
    fence(this.#own, 0);
    head = Atomics.load(this.#words, PRODUCED);
    const behind = (head - this.#tail) >>> 0;
    if (behind > SOLICIT_DEPTH - UNSAFE) {
      this.#skip(head);
      return 0;
    }
    this.#tail = (this.#tail + count) >>> 0;
    return count;
  }

  /** Passes what was overwritten, and the older half of what was not: it soon will be. */
  #skip(head: number): void {
    const tail = (head - SOLICIT_DEPTH / 2) >>> 0;
    this.lapped += (tail - this.#tail) >>> 0;
    this.#tail = tail;
  }
}
