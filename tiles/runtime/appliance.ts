/**
 * The appliance: the entry of its process, which the master (`../../master/`) starts confined
 * (`ffi/process.ts`). It maps the regions that it was handed, starts the netlink, net and status tiles as
 * workers, watches them, and hands over to its successor or ends, as the master says.
 *
 *     mirror ── status and net tiles made ── ready ── predecessor's end, or go ── running
 */

import { SystemError } from "../../ffi/errno.ts";
import { openHost } from "../../ffi/host.ts";
import { CHANNEL_DESCRIPTOR, openChannel } from "../../ffi/process.ts";
import { openRegions } from "../../ffi/region.ts";
import { openObserver, openTile, RefusedCalls } from "../../ffi/tile.ts";
import { u32 } from "../../ffi/view.ts";
import { Watcher } from "../../ffi/watcher.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { clipped, inName } from "./console.ts";
import { Ask, type ControlRequest, ControlWriter, type Outcome } from "./control.ts";
import { delay } from "./delay.ts";
import { Handed } from "./handed.ts";
import { checkMtus, InterfaceError, waitForInterfaces } from "./interfaces_ready.ts";
import { spinTurnsFor } from "./loop.ts";
import { type ApplianceOrder, type ApplianceReport, messagesBy, REQUESTS } from "./messages.ts";
import { workerPermissions } from "./permissions.ts";
import { POLL_MILLIS, Threads, TileWorker } from "./supervisor.ts";
import { AppError, sentenceOf } from "./thrown.ts";
import { type ApplianceSetup, inlineGrants, Wiring, type WorkerHandle } from "./wiring.ts";

/** Where a tile's module is, from here. */
const MODULES = {
  netlink: "../netlink/tile",
  net: "../net/tile",
  status: "../status/tile",
} as const;
/** Sources run as TypeScript; what is built for processes is JavaScript. */
const EXTENSION = import.meta.url.replace(/^.*\./, ".");
/** How long tiles have to drain and end; the loop's own limit is shorter. */
const STOP_MILLIS = 600;
/** How long net tiles have to finish a burst and end, and the status tile to answer who is connected. */
const LEAVE_MILLIS = 1000;
/** How long the process stays once its successor serves. */
const LINGER_MILLIS = 100;
/** The pause before a tile is started again: the first, and the longest after doublings. */
const FIRST_PAUSE_MILLIS = 50;
const LONGEST_PAUSE_MILLIS = 10_000;
/** A start that lasts this long ends the doubling. */
const LASTING_MILLIS = 30_000;

/** Exit statuses (`cli/errors.ts`). */
const [FAILURE, USAGE, INTERFACE] = [1, 2, 4];
const BEAT_MILLIS = 500;

const host = openHost();
const messages = messagesBy<ApplianceReport, ApplianceOrder>(
  openChannel(CHANNEL_DESCRIPTOR),
);
const tile = openTile();
const handed = new Handed<ApplianceSetup>(
  openRegions(),
  Number(Deno.args.at(-1)),
);

/** Lines that the master had no room for. */
let lost = 0;
function log(text: string): void {
  for (const line of text.split("\n")) {
    if (lost > 0 && messages.send({ type: "log", line: `${lost} lines of the log were lost` })) {
      lost = 0;
    }
    if (!messages.send({ type: "log", line: clipped(line) })) lost++;
  }
}

/** Ends the process for a reason that the master hears. */
function fail(error: unknown): never {
  const app = error instanceof AppError ? { app: error.app } : {};
  messages.send({
    type: "failed",
    message: sentenceOf(error),
    status: error instanceof AppError
      ? USAGE
      : error instanceof InterfaceError
      ? INTERFACE
      : FAILURE,
    ...app,
    ...(/^net\d+: RingsLost: /.test(sentenceOf(error)) && { ringsLost: true }),
  });
  Deno.exit(FAILURE);
}

/** A booting, running or leaving appliance. */
class Appliance {
  /**
   * The mirror, to be read until the net tiles run: until then they are readers that do not move on, so that
   * nothing of it is freed. Main is none of its readers, and no writer waits for it.
   */
  readonly netbase: NetbaseReader;
  readonly #wiring = new Wiring(handed.setup, handed);
  readonly #control = new ControlWriter(this.#wiring.control.writer);
  readonly #threads = new Threads(host);
  readonly #refusedCalls = new RefusedCalls(this.#wiring.refusedCalls.reader);
  /** What the log has named once. */
  readonly #named = new Set<string>();
  readonly #workers = new Map<string, TileWorker>();
  /** Starts in a row that did not last, by tile. */
  readonly #failures = new Map<string, number>();
  #running = false;
  #ending = false;
  #watch?: ReturnType<typeof setInterval>;

