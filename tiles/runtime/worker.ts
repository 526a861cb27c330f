/**
 * How a worker becomes a tile, in the order that leaves the least open at each moment: open the
 * native libraries, give up ffi, import the tile's module (which can therefore open nothing native),
 * give up read, confine the thread, run the loop. This file is the entry of every worker.
 */

import { openClock } from "../../ffi/clock.ts";
import { openNetlink } from "../../ffi/netlink.ts";
import { type LibraryName, libraryPath } from "../../ffi/paths.ts";
import { openTile } from "../../ffi/tile.ts";
import { openUdp } from "../../ffi/udp.ts";
import { openXsk } from "../../ffi/xsk.ts";
import { ControlReader } from "./control.ts";
import { COUNTERS } from "./counters.ts";
import { runLoop } from "./loop.ts";
import { LIBRARIES } from "./permissions.ts";
import type { BootMessage, Libraries, TileModule, TileReport } from "./tile.ts";
import { Life, TileRegion } from "./tile_region.ts";

/** Permissions that are for the start alone: to load modules, to listen, to read what an app needs. */
const GIVEN_UP = ["read", "write", "env", "net"] as const;

const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<BootMessage>) => void) | null;
  postMessage(report: TileReport): void;
  close(): void;
};

scope.onmessage = (event) => {
  scope.onmessage = null;
  // A failure ends as this worker's uncaught error, which main sees in `onerror`.
  start(event.data).catch((error) => {
    queueMicrotask(() => {
      throw error;
    });
  });
};

async function start(boot: BootMessage): Promise<void> {
  const libraries = openLibraries(boot);
  scope.postMessage({ type: "started", thread: libraries.tile.thread() });
  Deno.permissions.revokeSync({ name: "ffi" });
  const region = new TileRegion(boot.region);
  region.life = Life.booting;
  const module = await import(boot.module) as TileModule<unknown>;
  const tile = await module.create({
    setup: boot.setup,
    region,
    libraries,
    log: (line) => scope.postMessage({ type: "log", line }),
    ask: (request) => scope.postMessage({ type: "ask", request }),
  });
  if (!boot.keep.keep) {
    for (const name of GIVEN_UP) Deno.permissions.revokeSync({ name });
  }
  scope.postMessage({ type: "running", confined: confine(boot, libraries, tile.descriptors) });
  if ("serve" in tile) {
    await tile.serve();
  } else if (boot.kind !== "status") {
    runLoop({
      tile,
      region,
      control: new ControlReader(boot.control),
      wakeups: COUNTERS[boot.kind].index.wakeups,
      spinTurns: boot.spinTurns,
    });
  }
  scope.postMessage({ type: "stopped" });
  scope.close();
}

function openLibraries({ kind, keep }: BootMessage): Libraries {
  const has = (name: LibraryName) => LIBRARIES[kind].includes(name);
  return {
    tile: openTile(libraryPath("tile")),
    ...(has("netlink") && { netlink: openNetlink(libraryPath("netlink")) }),
    ...(has("xsk") && { xsk: openXsk(libraryPath("xsk")) }),
    ...(has("udp") && { udp: openUdp(libraryPath("udp")) }),
    ...(keep.clock && { clock: openClock(libraryPath("tile")) }),
  };
}

/** Confines this thread and says in a word what holds from now on. */
function confine(boot: BootMessage, libraries: Libraries, own: readonly number[]): string {
  const { landlock } = libraries.tile.confine({
    role: boot.kind,
    fds: Int32Array.from(own),
    keepNetAdmin: boot.kind === "netlink",
    keepClock: boot.keep.clock,
    keepFiles: boot.keep.keep,
  });
  return landlock ? "seccomp, landlock" : "seccomp";
}
