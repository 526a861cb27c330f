/**
 * A burst on its way in: what a receive ring gave, and what became known of each frame since. Filled
 * by `xdp_port.ts` and `checks.ts`, then handed on by `app_link.ts`, or read in place by an app in the
 * net tile (`inline_app.ts`).
 *
 * What headers say is read from them once and stands here in rows, in one array: V8 keeps the bounds
 * of few arrays in registers, and the first-level cache few of frames that are two kilobytes apart.
 */

import { RECEIVE_HEADER_WORDS } from "../../ffi/xsk.ts";

/** Most frames taken from a receive ring, or put on a transmit ring, by one call. */
export const XDP_BURST = 64;

/** Who datagrams are for: an app's link, or an app in this tile. */
export interface Recipient {
  /** Large buffers that the app is reading. */
  largeOut: number;
  /**
   * Hands over the `from`-th and all following datagrams of `arrivals`, of `count`, that are for the
   * same app in a row. Returns the first that it did not take; where that is because there is no room
   * it is marked as such.
   */
  push(arrivals: Arrivals, from: number, count: number): number;
  /**
   * Hands over a datagram whose payload is `length` bytes at `offset` of the UMEM. False when there
   * is no room; the frame is then still the caller's. Addresses, ports and times may come as signed
   * words.
   */
  pushOne(
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
    ifindex: number,
    timeLow: number,
    timeHigh: number,
  ): boolean;
}

/** log2 of a row's words: row `i` begins at word `i << ARRIVAL_SHIFT`. */
export const ARRIVAL_SHIFT = 4;

/** Word offsets in a row. All but the first are of good frames alone. */
export const Arrival = {
  /** The app that it is for, or the number of the counter to move, negated. */
  app: 0,
  /** Addresses, host order, and ports, source << 16 | destination. */
  source: 1,
  destination: 2,
  ports: 3,
  /** Where its payload begins in the UMEM, and how long it is. */
  offset: 4,
  length: 5,
  /** The header cache's entry for an answer; -1: not known. */
  entry: 6,
  /** The interface that it came in on: a VLAN device when it was tagged. */
  interface: 7,
  /** Sum of the pseudo header and the UDP header; or one of the two below. */
  sum: 8,
} as const;

/** Instead of a sum: the UDP checksum stands as it is, none included. */
export const STANDS = -1;
/** Instead of a sum: there is no more than the pseudo header's, or that is not known. */
export const PARTIAL = -2;

/** The row that stands for none. */
export const NONE = XDP_BURST << ARRIVAL_SHIFT;

/** The burst at hand; made once. */
export class Arrivals {
  /** Time low, time high, then offset and length of each frame, as `Xsk.receive` writes them. */
  readonly frames = new Uint32Array(RECEIVE_HEADER_WORDS + 2 * XDP_BURST);
  /** A row for each, and one that stands for none. */
  readonly rows = new Int32Array((XDP_BURST + 1) << ARRIVAL_SHIFT);
  /** `HeaderCache.changes` when their entries were found. */
  changes = 0;

  constructor() {
    this.rows[NONE + Arrival.app] = -1;
  }
}
