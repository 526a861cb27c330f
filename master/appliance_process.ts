// SPDX-License-Identifier: Apache-2.0
/**
 * The master's side of an appliance: its process, its messages, and its end. The shape, length and
 * order of each message are checked.
 */

import type { Watcher } from "../ffi/host.ts";
import { type ConfinedProcess, type Ending, SIGNALS } from "../ffi/process.ts";
import type { Outcome } from "../tiles/runtime/control.ts";
import {
  type ApplianceOrder,
  type ApplianceReport,
  isFlag,
  isText,
  isWord,
  optional,
  type Request,
  REQUESTS,
  type Shapes,
} from "../tiles/runtime/handed.ts";
import { bounded, firstLine, isLevel, Level, spelledOut } from "../tiles/runtime/log.ts";
import { within } from "../tiles/runtime/tile.ts";
import { Child } from "./child.ts";
import { log } from "./log.ts";

/** How often the time since its last message is checked, and checks without a message until it counts as hung. */
const POLL_MILLIS = 500;
const SILENT_POLLS = 11;
/** Lines of its log in a second. Each of its tiles has a smaller limit. */
const MOST_LINES = 1000;
/** How long it may take to end after it reported `left`. */
const GONE_MILLIS = 2000;

/** The reason why an appliance did not start, or ended. */
export class ApplianceError extends Error {
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

export type Ask = (what: Request, number: number) => Outcome | Promise<Outcome>;

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

export class ApplianceProcess extends Child<ApplianceOrder, ApplianceReport, ApplianceError> {
  readonly #ask: Ask;
  readonly #log = bounded(
    (text, level) => text.split("\n").forEach((line) => log(spelledOut(line), level)),
    undefined,
    MOST_LINES,
  );
  /** Resolves when it has left, with whether it did so in order. */
  readonly #left = Promise.withResolvers<boolean>();
  readonly #watch: ReturnType<typeof setInterval>;
  /** Polls since its last message. Not a time, since the master may have been stopped meanwhile. */
  #silent = 0;
  /** The failure that it reported, or why it was killed. */
  #reason?: ApplianceError;
  #isLeaving = false;

  /** `isRunning`: the previous program started it, and it serves. */
  constructor(
    process: ConfinedProcess,
    { watcher, ask, isRunning }: { watcher: Watcher; ask: Ask; isRunning: boolean },
  ) {
    super(process, watcher, REPORTS);
    this.#ask = ask;
    if (isRunning) {
      this.atReady.resolve();
      this.atRunning.resolve();
    }
    // Without any message, also heartbeats, it hangs.
    this.#watch = setInterval(() => {
      if (++this.#silent >= SILENT_POLLS) void this.kill("it hangs");
    }, POLL_MILLIS);
  }

  /** Orders it to leave and end. Resolves with whether it left in time and in order. */
  async leave(millis: number): Promise<boolean> {
    this.#isLeaving = true;
    this.send({ type: "leave" });
    const isInTime = await within(this.#left.promise, millis);
    // If it stayed, it would keep sockets that its successor has.
    within(this.ended, GONE_MILLIS).then(() => this.kill("it did not end"));
    return isInTime && await this.#left.promise;
  }

  /** Orders it to drain and end, and kills it after a timeout. Resolves when it is reaped. */
  async stop(millis: number): Promise<void> {
    this.send({ type: "stop" });
    if (!await within(this.ended, millis)) await this.kill("it did not end in time");
  }

  /** Kills it. Resolves when it is reaped. */
  override async kill(reason: string): Promise<void> {
    if (this.over) return;
    this.#reason ??= new ApplianceError(reason);
    this.process.kill();
    await this.ended;
  }

  async #answer(what: Request, number: number): Promise<void> {
    this.send({ type: "outcome", number, outcome: await this.#ask(what, number) });
  }

  protected override take(report: ApplianceReport): void {
    this.#silent = 0;
    if (report.type === "ready") this.atReady.resolve();
    else if (report.type === "running") this.atRunning.resolve();
    else if (report.type === "left") {
      if (!this.#isLeaving) {
        return void this.kill("it reported that it left, but had no order to leave");
      }
      this.#left.resolve(report.orderly);
    } else if (report.type === "log") this.#log(report.level ?? Level.warning, report.line);
    else if (report.type === "ask") void this.#answer(report.what, report.number);
    else if (report.type === "failed") {
      const app = report.app === undefined ? {} : { app: firstLine(report.app) };
      this.#reason ??= new ApplianceError(firstLine(report.message), { ...report, ...app });
    }
  }

  protected override end({ status, signal }: Ending, failure?: string) {
    clearInterval(this.#watch);
    const how = signal === 0
      ? `it ended with status ${status}`
      : `it was ended by ${SIGNALS[signal]?.name ?? `signal ${signal}`}`;
    this.#left.resolve(false);
    const error = this.#reason ?? new ApplianceError(failure ?? how);
    return { how: error, error };
  }
}
