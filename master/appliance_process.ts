// SPDX-License-Identifier: Apache-2.0
/**
 * The master's side of an appliance: its process, its messages, and its end. Each message is checked for its shape, its
 * length and its time.
 */

import type { Watcher } from "../ffi/host.ts";
import { type ConfinedProcess, type KnownProcess, openChannel, SIGNALS } from "../ffi/process.ts";
import type { Outcome } from "../tiles/runtime/control.ts";
import {
  type ApplianceOrder,
  type ApplianceReport,
  checkedMessage,
  isFlag,
  isText,
  isWord,
  type Messages,
  messagesBy,
  optional,
  type Request,
  REQUESTS,
  type Shapes,
} from "../tiles/runtime/handed.ts";
import {
  bounded,
  firstLine,
  isLevel,
  Level,
  type Log,
  sentenceOf,
  spelledOut,
} from "../tiles/runtime/log.ts";
import { within } from "../tiles/runtime/tile.ts";

/** How often it is polled whether it sent something, and polls without a message until it is hung. */
const POLL_MILLIS = 500;
const SILENT_POLLS = 11;
/** Lines of its log in a second. Each of its tiles has a smaller limit. */
const MOST_LINES = 1000;
/** How long it may take to end after it has left. */
const GONE_MILLIS = 2000;
/** Messages that are read at once. */
const MOST_MESSAGES = 64;

/** The reason why an appliance did not start, or ended. */
export class ApplianceError extends Error {
  /** An exit status. */
  readonly status: number;
  readonly app: string | undefined;
  readonly ringsLost: boolean;

  constructor(message: string, { status = 1, app, ringsLost = false }: {
    status?: number;
    app?: string;
    ringsLost?: boolean;
  } = {}) {
    super(message);
    this.status = status;
    this.app = app;
    this.ringsLost = ringsLost;
  }
}

interface ApplianceEvents {
  readonly log: Log;
  /** An operator asks for something, with a number. */
  ask(what: Request, number: number): void;
}

const REPORTS: Shapes<ApplianceReport> = {
  ready: {},
  running: {},
  beat: {},
  left: { orderly: isFlag },
  log: { line: isText, level: isLevel },
  ask: { what: (value) => REQUESTS.some((each) => each === value), number: isWord },
  failed: {
    message: isText,
    status: isWord,
    app: optional(isText),
    ringsLost: optional(isFlag),
  },
};

export class ApplianceProcess {
  /** Resolves when its tiles are ready. Rejects with ApplianceError if it ends before. */
  readonly ready: Promise<void>;
  /** Resolves when its tiles run. Rejects likewise. */
  readonly running: Promise<void>;
  /** Resolves when it has left, with whether it left in order. */
  readonly left: Promise<boolean>;
  /** Resolves with how it ended, once it is reaped. */
  readonly ended: Promise<ApplianceError>;
  readonly pid: number;
  readonly #process: ConfinedProcess;
  readonly #watcher: Watcher;
  readonly #events: ApplianceEvents;
  readonly #messages: Messages<ApplianceOrder, ApplianceReport>;
  readonly #log: (level: number | undefined, line: string) => void;
  readonly #ready = Promise.withResolvers<void>();
  readonly #running = Promise.withResolvers<void>();
  readonly #left = Promise.withResolvers<boolean>();
  readonly #ended = Promise.withResolvers<ApplianceError>();
  readonly #watch: ReturnType<typeof setInterval>;
  /** Polls since its last message. Not a time, since the master may have been stopped meanwhile. */
  #silent = 0;
  /** Why it ends, by its own message, or why it was killed. */
  #reason?: ApplianceError;
  #isLeaving = false;
  #over = false;

