// SPDX-License-Identifier: Apache-2.0
/**
 * A confined process that the master watches: reads messages from its channel and checks their
 * shape, and notices its end by its pidfd. Subclasses handle the messages.
 */

import type { Watcher } from "../ffi/host.ts";
import { SystemError } from "../ffi/library.ts";
import { type ConfinedProcess, type Ending, openChannel } from "../ffi/process.ts";
import { checkedMessage, type Messages, messagesBy, type Shapes } from "../tiles/runtime/handed.ts";
import { sentenceOf } from "../tiles/runtime/log.ts";

/** Messages that are read at once. */
const MOST_MESSAGES = 64;

/** A process that gets `Order`s and sends `Report`s. `End` is how it ended. */
export abstract class Child<Order, Report extends { readonly type: string }, End> {
  /** Whether it is reaped. */
  over = false;
  /** Its JSON, without functions, is a `KnownProcess` for the master's next program. */
  readonly process: ConfinedProcess;
  protected readonly atReady = Promise.withResolvers<void>();
  protected readonly atRunning = Promise.withResolvers<void>();
  protected readonly atEnd = Promise.withResolvers<End>();
  /** Resolves when it waits for `go`. Rejects if it ends before. */
  readonly ready = this.atReady.promise;
  /** Resolves when it runs. Rejects likewise. */
  readonly running = this.atRunning.promise;
  /** Resolves when it is reaped, with how it ended. */
  readonly ended = this.atEnd.promise;
  readonly #watcher: Pick<Watcher, "watch" | "forget">;
  readonly #messages: Messages<Order, Report>;
  readonly #shapes: Shapes<Report>;

  constructor(
    process: ConfinedProcess,
    watcher: Pick<Watcher, "watch" | "forget">,
    shapes: Shapes<Report>,
  ) {
    this.process = process;
    this.#watcher = watcher;
    this.#messages = messagesBy(openChannel(process.channel));
    this.#shapes = shapes;
    // They may reject before they are awaited.
    for (const promise of [this.ready, this.running]) promise.catch(() => {});
    watcher.watch(process.channel, () => this.#hear());
    watcher.watch(process.pidfd, () => this.#reap());
  }

  get pid(): number {
    return this.process.pid;
  }

  /** Kills it, unless it has ended. */
  abstract kill(reason?: string): void;

  /** Acts on a report of the right shape. */
  protected abstract take(report: Report): void;

  /**
   * Called when it is reaped. `failure`: why its exit status is unknown. Returns how it ended, and
   * the error for waiting callers.
   */
  protected abstract end(ending: Ending, failure?: string): { how: End; error: Error };

  /** Sends nothing after its end: the channel is closed, and its number may be reused. */
  send(order: Order): void {
    if (!this.over) this.#messages.send(order);
  }

  #hear(): void {
    for (let i = 0; i < MOST_MESSAGES && !this.over; i++) {
      let said: unknown;
      try {
        said = this.#messages.receive();
      } catch (error) {
        if (!(error instanceof SystemError)) {
          return this.kill("it sent a message that cannot be read");
        }
      }
      if (said === null) return;
      // It closed its end of the channel, and will exit.
      if (said === undefined) return this.#watcher.forget(this.process.channel);
      let report: Report;
      try {
        report = checkedMessage(said, this.#shapes);
      } catch (error) {
        return this.kill(`it sent ${sentenceOf(error)}`);
      }
      this.take(report);
    }
  }

  #reap(): void {
    if (this.over) return;
    let ending: Ending | null;
    let failure: string | undefined;
    try {
      ending = this.process.wait();
    } catch (error) {
      ending = { status: 0, signal: 0 };
      failure = sentenceOf(error);
    }
    if (ending === null) return;
    // Read its last messages.
    this.#hear();
    this.over = true;
    this.#watcher.forget(this.process.channel);
    this.#watcher.forget(this.process.pidfd);
    this.process.close();
    const { how, error } = this.end(ending, failure);
    this.atReady.reject(error);
    this.atRunning.reject(error);
    this.atEnd.resolve(how);
  }
}
