/**
 * The last step of the way out: frames with their payload in place get the headers of their cache
 * entries and go onto the transmit rings that these name.
 *
 * @module
 */

import { NET } from "../runtime/counters.ts";
import * as layout from "./entry.ts";
import * as frames from "./frame.ts";
import type { HeaderCache } from "./header_cache.ts";
import * as headers from "./headers.ts";
import * as burst from "./rows.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

// Own constants, see frame.ts.
const { Entry, MOST_WORDS } = layout;
const { BURST, REFUSED, Row, ROW_SHIFT } = burst;
const { IP_AT, PACKET_HEADER_BYTES } = frames;
const { writeHeaders } = headers;

/** Puts frames on transmit rings. */
export class Wire {
  readonly #umem: Umem;
  readonly #entries: Int32Array;
  readonly #ports: readonly XdpPort[];

  constructor(umem: Umem, cache: HeaderCache, ports: readonly XdpPort[]) {
    this.#umem = umem;
    this.#entries = cache.words;
    this.#ports = ports;
  }

  /**
   * Finishes the frame of each row that has one, payload in place, by its entry, and queues it. Where
   * the ring is full the frame is freed and the row refused. Returns how many rows have no entry.
   */
  put(rows: Int32Array, count: number): number {
    writeHeaders(this.#umem.words, this.#entries, rows, count);
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
      const frame = rows[row + Row.frame];
      const port = ports[outcome >>> 24];
      if (port.room === 0) {
        rows[row + Row.entry] = REFUSED - NET.index.tx_drop_ring_full;
        this.#umem.give(frame);
        others++;
      } else {
        const begin = (outcome >>> 16) & 0xff;
        port.queue(frame + begin, rows[row + Row.length] + IP_AT + PACKET_HEADER_BYTES - begin);
      }
    }
    return others;
  }
}