  /** `isRunning`: it serves, as the program before this one has started it. */
  constructor(
    process: ConfinedProcess,
    { watcher, events, isRunning = false }: {
      watcher: Watcher;
      events: ApplianceEvents;
      isRunning?: boolean;
    },
  ) {
    this.#process = process;
    this.#watcher = watcher;
    this.#events = events;
    this.#messages = messagesBy(openChannel(process.channel));
    const write: Log = (text, level) =>
      text.split("\n").forEach((line) => events.log(spelledOut(line), level));
    this.#log = bounded(write, undefined, MOST_LINES);
    this.pid = process.pid;
    this.ready = this.#ready.promise;
    this.running = this.#running.promise;
    this.left = this.#left.promise;
    this.ended = this.#ended.promise;
    if (isRunning) {
      this.#ready.resolve();
      this.#running.resolve();
    }
    // It may end when nobody waits for them.
    for (const promise of [this.ready, this.running]) promise.catch(() => {});
    watcher.watch(process.channel, () => this.#hear());
    watcher.watch(process.pidfd, () => this.#reap());
    this.#watch = setInterval(() => this.#beat(), POLL_MILLIS);
  }

  /** Its state for the program that the master becomes. */
  get known(): KnownProcess {
    const { name, pid, pidfd, channel, words, listener, missing } = this.#process;
    return { name, pid, pidfd, channel, words, listener, missing };
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over;
  }

  /** Tells it that its predecessor has ended, and that it serves. */
  go(): void {
    this.#send({ type: "go" });
  }

  /** Tells it to leave and end. Resolves as `left`, or with false if it does not leave in time. */
  async leave(millis: number): Promise<boolean> {
    this.#isLeaving = true;
    this.#send({ type: "leave" });
    const isInTime = await within(this.left, millis);
    // If it stayed it would keep what its successor has.
    within(this.ended, GONE_MILLIS).then(() => this.kill("it did not end"));
    return isInTime && await this.left;
  }

  /** Tells it to drain and end, and kills it if it does not in time. Resolves when it is reaped. */
  async stop(millis: number): Promise<void> {
    this.#send({ type: "stop" });
    if (!await within(this.ended, millis)) await this.kill("it did not end in time");
  }

  /** Kills it. Resolves when it is reaped. */
  async kill(reason: string): Promise<void> {
    if (this.#over) return;
    this.#reason ??= new ApplianceError(reason);
    this.#process.kill();
    await this.ended;
  }

  /** Tells it whether a successor is being started. */
  setChanging(changing: boolean): void {
    this.#send({ type: "changing", changing });
  }

  /** Tells it which interfaces have AF_XDP. */
  setAttached(attached: readonly boolean[]): void {
    this.#send({ type: "attached", attached });
  }

  /** Tells it the outcome of the request with this number. */
  setOutcome(number: number, outcome: Outcome): void {
    this.#send({ type: "outcome", number, outcome });
  }

  /** Does not send after its end: the channel is closed, and its number may be reused. */
  #send(order: ApplianceOrder): void {
    if (!this.#over) this.#messages.send(order);
  }

  #hear(): void {
    for (let i = 0; i < MOST_MESSAGES && !this.#over; i++) {
      let said: unknown;
      try {
        said = this.#messages.receive();
      } catch {
        return this.#refuse("it sent a message that cannot be read");
      }
      if (said === null) return;
      // It has closed its end, and will end.
      if (said === undefined) return this.#watcher.forget(this.#process.channel);
      let report: ApplianceReport;
      try {
        report = checkedMessage(said, REPORTS);
      } catch (error) {
        return this.#refuse(`it sent ${sentenceOf(error)}`);
      }
      this.#silent = 0;
      this.#take(report);
    }
  }

  #take(report: ApplianceReport): void {
    if (report.type === "ready") this.#ready.resolve();
    else if (report.type === "running") this.#running.resolve();
    else if (report.type === "left") {
      if (!this.#isLeaving) return this.#refuse("it said that it left, and was not told to");
      this.#left.resolve(report.orderly);
    } else if (report.type === "log") this.#log(report.level ?? Level.warning, report.line);
    else if (report.type === "ask") this.#events.ask(report.what, report.number);
    else if (report.type === "failed") {
      const app = report.app === undefined ? {} : { app: firstLine(report.app) };
      this.#reason ??= new ApplianceError(firstLine(report.message), { ...report, ...app });
    }
  }

  #refuse(reason: string): void {
    void this.kill(reason);
  }

  /** Counts polls. Without a message, not even a beat, it hangs. */
  #beat(): void {
    if (++this.#silent >= SILENT_POLLS) void this.kill("it hangs");
  }

  #reap(): void {
    const ending = this.#process.wait();
    if (ending === null || this.#over) return;
    this.#hear();
    this.#over = true;
    clearInterval(this.#watch);
    this.#watcher.forget(this.#process.pidfd);
    this.#watcher.forget(this.#process.channel);
    this.#process.close();
    const { status, signal } = ending;
    const how = signal === 0
      ? `it ended with status ${status}`
      : `it was ended by ${SIGNALS[signal]?.name ?? `signal ${signal}`}`;
    const error = this.#reason ?? new ApplianceError(how);
    this.#ready.reject(error);
    this.#running.reject(error);
    this.#left.resolve(false);
    this.#ended.resolve(error);
  }
}
