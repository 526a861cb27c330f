// SPDX-License-Identifier: Apache-2.0
/**
 * A net tile's counts by socket and by served port, the fill levels of its rings and links, and the
 * latency of answers. All other counters are in the tile region (`../runtime/counters.ts`).
 *
 * The region `traffic NET`, all doubles, written by the net tile and read by the status tile:
 *
 *     socket i   packets and bytes received and sent, shares of the rx, tx and fill rings that wait, and which
 *                interface and queue that is
 *     link i     the share of the i-th app's link that the app has not passed
 *     port p     packets, payload bytes and drops, received and sent; 0 is for what names no port of its app
 *
 * A port's record is a cache line, and many of them in use would evict other data from the cache. So
 * the passes over a batch add to a private table of the net tile, which is added to the region at least
 * ten times a second. If the tile is killed, what the private table contains is lost.
 */

import { f64, type View } from "../../ffi/region.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import { HISTOGRAMS } from "../runtime/counters.ts";
import * as frame from "./rings.ts";
import type { Dispatch } from "./rx.ts";

// Own constants, see rings.ts.
const { BATCH, Packet, SocketCell } = frame;
const { at: LATENCY, sum: LATENCY_SUM } = HISTOGRAMS.latency;

/** Doubles of a record, and their indices. */
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

const SOCKETS = 128;
const LINKS = 256;
const LINKS_AT = SOCKETS * RECORD;
const PORTS_AT = LINKS_AT + LINKS;
const PORTS = 1 << 16;

/** Bytes of the region. Untouched pages cost nothing. */
export const TRAFFIC_BYTES = (PORTS_AT + PORTS * RECORD) * 8;

/**
 * log2 of the words of a port in `TrafficCounter.pending`. They are signed and 32 bits long, so V8 adds
 * to them without conversions and checks. That suffices for this many bytes and one more batch of the
 * longest datagrams.
 */
const PENDING_SHIFT = 2;
const MOST_PENDING = 2 ** 30;
/** For other modules, see rings.ts. */
export const layout = { PENDING_SHIFT } as const;

/** Runs of answers with the same arrival that wait for the clock. */
const RUNS = 64;
/** Nanoseconds of a tick of `Xsk.ticks`, log2. */
const TICK_SHIFT = 8;
const TICK_SECONDS = 2 ** TICK_SHIFT / 1e9;

/** A view of all records, for writer and readers. */
export class Traffic {
  readonly #doubles: Float64Array;

  constructor(view: View) {
    this.#doubles = f64(view);
  }

  /** The record of the `i`-th socket, by `SocketCell`. */
  socket(i: number): Float64Array {
    return this.#doubles.subarray(i * RECORD, (i + 1) * RECORD);
  }

  get links(): Float64Array {
    return this.#doubles.subarray(LINKS_AT, PORTS_AT);
  }

  /** The record of a port, by `PortCell`. */
  port(port: number): Float64Array {
    return this.#doubles.subarray(PORTS_AT + port * RECORD, PORTS_AT + (port + 1) * RECORD);
  }

  get ports(): Float64Array {
    return this.#doubles.subarray(PORTS_AT);
  }
}

/** A burst's time, as `Xsk.receive` writes it, in ticks. */
export function ticksOf(low: number, high: number): number {
  return (high << (32 - TICK_SHIFT)) | (low >>> TICK_SHIFT);
}

/** Counts traffic in a net tile. */
export class TrafficCounter {
  readonly #traffic: Traffic;
  readonly #ports: Float64Array;
  /**
   * Counts that the region does not include yet: for each port its packets and payload bytes, received
   * and sent, by `PortCell`. After adding to it, call `passed`.
   */
  readonly pending = new Int32Array(PORTS << PENDING_SHIFT);
  #passed = 0;
  readonly #dispatch: Pick<Dispatch, "serves" | "ports">;
  readonly #counters: Float64Array;
  readonly #xsk: Pick<Xsk, "ticks">;
  /** Arrival in ticks, and number of answers: runs that wait for `settle`. */
  readonly #runs = new Int32Array(2 * RUNS);
  #waiting = 0;

