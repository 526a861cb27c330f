/**
 * The appliance: boots the tiles in the order of docs/architecture.md, watches them, stops them. This
 * is main's part. It sets up what needs privileges and moves no data.
 *
 * regions → netlink tile until the first full sync → XDP → net tiles → app tiles → sockets into the
 * XDP programs' maps: each step leaves a host that works, the last one moves the traffic.
 */

import { checked, describeErrno, SystemError } from "../../ffi/errno.ts";
import type { Observer, TileLibrary } from "../../ffi/tile.ts";
import { u32 } from "../../ffi/view.ts";
import type { XskSlots } from "../../ffi/xsk.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { type Attachment, type Binding, OccupiedError, type Opened } from "./attachment.ts";
import { Ask, type ControlRequest, ControlWriter, type Outcome } from "./control.ts";
import { countersOf } from "./counters.ts";
import { inName } from "./log_line.ts";
import { spinTurnsFor } from "./loop.ts";
import { permissions } from "./permissions.ts";
import { RING_ENTRIES } from "./plan.ts";
import { RefusedCalls } from "./refused_calls.ts";
import { LOOK_MILLIS, Threads, TileWorker } from "./supervisor.ts";
import { sentenceOf } from "./thrown.ts";
import { type TileSeat, Wiring, type WiringOptions } from "./wiring.ts";

/** What an appliance is made from. */
export interface ApplianceOptions extends WiringOptions {
  /** Main's own way to wake tiles. */
  readonly tile: TileLibrary;
  /** Maps the rings of sockets for the net tiles, which know them by slot. */
  readonly xsk: XskSlots;
  readonly observer: Observer;
  log(line: string): void;
  /** Does what an operator asked for, `Ask.reload` or `Ask.upgrade`: once for each number. */
  change(kind: number, number: number): Promise<Outcome>;
  /** A tile ended that cannot be started again in place: the process has to end. */
  fatal(tile: string, message: string): void;
}

/** How an interface is attached, for the operator. */
export interface Attached {
  /** "xdp native copy" for example. */
  readonly mode: string;
  /** Why it is this mode and no better one. */
  readonly reason: string;
}

/** Where a tile's module is, under the program's folder. */
const MODULES = {
  netlink: "tiles/netlink/tile.ts",
  net: "tiles/net/tile.ts",
  app: "tiles/app/tile.ts",
  status: "tiles/status/tile.ts",
} as const;
/** How long tiles have to drain and end; the loop's own limit is shorter. */
const STOP_MILLIS = 600;
/** The pause before a tile is started again: the first, and the longest after doublings. */
const FIRST_PAUSE_MILLIS = 50;
const LONGEST_PAUSE_MILLIS = 10_000;
/**
 * Starts and seats until there are no more reloads. A confined thread leaves its descriptors open as it
 * ends, and no tile can be confined beside as many eventfds as `EVENTFDS` in tile.c: one for each
 * start and seat. What is between them is for starts after failures.
 */
const MOST_STARTS = 400;
/** A start that lasts this long ends the doubling. */
const LASTING_MILLIS = 30_000;

/** A booting, running or stopping appliance. */
export class Appliance {
  /**
   * The mirror, to be looked at until the net tiles are started: until then they are readers that stand
   * still, so that nothing of it is used again. Main is none of its readers, and nobody waits for it.
   */
  readonly netbase: NetbaseReader;
  readonly #options: ApplianceOptions;
  readonly #wiring: Wiring;
  readonly #control: ControlWriter;
  readonly #threads: Threads;
  readonly #refusedCalls: RefusedCalls;
  /** Refused calls that the log has named: tile and number. */
  readonly #named = new Set<string>();
  readonly #workers = new Map<string, TileWorker>();
  /** Starts in a row that did not last, by tile. */
  readonly #failures = new Map<string, number>();
  /** The slot of each socket, by its descriptor. */
  readonly #slots = new Map<number, number>();
  /** In a reload the second worker of a tile: the one that starts, then the one that is relieved. */
  #beside?: TileWorker;
  /** Settles when neither is there any more. */
  #reloaded?: Promise<void>;
  /** A reload was asked for and has not begun. */
  #reloadAsked = false;
  #reloading = false;
  #starts = 0;
  #booted = false;
  #stopping = false;
  #watch?: ReturnType<typeof setInterval>;

