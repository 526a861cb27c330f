/**
 * What a net tile blocks on: its eventfd, its AF_XDP sockets and the kernel sockets that it receives
 * on. The last may be thousands, and stand behind one descriptor, which tells those that have something.
 */

import { checked } from "../../ffi/errno.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import { type Udp, UDP_BURST } from "../../ffi/udp.ts";
import type { Xsk } from "../../ffi/xsk.ts";

/** poll(2): something to be read. */
const POLLIN = 0x1;

/** The descriptors of a poll set. */
export interface PollSetParts {
  readonly eventfd: number;
  readonly ports: readonly number[];
  readonly sockets: readonly number[];
}

/** A poll set, each entry two words: descriptor, events | revents << 16 (struct pollfd). */
export class PollSet {
  /** Indices of kernel sockets that have something to receive: the first {@linkcode readyCount}. */
  readonly ready = new Uint32Array(UDP_BURST);
  readyCount = 0;
  /** Whether the last look filled `ready`, so that other sockets may be waiting for their turn. */
  full = false;
  readonly #xsk: Xsk;
  readonly #udp: Udp;
  readonly #tile: TileLibrary;
  readonly #eventfd: number;
  /** Stands for all kernel sockets; -1, which poll(2) leaves out, where there are none. */
  readonly #watch: number;
  /** The eventfd, the watch, and the AF_XDP sockets. */
  readonly #all: Int32Array;

  /** Throws SystemError. */
  constructor(
    { xsk, udp, tile }: { xsk: Xsk; udp: Udp; tile: TileLibrary },
    { eventfd, ports, sockets }: PollSetParts,
  ) {
    this.#xsk = xsk;
    this.#udp = udp;
    this.#tile = tile;
    this.#eventfd = eventfd;
    this.#watch = sockets.length === 0
      ? -1
      : checked(udp.watch(Int32Array.from(sockets)), `watch ${sockets.length} sockets`);
    this.#all = Int32Array.from([eventfd, this.#watch, ...ports].flatMap((fd) => [fd, POLLIN]));
  }

  /** Blocks until something is ready or `timeoutMs` passed; empties the eventfd. */
  wait(timeoutMs: number): void {
    const set = this.#all;
    if (this.#xsk.wait(set, set.length >>> 1, timeoutMs) <= 0) return;
    if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
    if (set[3] >>> 16 !== 0) this.look();
  }

  /**
   * Finds out which kernel sockets have something, without blocking. Epoll moves the sockets that it
   * reports behind the others, so repeated looks reach every socket, however many stay busy.
   */
  look(): void {
    if (this.#watch < 0) return;
    const count = this.#udp.ready(this.#watch, this.ready, this.ready.length);
    this.readyCount = Math.max(count, 0);
    this.full = this.readyCount === this.ready.length;
  }

  /** Removes the socket at `at` of `ready`, which is empty now; the last one takes its place. */
  emptied(at: number): void {
    this.ready[at] = this.ready[--this.readyCount];
  }
}
