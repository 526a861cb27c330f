// SPDX-License-Identifier: Apache-2.0
/**
 * An app's process, which `../../master/app_process.ts` starts confined (`../../ffi/process.ts`).
 * It maps its regions (`../runtime/handed.ts`), creates the app, waits for `go`, and runs the app
 * tile's loop, which passes bursts of datagrams from each net tile's link to the app, and its
 * answers back. The app accesses the memory with the datagrams, but not the links. Like a tile of
 * the appliance, the process gives up all that only its start needs.
 *
 * A predecessor may still run on the same regions, so they are not touched before the master's
 * `go`. There is one isolate; its event loop runs only until then.
 *
 * The process of an app's slow side (`makeBeside` in `host.ts`) starts likewise, but its event loop keeps running.
 */

import { libraryPath, pollSet } from "../../ffi/library.ts";
import { CHANNEL_DESCRIPTOR, openChannel } from "../../ffi/process.ts";
import { heapView, openRegions } from "../../ffi/region.ts";
import { openClock, openTile, type TileLibrary } from "../../ffi/tile.ts";
import { ControlReader } from "../runtime/control.ts";
import { APP } from "../runtime/counters.ts";
import { Handed, messagesBy } from "../runtime/handed.ts";
import { type LinkShape, requestRing } from "../runtime/link.ts";
import {
  AppError,
  clipped,
  consoleTo,
  Level,
  type Log,
  sentenceOf,
  takeAway,
  uncaught,
  wordsOf,
} from "../runtime/log.ts";
import { Life, runLoop, TileRegion } from "../runtime/tile.ts";
import type { TcpListener } from "./contract.ts";
import {
  appTile,
  type BesideSetup,
  explainDenials,
  loadService,
  makeBeside,
  NetSide,
  type Service,
  type ServiceSetup,
} from "./host.ts";
import { MailboxEnd } from "./mailbox.ts";
import { AppState, METRICS_BYTES, MetricsWriter } from "./regions.ts";

/** The setup of an app's process, besides its descriptors. */
export interface ProcessSetup {
  /** The name of the instance, which the names of its regions contain. */
  readonly name: string;
  readonly service: Omit<ServiceSetup, "metrics">;
  /** The shape of every link. */
  readonly shape: LinkShape;
  readonly nets: readonly string[];
  /** Idle turns before its loop blocks. */
  readonly spinTurns: number;
  readonly clock: boolean;
  /** Whether it keeps its grants once it runs. */
  readonly keep: boolean;
  /** Whether there is time to warm up: its predecessor serves meanwhile. */
  readonly warmUp: boolean;
  /** Set for the slow side of the app. */
  readonly beside?: BesideSetup;
}

/** Reports of an app's process. The master checks all of them. */
export type AppReport =
  /** The app is created, except for resources that its predecessor still has. */
  | { readonly type: "ready" }
  | { readonly type: "running" }
  /** Its event loop runs: once a second during the start, for a slow side until it ends. */
  | { readonly type: "beat" }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "log"; readonly line: string; readonly level?: number }
  /** Its loop has ended as ordered. */
  | { readonly type: "left" };

export type AppOrder =
  /** Take the regions. `handedOver`: it answers the datagrams that wait in the links. */
  | { readonly type: "go"; readonly handedOver: boolean }
  /** For a slow side. A tile reads the order in its control region. */
  | { readonly type: "leave" };

const BEAT_MILLIS = 1000;
const GIVEN_UP = ["read", "write", "env", "net"] as const;

/** How long one wait for a message lasts. */
const POLL_MILLIS = 500;

const messages = messagesBy<AppReport, AppOrder>(openChannel(CHANNEL_DESCRIPTOR));
const { symbols } = Deno.dlopen(libraryPath(), {
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32", nonblocking: true },
});
// Bound before the app's code runs, which may replace them.
const exit = Deno.exit.bind(Deno);
const revoke = Deno.permissions.revokeSync.bind(Deno.permissions);
const interval = setInterval(() => report({ type: "beat" }), BEAT_MILLIS);
// V8's `gc`, which cannot be deleted from the global object. It is not part of the app contract.
const shared = globalThis as { gc?: (options: { type: "minor" }) => void };
const gc = shared.gc!;
shared.gc = undefined;
const stopSaying = clearInterval.bind(globalThis, interval);

/** Reports to the master. A log line is lost if the channel is full; other reports are sent while it is empty. */
function report(what: AppReport): void {
  messages.send(what);
}

async function live(): Promise<void> {
  try {
    const failed = uncaught(new AbortController().signal);
    const run = await Promise.race([start(), failed]);
    const beside = run();
    // A promise that exists during a tile's loop would be attributed to the app.
    if (beside !== undefined) await Promise.race([beside, failed]);
    report({ type: "left" });
    exit(0);
  } catch (error) {
    const words = explainDenials(wordsOf(error), "[apps] grants it, $1 = [$2]");
    report({ type: "failed", message: clipped(words) });
    exit(1);
  }
}

