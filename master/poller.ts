/**
 * Waits for descriptors of processes, off the thread of JavaScript: their channels, and the descriptors
 * that say that they have ended.
 */

import type { Host } from "../ffi/host.ts";
import type { TileLibrary } from "../ffi/tile.ts";

/** Calls whoever is concerned when a descriptor has something. */
export class Poller {
  readonly #host: Pick<Host, "waitAny">;
  readonly #tile: Pick<TileLibrary, "wake" | "wait">;
  /** Written when the descriptors have changed. */
  readonly #changed: number;
  readonly #callbacks = new Map<number, () => void>();
  #closed = false;

  constructor(
    { host, tile }: { host: Pick<Host, "waitAny" | "eventfd">; tile: Pick<TileLibrary, "wake" | "wait"> },
  ) {
    this.#host = host;
    this.#tile = tile;
    this.#changed = host.eventfd();
    this.#run();
  }

  /** Calls `callback` whenever `fd` is readable or hung up, until `remove`. */
  add(fd: number, callback: () => void): void {
    this.#callbacks.set(fd, callback);
    this.#tile.wake(this.#changed);
  }

  /** To be called before `fd` is closed. */
  remove(fd: number): void {
    if (this.#callbacks.delete(fd)) this.#tile.wake(this.#changed);
  }

  /** Ends it. */
  close(): void {
    this.#closed = true;
    this.#tile.wake(this.#changed);
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      const ready = await this.#host.waitAny([this.#changed, ...this.#callbacks.keys()], -1);
      for (const fd of ready) {
        if (fd === this.#changed) this.#tile.wait(fd, 0);
        else this.#callbacks.get(fd)?.();
      }
    }
  }
}
