// SPDX-License-Identifier: Apache-2.0
/**
 * What a net tile counts by socket and by served port, how full its rings and links are, and how long
 * answered datagrams take. Counters that are not of these are in the tile region (`../runtime/counters.ts`).
 *
 * The region `traffic NET`, all doubles, written by the net tile and read by the status tile:
 *
 *     socket i   packets and bytes received and sent, shares of the rx, tx and fill rings that wait, and which
 *                interface and queue that is
 *     link i     the share of the i-th app's link that the app has not passed
 *     port p     packets, payload bytes and drops, received and sent; 0 is for what names no port of its app
 *
 * A record of a port is a cache line. A burst that is all of one port is counted at once: the passes that
 * read its packets anyway find that out.
 */

import { f64, type View } from "../../ffi/region.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import { HISTOGRAMS } from "../runtime/counters.ts";
import * as frame from "./rings.ts";
import type { Dispatch, RxBatch } from "./rx.ts";

// Own constants, see rings.ts.
const { BATCH, Packet, PACKET_SHIFT, REFUSED, SocketCell } = frame;
const { at: LATENCY, sum: LATENCY_SUM } = HISTOGRAMS.latency;

/** Doubles of a record, and which is which. */
const RECORD_SHIFT = 3;
const RECORD = 1 << RECORD_SHIFT;
export const PortCell = {
  rxPackets: 0,
  rxBytes: 1,
  txPackets: 2,
  txBytes: 3,
  rxDrops: 4,
  txDrops: 5,
} as const;
const { rxPackets: RX_PACKETS, rxBytes: RX_BYTES } = PortCell;
const { txPackets: TX_PACKETS, txBytes: TX_BYTES } = PortCell;

const SOCKETS = 128;
const LINKS = 256;
const LINKS_AT = SOCKETS * RECORD;
const PORTS_AT = LINKS_AT + LINKS;
const PORTS = 1 << 16;

/** Bytes of the region. Untouched pages cost nothing. */
export const TRAFFIC_BYTES = (PORTS_AT + PORTS * RECORD) * 8;

/** Runs of answers with one arrival that wait for the clock. */
const RUNS = 64;
/** Nanoseconds of a tick of `Xsk.ticks`, log2. */
const TICK_SHIFT = 8;
const TICK_SECONDS = 2 ** TICK_SHIFT / 1e9;

/** A view of all records, for either side. */
export class Traffic {
  readonly #doubles: Float64Array;

  constructor(view: View) {
    this.#doubles = f64(view);
  }

  /** The `i`-th socket's, by `SocketCell`. */
  socket(i: number): Float64Array {
    return this.#doubles.subarray(i * RECORD, (i + 1) * RECORD);
  }

  /** One for each link. */
  get links(): Float64Array {
    return this.#doubles.subarray(LINKS_AT, PORTS_AT);
  }

  /** The port's, by `PortCell`. */
  port(port: number): Float64Array {
    return this.#doubles.subarray(PORTS_AT + port * RECORD, PORTS_AT + (port + 1) * RECORD);
  }

  /** All ports'. */
  get ports(): Float64Array {
    return this.#doubles.subarray(PORTS_AT);
  }
}

/** A burst's time, as `Xsk.receive` writes it, in ticks. */
export function ticksOf(low: number, high: number): number {
  return (high << (32 - TICK_SHIFT)) | (low >>> TICK_SHIFT);
}

/** Counts in a net tile. */
export class TrafficCounter {
  readonly #traffic: Traffic;
  readonly #ports: Float64Array;
  readonly #dispatch: Pick<Dispatch, "serves">;
  readonly #counters: Float64Array;
  readonly #xsk: Pick<Xsk, "ticks">;
  /** Arrival in ticks, and how many answers: runs that wait for `settle`. */
  readonly #runs = new Int32Array(2 * RUNS);
  #waiting = 0;

  constructor(
    { traffic, dispatch, counters, xsk }: {
      traffic: View;
      dispatch: Pick<Dispatch, "serves">;
      /** Of the tile region. */
      counters: Float64Array;
      xsk: Pick<Xsk, "ticks">;
    },
  ) {
    this.#traffic = new Traffic(traffic);
    this.#ports = this.#traffic.ports;
    this.#dispatch = dispatch;
    this.#counters = counters;
    this.#xsk = xsk;
  }

  /** The record of the `i`-th socket, which goes on if it was this socket's before. */
  socket(i: number, { ifindex, queue }: { ifindex: number; queue: number }): Float64Array {
    const cells = this.#traffic.socket(i);
    const key = ifindex * 2 ** 16 + queue;
    if (cells[SocketCell.key] !== key) cells.fill(0);
    cells[SocketCell.key] = key;
    return cells;
  }

  /** The shares of the links, by app. */
  get links(): Float64Array {
    return this.#traffic.links;
  }

  /** Counts `count` packets that all were delivered and are of one port. */
  receivedAlike(port: number, count: number, bytes: number): void {
    this.#add(port, PortCell.rxPackets, count, bytes);
  }

