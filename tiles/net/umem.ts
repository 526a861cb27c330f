/**
 * The UMEM: the memory that all frames of a net tile stand in, and who of them is free.
 *
 *     │ frame 0 │ frame 1 │ … │ large buffer 0 (64 KiB) │ large buffer 1 │ … │
 *
 * Frames travel between the rings of AF_XDP sockets, app links and the hold queue; each is in exactly
 * one of these places or free. Large buffers are for what comes through the kernel's sockets, where
 * a datagram may be as long as IPv4 lets it. The free ones of both lie on stacks, so that what was
 * used last, and is still in the cache, is used next.
 */

import { u8, type View } from "../../ffi/view.ts";
import { UDP_BUFFER_BYTES } from "../../ffi/udp.ts";
import { MOST_BYTES } from "./frame.ts";

/** How a UMEM region is cut. `frameBytes` is a power of two; `largeBuffers` at least 1. */
export interface UmemShape {
  readonly frameBytes: number;
  readonly frames: number;
  readonly largeBuffers: number;
}

/** A UMEM and its free frames and buffers, all named by their byte offset in it. */
export class Umem {
  readonly frameBytes: number;
  /** Bytes of all frames together: where the large buffers begin. */
  readonly framesEnd: number;
  readonly largeBuffers: number;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Int32Array;
  readonly view: DataView;
  readonly #frameMask: number;
  readonly #frames: Int32Array;
  readonly #large: Int32Array;
  #freeFrames = 0;
  #freeLarge = 0;

  /** Everything is free at first. Throws RangeError when `region` is not as large as `shape` says. */
  constructor(region: View, shape: UmemShape) {
    const { frameBytes, frames, largeBuffers } = shape;
    this.frameBytes = frameBytes;
    this.framesEnd = frames * frameBytes;
    this.largeBuffers = largeBuffers;
    const needed = this.framesEnd + largeBuffers * UDP_BUFFER_BYTES;
    if (region.byteLength < needed || needed > MOST_BYTES + 1) {
      throw new RangeError(
        `a UMEM of ${frames} frames and ${largeBuffers} buffers takes ${needed} bytes, ` +
          `not ${region.byteLength}`,
      );
    }
    this.bytes = u8(region);
    this.words = new Int32Array(region.buffer, region.byteOffset, region.byteLength >>> 2);
    this.view = new DataView(region.buffer, region.byteOffset, region.byteLength);
    this.#frameMask = ~(frameBytes - 1);
    this.#frames = new Int32Array(frames);
    this.#large = new Int32Array(largeBuffers);
    this.restart(new Uint8Array(frames + largeBuffers).fill(1));
  }

  /** Frames, free or not. */
  get frameCount(): number {
    return this.#frames.length;
  }

  /**
   * The number of the frame or large buffer that `offset` lies in: frames come first. -1 when there is
   * none.
   */
  indexOf(offset: number): number {
    if (offset < 0) return -1;
    if (offset < this.framesEnd) return Math.floor(offset / this.frameBytes);
    const large = Math.floor((offset - this.framesEnd) / UDP_BUFFER_BYTES);
    return large < this.largeBuffers ? this.frameCount + large : -1;
  }

  /** Makes those free whose byte in `free`, by `indexOf`, is 1, and no others. */
  restart(free: Uint8Array): void {
    const frames = this.frameCount;
    this.#freeFrames = this.#freeLarge = 0;
    for (let i = free.length - 1; i >= 0; i--) {
      if (free[i] !== 1) continue;
      if (i < frames) this.give(i * this.frameBytes);
      else this.give(this.framesEnd + (i - frames) * UDP_BUFFER_BYTES);
    }
  }

  /** Calls `visit` with the offset of each free frame. */
  forEachFreeFrame(visit: (offset: number) => void): void {
    this.#frames.subarray(0, this.#freeFrames).forEach(visit);
  }

  /** Free frames. */
  get freeFrames(): number {
    return this.#freeFrames;
  }

  /** Free large buffers. */
  get freeLarge(): number {
    return this.#freeLarge;
  }

  /** Takes a free frame; -1 when there is none. */
  takeFrame(): number {
    return this.#freeFrames === 0 ? -1 : this.#frames[--this.#freeFrames];
  }

  /** Takes up to `most` free frames into `into`, and returns how many. */
  takeFrames(into: Uint32Array, most: number): number {
    const frames = this.#frames;
    const free = this.#freeFrames;
    const count = free < most ? free : most;
    for (let i = 0; i < count; i++) into[i] = frames[free - 1 - i];
    this.#freeFrames = free - count;
    return count;
  }

  /** Takes a free large buffer; -1 when there is none. */
  takeLarge(): number {
    return this.#freeLarge === 0 ? -1 : this.#large[--this.#freeLarge];
  }

  /** Whether `offset` lies in a large buffer, not in a frame. */
  isLarge(offset: number): boolean {
    return offset >= this.framesEnd;
  }

  /** Where the frame begins that `offset`, not in a large buffer, lies in. */
  frameAt(offset: number): number {
    return offset & this.#frameMask;
  }

  /** Frees the frames that `offsets` lie in, from the `from`-th to before the `end`-th, as `give` does. */
  giveFrames(offsets: Uint32Array, from: number, end: number): void {
    const frames = this.#frames;
    const mask = this.#frameMask;
    let free = this.#freeFrames;
    for (let i = from; i < end; i++) frames[free++] = offsets[i] & mask;
    this.#freeFrames = free;
  }

  /** Frees the frame or large buffer that `offset` lies in. Whoever calls this owns it until now. */
  give(offset: number): void {
    if (offset < this.framesEnd) {
      this.#frames[this.#freeFrames++] = offset & this.#frameMask;
    } else {
      const into = (offset - this.framesEnd) % UDP_BUFFER_BYTES;
      this.#large[this.#freeLarge++] = offset - into;
    }
  }
}
