/**
 * The worker of an app's process: maps the regions that the process was handed (`../runtime/handed.ts`),
 * makes the app, waits for its turn and runs the tile's loop. The walls were built before exec
 * (`../../ffi/process.ts`); like a tile of the appliance it also gives up what only its start needs.
 *
 * A predecessor may still run on the same regions: nothing of them is touched before the master's `go`.
 */

import { openClock } from "../../ffi/clock.ts";
import { openRegions } from "../../ffi/region.ts";
import { openTile } from "../../ffi/tile.ts";
import { clipped, consoleTo } from "../runtime/console.ts";
import { ControlReader } from "../runtime/control.ts";
import { COUNTERS } from "../runtime/counters.ts";
import { Handed } from "../runtime/handed.ts";
import { type LinkShape, requestRing } from "../runtime/link.ts";
import { runLoop } from "../runtime/loop.ts";
import { wordsOf } from "../runtime/thrown.ts";
import type { Tile } from "../runtime/tile.ts";
import { Life, TileRegion } from "../runtime/tile_region.ts";
import type { ServiceSetup } from "./service.ts";
import { create } from "./tile.ts";
import { nameUnsettled, watchTimers } from "./unsettled.ts";

/** What an app's process is told, besides its descriptors. */
export interface ProcessSetup {
  /** Of the instance; its regions have it in their names. */
  readonly name: string;
  readonly service: Omit<ServiceSetup, "metrics">;
  /** Of every link. */
  readonly shape: LinkShape;
  /** Names of the net tiles. */
  readonly nets: readonly string[];
  /** Idle turns before its loop blocks. */
  readonly spinTurns: number;
  /** Whether it was granted the host's clock. */
  readonly clock: boolean;
  /** Whether it keeps what it was granted once it runs. */
  readonly keep: boolean;
}

/** What an app's process says. The master checks all of it. */
export type WorkerMessage =
  /** The app is made, but for what a predecessor still has. */
  | { readonly type: "ready" }
  | { readonly type: "running" }
  /** It is still being made, and its event loop runs. */
  | { readonly type: "loading" }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "log"; readonly line: string }
  /** Its loop has ended, as it was told. */
  | { readonly type: "left" };

/** How often a start says that its event loop runs. */
const LOADING_MILLIS = 1000;
const GIVEN_UP = ["read", "write", "env", "net"] as const;

const scope = globalThis as unknown as {
  postMessage(message: WorkerMessage): void;
  close(): void;
};
// Taken before an app's code runs, which may put others in their place.
const post = scope.postMessage.bind(scope);
const revoke = Deno.permissions.revokeSync.bind(Deno.permissions);
const interval = setInterval(() => post({ type: "loading" }), LOADING_MILLIS);
const stopSaying = clearInterval.bind(globalThis, interval);

// Not awaited: messages are heard once this module has been evaluated.
live();

async function live(): Promise<void> {
  try {
    const over = new AbortController();
    const run = await Promise.race([start(), loose(over.signal)]);
    over.abort();
    run();
    post({ type: "left" });
  } catch (error) {
    post({ type: "failed", message: clipped(wordsOf(error)) });
  }
}

/** Rejects with what is thrown where nobody awaits it. */
function loose(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (event: Event, thrown: unknown) => {
      event.preventDefault();
      reject(thrown);
    };
    addEventListener("error", (event) => fail(event, event.error), { signal });
    addEventListener("unhandledrejection", (event) => fail(event, event.reason), { signal });
  });
}

/** Makes the app; what comes of it runs its loop until it is told to end. */
async function start(): Promise<() => void> {
  const libraries = { tile: openTile() };
  const regions = openRegions();
  const handed = new Handed<ProcessSetup>(regions, Number(Deno.args[0]));
  const { name, service, shape, nets, spinTurns, clock, keep } = handed.setup;
  const readers = clock ? { clock: openClock() } : {};
  revoke({ name: "ffi" });

  const region = new TileRegion(handed.view(`tile ${name}`));
  const control = new ControlReader(handed.view(`control ${name}`));
  const log = (line: string) => post({ type: "log", line: clipped(line) });
  Object.assign(console, consoleTo(log));
  lookUp();
  takeAway();
  const timers = watchTimers();
  const tile = await create({
    setup: {
      ...service,
      metrics: handed.view(`metrics ${name}`),
      eventfd: handed.fd(`eventfd ${name}`),
      ...(handed.has(`state ${name}`) && { state: handed.view(`state ${name}`) }),
      nets: nets.map((net) => {
        const peer = handed.view(`link ${net} to ${name}`);
        return {
          own: handed.view(`link ${name} to ${net}`),
          peer,
          payloads: requestRing(peer, shape) ?? handed.view(`umem ${net}`),
          shape,
          tile: handed.view(`tile ${net}`),
          eventfd: handed.fd(`eventfd ${net}`),
        };
      }),
    },
    region,
    libraries: { ...libraries, ...readers },
    log,
    ask: () => {},
    turn: async () => {
      const handedOver = await turn();
      region.awake();
      region.life = Life.booting;
      return handedOver;
    },
  }) as Tile;
  stopSaying();
  if (!keep) {
    for (const name of GIVEN_UP) revoke({ name });
  }
  post({ type: "running" });
  nameUnsettled(log, timers);
  return () =>
    runLoop({
      tile,
      region,
      control,
      wakeups: COUNTERS.app.index.wakeups,
      spinTurns,
    });
}

/** Says that it is ready, and waits for the master's `go`: whether a predecessor handed over. */
function turn(): Promise<boolean> {
  const heard = new Promise<boolean>((resolve) => {
    addEventListener("message", (event) => resolve((event as MessageEvent<boolean>).data), {
      once: true,
    });
  });
  post({ type: "ready" });
  return heard;
}

/** Looks up what V8 remembers, while files can be read. */
function lookUp(): void {
  new Date().getTimezoneOffset();
  new Intl.DateTimeFormat().format();
}

/** Takes away what no permission governs and no app may have. */
function takeAway(): void {
  // An app's words go through its console.
  for (const stream of [Deno.stdin, Deno.stdout, Deno.stderr]) stream.close();
  // Messages of a worker are for its other isolate alone.
  Reflect.deleteProperty(globalThis, "postMessage");
  // A nested worker is an isolate more than the process's memory has room for.
  Reflect.deleteProperty(globalThis, "Worker");
  for (const name of ["caches", "CacheStorage", "Cache"]) Reflect.deleteProperty(globalThis, name);
}
