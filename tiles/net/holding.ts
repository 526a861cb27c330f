/**
 * What happens to a datagram whose neighbour is unknown: it is put in the hold queue, the neighbour
 * is asked for, and when netbase has it, or has another way for the datagram, it goes on; when its
 * time is over it is dropped.
 */

import { CaptureFlag } from "../runtime/capture_ring.ts";
import { NET } from "../runtime/counters.ts";
import { HOLD_ENTRIES } from "../runtime/plan.ts";
import type { Capture } from "./capture.ts";
import type { Dispatch } from "./dispatch.ts";
import { dropCounter, Entry, Outcome, UNRESOLVED } from "./entry.ts";
import { PAYLOAD_AT } from "./frame.ts";
import type { HeaderCache } from "./header_cache.ts";
import { HoldQueue } from "./hold.ts";
import type { Resolver } from "./resolve.ts";
import { REFUSED, Row, ROW_WORDS } from "./rows.ts";
import type { SocketSender } from "./socket_sender.ts";
import type { Solicits } from "./solicits.ts";
import type { Umem } from "./umem.ts";
import type { Wire } from "./wire.ts";

/** Datagrams that wait, in all and per neighbour. */
export const HOLD_LIMITS = { total: HOLD_ENTRIES, perNeighbor: 16, perNeighborCrowded: 2 } as const;
/** How long one waits: as long as the kernel probes before it gives a neighbour up. */
export const HOLD_MILLIS = 3000;
/** After how long all that are waited for are asked for again: a solicit may have been lost. */
export const REMIND_MILLIS = 1000;

/** What datagrams are held with. */
export interface HoldingParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly resolver: Resolver;
  readonly solicits: Solicits;
  readonly wire: Wire;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly capture: Capture;
  readonly counters: Float64Array;
  /** As in `HoldParts`. */
  random(): number;
  readonly seed: number;
}

/** Datagrams that wait for a neighbour, and their release. */
export class Holding {
  readonly #parts: HoldingParts;
  readonly #queue: HoldQueue;
  readonly #row = new Int32Array(ROW_WORDS);
  readonly #keys = new Int32Array(2 * HOLD_LIMITS.total);
  #now = 0;
  #remindAt = 0;