  /** Maps every region; starts no tile. */
  constructor() {
    openObserver().start(u32(this.#wiring.refusedCalls.writer));
    this.netbase = new NetbaseReader(this.#wiring.netbase.reader);
  }

  /**
   * Starts all tiles, those that read netbase up to where they are made. Resolves when it holds a first full
   * copy of the kernel's state.
   */
  async startMirror(): Promise<void> {
    const { netlink, nets, status } = this.#wiring;
    const mirror = this.#start(netlink, this.#wiring.netlinkSetup());
    // They load meanwhile.
    nets.forEach((net, n) => this.#start(net, this.#wiring.netSetup(n), { held: true }));
    if (status !== null) this.#start(status, this.#wiring.statusSetup(), { held: true });
    await mirror.running;
    this.netbase.refresh();
  }

  /**
   * Makes the status and net tiles. `ready` resolves when each could run; `running` when all do, which takes
   * the end of each predecessor, or `go`.
   */
  makeTiles(): { readonly ready: Promise<unknown>; readonly running: Promise<unknown> } {
    const held = [...this.#workers.values()].filter(({ name }) =>
      name !== this.#wiring.netlink.name
    );
    for (const worker of held) worker.make();
    const running = Promise.all(held.map((worker) => worker.running));
    running.catch(() => {});
    // One that fails before it is ready fails in `running`.
    const ready = Promise.race([Promise.all(held.map((worker) => worker.ready)), running]);
    return { ready, running };
  }

  /** All predecessors have ended: what has not taken over does, and the netlink tile writes the filters. */
  go(): void {
    this.#control.serve();
    this.#wake();
    for (const { name } of this.#wiring.nets) this.#workers.get(name)!.takeOver();
  }

  /** Every tile runs: from now on one that fails is started again, or ends the appliance. */
  settle(): void {
    this.#running = true;
  }

  /** Says of each interface whether AF_XDP takes its frames, for operators. */
  setAttached(attached: readonly boolean[]): void {
    attached.forEach((takes, i) => this.#control.setXdp(i, takes));
  }

  /** Has whoever asked with this number hear what became of it. */
  setOutcome(number: number, outcome: Outcome): void {
    this.#workers.get("status")?.post({ type: "outcome", number, outcome });
  }

  #start(own: WorkerHandle, setup: unknown, { held = false } = {}): TileWorker {
    const { kind, name, slot, region } = own;
    const beside = kind === "net";
    const { read, clock } = inlineGrants(beside ? handed.setup.apps : []);
    const { nets } = this.#wiring;
    const apps = handed.setup.apps.filter(({ inline }) => !inline);
    const worker: TileWorker = new TileWorker({
      kind,
      name,
      module: new URL(MODULES[kind] + EXTENSION, import.meta.url).href,
      slot,
      region: region.writer,
      control: this.#wiring.control.reader,
      clock,
      beside,
      hasPredecessor: beside && handed.setup.isBeside,
      held,
      spinTurns: spinTurnsFor(nets.length + apps.length, navigator.hardwareConcurrency),
      setup,
    }, {
      permissions: workerPermissions(read),
      threads: this.#threads,
      events: {
        log: (text) => log(inName(name, text)),
        ask: (request) => this.#ask(request),
        failed: (message) => {
          const isCurrent = this.#workers.get(name) === worker;
          if (isCurrent && this.#running && !this.#ending) this.#failed(own, { message, setup });
        },
        late: () => {
          for (const late of this.#wiring.starting(name)) {
            log(`${late}: its start has not ended yet`);
          }
        },
        stuck: (reason) => fatal(name, reason),
      },
    });
    this.#workers.set(name, worker);
    this.#watch ??= setInterval(() => this.#poll(), POLL_MILLIS);
    worker.running.then(({ landlock, observed }) => {
      if (!landlock) this.#lack("the kernel has no landlock: tiles are confined by seccomp alone");
      if (!observed) this.#lack("the kernel does not say which system calls it refuses to tiles");
    }, () => {});
    return worker;
  }

  /** Names what the kernel lacks, once. */
  #lack(sentence: string): void {
    if (this.#named.has(sentence)) return;
    this.#named.add(sentence);
    log(sentence);
  }

  /** Polls every tile. */
  #poll(): void {
    if (this.#ending) return;
    this.#control.pulse();
    for (const { name, reader } of this.#wiring.workers) this.#workers.get(name)?.poll(reader);
    this.#nameRefusedCalls();
  }

  /** Names each system call that was refused to a tile, once. */
  #nameRefusedCalls(): void {
    for (const { name, slot } of this.#wiring.workers) {
      for (const { call } of this.#refusedCalls.of(slot)) {
        if (this.#named.has(`${slot} ${call}`)) continue;
        this.#named.add(`${slot} ${call}`);
        log(`${name}: refused system call ${call} (${tile.callName(call)})`);
      }
    }
  }

  /**
   * A tile's loop ended by an error. The netlink and status tiles start again in place, with a pause that
   * doubles while they do not last: net tiles forward on the last good state meanwhile. With a net tile
   * the process ends: the master has the rings, and starts the next one.
   */
  #failed(own: WorkerHandle, { message, setup }: { message: string; setup: unknown }): void {
    if (own.kind === "net") return fatal(own.name, message);
    const failures = this.#failures.get(own.name) ?? 0;
    const pause = Math.min(FIRST_PAUSE_MILLIS * 2 ** failures, LONGEST_PAUSE_MILLIS);
    this.#failures.set(own.name, failures + 1);
    messages.send({ type: "restarted", tile: own.kind });
    log(`${own.name}: ended (${message}); starting it again in ${pause} ms`);
    setTimeout(() => {
      if (this.#ending || !this.#workers.get(own.name)?.over) return;
      const lasted = setTimeout(() => this.#failures.delete(own.name), LASTING_MILLIS);
      // A failure of this start comes back through `failed`, unless not even a thread was to be had.
      try {
        this.#start(own, setup);
      } catch (error) {
        clearTimeout(lasted);
        if (!(error instanceof SystemError)) throw error;
        this.#failed(own, { message: error.message, setup });
      }
    }, pause);
  }

  /** Puts a request of the status tile to whom it is for. */
  #ask(request: ControlRequest): void {
    if (request.kind === Ask.capture) {
      this.#control.captureMode = request.arguments[0];
      return;
    }
    const what = REQUESTS.find((each) => Ask[each] === request.kind);
    if (what !== undefined) {
      messages.send({ type: "ask", what, number: request.number });
      return;
    }
    this.#control.ask(request);
    tile.wake(this.#wiring.netlink.eventfd);
  }

  #wake(): void {
    for (const { eventfd } of this.#wiring.workers) tile.wake(eventfd);
  }

  /**
   * Has net tiles end after their burst and leave to a successor what they hold. Resolves with whether all
   * did in time.
   */
  async leave(): Promise<boolean> {
    if (!this.#running) return false;
    this.#beginEnd();
    this.#control.leave();
    this.#wake();
    this.#workers.get("status")?.post({ type: "leave" });
    return await this.#netsEnd(LEAVE_MILLIS);
  }

  /** Resolves when the status tile, which leaves, has answered who is connected, or its time is over. */
  async answered(): Promise<void> {
    await Promise.race([this.#workers.get("status")?.ended, delay(LEAVE_MILLIS)]);
  }

  /** Lets the tiles drain and ends them. The process has to end. */
  async stop(): Promise<void> {
    this.#beginEnd();
    this.#control.stop();
    this.#wake();
    this.#workers.get("status")?.terminate();
    await this.#netsEnd(STOP_MILLIS);
    this.#nameRefusedCalls();
  }

  #beginEnd(): void {
    this.#ending = true;
    clearInterval(this.#watch);
    for (const worker of this.#workers.values()) worker.expectEnd();
  }

  /** Waits until all net tiles have ended, or `millis` are over; whether they have. */
  async #netsEnd(millis: number): Promise<boolean> {
    const ends = this.#wiring.nets.map(({ name }) => this.#workers.get(name)!.ended);
    const all = Promise.all(ends).then((orderly) => orderly.every(Boolean));
    return await Promise.race([all, delay(millis).then(() => false)]);
  }
}

/** Ends the process for a tile that cannot be started again in place. */
function fatal(tile: string, message: string): never {
  fail(new Error(`${tile} ended: ${message}`));
}

const appliance = new Appliance();

async function boot(): Promise<void> {
  const { setup: { interfaces, attached } } = handed;
  await appliance.startMirror();
  await waitForInterfaces(appliance.netbase, { names: interfaces, log });
  checkMtus(appliance.netbase, attached.map(({ name }) => name));
  const { ready, running } = appliance.makeTiles();
  await ready;
  messages.send({ type: "ready" });
  await running;
  appliance.settle();
  messages.send({ type: "running" });
}

const handlers: { readonly [type in ApplianceOrder["type"]]: (order: never) => unknown } = {
  go: () => appliance.go(),
  leave: async () => {
    messages.send({ type: "left", orderly: await appliance.leave() });
    // The successor serves already.
    await appliance.answered();
    // Taking a process apart takes processors, which the successor needs for its first datagrams.
    await delay(LINGER_MILLIS);
    Deno.exit();
  },
  stop: async () => {
    await appliance.stop();
    Deno.exit();
  },
  attached: ({ attached }: { attached: boolean[] }) => appliance.setAttached(attached),
  outcome: ({ number, outcome }: { number: number; outcome: Outcome }) =>
    appliance.setOutcome(number, outcome),
};

/** Does what the master says; ends with it. */
function follow(): void {
  for (let order = messages.receive(); order !== null; order = messages.receive()) {
    if (order === undefined) Deno.exit(FAILURE);
    handlers[order.type](order as never);
  }
}

new Watcher(host, tile).watch(CHANNEL_DESCRIPTOR, follow);
setInterval(() => messages.send({ type: "beat" }), BEAT_MILLIS);
boot().catch(fail);