  constructor({ traffic, dispatch, counters, xsk }: {
    traffic: View;
    dispatch: Pick<Dispatch, "serves" | "ports">;
    /** The counters of the tile region. */
    counters: Float64Array;
    xsk: Pick<Xsk, "ticks">;
  }) {
    this.#traffic = new Traffic(traffic);
    this.#ports = this.#traffic.ports;
    this.#dispatch = dispatch;
    this.#counters = counters;
    this.#xsk = xsk;
  }

  /** The record of the `i`-th socket. It is reset if it belonged to another socket. */
  socket(i: number, { ifindex, queue }: { ifindex: number; queue: number }): Float64Array {
    const cells = this.#traffic.socket(i);
    const key = ifindex * 2 ** 16 + queue;
    if (cells[SocketCell.key] !== key) cells.fill(0);
    cells[SocketCell.key] = key;
    return cells;
  }

  get links(): Float64Array {
    return this.#traffic.links;
  }

  /** Counts a received datagram that no pass over its batch has counted. */
  received(port: number, bytes: number): void {
    const at = port << PENDING_SHIFT;
    this.pending[at + PortCell.rxPackets]++;
    this.pending[at + PortCell.rxBytes] += bytes;
  }

  /** Corrects the counts for a datagram that was counted as received but is dropped. */
  notReceived(port: number, bytes: number): void {
    const at = port << PENDING_SHIFT;
    this.pending[at + PortCell.rxPackets]--;
    this.pending[at + PortCell.rxBytes] -= bytes;
  }

  /** Called after packets of a batch, `bytes` long with headers, have been added to `pending`. */
  passed(bytes: number): void {
    this.#passed += bytes;
    if (this.#passed > MOST_PENDING) this.flush();
  }

  /** Adds the pending counts to the region. */
  flush(): void {
    if (this.#passed === 0) return;
    this.#passed = 0;
    this.#flush(0);
    for (const port of this.#dispatch.ports) this.#flush(port);
  }

  #flush(port: number): void {
    const { pending } = this;
    const cells = this.#ports;
    const from = port << PENDING_SHIFT;
    const to = port << RECORD_SHIFT;
    for (let cell = 0; cell <= PortCell.txBytes; cell++) {
      cells[to + cell] += pending[from + cell];
      pending[from + cell] = 0;
    }
  }

  /** The port, if app `index` serves it; else 0. */
  portOf(index: number, port: number): number {
    return this.#dispatch.serves(index, port) ? port : 0;
  }

  /** Counts a datagram from or to our `port` as dropped: `PortCell.rxDrops` or `txDrops`. */
  dropped(port: number, cell: number): void {
    this.#ports[(port << RECORD_SHIFT) + cell]++;
  }

  /** Records answers to the packets at the words `picked` from number `from` on, up to `end`. */
  answeredEach(packets: Int32Array, picked: Int32Array, from: number, end: number): void {
    let begin = from;
    for (let i = from; i < end; i++) {
      const time = packets[picked[i & (BATCH - 1)] + Packet.arrival];
      if (i + 1 < end && packets[picked[(i + 1) & (BATCH - 1)] + Packet.arrival] === time) continue;
      if (time !== 0) this.answered(time, i + 1 - begin);
      begin = i + 1;
    }
  }

  /** Records `count` answers to requests that arrived at `time`. Their latency is known when they have left. */
  answered(time: number, count: number): void {
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

  /** Called when the tile is idle: all recorded answers have left. */
  rest(): void {
    if (this.#waiting > 0) this.settle(this.#xsk.ticks());
  }

  /** Recorded answers have left by `now`, in ticks, for example when the next burst arrives. */
  settle(now: number): void {
    const runs = this.#runs;
    const counters = this.#counters;
    for (let i = 0; i < this.#waiting; i += 2) {
      // The wall clock can be set back.
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