  constructor(parts: HoldingParts) {
    this.#parts = parts;
    this.#queue = new HoldQueue(HOLD_LIMITS, {
      drop: (_frame, row) => this.#drop(row, NET.index.tx_drop_arp_queue_full),
      random: parts.random,
      seed: parts.seed,
    });
  }

  /** Datagrams that wait. */
  get count(): number {
    return this.#queue.count;
  }

  /**
   * Holds the datagram of `row`, whose payload is in place in its frame, for the neighbour that the
   * resolver just missed, and asks for that. Returns 0, or the number of the counter to move; the
   * frame is this queue's to free in any case.
   */
  hold(row: Int32Array): number {
    if (this.#queue.count === 0) this.#remindAt = this.#now + REMIND_MILLIS;
    if (this.#wait(row, this.#now + HOLD_MILLIS)) {
      this.#parts.counters[NET.index.tx_queued]++;
      return 0;
    }
    // Counted, and shown, by the caller.
    this.#parts.umem.give(row[Row.frame]);
    return NET.index.tx_drop_arp_queue_full;
  }

  /** Lets go what waits for (ifindex, address), if it can go now. True when something waited. */
  release(ifindex: number, address: number): boolean {
    if (this.#queue.count === 0) return false;
    const { resolver, solicits } = this.#parts;
    const row = this.#row;
    let any = false;
    // Each turn takes one datagram out of this queue. Others may join or displace neighbours
    // meanwhile, so the queue is found anew.
    for (;;) {
      const neighbor = this.#queue.find(ifindex, address);
      if (neighbor < 0) return any;
      any = true;
      this.#queue.peek(neighbor, row);
      const e = resolver.resolve(row[Row.destination], row[Row.source], row[Row.ports]);
      if (
        e === UNRESOLVED && resolver.ifindex === ifindex && resolver.neighbor === address
      ) return any;
      solicits.forget(ifindex, address);
      const deadline = this.#queue.deadline(neighbor);
      this.#queue.shift(neighbor);
      if (e !== UNRESOLVED) this.#send(e);
      else if (!this.#wait(row, deadline)) this.#drop(row, NET.index.tx_drop_arp_queue_full);
    }
  }

  /** Lets go all that can go now. To be called when netbase changed, before anything newer is sent. */
  releaseAll(): void {
    if (this.#queue.count === 0) return;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) this.release(this.#keys[2 * i], this.#keys[2 * i + 1]);
  }

  /** Tells the time, monotonic milliseconds, and drops what waited too long. */
  clock(nowMillis: number): void {
    this.#now = nowMillis;
    if (this.#queue.count === 0) return;
    this.#expire(nowMillis);
    if (nowMillis >= this.#remindAt) this.#remind(nowMillis);
  }

  /** Drops everything: the tile stops. */
  clear(): void {
    this.#expire(Infinity);
  }

  /** Milliseconds from `nowMillis` until something is to be dropped or asked; -1: nothing waits. */
  nextDue(nowMillis: number): number {
    if (this.#queue.count === 0) return -1;
    let due = this.#remindAt - nowMillis;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      due = Math.min(due, this.#queue.deadline(neighbor) - nowMillis);
    }
    return Math.max(0, Math.ceil(due));
  }

  /** Asks once more for everybody who is waited for. */
  #remind(nowMillis: number): void {
    this.#remindAt = nowMillis + REMIND_MILLIS;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      this.#parts.solicits.ask(this.#keys[2 * i], this.#keys[2 * i + 1]);
    }
  }

  #expire(nowMillis: number): void {
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      let left = 1;
      while (left > 0 && this.#queue.deadline(neighbor) <= nowMillis) {
        this.#queue.peek(neighbor, this.#row);
        left = this.#queue.shift(neighbor);
        this.#drop(this.#row, NET.index.tx_drop_neighbor_unresolved);
      }
    }
  }

  /** Puts `row` in the queue of the neighbour that the resolver just missed, and asks for that. */
  #wait(row: Int32Array, deadline: number): boolean {
    const { resolver, solicits } = this.#parts;
    const { ifindex, neighbor, rank } = resolver;
    solicits.ask(ifindex, neighbor);
    return this.#queue.add(ifindex, neighbor, rank, { row, deadline });
  }

  /** Sends the row at hand as the entry at `e` says, or drops it. */
  #send(e: number): void {
    const { cache, wire } = this.#parts;
    const row = this.#row;
    const outcome = cache.words[e + Entry.outcome];
    if (outcome >= 0 && row[Row.length] <= (outcome & 0xffff)) {
      row[Row.entry] = e;
      if (wire.put(row, 1) > 0) this.#drop(row, REFUSED - row[Row.entry]);
    } else if (outcome >= 0 || outcome === Outcome.kernel) {
      this.#handOver(outcome >= 0 ? NET.index.tx_drop_exceeds_mtu : NET.index.tx_drop_no_socket);
    } else {
      this.#drop(row, dropCounter(outcome));
    }
  }

  /** Has the kernel send the row at hand, or drops it by `counter` where the port has no socket. */
  #handOver(counter: number): void {
    const { dispatch, sender, umem } = this.#parts;
    const row = this.#row;
    const fd = dispatch.fd(row[Row.ports] >>> 16);
    if (fd < 0) {
      this.#drop(row, counter);
      return;
    }
    sender.send(fd, umem.bytes, row[Row.frame] + PAYLOAD_AT, row);
    sender.flush();
    umem.give(row[Row.frame]);
  }

  /** Drops a datagram whose payload is in its frame. */
  #drop(row: Int32Array, counter: number): void {
    const { counters, capture, umem } = this.#parts;
    counters[counter]++;
    umem.give(row[Row.frame]);
    if (!capture.wanted) return;
    const payload = row[Row.frame] + PAYLOAD_AT;
    capture.datagram(CaptureFlag.out, counter, row, 0, umem.bytes, payload);
  }
}
