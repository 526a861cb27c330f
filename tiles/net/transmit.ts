/**
 * The way out: a burst of datagrams from an app's link, each checked, given a frame with its payload
 * and the headers that the cache has for its destination, and put on a transmit ring. What has no
 * headers there goes the long way (`detour.ts`). Every datagram accepted is sent, held, or dropped
 * with the one counter that says why.
 *
 * Nothing that an app writes is believed: a descriptor is read once, its bounds are checked, and the
 * payload is copied once into a frame that no app can write.
 */

import { CaptureFlag } from "../runtime/capture_ring.ts";
import { NET } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import type { AppLink } from "./app_link.ts";
import * as arrival from "./arrivals.ts";
import type { Capture } from "./capture.ts";
import type { Detour, Origin } from "./detour.ts";
import type { Dispatch } from "./dispatch.ts";
import * as layout from "./entry.ts";
import * as frames from "./frame.ts";
import type { HeaderCache } from "./header_cache.ts";
import * as headers from "./headers.ts";
import * as burst from "./rows.ts";
import type { SocketSender } from "./socket_sender.ts";
import type { Umem } from "./umem.ts";
import { RING_FULL, type Wire } from "./wire.ts";

// Own constants, see frame.ts.
const { appBit, Entry, TICK_BITS } = layout;
const { LARGEST_PAYLOAD } = frames;
const { BURST, makeRows, NO_FRAME, REFUSED, Row, ROW_SHIFT, ROW_WORDS, SLOW } = burst;
const { copyPayloads, sumPayloads } = headers;
const { Descriptor, REFLECTED } = link;
const { PARTIAL } = arrival;
const COUNT = NET.index;

/** What datagrams are sent with. */
export interface TransmitterParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly detour: Detour;
  readonly wire: Wire;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Sends what apps answer. */
export class Transmitter {
  readonly #umem: Umem;
  readonly #frames: Int32Array;
  readonly #cache: HeaderCache;
  readonly #entries: Int32Array;
  readonly #detour: Detour;
  readonly #wire: Wire;
  readonly #sender: SocketSender;
  readonly #dispatch: Dispatch;
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  /** Of the burst at hand. Who calls `sendFrames` fills them. */
  readonly rows = makeRows();

  constructor(parts: TransmitterParts) {
    this.#umem = parts.umem;
    this.#frames = parts.umem.words;
    this.#cache = parts.cache;
    this.#entries = parts.cache.words;
    this.#detour = parts.detour;
    this.#wire = parts.wire;
    this.#sender = parts.sender;
    this.#dispatch = parts.dispatch;
    this.#capture = parts.capture;
    this.#counters = parts.counters;
  }

  /** Takes one burst from the link of app number `index` and returns how many datagrams. */
  burst(app: AppLink, index: number): number {
    const count = Math.min(app.answers.available(), BURST);
    if (count === 0) return 0;
    for (let i = 0; i < count;) {
      i = this.#reflectRun(app, index, i, count);
      if (i < count) i = this.#sendRun(app, index, i, count);
    }
    // Kernel sockets send from the app's memory, so before it is told that this is free.
    this.#sender.flush();
    app.release(count);
    return count;
  }

