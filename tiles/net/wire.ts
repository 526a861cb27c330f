/**
 * The last step of the way out: a frame with its payload in place gets the headers of its cache entry
 * and goes onto the transmit ring that the entry names.
 *
 * @module
 */

import { NET } from "../runtime/counters.ts";
import { PACKET_HEADER_BYTES } from "./frame.ts";
import { Entry, type HeaderCache } from "./header_cache.ts";
import { IP_AT, writeHeaders } from "./headers.ts";
import type { Umem } from "./umem.ts";
import type { XdpPort } from "./xdp_port.ts";

/** Puts frames on transmit rings. */
export class Wire {
  readonly #frames: Int32Array;
  readonly #entries: Int32Array;
  readonly #ports: readonly XdpPort[];

  constructor(umem: Umem, cache: HeaderCache, ports: readonly XdpPort[]) {
    this.#frames = umem.words;
    this.#entries = cache.words;
    this.#ports = ports;
  }

  /**
   * Finishes the frame at `frame`, whose payload of `length` bytes with the sum `sum` is in place, by
   * the entry at `e`, and queues it. Returns 0, or the number of the counter to move; the frame is
   * then still the caller's.
   */
  put(frame: number, e: number, ports: number, length: number, sum: number): number {
    const outcome = this.#entries[e + Entry.outcome];
    const port = this.#ports[outcome >>> 24];
    if (port.room === 0) return NET.index.tx_drop_ring_full;
    writeHeaders(this.#frames, frame, this.#entries, e, ports, length, sum);
    const begin = (outcome >>> 16) & 0xff;
    port.queue(frame + begin, IP_AT - begin + PACKET_HEADER_BYTES + length);
    return 0;
  }
}
