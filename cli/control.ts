/**
 * Asking a running appliance over its control socket: what `--live` does. docs/control.md has the
 * protocol.
 *
 * @module
 */

import type { Entry } from "../tiles/netlink/entries.ts";
import { findControl } from "./control_place.ts";
import { Exit, UserError } from "./errors.ts";
import { linesOf } from "./lines.ts";

/** The options by which a command asks a running appliance. */
export const LIVE_OPTIONS = {
  live: { type: "boolean" },
  control: { type: "string" },
} as const;

/** Their help. */
export const LIVE_HELP =
  `  --live             ask the tegula that runs, instead of mirroring the kernel's state anew
  --control PATH     by this control socket; without it the only one in /run/tegula`;

/** A conversation. Answers come in the order of the requests. */
export class Control {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: AsyncGenerator<string>;
  readonly #path: string;

  private constructor(connection: Deno.UnixConn, path: string) {
    this.#writer = connection.writable.getWriter();
    this.#lines = linesOf(connection.readable);
    this.#path = path;
  }

  /** Connects to `path`, or to the only appliance that runs. Throws UserError. */
  static async connect(asked: string | undefined): Promise<Control> {
    const path = await findControl(asked);
    try {
      return new Control(await Deno.connect({ transport: "unix", path }), path);
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error);
      throw new UserError(`cannot ask the tegula at ${path}: ${said}`, Exit.failure);
    }
  }

  /** The one object that answers a request. Throws UserError when that is an error. */
  async one(request: Entry): Promise<Entry> {
    await this.#send([request]);
    return throwing(await this.#next());
  }

  /** The objects of an answer that is a list. Throws UserError when it is an error. */
  async *list(request: Entry): AsyncGenerator<Entry> {
    await this.#send([request]);
    for (;;) {
      const entry = throwing(await this.#next());
      if ("end" in entry) return;
      yield entry;
    }
  }

  /** Many requests with one object each for an answer, which may be an error. */
  async each(requests: readonly Entry[]): Promise<Entry[]> {
    // Read while it is written: neither side holds all of it.
    const sent = this.#send(requests);
    const answers: Entry[] = [];
    while (answers.length < requests.length) answers.push(await this.#next());
    await sent;
    return answers;
  }

  #send(requests: readonly Entry[]): Promise<void> {
    const text = requests.map((request) => `${JSON.stringify(request)}\n`).join("");
    return this.#writer.write(new TextEncoder().encode(text));
  }

  async #next(): Promise<Entry> {
    const { value, done } = await this.#lines.next();
    if (!done) return JSON.parse(value);
    throw new UserError(`the tegula at ${this.#path} ended in the middle of it`, Exit.failure);
  }
}

function throwing(entry: Entry): Entry {
  if ("error" in entry) throw new UserError(String(entry.error), Exit.failure);
  return entry;
}