/** Creates the app, or its slow side, and returns a function that runs it until it is ordered to end. */
async function start(): Promise<() => void | Promise<void>> {
  const library = openTile();
  const regions = openRegions();
  const handed = new Handed<ProcessSetup>(regions, Number(Deno.args[0]));
  const { name, service: setup, shape, nets, spinTurns, keep, beside, warmUp } = handed.setup;
  library.nameThread(name);
  const clock = handed.setup.clock ? openClock() : undefined;
  revoke({ name: "ffi" });

  const log: Log = (line, level) => report({ type: "log", line: clipped(line), level });
  Object.assign(console, consoleTo(log));
  // Make V8 cache time zone data while files can be read.
  new Date().getTimezoneOffset();
  new Intl.DateTimeFormat().format();
  takeAway();
  if (beside !== undefined) return await startBeside(beside, { handed, log, library });
  const region = new TileRegion(handed.view(`tile ${name}`));
  const control = new ControlReader(handed.view(`control ${name}`));
  const nameUnsettled = watchTimers();
  const { counters } = region;
  const metricsView = handed.view(`metrics ${name}`);
  const eventfd = handed.fd(`eventfd ${name}`);
  const state = handed.has(`state ${name}`)
    ? new AppState(handed.view(`state ${name}`))
    : undefined;
  let mailbox: MailboxEnd | undefined;
  if (handed.has(`mail ${name}`)) {
    const besideEventfd = handed.fd(`eventfd ${name} beside`);
    mailbox = new MailboxEnd(
      { own: handed.view(`mail ${name}`), peer: handed.view(`mail ${name} beside`) },
      () => library.wake(besideEventfd),
    );
  }
  const joins = nets.map((net) => {
    const own = handed.view(`link ${name} to ${net}`);
    const peer = handed.view(`link ${net} to ${name}`);
    const payloads = requestRing(peer, shape) ?? handed.view(`umem ${net}`);
    const ofNet = { tile: handed.view(`tile ${net}`), eventfd: handed.fd(`eventfd ${net}`) };
    return { own, peer, payloads, shape, ...ofNet };
  });
  // The predecessor owns the metrics region until it has ended.
  const metrics = new MetricsWriter(heapView(METRICS_BYTES));
  // Before the app's code runs, which may replace built-ins. Without a predecessor the module is not needed.
  if (warmUp) await (await import("./warm_up.ts")).warmUp({ shape, spinTurns, library });
  const service = await loadService({ ...setup, metrics: metricsView }, {
    ...{ counters, metrics, log, state, mailbox, clock, hasPredecessor: true },
    collect: () => gc({ type: "minor" }),
  });
  library.trim();
  const handedOver = await go();
  region.awake();
  region.life = Life.booting;
  metrics.move(metricsView);
  state?.open();
  try {
    service.begin();
  } catch (error) {
    throw new AppError(setup.name, sentenceOf(error));
  }
  const sides = joins.map((join) =>
    new NetSide(join, {
      ...{ counters, firstPort: [...setup.ports, ...(setup.ownPorts ?? [])][0], handedOver },
      wake: () => library.wake(join.eventfd),
    })
  );
  const tile = appTile(service, sides, { library, eventfd, mailbox });
  stopSaying();
  if (!keep) {
    for (const name of GIVEN_UP) revoke({ name });
  }
  report({ type: "running" });
  nameUnsettled(service, log);
  return () => runLoop({ tile, region, control, index: APP.index, spinTurns });
}

/** Reports ready and waits for the master's `go`. Returns whether a predecessor handed over. */
async function go(): Promise<boolean> {
  report({ type: "ready" });
  for (;;) {
    const order = messages.receive();
    // The master has closed the channel.
    if (order === undefined) return exit(1);
    if (order?.type === "go") return order.handedOver;
    await symbols.poll(pollSet([CHANNEL_DESCRIPTOR]), 1n, POLL_MILLIS);
  }
}

/** Creates the slow side and returns a function that delivers its messages until it is ordered to end. */
async function startBeside(
  { module, tcp }: BesideSetup,
  { handed, log, library }: { handed: Handed<ProcessSetup>; log: Log; library: TileLibrary },
): Promise<() => Promise<void>> {
  const { name, service } = handed.setup;
  const eventfd = handed.fd(`eventfd ${name} beside`);
  const appEventfd = handed.fd(`eventfd ${name}`);
  const mailbox = new MailboxEnd({
    own: handed.view(`mail ${name} beside`),
    peer: handed.view(`mail ${name}`),
    sleeper: handed.view(`tile ${name}`),
  }, () => library.wake(appEventfd));
  const listeners = tcp.map(({ address, port }) => {
    const fd = handed.fd(`tcp ${address}:${port}`);
    const accept: TcpListener["accept"] = (server) => void server.listen({ fd });
    return { address, port, accept };
  });
  const metrics = new MetricsWriter(heapView(METRICS_BYTES));
  const host = { mailbox, listeners, metrics, log };
  const beside = await makeBeside(await import(module), service, host);
  await go();
  metrics.move(handed.view(`metrics ${name} beside`));
  await beside.begin?.();
  report({ type: "running" });
  let hasEnded = false;
  const end = async () => {
    await beside.end?.();
    hasEnded = true;
    library.wake(eventfd);
  };
  return async () => {
    while (!hasEnded) {
      const order = messages.receive();
      if (order === undefined) exit(1);
      // Messages are delivered until it ends: the app may be answering it.
      if (order?.type === "leave") void end();
      const count = mailbox.take((bytes) => beside.mail?.(bytes));
      mailbox.region.fallAsleep();
      const millis = count > 0 || mailbox.waiting ? 0 : POLL_MILLIS;
      await symbols.poll(pollSet([CHANNEL_DESCRIPTOR, eventfd]), 2n, millis);
      mailbox.region.awake();
      library.wait(eventfd, 0);
    }
  };
}

