// SPDX-License-Identifier: Apache-2.0
/**
 * Turns a worker into a tile, in an order that grants as little as possible at each moment: open the
 * native libraries, drop ffi, import the tile's module (which therefore cannot open native code), drop
 * read, confine the thread, run the loop. This file is the entry point of every worker.
 */

import { openNetlink, openUdp } from "../../ffi/sockets.ts";
import { openClock, openTile, type TileLibrary } from "../../ffi/tile.ts";
import { openXsk } from "../../ffi/xsk.ts";
import {
  AppError,
  clipped,
  consoleTo,
  type Log,
  sentenceOf,
  takeAway,
  uncaught,
  wordsOf,
} from "./log.ts";
import { ControlReader } from "./control.ts";
import { COUNTERS } from "./counters.ts";
import {
  awaitPredecessor,
  type BootMessage,
  delay,
  type Libraries,
  Life,
  runLoop,
  type TileModule,
  TileRegion,
  type TileReport,
} from "./tile.ts";

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<BootMessage>) => void) | null;
  postMessage(report: TileReport): void;
  close(): void;
};

// Bound before an inline app's code runs, which might replace them.
const post = scope.postMessage.bind(scope);
const revoke = Deno.permissions.revokeSync.bind(Deno.permissions);

scope.onmessage = (event) => {
  scope.onmessage = null;
  run(event.data).catch((error) => {
    // A bug: it becomes this worker's uncaught error, which main receives in `onerror`.
    queueMicrotask(() => {
      throw error;
    });
  });
};

async function run(boot: BootMessage): Promise<void> {
  const over = new AbortController();
  // During a start only apps cause uncaught errors.
  const failed = uncaught(over.signal).catch((thrown) => {
    throw new AppError(`in ${boot.name}`, wordsOf(thrown));
  });
  const live = await Promise.race([start(boot), failed]).catch((error) => {
    // Reported to main, which logs it as a sentence. Deno would print an uncaught error with its stack.
    const app = error instanceof AppError ? { app: error.app } : {};
    post({ type: "failed", message: clipped(sentenceOf(error)), ...app });
  });
  over.abort();
  await live?.();
  post({ type: "stopped" });
  scope.close();
}

/** Makes the tile, and returns a function that runs it until main stops it. */
async function start(boot: BootMessage): Promise<() => void | Promise<void>> {
  const libraries = openLibraries(boot);
  const thread = libraries.tile.thread();
  libraries.tile.nameThread(boot.name);
  post({ type: "started", thread });
  revoke({ name: "ffi" });
  const region = new TileRegion(boot.region);
  const control = new ControlReader(boot.control);
  const join = () => {
    region.awake();
    region.life = Life.booting;
  };
  // A net tile joins regions that outlive it, once its predecessor has ended.
  const outlived = boot.kind === "net";
  if (!outlived) join();
  const log: Log = (line, level) => post({ type: "log", line: clipped(line), level });
  Object.assign(console, consoleTo(log));
  // V8 caches the host's time zone from now on. A format of Intl's would cost 5 MiB.
  new Date().getTimezoneOffset();
  takeAway();
  const made = boot.held
    ? new Promise((resolve) => addEventListener("message", resolve, { once: true }))
    : undefined;
  let confined: ReturnType<TileLibrary["confine"]> | undefined;
  const secure = async (descriptors: readonly number[]) => {
    // Until Deno has finished loading modules. Otherwise Deno writes to eventfds of newer workers when
    // this thread ends, which a confined thread may not do, and ends the process.
    await delay(0);
    revoke({ name: "read" });
    confined = libraries.tile.confine({
      name: boot.name,
      slot: boot.slot,
      role: boot.kind,
      fds: Int32Array.from(descriptors),
      keepNetAdmin: boot.kind === "netlink",
      keepClock: boot.clock,
    });
  };
  const module = await import(boot.module) as TileModule<unknown>;
  await made;
  const tile = await module.create({
    setup: boot.setup,
    region,
    libraries,
    log,
    ask: (request) => post({ type: "ask", ...request }),
    // Node's types hide the data.
    onMessage: (listener) =>
      addEventListener("message", (event) => listener((event as MessageEvent).data)),
    ...(outlived && {
      predecessor: async (descriptors) => {
        await secure(descriptors);
        post({ type: "ready" });
        awaitPredecessor(boot, control);
        join();
      },
    }),
  });
  if (confined === undefined) await secure(tile.descriptors);
  post({ type: "running", ...confined! });
  if ("serve" in tile) return () => tile.serve();
  const { index } = COUNTERS[boot.kind as "netlink" | "net"];
  return () => runLoop({ tile, region, control, index, spinTurns: boot.spinTurns });
}

/** Opens the parts of the library that this kind of tile uses. */
function openLibraries({ kind, clock }: BootMessage): Libraries {
  return {
    tile: openTile(),
    ...(kind === "netlink" && { netlink: openNetlink() }),
    ...(kind === "net" && { xsk: openXsk(), udp: openUdp() }),
    ...(clock && { clock: openClock() }),
  };
}
