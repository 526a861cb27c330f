/**
 * What a net tile blocks on: its eventfd, its AF_XDP sockets and the kernel sockets that it receives
 * on; one poll for all.
 */

import type { TileLibrary } from "../../ffi/tile.ts";
import type { Xsk } from "../../ffi/xsk.ts";

/** poll(2): something to be read, and an error that a read would tell. */
const POLLIN = 0x1;
const POLLERR = 0x8;

/** The descriptors of a poll set. */
export interface PollSetParts {
  readonly eventfd: number;
  readonly ports: readonly number[];
  readonly sockets: readonly number[];
}

/** A poll set, each entry two words: descriptor, events | revents << 16 (struct pollfd). */
export class PollSet {
  /** The kernel sockets, and for each whether it was found to have something. */
  readonly sockets: Int32Array;
  readonly ready: Uint8Array;
  readonly #xsk: Xsk;
  readonly #tile: TileLibrary;
  readonly #eventfd: number;
  readonly #all: Int32Array;
  /** The kernel sockets alone. */
  readonly #own: Int32Array;

  constructor({ xsk, tile }: { xsk: Xsk; tile: TileLibrary }, parts: PollSetParts) {
    this.#xsk = xsk;
    this.#tile = tile;
    this.#eventfd = parts.eventfd;
    this.sockets = Int32Array.from(parts.sockets);
    this.ready = new Uint8Array(parts.sockets.length);
    this.#own = Int32Array.from(parts.sockets.flatMap((fd) => [fd, POLLIN]));
    this.#all = Int32Array.from(
      [...parts.sockets, parts.eventfd, ...parts.ports].flatMap((fd) => [fd, POLLIN]),
    );
  }

  /** Blocks until something is ready or `timeoutMs` passed; empties the eventfd. */
  wait(timeoutMs: number): void {
    const set = this.#all;
    if (this.#xsk.wait(set, set.length >>> 1, timeoutMs) <= 0) return;
    this.#mark(set);
    const eventfdWord = 2 * this.sockets.length + 1;
    if (set[eventfdWord] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
  }

  /** Looks which kernel sockets have something, without blocking. */
  look(): void {
    if (this.#xsk.wait(this.#own, this.sockets.length, 0) > 0) this.#mark(this.#own);
  }

  /** Marks the kernel sockets, which come first in both sets. */
  #mark(set: Int32Array): void {
    for (let i = 0; i < this.sockets.length; i++) {
      if (((set[2 * i + 1] >>> 16) & (POLLIN | POLLERR)) !== 0) this.ready[i] = 1;
    }
  }
}
