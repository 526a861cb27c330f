/**
 * The burst at hand as an app in the net tile goes through it: straight from what the checks found
 * out of it (`arrivals.ts`), with no link in between.
 */

import type { Datagrams } from "../app/contract.ts";
import * as arrival from "./arrivals.ts";
import * as frames from "./frame.ts";
import type { Umem } from "./umem.ts";

// Own constants, see frame.ts.
const { Arrival, ARRIVAL_SHIFT, NONE, XDP_BURST } = arrival;
const { PAYLOAD_AT } = frames;

/** In a row, instead of its app: the frame is given away. */
const SPENT = -1;
/** All bits of the longest answer that may stand before a payload. */
const MOST_IN_PLACE = 0xfff;

/** Those datagrams of a burst that are for one app. */
export class ArrivedRequests implements Datagrams {
  readonly bytes: Uint8Array;
  readonly #umem: Umem;
  /** Rows of the burst that are the app's, by their first word. */
  readonly #picked = new Int32Array(XDP_BURST);
  #arrivals: arrival.Arrivals;
  #rows: Int32Array;
  #count = 0;
  #spent = 0;
  /** How many `next` has gone to, and the row of the last. */
  #gone = 0;
  #row = NONE;

  /** Picks from `arrivals` unless told otherwise. */
  constructor(umem: Umem, arrivals: arrival.Arrivals) {
    this.bytes = umem.bytes;
    this.#umem = umem;
    this.#arrivals = arrivals;
    this.#rows = arrivals.rows;
  }

  /** How many there are in the burst. */
  get count(): number {
    return this.#count;
  }

  /** Adds the `from`-th to before the `end`-th of `arrivals`, which all of a burst come from. */
  pick(arrivals: arrival.Arrivals, from: number, end: number): void {
    const picked = this.#picked;
    let count = this.#count;
    for (let i = from; i < end; i++) picked[count++ & (XDP_BURST - 1)] = i << ARRIVAL_SHIFT;
    this.#arrivals = arrivals;
    this.#rows = arrivals.rows;
    this.#count = count;
  }

  /** Frees the frames that are left, and makes ready for the next burst. */
  end(): void {
    if (this.#spent < this.#count) this.#giveBack();
    this.#count = 0;
    this.#spent = 0;
    this.#gone = 0;
    this.#row = NONE;
  }

  #giveBack(): void {
    const rows = this.#rows;
    for (let place = 0; place < this.#count; place++) {
      const row = this.#picked[place];
      if (rows[row + Arrival.app] !== SPENT) this.#umem.give(rows[row + Arrival.offset]);
    }
  }

  /** The row at hand, while there is one. */
  get row(): number {
    return this.#row;
  }

  /**
   * Room for an answer of `size` bytes in the frame of the datagram at hand, before its payload, with
   * what comes before a payload before that. -1: there is none, or the frame is given away.
   */
  room(size: number): number {
    if ((size & ~MOST_IN_PLACE) !== 0 || !this.isFramed) return -1;
    const at = (this.offset - size) & ~3;
    return at >= this.#umem.frameAt(this.offset) + PAYLOAD_AT ? at : -1;
  }

  /** Whether the datagram at hand is in a frame, or buffer, that is not given away. */
  get isHere(): boolean {
    return this.#rows[this.#row + Arrival.app] !== SPENT;
  }

  /** Whether that is a frame, in which there is room for what comes before a payload, too. */
  get isFramed(): boolean {
    return this.isHere && !this.#umem.isLarge(this.offset);
  }

  /** Gives away the frame of the datagram in row `row`. */
  spend(row: number): void {
    this.#rows[row + Arrival.app] = SPENT;
    this.#spent++;
  }

  /** Whether `frame` is that of the datagram at hand and was given away. */
  isReading(frame: number): boolean {
    return this.#row !== NONE && !this.isHere && this.#umem.frameAt(this.offset) === frame;
  }

  /** Datagrams that `next` has not gone to yet. */
  get left(): number {
    return this.#count - this.#gone;
  }

  next(): boolean {
    const gone = this.#gone;
    if (gone >= this.#count) return false;
    this.#gone = gone + 1;
    this.#row = this.#picked[gone & (XDP_BURST - 1)];
    return true;
  }

  get offset(): number {
    return this.#rows[this.#row + Arrival.offset];
  }
  get size(): number {
    return this.#rows[this.#row + Arrival.length];
  }
  get sourceAddress(): number {
    return this.#rows[this.#row + Arrival.source] >>> 0;
  }
  get sourcePort(): number {
    return this.#rows[this.#row + Arrival.ports] >>> 16;
  }
  get destinationAddress(): number {
    return this.#rows[this.#row + Arrival.destination] >>> 0;
  }
  get destinationPort(): number {
    return this.#rows[this.#row + Arrival.ports] & 0xffff;
  }
  get receivedAt(): number {
    const { frames } = this.#arrivals;
    return frames[1] * 2 ** 32 + frames[0];
  }
  get arrivals(): arrival.Arrivals {
    return this.#arrivals;
  }
  /** The rows of the burst at hand. */
  get rows(): Int32Array {
    return this.#rows;
  }
}
