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
  /** Indices of kernel sockets that were found to have something: the first {@linkcode readyCount}. */
  readonly ready = new Uint32Array(UDP_BURST);
  /** How many there are. */
  readyCount = 0;
  /** Whether a socket is among them. */
  readonly #isReady: Uint8Array;
  readonly #found = new Uint32Array(UDP_BURST);
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
    this.#isReady = new Uint8Array(sockets.length);
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

  /** Looks which kernel sockets have something, without blocking. */
  look(): void {
    const room = this.ready.length - this.readyCount;
    if (this.#watch < 0 || room === 0) return;
    const count = this.#udp.ready(this.#watch, this.#found, room);
    for (let i = 0; i < count; i++) {
      const index = this.#found[i];
      if (this.#isReady[index] !== 0) continue;
      this.#isReady[index] = 1;
      this.ready[this.readyCount++] = index;
    }
  }

  /** The socket at place `at` of `ready` has nothing any more; the last one takes that place. */
  emptied(at: number): void {
    this.#isReady[this.ready[at]] = 0;
    this.ready[at] = this.ready[--this.readyCount];
  }
}