  /** Counts `count` packets that all answer what arrived at `arrival` and are of one port of their app. */
  sentAlike(port: number, count: number, bytes: number, arrival: number): void {
    this.#add(port, PortCell.txPackets, count, bytes);
    this.#answered(arrival, count);
  }

  /** Counts the packets of a batch, those with an app, by their ports. */
  received({ packets }: Pick<RxBatch, "packets">, count: number): void {
    const cells = this.#ports;
    for (let i = 0; i < count; i++) {
      const p = (i & (BATCH - 1)) << PACKET_SHIFT;
      if (packets[p + Packet.app] < 0) continue;
      const at = (packets[p + Packet.ports] & 0xffff) << RECORD_SHIFT;
      cells[at + RX_PACKETS]++;
      cells[at + RX_BYTES] += packets[p + Packet.length];
    }
  }

  /**
   * Counts what app `index` sends: the packets at the words `picked` from number `from` on, up to `end`.
   * `arrival`: of the burst that they answer; 0: each says its own, if it answers any.
   */
  sent(
    index: number,
    packets: Int32Array,
    picked: Int32Array,
    from: number,
    end: number,
    arrival: number,
  ): void {
    const cells = this.#ports;
    for (let i = from; i < end; i++) {
      const p = picked[i & (BATCH - 1)];
      let port = packets[p + Packet.ports] & 0xffff;
      // One that was refused may name a port of another app.
      if (packets[p + Packet.route] <= REFUSED) port = this.portOf(index, port);
      const at = port << RECORD_SHIFT;
      cells[at + TX_PACKETS]++;
      // An invalid length adds no more than the longest.
      cells[at + TX_BYTES] += packets[p + Packet.length] & 0xffff;
    }
    if (arrival !== 0) return this.#answered(arrival, end - from);
    let begin = from;
    for (let i = from; i < end; i++) {
      const time = packets[picked[i & (BATCH - 1)] + Packet.arrival];
      if (i + 1 < end && packets[picked[(i + 1) & (BATCH - 1)] + Packet.arrival] === time) continue;
      if (time !== 0) this.#answered(time, i + 1 - begin);
      begin = i + 1;
    }
  }

  #add(port: number, cell: number, length: number, bytes: number): void {
    const at = (port << RECORD_SHIFT) + cell;
    this.#ports[at] += length;
    this.#ports[at + 1] += bytes;
  }

  /** The port, if app `index` serves it; else 0. */
  portOf(index: number, port: number): number {
    return this.#dispatch.serves(index, port) ? port : 0;
  }

  /** Counts a datagram from or to our `port` as dropped: `PortCell.rxDrops` or `txDrops`. */
  dropped(port: number, cell: number): void {
    this.#ports[(port << RECORD_SHIFT) + cell]++;
  }

  /** Notes `count` answers to what arrived at `time`: how long they took is known when they have left. */
  #answered(time: number, count: number): void {
    const runs = this.#runs;
    const last = this.#waiting - 2;
    if (last >= 0 && runs[last] === time) {
      runs[last + 1] += count;
      return;
    }
    if (this.#waiting === 2 * RUNS) this.settle(this.#xsk.ticks());
    runs[this.#waiting] = time;
    runs[this.#waiting + 1] = count;
    this.#waiting += 2;
  }

  /** The tile has nothing to do: what was noted has left. */
  rest(): void {
    if (this.#waiting > 0) this.settle(this.#xsk.ticks());
  }

  /** What was noted has left by `now`, in ticks, such as the arrival of the next burst. */
  settle(now: number): void {
    const runs = this.#runs;
    const counters = this.#counters;
    for (let i = 0; i < this.#waiting; i += 2) {
      // The clock of day can be set back.
      const ticks = Math.max(0, (now - runs[i]) | 0);
      const count = runs[i + 1];
      counters[LATENCY + latencyBucket(ticks)] += count;
      counters[LATENCY_SUM] += ticks * TICK_SECONDS * count;
    }
    this.#waiting = 0;
  }
}

/**
 * The bucket of a time in ticks: two for each power of two. The first ends at four ticks, 1.024 µs, and
 * the last but one at 2²² ticks, 1.07 s.
 */
export function latencyBucket(ticks: number): number {
  if (ticks < 4) return 0;
  const log2 = 31 - Math.clz32(ticks);
  const bucket = 2 * log2 - 3 + ((ticks >>> (log2 - 1)) & 1);
  return Math.min(bucket, HISTOGRAMS.latency.bounds.length);
}

/** Counts a batch of `count` packets, 1 or more, in a histogram of batches. */
export function countBatch(
  counters: Float64Array,
  { at, sum, bounds }: typeof HISTOGRAMS.rx_batch,
  count: number,
): void {
  const bucket = 32 - Math.clz32(count - 1);
  counters[at + Math.min(bucket, bounds.length)]++;
  counters[sum] += count;
}