  /** Makes every region; starts nothing. */
  constructor(options: ApplianceOptions) {
    this.#options = options;
    this.#wiring = new Wiring(options);
    this.#control = new ControlWriter(this.#wiring.control.writer);
    this.#threads = new Threads(options.host);
    this.#refusedCalls = new RefusedCalls(this.#wiring.refusedCalls.reader);
    options.observer.start(u32(this.#wiring.refusedCalls.writer));
    this.netbase = new NetbaseReader(this.#wiring.netbase.reader);
  }

  /** Starts the netlink tile; resolves when netbase holds a first full copy of the kernel's state. */
  async startMirror(): Promise<void> {
    await this.#start(this.#wiring.netlink, this.#wiring.netlinkSetup());
    this.netbase.refresh();
  }

  /** Starts the status tile, if there is to be one. */
  async startStatus(): Promise<void> {
    const { status } = this.#wiring;
    if (status === null) return;
    await this.#start(status, this.#wiring.statusSetup());
  }

  /**
   * Attaches the XDP programs and opens their sockets, in the best mode that works for all. Throws
   * what `Attachment` throws in the last, where not even copy mode works.
   */
  attach(): readonly Attached[] {
    const { attachments, plan: { shares } } = this.#options;
    try {
      attachments.forEach((attachment, i) => {
        const its = shares.filter((share) => share.interface === i);
        attachment.prepare(its.map(({ queue, netTile }) => ({
          queue,
          netTile,
          umem: this.#wiring.frames[netTile],
        })));
      });
      let zeroCopy: string;
      try {
        this.#open("zero-copy");
        return attachments.map(() => ({ mode: "xdp zero-copy", reason: "the driver has it" }));
      } catch (error) {
        if (!(error instanceof Error) || error instanceof OccupiedError) throw error;
        zeroCopy = `no zero-copy: ${error.message}`;
      }
      for (const attachment of attachments) attachment.reset();
      return this.#open("copy").map(({ attach, reason }) => ({
        mode: `xdp ${attach} copy`,
        reason: reason === "" ? zeroCopy : `${zeroCopy}; no native mode: ${reason}`,
      }));
    } catch (error) {
      this.#release();
      for (const attachment of attachments) attachment.close();
      throw error;
    }
  }

  /** Maps the sockets' rings and binds them in one mode. Before Linux 6.4 it takes this order. */
  #open(binding: Binding): Opened[] {
    const { attachments, xsk } = this.#options;
    this.#release();
    for (const { fd, netTile } of attachments.flatMap(({ prepared }) => prepared)) {
      const slot = checked(
        xsk.adopt(fd, this.#wiring.frames[netTile], RING_ENTRIES),
        "map the rings of an AF_XDP socket",
      );
      this.#slots.set(fd, slot);
    }
    return attachments.map((attachment) => attachment.open(binding));
  }

  /** Unmaps the sockets' rings. */
  #release(): void {
    for (const slot of this.#slots.values()) this.#options.xsk.release(slot);
    this.#slots.clear();
  }

