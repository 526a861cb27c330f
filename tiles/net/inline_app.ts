/**
 * An app inside the net tile's loop: the same contract and the same counters, but no other thread, and
 * no link: it reads a burst as it came off the ring, and its answers are built in the very frames that
 * they leave in. It can therefore do whatever the net tile can: write into any frame, and stop the
 * tile by not returning.
 */

import type { View } from "../../ffi/view.ts";
import type { Answers, Datagrams, Destination } from "../app/contract.ts";
import { checkWithin, noDatagram, type Service, type ServiceSetup } from "../app/host.ts";
import { APP } from "../runtime/counters.ts";
import { AllowedPeers, type PeerSetup } from "./app_port.ts";
import * as frame_ from "./frame.ts";
import type { Umem } from "./rings.ts";
import type { RouteCache } from "./route_cache.ts";
import * as rx_ from "./rx.ts";
import { type Recipient, RxBatch } from "./rx.ts";
import * as tx_ from "./tx.ts";
import type { Origin, Transmitter } from "./tx.ts";

// Own constants, see frame.ts.
const { ARRIVAL_SHIFT, Arrival, NONE, PARTIAL, XDP_BURST } = rx_;
const { LARGEST_PAYLOAD, PAYLOAD_AT } = frame_;
const { BURST, NO_FRAME, ROW_SHIFT, Row, SLOW } = tx_;
/** An app inside the net tile, as main tells of it. */
export interface InlineSetup extends ServiceSetup, PeerSetup {
  /** The tile region that its counters are in. */
  readonly region: View;
}

/** What an app is run with. */
export interface InlineAppParts {
  readonly service: Service;
  readonly counters: Float64Array;
  /** Its number among the tile's apps. */
  readonly index: number;
  readonly umem: Umem;
  readonly cache: RouteCache;
  readonly transmitter: Transmitter;
  /** As in `AppPortParts`. */
  readonly seed: number;
}

/** An app inside the net tile. */
export class InlineApp implements Recipient {
  largeOut = 0;
  readonly #service: Service;
  readonly #counters: Float64Array;
  readonly #peers: AllowedPeers;
  readonly #requests: ArrivedRequests;
  readonly #answers: FrameAnswers;
  /** What came by the kernel's sockets. */
  readonly #datagrams = new RxBatch();

  constructor(
    setup: InlineSetup,
    { service, counters, index, umem, cache, transmitter, seed }: InlineAppParts,
  ) {
    this.#service = service;
    this.#counters = counters;
    this.#peers = new AllowedPeers(setup, { cache, index, seed });
    const requests = new ArrivedRequests(umem, this.#datagrams);
    const origin = { payloads: umem.view, payloadBytes: umem.bytes, peers: this.#peers };
    this.#requests = requests;
    this.#answers = new FrameAnswers({ origin, index, requests, umem, transmitter, counters });
  }

  /** As `Recipient` says. It has room for a burst, and is to run after each. */
  push(arrivals: RxBatch, from: number, count: number): number {
    const end = this.#peers.hearRun(arrivals.rows, from, count);
    this.#requests.pick(arrivals, from, end);
    return end;
  }

  /** As `Recipient` says. It is to run after each burst. */
  pushOne(
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
    ifindex: number,
    timeLow: number,
    timeHigh: number,
  ): boolean {
    const { count } = this.#requests;
    if (count === XDP_BURST) return false;
    const { frames, rows } = this.#datagrams;
    const row = count << ARRIVAL_SHIFT;
    frames[0] = timeLow;
    frames[1] = timeHigh;
    rows[row + Arrival.app] = 0;
    rows[row + Arrival.source] = source;
    rows[row + Arrival.destination] = destination;
    rows[row + Arrival.ports] = ports;
    rows[row + Arrival.offset] = offset;
    rows[row + Arrival.length] = length;
    rows[row + Arrival.entry] = -1;
    rows[row + Arrival.interface] = ifindex;
    rows[row + Arrival.sum] = PARTIAL;
    this.#requests.pick(this.#datagrams, count, count + 1);
    this.#peers.hear(source);
    return true;
  }

  /** Gives the app the burst that has come, and sends its answers. */
  run(): void {
    const requests = this.#requests;
    const { count } = requests;
    if (count === 0) return;
    this.#counters[APP.index.requests] += count;
    this.#service.receive(requests, this.#answers);
    this.#answers.finish();
    requests.end();
    // What it had of them is free.
    this.largeOut = 0;
  }

  /** Takes back what it has reserved: the tile ends. */
  relinquish(): void {
    this.#answers.takeBack();
  }

  /** Milliseconds to its next tick; -1 when it has none. */
  nextDue(nowMillis: number): number {
    return this.#service.nextDue(nowMillis);
  }

  /** Calls its tick when that is due. */
  clock(nowMillis: number): void {
    if (this.#service.clock(nowMillis, this.#answers)) this.#answers.finish();
  }
}

/*
 * The burst at hand as an app in the net tile goes through it: straight from what the checks found
 * out of it (`rx.ts`), with no link in between.
 */

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
  #arrivals: RxBatch;
  #rows: Int32Array;
  #count = 0;
  #spent = 0;
  /** How many `next` has gone to, and the row of the last. */
  #gone = 0;
  #row = NONE;

  /** Picks from `arrivals` unless told otherwise. */
  constructor(umem: Umem, arrivals: RxBatch) {
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
  pick(arrivals: RxBatch, from: number, end: number): void {
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
  get arrivals(): RxBatch {
    return this.#arrivals;
  }
  /** The rows of the burst at hand. */
  get rows(): Int32Array {
    return this.#rows;
  }
}

/*
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
