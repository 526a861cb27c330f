/**
 * Calls back when descriptors are readable: one thread of Deno's pool waits for all of them.
 */

import type { Host } from "./host.ts";
import type { TileLibrary } from "./tile.ts";

const POLLIN = 1;

/** Waits for descriptors, in the event loop. */
export class Watcher {
  /** By which a wait is ended, to take in what is new. */
  readonly #eventfd: number;
  readonly #host: Pick<Host, "waitAny">;
  readonly #tile: Pick<TileLibrary, "wake" | "wait">;
  readonly #callbacks = new Map<number, () => void>();
  #isWaiting = false;

  constructor(host: Pick<Host, "eventfd" | "waitAny">, tile: Pick<TileLibrary, "wake" | "wait">) {
    this.#host = host;
    this.#tile = tile;
    this.#eventfd = host.eventfd();
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
      await this.#host.waitAny(set, -1);
      if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
      for (const [i, fd] of fds.entries()) {
        if (i > 0 && set[2 * i + 1] >>> 16 !== 0) this.#callbacks.get(fd)?.();
      }
    }
    this.#isWaiting = false;
  }
}