  /** Starts apps in tiles of their own, which find what is wrong with them before anything is attached. */
  async startApps(): Promise<void> {
    const { apps } = this.#wiring;
    await Promise.all(apps.map(({ seat }, a) => this.#start(seat, this.#wiring.appSetup(a))));
  }

  /** Starts net tiles, then lets the frames come. `partialChecksums` is by interface. */
  async startTiles(partialChecksums: readonly boolean[]): Promise<void> {
    const wiring = this.#wiring;
    for (const slot of this.#slots.values()) this.#options.xsk.resume(slot);
    const xdp = { partialChecksums, slots: this.#slots };
    await Promise.all(
      wiring.nets.map((seat, n) => this.#start(seat, wiring.netSetup(n, xdp))),
    );
    for (const attachment of this.#options.attachments) attachment.serve();
    this.#booted = true;
    this.#tellAttached();
    if (this.#reloadAsked) this.reload();
  }

  async #start(seat: TileSeat, setup: unknown): Promise<void> {
    const { kind, name, grants } = seat;
    const { log } = this.#options;
    const before = this.#workers.get(name);
    const beside = before !== undefined && !before.over;
    const { nets, apps } = this.#wiring;
    if (grants.keep) log(`${name}: keeps what it was granted, and is confined that much less`);
    const worker: TileWorker = new TileWorker({
      kind,
      name,
      module: new URL(`../../${MODULES[kind]}`, import.meta.url).href,
      slot: this.#wiring.seats.indexOf(seat),
      region: seat.region.writer,
      control: this.#wiring.control.reader,
      keep: { clock: grants.clock, keep: grants.keep },
      beside,
      spinTurns: spinTurnsFor(nets.length + apps.length, navigator.hardwareConcurrency),
      setup,
    }, {
      permissions: permissions(kind, grants),
      threads: this.#threads,
      events: {
        log: (text) => log(inName(name, text)),
        ask: (request) => this.#ask(request, worker),
        failed: (message) => {
          const isItsTurn = this.#workers.get(name) === worker;
          if (isItsTurn && this.#booted && !this.#stopping) this.#failed(seat, { message, setup });
        },
        late: () => {
          for (const late of this.#wiring.starting(name)) {
            log(`${late}: its start has not ended yet`);
          }
        },
        stuck: () => this.#options.fatal(name, "it hangs and cannot be ended"),
        ...(beside && { ready: () => this.#relieve(seat, before, worker) }),
      },
    });
    this.#starts++;
    if (beside) this.#beside = worker;
    else this.#workers.set(name, worker);
    this.#watch ??= setInterval(() => this.#look(), LOOK_MILLIS);
    const { landlock, observed } = await worker.running;
    if (!landlock && !grants.keep) {
      this.#lack("the kernel has no landlock: tiles are confined by seccomp alone");
    }
    if (!observed) this.#lack("the kernel does not say which system calls it refuses to tiles");
  }

  /** Names what the kernel lacks, once. */
  #lack(sentence: string): void {
    if (this.#named.has(sentence)) return;
    this.#named.add(sentence);
    this.#options.log(sentence);
  }

  /**
   * Puts `worker` in the place of `before`, which ends after its turn; resolves as `ended` does. Where
   * that one does not end, it stays, and the new one is given up.
   */
  async #relieve(seat: TileSeat, before: TileWorker, worker: TileWorker): Promise<boolean> {
    this.#workers.set(seat.name, worker);
    this.#beside = before;
    const late = new Promise<"late">((resolve) => before.expectEnd(() => resolve("late")));
    this.#control.relieve(before.thread);
    this.#options.tile.wake(seat.eventfd);
    const handedOver = await Promise.race([before.ended, late]);
    this.#control.relieve(0);
    if (handedOver !== "late") return handedOver;
    this.#workers.set(seat.name, before);
    this.#beside = worker;
    worker.abandon("the one before does not end");
    return await new Promise(() => {});
  }

  /**
   * Starts each app in a tile of its own anew, from its files as they are, one after the other; once
   * more where that is asked for meanwhile. One goes on until the new one is ready, and where that
   * cannot start, of which the sentences are returned.
   */
  async reload(): Promise<string[]> {
    const failed: string[] = [];
    this.#reloadAsked = true;
    if (!this.#booted || this.#reloading) return failed;
    this.#reloading = true;
    while (this.#reloadAsked) {
      this.#reloadAsked = false;
      for (const [a, { seat }] of this.#wiring.apps.entries()) {
        if (this.#stopping) continue;
        const done = this.#reload(seat, this.#wiring.appSetup(a));
        this.#reloaded = done.then(() => {});
        const sentence = await done;
        if (sentence !== null) failed.push(sentence);
      }
      for (const { name, inline } of this.#options.apps) {
        if (inline) this.#options.log(`${name}: not reloaded: inside net tiles it takes a restart`);
      }
    }
    this.#reloading = false;
    return failed;
  }

  /** Returns why it was not reloaded; null: it was. */
  async #reload(seat: TileSeat, setup: unknown): Promise<string | null> {
    const { log } = this.#options;
    const before = this.#workers.get(seat.name)!;
    // One that is being started may have read its files before they were changed.
    await before.running.catch(() => {});
    try {
      if (this.#starts + this.#wiring.seats.length >= MOST_STARTS) {
        throw new Error("after so many starts it takes a restart of Tegula");
      }
      await this.#start(seat, setup);
      log(`${seat.name}: reloaded`);
      return null;
    } catch (error) {
      const goesOn = this.#workers.get(seat.name) === before && !before.over;
      const sentence = `${seat.name}: not reloaded${goesOn ? ", goes on as it was" : ""}: ${
        sentenceOf(error)
      }`;
      // One that failed when its turn had come is started again, but not beside the one before.
      if (this.#workers.get(seat.name) !== before) await before.ended;
      else if (!before.over) log(sentence);
      return sentence;
    } finally {
      this.#beside = undefined;
    }
  }

  /** Looks after every tile. */
  #look(): void {
    if (this.#stopping) return;
    this.#control.pulse();
    if (this.#booted) this.#tellAttached();
    for (const { name, reader, eventfd } of this.#wiring.seats) {
      const worker = this.#workers.get(name);
      worker?.look(reader);
      // In a reload the word for this is taken: it comes next.
      if (worker?.leaving && this.#beside === undefined) {
        this.#control.relieve(worker.thread);
        this.#options.tile.wake(eventfd);
      }
      if (this.#beside?.name === name) this.#beside.look(reader);
    }
    this.#nameRefusedCalls();
  }

  /** Names each system call that was refused to a tile, once. */
  #nameRefusedCalls(): void {
    const { log, tile } = this.#options;
    for (const [slot, { name }] of this.#wiring.seats.entries()) {
      for (const { call } of this.#refusedCalls.of(slot)) {
        if (this.#named.has(`${slot} ${call}`)) continue;
        this.#named.add(`${slot} ${call}`);
        log(`${name}: refused system call ${call} (${tile.callName(call)})`);
      }
    }
  }

  /** One that is lost stays so until the next start: net tiles cannot be given other sockets. */
  #tellAttached(): void {
    this.#options.attachments.forEach(({ attached }, i) => this.#control.setXdp(i, attached));
  }

  /**
   * A tile's loop ended by an error. The netlink tile and apps start again in place, with a pause
   * that doubles while they do not last: net tiles forward on the last good state meanwhile, a dead
   * app costs only its own datagrams. A net tile holds rings, so with it the process ends.
   */
  #failed(seat: TileSeat, { message, setup }: { message: string; setup: unknown }): void {
    const { log, fatal } = this.#options;
    if (seat.kind === "net") return fatal(seat.name, message);
    if (this.#beside === undefined) this.#control.relieve(0);
    const failures = this.#failures.get(seat.name) ?? 0;
    const pause = Math.min(FIRST_PAUSE_MILLIS * 2 ** failures, LONGEST_PAUSE_MILLIS);
    this.#failures.set(seat.name, failures + 1);
    log(`${seat.name}: ended (${message}); starting it again in ${pause} ms`);
    setTimeout(async () => {
      // What a reload starts may take its place.
      if (this.#beside?.name === seat.name) await this.#reloaded;
      if (this.#stopping || !this.#workers.get(seat.name)?.over) return;
      const lasted = setTimeout(() => this.#failures.delete(seat.name), LASTING_MILLIS);
      // A failure of this start comes back through `failed`, unless not even a thread was to be had.
      this.#start(seat, setup).catch((error) => {
        clearTimeout(lasted);
        if (error instanceof SystemError) this.#failed(seat, { message: error.message, setup });
      });
    }, pause);
  }

  /** Puts a request of the status tile to the netlink tile, or to main. */
  #ask(request: ControlRequest, asker: TileWorker): void {
    const { kind, number } = request;
    if (kind === Ask.reload || kind === Ask.upgrade) {
      this.#options.change(kind, number)
        .then((outcome) => asker.post({ type: "outcome", number, outcome }));
      return;
    }
    if (request.kind === Ask.capture) {
      this.#control.captureMode = request.arguments[0];
      return;
    }
    this.#control.ask(request);
    this.#options.tile.wake(this.#wiring.netlink.eventfd);
  }

  /** Every tile's counters by its name. */
  counters(): Record<string, Record<string, number>> {
    return countersOf(this.#wiring.seats);
  }

  /** Gives the traffic back to the kernel, lets the tiles drain, ends them. The process has to end. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    clearInterval(this.#watch);
    const { attachments, tile } = this.#options;
    for (const attachment of attachments) this.#detach(attachment);
    for (const worker of this.#workers.values()) worker.expectEnd();
    this.#control.stop();
    for (const { eventfd } of this.#wiring.seats) tile.wake(eventfd);
    this.#endStatus();
    const late = Promise.withResolvers<boolean>();
    const timer = setTimeout(late.resolve, STOP_MILLIS, false);
    const ended = Promise.all([...this.#workers.values()].map((worker) => worker.ended));
    const allEnded = await Promise.race([ended.then(() => true), late.promise]);
    clearTimeout(timer);
    this.#nameRefusedCalls();
    // A tile that is late comes back to its rings: they go with the process then.
    if (!allEnded) return;
    this.#release();
    for (const attachment of attachments) attachment.close();
  }

  #detach(attachment: Attachment): void {
    const failed = attachment.detach();
    if (failed >= 0) return;
    this.#options.log(
      `${attachment.name}: its program stays in libxdp's dispatcher, and passes everything on ` +
        `(${describeErrno(failed)})`,
    );
  }

  /** The status tile has nothing to hand over: it just ends. */
  #endStatus(): void {
    this.#workers.get("status")?.terminate();
    this.#workers.delete("status");
  }
}
