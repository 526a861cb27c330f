/**
 * An appliance as the master sees it: a process, what it says, and how it ends. The master believes none
 * of its messages unseen: each is checked for its shape, its length and its time.
 */

import type { Watcher } from "../ffi/host.ts";
import { type ConfinedProcess, type KnownProcess, openChannel, SIGNALS } from "../ffi/process.ts";
import type { Outcome } from "../tiles/runtime/control.ts";
import {
  type ApplianceOrder,
  type ApplianceReport,
  type Messages,
  messagesBy,
  type Request,
  REQUESTS,
} from "../tiles/runtime/handed.ts";
import {
  bounded,
  firstLine,
  isLevel,
  Level,
  type Log,
  LONGEST_LINE,
  spelledOut,
} from "../tiles/runtime/log.ts";
import { within } from "../tiles/runtime/tile.ts";

/** How often it is polled for what it has said, and polls in a row that find nothing until it is hung. */
const POLL_MILLIS = 500;
const SILENT_POLLS = 11;
/** Lines of its log in a second. Its tiles have bounds of their own, and none takes what others say. */
const MOST_LINES = 1000;
/** How long one that has left may take to end. */
const GONE_MILLIS = 2000;
/** Messages in one go; what comes after waits for the next look of the watcher. */
const MOST_MESSAGES = 64;

/** Why an appliance did not start, or ended. */
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

/** What the master hears of an appliance. */
export interface ApplianceEvents {
  readonly log: Log;
  /** An operator asks for something, with a number of the asker's. */
  ask(what: Request, number: number): void;
}

type Check = (value: unknown) => boolean;
const isLine: Check = (value) => typeof value === "string" && value.length <= LONGEST_LINE + 1;
const isFlag: Check = (value) => typeof value === "boolean";
const isNumber: Check = (value) => Number.isInteger(value) && Number(value) >= 0;
const isAbsent = (check: Check): Check => (value) => value === undefined || check(value);

/** What each type of report has besides its type. */
const REPORTS: { readonly [type in ApplianceReport["type"]]: Readonly<Record<string, Check>> } = {
  ready: {},
  running: {},
  beat: {},
  left: { orderly: isFlag },
  log: { line: isLine, level: isLevel },
  ask: { what: (value) => REQUESTS.some((each) => each === value), number: isNumber },
  failed: {
    message: isLine,
    status: isNumber,
    app: isAbsent(isLine),
    ringsLost: isAbsent(isFlag),
  },
};

/** A report, if it is one. */
function checked(said: unknown): ApplianceReport | null {
  if (typeof said !== "object" || said === null || !("type" in said)) return null;
  const { type, ...rest } = said as { type: string } & Record<string, unknown>;
  if (typeof type !== "string" || !Object.hasOwn(REPORTS, type)) return null;
  const shape = REPORTS[type as ApplianceReport["type"]];
  const isRight = Object.keys(rest).every((name) => Object.hasOwn(shape, name)) &&
    Object.entries(shape).every(([name, check]) => check(rest[name]));
  return isRight ? said as ApplianceReport : null;
}

/** A running appliance. */
export class ApplianceProcess {
  /** Resolves when its tiles could run; rejects with ApplianceError when it ends before. */
  readonly ready: Promise<void>;
  /** Resolves when they do; rejects likewise. */
  readonly running: Promise<void>;
  /** Resolves when it has left what it held to a successor: whether in order. */
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
  /** Polls since it has said something; no time, since the master may have been stopped meanwhile. */
  #silent = 0;
  /** What it said why it ends, or why it was ended. */
  #reason?: ApplianceError;
  #isLeaving = false;
  #over = false;

  /** `isRunning`: the program before this one has started it, and it serves. */
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
    // Nobody may be waiting for them any more when it ends.
    for (const promise of [this.ready, this.running]) promise.catch(() => {});
    watcher.watch(process.channel, () => this.#hear());
    watcher.watch(process.pidfd, () => this.#reap());
    this.#watch = setInterval(() => this.#beat(), POLL_MILLIS);
  }

  /** What the program that the master becomes has to know to go on with it. */
  get known(): KnownProcess {
    const { name, pid, pidfd, channel, words, listener, missing } = this.#process;
    return { name, pid, pidfd, channel, words, listener, missing };
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over;
  }

  /** Has it take over what its predecessor, which has ended, did not hand over. */
  go(): void {
    this.#send({ type: "go" });
  }

  /** Has it leave what it holds to a successor and end. Resolves as `left`, false where it does not in time. */
  async leave(millis: number): Promise<boolean> {
    this.#isLeaving = true;
    this.#send({ type: "leave" });
    const isInTime = await within(this.left, millis);
    // One that says so and stays would keep what its successor has.
    within(this.ended, GONE_MILLIS).then(() => this.kill("it did not end"));
    return isInTime && await this.left;
  }

  /** Has it drain and end; it is killed where it does not in time. Resolves when it is reaped. */
  async stop(millis: number): Promise<void> {
    this.#send({ type: "stop" });
    if (!await within(this.ended, millis)) await this.kill("it did not end in time");
  }

  /** Ends it. Resolves when it is reaped. */
  async kill(reason: string): Promise<void> {
    if (this.#over) return;
    this.#reason ??= new ApplianceError(reason);
    this.#process.kill();
    await this.ended;
  }

  /** Tells it which interfaces AF_XDP takes the frames of. */
  setAttached(attached: readonly boolean[]): void {
    this.#send({ type: "attached", attached });
  }

  /** Tells it what became of what was asked for with this number. */
  setOutcome(number: number, outcome: Outcome): void {
    this.#send({ type: "outcome", number, outcome });
  }

  /** The channel of one that has ended is closed, and its number may be another's. */
  #send(order: ApplianceOrder): void {
    if (!this.#over) this.#messages.send(order);
  }

  #hear(): void {
    for (let i = 0; i < MOST_MESSAGES && !this.#over; i++) {
      let said: unknown;
      try {
        said = this.#messages.receive();
      } catch {
        return this.#refuse();
      }
      if (said === null) return;
      // It has closed its end: what follows is its end.
      if (said === undefined) return this.#watcher.forget(this.#process.channel);
      const report = checked(said);
      if (report === null) return this.#refuse();
      this.#silent = 0;
      this.#take(report);
    }
  }

  #take(report: ApplianceReport): void {
    if (report.type === "ready") this.#ready.resolve();
    else if (report.type === "running") this.#running.resolve();
    else if (report.type === "left") {
      if (!this.#isLeaving) return this.#refuse();
      this.#left.resolve(report.orderly);
    } else if (report.type === "log") this.#log(report.level ?? Level.warning, report.line);
    else if (report.type === "ask") this.#events.ask(report.what, report.number);
    else if (report.type === "failed") {
      const app = report.app === undefined ? {} : { app: firstLine(report.app) };
      this.#reason ??= new ApplianceError(firstLine(report.message), { ...report, ...app });
    }
  }

  #refuse(): void {
    void this.kill("it sent what is no message");
  }

  /** One that does not even show that its event loop runs hangs. */
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
