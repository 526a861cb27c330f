/**
 * Answers of an app in the net tile, built where they leave from: the payload stands in a frame, and
 * the headers will be put right before it.
 *
 * That frame is the request's own when the answer and its headers fit before the request's payload,
 * which the app may go on reading:
 *
 *     request   │ headroom              │ Ethernet │ IPv4 │ UDP │ payload …
 *     answer    │      Ethernet │ IPv4 │ UDP │ payload │
 *
 * A short answer then touches no memory that reading the request has not brought into the cache, and
 * no other frame is in use. Else it is a free frame, or a large buffer for what no frame can hold,
 * which only a kernel socket can send from.
 */

import type { Answers, Destination } from "../app/contract.ts";
import { checkWithin, noDatagram } from "../app/misuse.ts";
import { APP } from "../runtime/counters.ts";
import * as arrival from "./arrivals.ts";
import type { ArrivedRequests } from "./arrived_requests.ts";
import type { Origin } from "./detour.ts";
import * as frames from "./frame.ts";
import * as burst from "./rows.ts";
import type { Transmitter } from "./transmit.ts";
import type { Umem } from "./umem.ts";

// Own constants, see frame.ts.
const { Arrival, NONE, PARTIAL } = arrival;
const { LARGEST_PAYLOAD, PAYLOAD_AT } = frames;
const { BURST, NO_FRAME, Row, ROW_SHIFT, SLOW } = burst;
const COUNT = APP.index;

/** What answers are made with. */
export interface FrameAnswersParts {
  readonly origin: Origin;
  /** The app's number in this tile. */
  readonly index: number;
  readonly requests: ArrivedRequests;
  readonly umem: Umem;
  readonly transmitter: Transmitter;
  readonly counters: Float64Array;
}

/** The answers of one app. */
export class FrameAnswers implements Answers {
  readonly bytes: Uint8Array;
  readonly #origin: Origin;
  readonly #index: number;
  readonly #requests: ArrivedRequests;
  readonly #umem: Umem;
  readonly #transmitter: Transmitter;
  readonly #rows: Int32Array;
  readonly #counters: Float64Array;
  /**
   * What was reserved and is not sent yet, -1 when nothing is: where a frame would begin that has its
   * payload there, or a large buffer; and the row of the request whose frame it is, else -1.
   */
  #frame = -1;
  #owner = -1;
  /**
   * Where its room begins, and how many bytes were asked for. What stands behind them is what others
   * sent and were sent, so no more than that leaves.
   */
  #at = 0;
  #size = 0;
  /** What the row of it begins with as its entry, see `Transmitter.sendFrames`. */
  #entry = SLOW;
  #count = 0;
  /** Rows of requests that are to go back as they came, by their first word: all after what `#rows` has. */
  readonly #reflected = new Int32Array(BURST);
  #reflections = 0;

  constructor({ origin, index, requests, umem, transmitter, counters }: FrameAnswersParts) {
    this.bytes = umem.bytes;
    this.#origin = origin;
    this.#index = index;
    this.#requests = requests;
    this.#umem = umem;
    this.#transmitter = transmitter;
    this.#rows = transmitter.rows;
    this.#counters = counters;
  }

  reserve(size: number): number {
    this.takeBack();
    const at = this.#requests.room(size);
    if (at < 0) return this.#reserveApart(size);
    this.#frame = at - PAYLOAD_AT;
    this.#owner = this.#requests.row;
    this.#entry = SLOW;
    this.#at = at;
    this.#size = size | 0;
    return at;
  }

  /** Takes room back that was reserved and not sent. */
  takeBack(): void {
    // What is in the frame of its request goes on being there.
    if (this.#frame >= 0 && this.#owner < 0) this.#umem.give(this.#frame);
    this.#frame = -1;
  }

  /** Room that is not in the request's frame. */
  #reserveApart(size: number): number {
    const umem = this.#umem;
    const isLarge = size > umem.frameBytes - PAYLOAD_AT;
    this.#owner = -1;
    this.#entry = isLarge ? NO_FRAME : SLOW;
    if (size > LARGEST_PAYLOAD) this.#frame = -1;
    else this.#frame = isLarge ? umem.takeLarge() : this.#takeFrame();
    if (this.#frame < 0) {
      this.#counters[COUNT.tx_drop_reply_link_full]++;
      return -1;
    }
    this.#at = this.#frame + (isLarge ? 0 : PAYLOAD_AT);
    this.#size = size | 0;
    return this.#at;
  }

  /**
   * Takes a free frame, but not the one of the request at hand: that can be free when more answers to
   * it were sent than a burst has, and the first of them was dropped.
   */
  #takeFrame(): number {
    const umem = this.#umem;
    const frame = umem.takeFrame();
    if (!this.#requests.isReading(frame)) return frame;
    const other = umem.takeFrame();
    umem.give(frame);
    return other;
  }

