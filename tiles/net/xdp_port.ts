/**
 * One AF_XDP socket: a queue of an attached interface. Keeps its fill ring topped up, gives out what
 * it received, gathers what is to be transmitted, and takes finished frames back. How many frames it
 * may have out is bounded: `fill` on the way in, `tx` on the way out.
 */

import { type Xsk, XSK_STATISTICS } from "../../ffi/xsk.ts";
import { XDP_BURST } from "./arrivals.ts";
import type { Umem } from "./umem.ts";

/** Most ports of a net tile: what a cache entry can name. */
export const MOST_PORTS = 127;

/** A socket, as main tells a net tile of it. */
export interface XdpSocketSetup {
  /** Its number in the library. */
  readonly slot: number;
  readonly ifindex: number;
  readonly queue: number;
  /** Entries of its fill ring. */
  readonly fill: number;
  /** Entries of its transmit ring. */
  readonly tx: number;
  /** Whether a bare pseudo-header sum is a right UDP checksum here (veth, virtio, loopback). */
  readonly partialChecksums: boolean;
}

/** A queue of an attached interface, as the net tile works with it. */
export class XdpPort {
  readonly ifindex: number;
  readonly partialChecksums: boolean;
  readonly #xsk: Xsk;
  readonly #umem: Umem;
  readonly #slot: number;
  readonly #fill: number;
  readonly #tx: number;
  /** (offset, length) pairs to be transmitted, oldest first. */
  readonly #batch: Uint32Array;
  readonly #frames = new Uint32Array(XDP_BURST);
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);
  #queued = 0;
  #filled = 0;
  #transmitting = 0;

  constructor(setup: XdpSocketSetup, { xsk, umem }: { xsk: Xsk; umem: Umem }) {
    this.ifindex = setup.ifindex;
    this.partialChecksums = setup.partialChecksums;
    this.#xsk = xsk;
    this.#umem = umem;
    this.#slot = setup.slot;
    this.#fill = setup.fill;
    this.#tx = setup.tx;
    this.#batch = new Uint32Array(2 * setup.tx);
  }

  /** Frames that the kernel has for receiving, filled or not. */
  get filled(): number {
    return this.#filled;
  }

  /** How many more frames can be queued. */
  get room(): number {
    return this.#tx - this.#queued - this.#transmitting;
  }

  /** Takes a burst into `frames` and returns how many; they are the caller's now. */
  receive(frames: Uint32Array): number {
    const count = this.#xsk.receive(this.#slot, frames, XDP_BURST);
    if (count <= 0) return 0;
    this.#filled -= count;
    return count;
  }

  /**
   * Gives the kernel free frames until it has as many as its fill ring takes, counting those that it is
   * sending and will give back soon, but for at most half of the ring.
   */
  refill(): void {
    const enough = this.#fill - Math.min(this.#transmitting, this.#fill >>> 1);
    while (this.#filled < enough) {
      const wanted = Math.min(enough - this.#filled, XDP_BURST);
      const most = this.#umem.takeFrames(this.#frames, wanted);
      if (most === 0) return;
      const taken = Math.max(0, this.#xsk.fill(this.#slot, this.#frames, most));
      this.#filled += taken;
      for (let i = most - 1; i >= taken; i--) this.#umem.give(this.#frames[i]);
      if (taken < most) return;
    }
  }

  /** Queues `length` bytes at `offset` of the UMEM. Only while there is `room`. */
  queue(offset: number, length: number): void {
    this.#batch[2 * this.#queued] = offset;
    this.#batch[2 * this.#queued + 1] = length;
    this.#queued++;
  }

  /**
   * Hands what is queued to the kernel, as much as it takes, and returns how much. The rest stays
   * queued, in order, for the next turn.
   */
  flush(): number {
    if (this.#queued === 0) return 0;
    const taken = Math.max(0, this.#xsk.transmit(this.#slot, this.#batch, this.#queued));
    this.#transmitting += taken;
    this.#queued -= taken;
    if (this.#queued > 0) this.#batch.copyWithin(0, 2 * taken, 2 * (taken + this.#queued));
    return taken;
  }

  /**
   * Takes transmitted frames back: onto the fill ring at once while there are less than it takes, else
   * into the UMEM.
   */
  complete(): void {
    const frames = this.#frames;
    while (this.#transmitting > 0) {
      const wanted = this.#fill - this.#filled;
      const result = this.#xsk.complete(this.#slot, frames, XDP_BURST, wanted);
      const count = result & 0xffff;
      const taken = result >>> 16;
      this.#transmitting -= count;
      this.#filled += taken;
      if (taken < count) this.#umem.giveFrames(frames, taken, count);
      if (count < XDP_BURST) return;
    }
  }

  /**
   * Before the tile blocks: whether frames still wait here for room. Makes the kernel go on with what
   * is on its rings.
   */
  unfinished(): boolean {
    if (this.#transmitting > 0) this.#xsk.transmit(this.#slot, this.#batch, 0);
    return this.#queued > 0;
  }

  /** Adds the first of what the kernel counts of this socket, XDP_STATISTICS in its order, to `sums`. */
  addStatistics(sums: Float64Array): void {
    if (this.#xsk.statistics(this.#slot, this.#statistics) < 0) return;
    for (let i = 0; i < sums.length; i++) sums[i] += Number(this.#statistics[i]);
  }
}