/*
 * No event loop runs in a handler, so promises do not settle and timers do not fire. The following
 * code logs those that an app starts anyway, each kind once.
 *
 * V8 has a hook for the creation of promises. Without promises it costs nothing. It notices all
 * APIs with promises: fetch, files, crypto.subtle, async functions. Timers have no promises, so the
 * functions that start them are replaced before the app is loaded.
 */

/** Functions that start timers without a promise, and those that stop them. */
const TIMERS = ["setTimeout", "setInterval", "setImmediate", "queueMicrotask"] as const;
const ENDS = ["clearTimeout", "clearInterval", "clearImmediate"] as const;

type Starter = (callback: (...given: unknown[]) => void, ...rest: unknown[]) => unknown;

/** V8's hooks in Deno; unstable, so they may be missing. */
const core = (Deno as unknown as Record<symbol, {
  core?: {
    setPromiseHooks?(...hooks: (((promise: Promise<unknown>) => void) | undefined)[]): void;
  };
}>)[(Deno as unknown as { internal: symbol }).internal]?.core;

/**
 * Records timers that are started. Returns a function that starts logging promises and timers of an
 * app's handlers, which no event loop will run.
 */
function watchTimers(): (service: Pick<Service, "handler">, say: Log) => void {
  const scope = globalThis as unknown as Record<string, Starter & ((id: unknown) => void)>;
  /** The places where pending timers were started. */
  const running = new Map<unknown, { name: string; at: Error }>();
  let frozen: ((name: string) => void) | undefined;
  for (const name of TIMERS) {
    const start = scope[name];
    const watched: Starter = (callback, ...rest) => {
      frozen?.(name);
      const isNoted = frozen === undefined && name !== "queueMicrotask";
      if (!isNoted || typeof callback !== "function") return start(callback, ...rest);
      const id = start((...given) => {
        if (name !== "setInterval") running.delete(id);
        callback(...given);
      }, ...rest);
      running.set(id, { name, at: new Error() });
      return id;
    };
    scope[name] = Object.assign(watched, start) as typeof start;
  }
  for (const name of ENDS) {
    const end = scope[name];
    scope[name] = ((id: unknown) => {
      running.delete(id);
      end(id);
    }) as typeof end;
  }
  return (service, say) => {
    const log = (line: string) => say(line, Level.warning);
    const [left] = running.values();
    if (left !== undefined) {
      const where = `${left.name}${placeOf(left.at.stack).place}`;
      log(
        `create() left a timer running (${where}), which never fires again: no event loop runs now`,
      );
    }
    /** Logs a useless call of a handler, the first time. */
    const inVain = (what: (call: string, place: string, name: unknown) => string) => {
      let isSaid = false;
      return (name: unknown) => {
        if (isSaid) return;
        isSaid = true;
        const { stackTraceLimit } = Error;
        Error.stackTraceLimit = 100;
        const { place, call } = placeOf(new Error().stack);
        Error.stackTraceLimit = stackTraceLimit;
        const { handler } = service;
        log(`${handler}() ${what(call, place, name)} there: no event loop runs in a handler`);
      };
    };
    frozen = inVain((_, place, name) => `started a timer (${name}${place}), which never fires`);
    core?.setPromiseHooks?.(
      inVain((call, place) => `made a promise (${call}${place}), which never settles`),
    );
  };
}

/** Frames of these files are not the app's. */
const OWN = new URL("./", import.meta.url).href;
const RUNNERS = ["process", "host"].map((name) => `${OWN}${name}.`);

/** From a stack: ` at FILE:LINE` of the app, and the function called there. */
function placeOf(stack = ""): { place: string; call: string } {
  const frames = stack.split("\n").filter((line) => line.startsWith("    at "));
  const isOurs = (frame: string) => RUNNERS.some((runner) => frame.includes(runner));
  const first = frames.findIndex((frame) => frame.includes("file://") && !isOurs(frame));
  if (first < 0) return { place: "", call: "by Deno" };
  const [, file = "?", line = "?"] = /file:\/\/(.*?):(\d+)(?::\d+)?\)?$/.exec(frames[first]) ?? [];
  const callee = frames.slice(0, first).findLast((frame) => !frame.includes("file://"));
  const [, call = "async"] = /^ +at (?:async )?(?:new )?([\w.]+) \(/.exec(callee ?? "") ?? [];
  return { place: ` at ${decodeURI(file)}:${line}`, call };
}

live();
