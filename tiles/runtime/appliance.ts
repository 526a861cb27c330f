/**
 * The appliance inside its process: starts the netlink, net and status tiles as workers, watches them,
 * and hands over to its successor or ends. The master (`../../master/`) made every region, socket and
 * program, and says when.
 *
 * mirror → status tile → net tiles up to their turn → (the master says go) → serving
 */

import type { Observer, TileLibrary } from "../../ffi/tile.ts";
import type { Host } from "../../ffi/host.ts";
import { u32 } from "../../ffi/view.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { SystemError } from "../../ffi/errno.ts";
import { Ask, type ControlRequest, ControlWriter, type Outcome } from "./control.ts";
import { delay } from "./delay.ts";
import type { Handed } from "./handed.ts";
import { inName } from "./log_line.ts";
import { spinTurnsFor } from "./loop.ts";
import { workerPermissions } from "./permissions.ts";
import { RefusedCalls } from "./refused_calls.ts";
import { LOOK_MILLIS, Threads, TileWorker } from "./supervisor.ts";
import { Life } from "./tile_region.ts";
import { type ApplianceSetup, inlineGrants, Wiring, type WorkerHandle } from "./wiring.ts";

/** What an appliance is made with. */
export interface ApplianceParts {
  readonly host: Host;
  readonly tile: TileLibrary;
  readonly observer: Observer;
  log(line: string): void;
  /** A tile ended that cannot be started again in place: the process has to end. */
  fatal(tile: string, message: string): void;
  /** A request of an operator that only the master can meet. */
  ask(request: ControlRequest): void;
}

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
/** How long net tiles have to end after a turn, and the status tile to answer who is connected. */
const LEAVE_MILLIS = 1000;
/** How often is looked whether they have. */
const END_POLL_MILLIS = 1;
/** The pause before a tile is started again: the first, and the longest after doublings. */
const FIRST_PAUSE_MILLIS = 50;
const LONGEST_PAUSE_MILLIS = 10_000;
/** A start that lasts this long ends the doubling. */
const LASTING_MILLIS = 30_000;

/** A booting, running or leaving appliance. */
export class Appliance {
  /**
   * The mirror, to be looked at until the net tiles run: until then they are readers that stand still, so
   * that nothing of it is used again. Main is none of its readers, and nobody waits for it.
   */
  readonly netbase: NetbaseReader;
  readonly #setup: ApplianceSetup;
  readonly #parts: ApplianceParts;
  readonly #wiring: Wiring;
  readonly #control: ControlWriter;
  readonly #threads: Threads;
  readonly #refusedCalls: RefusedCalls;
  /** What the log has named once. */
  readonly #named = new Set<string>();
  readonly #workers = new Map<string, TileWorker>();
  /** Starts in a row that did not last, by tile. */
  readonly #failures = new Map<string, number>();
  /** Resolves with whether the predecessor handed over, when there is none any more. */
  readonly #turn = Promise.withResolvers<boolean>();
  #running = false;
  #ending = false;
  #watch?: ReturnType<typeof setInterval>;

  /** Maps every region; starts nothing. */
  constructor(handed: Handed<ApplianceSetup>, parts: ApplianceParts) {
    this.#setup = handed.setup;
    this.#parts = parts;
    this.#wiring = new Wiring(handed.setup, handed);
    this.#control = new ControlWriter(this.#wiring.control.writer);
    this.#threads = new Threads(parts.host);
    this.#refusedCalls = new RefusedCalls(this.#wiring.refusedCalls.reader);
    parts.observer.start(u32(this.#wiring.refusedCalls.writer));
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
   * `go`.
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

  /** Has the tiles take over: their predecessors have ended. */
  go(handedOver: boolean): void {
    this.#control.serve();
    this.#wake();
    this.#turn.resolve(handedOver);
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

  #start(tile: WorkerHandle, setup: unknown, { held = false } = {}): TileWorker {
    const { kind, name, slot, region } = tile;
    const { log } = this.#parts;
    const beside = kind === "net";
    const { read, clock } = inlineGrants(beside ? this.#setup.apps : []);
    const { nets } = this.#wiring;
    const apps = this.#setup.apps.filter(({ inline }) => !inline);
    const worker: TileWorker = new TileWorker({
      kind,
      name,
      module: new URL(MODULES[kind] + EXTENSION, import.meta.url).href,
      slot,
      region: region.writer,
      control: this.#wiring.control.reader,
      clock,
      beside,
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
          const isItsTurn = this.#workers.get(name) === worker;
          if (isItsTurn && this.#running && !this.#ending) this.#failed(tile, { message, setup });
        },
        late: () => {
          for (const late of this.#wiring.starting(name)) {
            log(`${late}: its start has not ended yet`);
          }
        },
        stuck: (reason) => this.#parts.fatal(name, reason),
        ...(beside && { turn: () => this.#turn.promise }),
      },
    });
    this.#workers.set(name, worker);
    this.#watch ??= setInterval(() => this.#look(), LOOK_MILLIS);
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
    this.#parts.log(sentence);
  }

  /** Looks after every tile. */
  #look(): void {
    if (this.#ending) return;
    this.#control.pulse();
    for (const { name, reader } of this.#wiring.workers) this.#workers.get(name)?.look(reader);
    this.#nameRefusedCalls();
  }

  /** Names each system call that was refused to a tile, once. */
  #nameRefusedCalls(): void {
    const { log, tile } = this.#parts;
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
  #failed(tile: WorkerHandle, { message, setup }: { message: string; setup: unknown }): void {
    const { log, fatal } = this.#parts;
    if (tile.kind === "net") return fatal(tile.name, message);
    const failures = this.#failures.get(tile.name) ?? 0;
    const pause = Math.min(FIRST_PAUSE_MILLIS * 2 ** failures, LONGEST_PAUSE_MILLIS);
    this.#failures.set(tile.name, failures + 1);
    log(`${tile.name}: ended (${message}); starting it again in ${pause} ms`);
    setTimeout(() => {
      if (this.#ending || !this.#workers.get(tile.name)?.over) return;
      const lasted = setTimeout(() => this.#failures.delete(tile.name), LASTING_MILLIS);
      // A failure of this start comes back through `failed`, unless not even a thread was to be had.
      try {
        this.#start(tile, setup);
      } catch (error) {
        clearTimeout(lasted);
        if (!(error instanceof SystemError)) throw error;
        this.#failed(tile, { message: error.message, setup });
      }
    }, pause);
  }

  /** Puts a request of the status tile to whom it is for. */
  #ask(request: ControlRequest): void {
    if (request.kind === Ask.capture) {
      this.#control.captureMode = request.arguments[0];
      return;
    }
    if (request.kind === Ask.reload || request.kind === Ask.upgrade) {
      return this.#parts.ask(request);
    }
    this.#control.ask(request);
    this.#parts.tile.wake(this.#wiring.netlink.eventfd);
  }

  #wake(): void {
    for (const { eventfd } of this.#wiring.workers) this.#parts.tile.wake(eventfd);
  }

  /**
   * Has net tiles end after their turn and leave to a successor what they hold. Resolves with whether all
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
    const until = performance.now() + millis;
    // A tile's word for having stopped is its last store; its thread takes a while longer.
    while (this.#wiring.nets.some(({ reader }) => reader.life !== Life.stopped)) {
      if (performance.now() > until) return false;
      await delay(END_POLL_MILLIS);
    }
    return true;
  }
}