  /**
   * Sends requests back that the answers from the `from`-th on name, and returns the first answer that
   * is something else, or names none that the app has. They leave in their order: what has to go the
   * long way is gathered, and goes before the next that does not.
   */
  #reflectRun(app: AppLink, index: number, from: number, end: number): number {
    const { rows } = this;
    const { answers } = app;
    const { words } = answers;
    const wire = this.#wire;
    let slow = 0;
    let turned = 0;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      if (words[at + Descriptor.length] !== REFLECTED) break;
      let row = (slow & (BURST - 1)) << ROW_SHIFT;
      if (!app.takeRequest(words[at + Descriptor.offset], rows, row)) break;
      if (slow > 0 && this.#isReady(rows, row)) {
        this.sendFrames(app.received, index, slow);
        rows.copyWithin(0, row, row + ROW_WORDS);
        row = slow = 0;
      }
      if (
        this.#isReady(rows, row) &&
        wire.turn(rows[row + Row.frame], rows[row + Row.entry], rows[row + Row.length])
      ) {
        turned++;
        continue;
      }
      if (rows[row + Row.entry] !== NO_FRAME) rows[row + Row.entry] = SLOW;
      slow++;
    }
    this.#counters[COUNT.tx_accepted] += turned;
    if (slow > 0) this.sendFrames(app.received, index, slow);
    return i;
  }

  /**
   * Sends the `from`-th answer, and those after it up to one that names a request, whose place it
   * returns. Passes of one kind of work each, as in `checks.ts`; what cannot be sent at once comes
   * last, one by one.
   */
  #sendRun(app: AppLink, index: number, from: number, end: number): number {
    const count = this.#read(app, from, end);
    this.#classify(app.payloadBytes.length, index, count);
    this.#takeFrames(count);
    copyPayloads(app.payloads, this.#frames, this.rows, count);
    if (this.#wire.put(this.rows, count) > 0) {
      this.#others(app, index, count);
      this.#giveBack(count, false);
    }
    this.#counters[COUNT.tx_accepted] += count;
    return from + count;
  }

  /**
   * Sends `count` datagrams of app number `index` that stand in `rows`, each in a frame of its own,
   * payload in place, which is given away by that. A row's entry is SLOW, or NO_FRAME where a large
   * buffer stands in for the frame.
   */
  sendFrames(app: Origin, index: number, count: number): void {
    const { rows } = this;
    this.#classify(app.payloadBytes.length, index, count);
    sumPayloads(this.#frames, rows, count);
    const others = this.#wire.put(rows, count);
    this.#counters[COUNT.tx_accepted] += count;
    if (others === 0) return;
    this.#others(app, index, count);
    this.#sender.flush();
    this.#giveBack(count, true);
  }

  /**
   * Sends received datagrams back, each in its own frame and without a word of its payload read: those
   * whose rows in `arrivals` begin at the words that `picked` lists from `from` on, with payloads in
   * the UMEM and UDP checksums that stand. Returns how far it came: the next cannot leave at once,
   * nothing has happened to it, and `sendFrames` says why.
   */
  reflect(arrivals: arrival.Arrivals, picked: Int32Array, from: number, end: number): number {
    const sent = this.#wire.turnRun(arrivals, picked, from, end);
    this.#counters[COUNT.tx_accepted] += sent - from;
    return sent;
  }

  /**
   * Whether the request in the row at word `row` of `rows` can be sent back at once. That the app may
   * send there need not be asked again, see `Peers.hear`. Port 0 is nobody's.
   */
  #isReady(rows: Int32Array, row: number): boolean {
    return rows[row + Row.sum] !== PARTIAL && (rows[row + Row.ports] & 0xffff) !== 0 &&
      this.#cache.leads(
        rows[row + Row.entry],
        rows[row + Row.destination],
        rows[row + Row.source],
        rows[row + Row.length],
      );
  }

  /** Frees the frames of rows that the ring had no room for, or of all that were not sent. */
  #giveBack(count: number, all: boolean): void {
    const { rows } = this;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const entry = rows[row + Row.entry];
      if (all ? entry < 0 : entry === RING_FULL) this.#umem.give(rows[row + Row.frame]);
    }
  }

  /** Reads the descriptors of a run, each word once, and returns how many there are. */
  #read(app: AppLink, from: number, end: number): number {
    const { answers } = app;
    const { words } = answers;
    const { rows } = this;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      const length = words[at + Descriptor.length];
      // The first has been looked at: as a request's name it is none, and a length it is not either.
      if (length === REFLECTED && i > from) break;
      const row = ((i - from) & (BURST - 1)) << ROW_SHIFT;
      rows[row + Row.offset] = words[at + Descriptor.offset];
      rows[row + Row.length] = length;
      rows[row + Row.source] = words[at + Descriptor.source];
      rows[row + Row.destination] = words[at + Descriptor.destination];
      rows[row + Row.ports] = words[at + Descriptor.ports];
      rows[row + Row.entry] = SLOW;
      const request = words[at + Descriptor.request];
      // What it answers is not there: no length is -1 either.
      if (request !== 0 && !app.answerTo(request - 1, rows, row)) rows[row + Row.length] = -1;
    }
    return i - from;
  }

  /** Checks the descriptors, and finds the entries of those that can be sent at once. */
  #classify(payloadBytes: number, index: number, count: number): void {
    const { rows } = this;
    const entries = this.#entries;
    const cache = this.#cache;
    const dispatch = this.#dispatch;
    const bit = appBit(index);
    const bits = TICK_BITS | bit;
    const checked = (cache.tick & TICK_BITS) | bit;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      const offset = rows[row + Row.offset];
      const length = rows[row + Row.length];
      const ports = rows[row + Row.ports];
      let entry = SLOW;
      if (length < 0 || length > LARGEST_PAYLOAD || offset < 0 || offset > payloadBytes - length) {
        entry = REFUSED - COUNT.tx_drop_invalid_descriptor;
      } else if ((ports & 0xffff) === 0 || !dispatch.serves(index, ports >>> 16)) {
        entry = REFUSED - COUNT.tx_drop_port_not_owned;
      } else {
        const destination = rows[row + Row.destination];
        const source = rows[row + Row.source];
        const e = rows[row + Row.entry] === NO_FRAME
          ? NO_FRAME
          : cache.find(destination, source, 0);
        if (e >= 0) {
          const outcome = entries[e + Entry.outcome];
          // One that is negative has no largest payload: only those of the wire pass here.
          if (
            outcome >= 0 && length <= (outcome & 0xffff) &&
            (entries[e + Entry.checked] & bits) === checked
          ) entry = e;
        }
      }
      rows[row + Row.entry] = entry;
    }
  }

  /** Gives a frame to each that has an entry. */
  #takeFrames(count: number): void {
    const { rows } = this;
    const umem = this.#umem;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      if (rows[row + Row.entry] < 0) continue;
      const frame = umem.takeFrame();
      if (frame < 0) rows[row + Row.entry] = REFUSED - COUNT.tx_drop_no_frame;
      else rows[row + Row.frame] = frame;
    }
  }

  /** Deals with those that were not sent at once, one by one. */
  #others(app: Origin, index: number, count: number): void {
    const { rows } = this;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const entry = rows[row + Row.entry];
      if (entry >= 0) continue;
      const refused = entry === SLOW ? this.#detour.take(app, index, rows, row) : REFUSED - entry;
      if (refused === 0) continue;
      this.#counters[refused]++;
      if (!this.#capture.wanted) continue;
      const offset = rows[row + Row.offset];
      this.#capture.datagram(CaptureFlag.out, refused, rows, row, app.payloadBytes, offset);
    }
  }
}