  copy(offset: number): void {
    const { words } = this.#umem;
    const from = this.#requests.offset;
    const size = this.#requests.size;
    let done = 0;
    if (((from | offset) & 3) === 0) {
      const a = from >>> 2;
      const b = offset >>> 2;
      const count = size >>> 2;
      for (let w = 0; w < count; w++) words[b + w] = words[a + w];
      done = size & ~3;
    }
    for (; done < size; done++) this.bytes[offset + done] = this.bytes[from + done];
  }

  reflect(): void {
    if (this.#frame >= 0) this.takeBack();
    const requests = this.#requests;
    const { row } = requests;
    if (requests.isFramed && requests.rows[row + Arrival.sum] !== PARTIAL) {
      // Answers leave in their order.
      if (this.#count > 0) this.#flush();
      this.#reflected[this.#reflections++ & (BURST - 1)] = row;
      requests.spend(row);
    } else this.#reflectSlowly();
  }

  /** Sends a request back whose headers cannot just be turned round, or whose frame has left. */
  #reflectSlowly(): void {
    const requests = this.#requests;
    if (requests.row === NONE) throw noDatagram("reflect");
    const { offset, size } = requests;
    if (requests.isHere) {
      const { isFramed } = requests;
      this.#frame = isFramed ? offset - PAYLOAD_AT : offset;
      this.#owner = requests.row;
      this.#entry = isFramed ? SLOW : NO_FRAME;
      this.#at = offset;
      this.#size = size;
      this.reply(offset, size);
      return;
    }
    const room = this.reserve(size);
    if (room < 0) return;
    this.copy(room);
    this.reply(room, size);
  }

  /** Sends back what is to go back as it came. */
  #turnBack(): void {
    const { arrivals } = this.#requests;
    const { rows } = arrivals;
    const reflected = this.#reflected;
    const count = this.#reflections;
    this.#reflections = 0;
    for (let done = 0; done < count; done++) {
      const from = done;
      done = this.#transmitter.reflect(arrivals, reflected, from, count);
      this.#counters[COUNT.answers] += done - from;
      if (done === count) return;
      const row = reflected[done];
      const offset = rows[row + Arrival.offset];
      const ports = rows[row + Arrival.ports];
      this.#add(
        offset,
        rows[row + Arrival.length],
        rows[row + Arrival.destination],
        rows[row + Arrival.source],
        (ports << 16) | (ports >>> 16),
        offset - PAYLOAD_AT,
        SLOW,
      );
      this.#flush();
    }
  }

  reply(offset: number, size: number): void {
    const { rows, row } = this.#requests;
    if (row === NONE) throw noDatagram("reply");
    const ports = rows[row + Arrival.ports];
    this.#send(
      offset,
      size,
      rows[row + Arrival.destination],
      rows[row + Arrival.source],
      (ports << 16) | (ports >>> 16),
    );
  }

  send(
    { address, port, sourcePort, sourceAddress = 0 }: Destination,
    offset: number,
    size: number,
  ) {
    this.#send(offset, size, sourceAddress, address, (sourcePort << 16) | port);
  }

  /** Sends what stands in what was reserved. */
  #send(offset: number, size: number, source: number, destination: number, ports: number): void {
    if (this.#frame < 0) {
      this.#counters[COUNT.tx_drop_reply_link_full]++;
      return;
    }
    if (offset !== this.#at || !(size >= 0 && size <= this.#size)) {
      offset = this.#settle(offset, size);
    }
    if (this.#reflections > 0) this.#turnBack();
    this.#add(offset, size, source, destination, ports, this.#frame, this.#entry);
    if (this.#owner >= 0) this.#requests.spend(this.#owner);
    this.#frame = -1;
  }

  /** Fills the next row. */
  #add(
    offset: number,
    size: number,
    source: number,
    destination: number,
    ports: number,
    frame: number,
    entry: number,
  ): void {
    if (this.#count === BURST) this.#flush();
    const rows = this.#rows;
    const row = (this.#count & (BURST - 1)) << ROW_SHIFT;
    rows[row + Row.offset] = offset;
    rows[row + Row.length] = size;
    rows[row + Row.source] = source;
    rows[row + Row.destination] = destination;
    rows[row + Row.ports] = ports;
    rows[row + Row.frame] = frame;
    rows[row + Row.entry] = entry;
    this.#count++;
  }

  /**
   * Moves an answer that does not begin where its room does to where it must be in its frame, and
   * returns where it is. Throws RangeError when it is not within its room.
   */
  #settle(offset: number, size: number): number {
    checkWithin(offset, size, { at: this.#at, room: this.#size });
    if (this.#entry === NO_FRAME) return offset;
    this.bytes.copyWithin(this.#at, offset, offset + size);
    return this.#at;
  }

  /** Sends what is in rows. */
  #flush(): void {
    const count = this.#count;
    if (count === 0) return;
    this.#counters[COUNT.answers] += count;
    this.#transmitter.sendFrames(this.#origin, this.#index, count);
    this.#count = 0;
  }

  /** Sends what was answered when a burst is through. Room that was reserved stays the app's. */
  finish(): void {
    this.#flush();
    this.#turnBack();
    if (this.#frame < 0 || this.#owner < 0) return;
    this.#requests.spend(this.#owner);
    this.#owner = -1;
  }
}
