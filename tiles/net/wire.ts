/**
 * The last step of the way out: frames with their payload in place get the headers of their cache
 * entries and go onto the transmit rings that these name.
 */

import { NET } from "../runtime/counters.ts";
import * as arrival from "./arrivals.ts";
import type { Capture } from "./capture.ts";
import * as layout from "./entry.ts";
import * as frames from "./frame.ts";
import type { HeaderCache } from "./header_cache.ts";
import * as headers from "./headers.ts";
import * as burst from "./rows.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

// Own constants, see frame.ts.
const { Arrival } = arrival;
const { BEGIN_BITS, Entry, MOST_WORDS } = layout;
const { BURST, REFUSED, Row, ROW_SHIFT } = burst;
const { IP_AT, PACKET_HEADER_BYTES, PAYLOAD_AT } = frames;
const { turnHeaders, writeHeaders } = headers;

/** The refusal of those that a ring has no room for. */
export const RING_FULL = REFUSED - NET.index.tx_drop_ring_full;

/** What frames are finished and queued with. */
export interface WireParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly ports: readonly XdpPort[];
  readonly capture: Capture;
}

/** Puts frames on transmit rings. */
export class Wire {
  readonly #umem: Umem;
  readonly #cache: HeaderCache;
  readonly #entries: Int32Array;
  readonly #ports: readonly XdpPort[];
  readonly #capture: Capture;

  constructor({ umem, cache, ports, capture }: WireParts) {
    this.#umem = umem;
    this.#cache = cache;
    this.#entries = cache.words;
    this.#ports = ports;
    this.#capture = capture;
  }

  /**
   * Finishes the frame of each row that has one, payload in place, by its entry, and queues it. Where
   * the ring is full the row is refused, and the frame is still the caller's. Returns how many rows
   * have no entry.
   */
  put(rows: Int32Array, count: number): number {
    const frames = this.#umem.words;
    const entries = this.#entries;
    const ports = this.#ports;
    let others = 0;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      const e = rows[row + Row.entry];
      if (e < 0) {
        others++;
        continue;
      }
      const outcome = entries[(e & MOST_WORDS) + Entry.outcome];
      const port = ports[outcome >>> 24];
      if (port.room === 0) {
        rows[row + Row.entry] = RING_FULL;
        others++;
        continue;
      }
      writeHeaders(frames, entries, rows, row);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const length = rows[row + Row.length] + IP_AT + PACKET_HEADER_BYTES - begin;
      port.queue(rows[row + Row.frame] + begin, length);
    }
    if (this.#capture.wanted) this.#show(rows, count);
    return others;
  }

  /**
   * Turns a received datagram round by the entry at `e` and queues it, see `turnHeaders`. False when
   * the ring is full; the frame is then as it was.
   */
  turn(at: number, e: number, length: number): boolean {
    const outcome = this.#entries[(e & MOST_WORDS) + Entry.outcome];
    const port = this.#ports[outcome >>> 24];
    if (port.room === 0) return false;
    turnHeaders(this.#umem.words, this.#entries, at, e, length);
    const begin = (outcome >>> 16) & BEGIN_BITS;
    const size = length + IP_AT + PACKET_HEADER_BYTES - begin;
    port.queue(at + begin, size);
    if (this.#capture.wanted) this.#capture.sent(this.#umem.bytes, at + begin, size, port.ifindex);
    return true;
  }

  /**
   * Does that to the datagrams whose rows in `arrivals` begin at the words that `picked` lists from
   * `from` on, by the entries there. Returns how far it came: the next has none by which it can leave
   * at once, or its ring is full.
   */
  turnRun(arrivals: arrival.Arrivals, picked: Int32Array, from: number, end: number): number {
    const frames = this.#umem.words;
    const cache = this.#cache;
    const entries = cache.words;
    const ports = this.#ports;
    const { rows } = arrivals;
    // Nothing changes in here.
    const isCurrent = arrivals.changes === cache.changes;
    let port: XdpPort | undefined;
    let number = -1;
    let room = 0;
    let i = from;
    for (; i < end; i++) {
      const row = picked[i & (BURST - 1)];
      const e = rows[row + Arrival.entry];
      const length = rows[row + Arrival.length];
      const leads = isCurrent
        ? cache.admits(e, length)
        : cache.leads(e, rows[row + Arrival.source], rows[row + Arrival.destination], length);
      // Port 0 is nobody's.
      if (!leads || rows[row + Arrival.ports] >>> 16 === 0) break;
      const outcome = entries[(e & MOST_WORDS) + Entry.outcome];
      if (outcome >>> 24 !== number) {
        number = outcome >>> 24;
        port = ports[number];
        room = port.room;
      }
      if (room-- === 0) break;
      const at = rows[row + Arrival.offset] - PAYLOAD_AT;
      turnHeaders(frames, entries, at, e, length);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      port!.queue(at + begin, length + PAYLOAD_AT - begin);
    }
    if (this.#capture.wanted) this.#showTurned(rows, picked, from, i);
    return i;
  }

  /** Shows the frames that were queued. */
  #show(rows: Int32Array, count: number): void {
    const entries = this.#entries;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      const e = rows[row + Row.entry];
      if (e < 0) continue;
      const outcome = entries[e + Entry.outcome];
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const size = rows[row + Row.length] + IP_AT + PACKET_HEADER_BYTES - begin;
      const { ifindex } = this.#ports[outcome >>> 24];
      this.#capture.sent(this.#umem.bytes, rows[row + Row.frame] + begin, size, ifindex);
    }
  }

  /** Shows the datagrams that were turned round. */
  #showTurned(rows: Int32Array, picked: Int32Array, from: number, end: number): void {
    for (let i = from; i < end; i++) {
      const row = picked[i];
      const outcome = this.#entries[rows[row + Arrival.entry] + Entry.outcome];
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const at = rows[row + Arrival.offset] - PAYLOAD_AT + begin;
      const size = rows[row + Arrival.length] + PAYLOAD_AT - begin;
      this.#capture.sent(this.#umem.bytes, at, size, this.#ports[outcome >>> 24].ifindex);
    }
  }
}
