/**
 * A tile as main sees it: the worker, what it reported, and how it ended.
 *
 * @module
 */

import type { ControlRequest } from "./control.ts";
import type { TilePermissions } from "./permissions.ts";
import type { BootMessage, TileReport } from "./tile.ts";

/** What main wants to hear of. */
export interface TileEvents {
  log(line: string): void;
  /** An error that nobody caught ended the tile's loop or its start. */
  failed(message: string): void;
  /** A request to be put into the control region. */
  ask?(request: ControlRequest): void;
}

const WORKER = new URL("./worker.ts", import.meta.url).href;

/** One running tile. */
export class TileWorker {
  readonly name: string;
  /** Resolves with how the tile is confined once it runs; rejects when its start fails. */
  readonly running: Promise<string>;
  /** Resolves when the tile ended, by itself or by an error. */
  readonly ended: Promise<void>;
  readonly #worker: Worker;

  constructor(
    boot: BootMessage,
    { permissions, events }: { permissions: TilePermissions; events: TileEvents },
  ) {
    this.name = boot.name;
    const running = Promise.withResolvers<string>();
    const ended = Promise.withResolvers<void>();
    this.running = running.promise;
    this.ended = ended.promise;
    // Nobody may be waiting for it any more when a start fails late.
    this.running.catch(() => {});

    this.#worker = new Worker(WORKER, {
      type: "module",
      name: boot.name,
      deno: { permissions: { ...permissions } },
    });
    this.#worker.onmessage = ({ data }: MessageEvent<TileReport>) => {
      if (data.type === "log") events.log(data.line);
      else if (data.type === "ask") events.ask?.(data.request);
      else if (data.type === "running") running.resolve(data.confined);
      else ended.resolve();
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const message = event.message.split("\n")[0];
      running.reject(new Error(`${boot.name}: ${message}`));
      ended.resolve();
      events.failed(message);
    };
    this.#worker.postMessage(boot);
  }

  /** Ends the worker. One that blocks in a native call goes on until that returns. */
  terminate(): void {
    this.#worker.terminate();
  }
}
