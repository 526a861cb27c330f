/**
 * What happens to a datagram whose neighbour is unknown: it is put in the hold queue, the neighbour
 * is asked for, and when netbase has it, or has another way for the datagram, it goes on; when its
 * time is over it is dropped.
 *
 * @module
 */

import { NET } from "../runtime/counters.ts";
import type { Dispatch } from "./dispatch.ts";
import { Entry, type HeaderCache } from "./header_cache.ts";
import { PAYLOAD_AT } from "./headers.ts";
import { type Held, HoldQueue } from "./hold.ts";
import { dropCounter, Outcome, type Resolver, UNRESOLVED } from "./resolve.ts";
import type { SocketSender } from "./socket_sender.ts";
import type { Solicits } from "./solicits.ts";
import type { Umem } from "./umem.ts";
import type { Wire } from "./wire.ts";

/** Datagrams that wait, in all and per neighbour. */
export const HOLD_LIMITS = { total: 256, perNeighbor: 16, perNeighborCrowded: 2 } as const;
/** How long one waits: as long as the kernel probes before it gives a neighbour up. */
export const HOLD_MILLIS = 3000;

/** What datagrams are held with. */
export interface HoldingParts {
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly resolver: Resolver;
  readonly solicits: Solicits;
  readonly wire: Wire;
  readonly sender: SocketSender;
  readonly dispatch: Dispatch;
  readonly counters: Float64Array;
}

/** Datagrams that wait for a neighbour, and their release. */
export class Holding {
  readonly #parts: HoldingParts;
  readonly #queue: HoldQueue;
  readonly #held: Held = {
    frame: 0,
    destination: 0,
    source: 0,
    ports: 0,
    length: 0,
    sum: 0,
    deadline: 0,
  };
  readonly #keys = new Int32Array(2 * HOLD_LIMITS.total);
  #now = 0;

  constructor(parts: HoldingParts) {
    this.#parts = parts;
    this.#queue = new HoldQueue(
      HOLD_LIMITS,
      (frame) => this.#drop(frame, NET.index.tx_drop_hold_full),
    );
  }

  /** Datagrams that wait. */
  get count(): number {
    return this.#queue.count;
  }

  /**
   * Holds the datagram whose payload is in place in `frame`, for the neighbour that the resolver just
   * missed, and asks for that. Returns 0, or the number of the counter to move; the frame is then
   * still the caller's.
   */
  hold(
    frame: number,
    destination: number,
    source: number,
    ports: number,
    length: number,
    sum: number,
  ): number {
    const held = this.#held;
    held.frame = frame;
    held.destination = destination;
    held.source = source;
    held.ports = ports;
    held.length = length;
    held.sum = sum;
    held.deadline = this.#now + HOLD_MILLIS;
    const refused = this.#wait(held);
    if (refused === 0) this.#parts.counters[NET.index.held]++;
    return refused;
  }

  /** Lets go what waits for (ifindex, address), if it can go now. True when something waited. */
  release(ifindex: number, address: number): boolean {
    if (this.#queue.count === 0) return false;
    const { resolver } = this.#parts;
    const held = this.#held;
    let any = false;
    // Each turn takes one datagram out of this queue. Others may join or displace neighbours
    // meanwhile, so the queue is found anew.
    for (;;) {
      const neighbor = this.#queue.find(ifindex, address);
      if (neighbor < 0) return any;
      any = true;
      this.#queue.peek(neighbor, held);
      const e = resolver.resolve(held.destination, held.source, held.ports);
      if (
        e === UNRESOLVED && resolver.ifindex === ifindex && resolver.neighbor === address
      ) return any;
      this.#queue.shift(neighbor);
      const refused = e === UNRESOLVED ? this.#wait(held) : this.#send(held, e);
      if (refused !== 0) this.#drop(held.frame, refused);
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
    if (this.#queue.count > 0) this.#expire(nowMillis);
  }

  /** Drops everything: the tile stops. */
  clear(): void {
    this.#expire(Infinity);
  }

  /** Milliseconds from `nowMillis` until something is dropped; -1: nothing waits. */
  nextDue(nowMillis: number): number {
    if (this.#queue.count === 0) return -1;
    let due = HOLD_MILLIS;
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      due = Math.min(due, this.#queue.deadline(neighbor) - nowMillis);
    }
    return Math.max(0, Math.ceil(due));
  }

  #expire(nowMillis: number): void {
    const count = this.#queue.keys(this.#keys);
    for (let i = 0; i < count; i++) {
      const neighbor = this.#queue.find(this.#keys[2 * i], this.#keys[2 * i + 1]);
      let left = 1;
      while (left > 0 && this.#queue.deadline(neighbor) <= nowMillis) {
        this.#queue.peek(neighbor, this.#held);
        left = this.#queue.shift(neighbor);
        this.#drop(this.#held.frame, NET.index.tx_drop_neighbor_expired);
      }
    }
  }

  /** Puts `held` in the queue of the neighbour that the resolver just missed, and asks for that. */
  #wait(held: Readonly<Held>): number {
    const { resolver, solicits } = this.#parts;
    const { ifindex, neighbor, rank } = resolver;
    solicits.ask(ifindex, neighbor);
    return this.#queue.add(ifindex, neighbor, rank, held) ? 0 : NET.index.tx_drop_hold_full;
  }

  /** Sends `held` as the entry at `e` says. Returns 0, or the number of the counter to move. */
  #send(held: Readonly<Held>, e: number): number {
    const { cache, wire, sender, dispatch, umem } = this.#parts;
    const { frame, destination, source, ports, length, sum } = held;
    const outcome = cache.words[e + Entry.outcome];
    if (outcome >= 0 && length <= (outcome & 0xffff)) {
      return wire.put(frame, e, ports, length, sum);
    }
    if (outcome < 0 && outcome !== Outcome.kernel) return dropCounter(outcome);
    const fd = dispatch.fd(ports >>> 16);
    if (fd < 0) return outcome < 0 ? NET.index.tx_drop_no_socket : NET.index.tx_drop_mtu;
    sender.send(fd, umem.bytes, frame + PAYLOAD_AT, length, source, destination, ports);
    sender.flush();
    umem.give(frame);
    return 0;
  }

  #drop(frame: number, counter: number): void {
    this.#parts.counters[counter]++;
    this.#parts.umem.give(frame);
  }
}
