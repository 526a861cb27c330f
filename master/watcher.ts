/**
 * Calls back when descriptors are readable: one thread of Deno's pool waits for all of them (poll(2)).
 */

import { libraryPath } from "../ffi/paths.ts";
import type { TileLibrary } from "../ffi/tile.ts";

const POLLIN = 1;

/** Waits for descriptors, in the event loop. */
export class Watcher {
  readonly #eventfd: number;
  readonly #tile: Pick<TileLibrary, "wake" | "wait">;
  readonly #poll: (set: Int32Array<ArrayBuffer>, count: bigint, timeout: number) => Promise<number>;
  readonly #callbacks = new Map<number, () => void>();
  #isWaiting = false;

  /** `eventfd` is its own, to take in what is new. */
  constructor(eventfd: number, tile: Pick<TileLibrary, "wake" | "wait">) {
    this.#eventfd = eventfd;
    this.#tile = tile;
    this.#poll = Deno.dlopen(libraryPath("tile"), {
      poll: { parameters: ["buffer", "usize", "i32"], result: "i32", nonblocking: true },
    }).symbols.poll;
  }

  /**
   * Calls `callback` whenever `fd` is readable or hung up, until `forget`. It may be called without
   * reason, as when the number is another descriptor's by then.
   */
  watch(fd: number, callback: () => void): void {
    this.#callbacks.set(fd, callback);
    if (this.#isWaiting) this.#tile.wake(this.#eventfd);
    else this.#run();
  }

  /** Stops that; before `fd` is closed. */
  forget(fd: number): void {
    this.#callbacks.delete(fd);
    if (this.#isWaiting) this.#tile.wake(this.#eventfd);
  }

  async #run(): Promise<void> {
    this.#isWaiting = true;
    while (this.#callbacks.size > 0) {
      const fds = [this.#eventfd, ...this.#callbacks.keys()];
      const set = Int32Array.from(fds.flatMap((fd) => [fd, POLLIN]));
      await this.#poll(set, BigInt(fds.length), -1);
      if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
      for (const [i, fd] of fds.entries()) {
        if (i > 0 && set[2 * i + 1] >>> 16 !== 0) this.#callbacks.get(fd)?.();
      }
    }
    this.#isWaiting = false;
  }
}
