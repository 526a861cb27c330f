/**
 * Asking a running appliance over its control socket: what `--live`, `tegula reload` and others do.
 * docs/operating/observe.md has the protocol.
 */

import type { Outcome } from "../tiles/runtime/control.ts";
import type { Entry } from "../tiles/netlink/entries.ts";
import { CONTROL_FOLDER, isServed } from "../master/listen.ts";
import { Exit, messageOf, UserError } from "./errors.ts";
import { within } from "../tiles/runtime/delay.ts";
import { lineBatches } from "./lines.ts";

/** The options by which a command asks a running appliance. */
export const LIVE_OPTIONS = {
  live: { type: "boolean" },
  control: { type: "string" },
} as const;

/** The appliance that is to be asked by those options, null where none is. Throws UserError. */
export async function liveControl(
  { live, control }: { live?: boolean; control?: string },
): Promise<Control | null> {
  return live || control !== undefined ? await Control.connect(control) : null;
}

/** Their help. */
export const LIVE_HELP =
  `  --live             ask the tegula that runs, instead of mirroring the kernel's state anew
  --control PATH     by this control socket; without it the only one in /run/tegula`;

/**
 * How long nothing may come before it is asked beside whether the appliance answers at all, and how
 * long that may take. An audit, or a capture where nothing comes, may be silent for minutes.
 */
const PATIENCE_MILLIS = 5000;
/** How many ask for one change, each because its connection ended first: two in a change that goes well. */
const MOST_ASKED = 8;

/** A conversation ended before the answer came. */
class EndedError extends UserError {}

/**
 * Has the appliance that `control` names, or the only one that runs, do what changes it, and returns the
 * sentence on what was done. Whoever is asked may be replaced by that, so its successor is asked for the
 * change with the same number, which is done once. Throws UserError, with the status to end with, when
 * it was not done.
 */
export async function askForChange(
  verb: "reload" | "upgrade",
  control: string | undefined,
): Promise<string> {
  const path = await findControl(control);
  const number = crypto.getRandomValues(new Uint32Array(1))[0] || 1;
  let ended: unknown;
  for (let asked = 0; asked < MOST_ASKED; asked++) {
    const connection = await Control.connect(path).catch((error) => {
      throw ended ?? error;
    });
    try {
      const outcome = await connection.one({ do: verb, number }) as unknown as Outcome;
      if (outcome.ok) return outcome.line;
      throw new UserError(outcome.line, outcome.status);
    } catch (error) {
      if (!(error instanceof EndedError)) throw error;
      ended = error;
    }
  }
  throw ended;
}

/** A conversation. Answers come in the order of the requests. */
export class Control {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #batches: AsyncGenerator<string[]>;
  readonly #path: string;
  readonly #patienceMillis: number;
  /** What has come and was not taken yet. */
  #lines: string[] = [];

  private constructor(connection: Deno.UnixConn, path: string, patienceMillis: number) {
    this.#writer = connection.writable.getWriter();
    this.#batches = lineBatches(connection.readable);
    this.#path = path;
    this.#patienceMillis = patienceMillis;
  }

  /** Connects to `path`, or to the only appliance that runs. Throws UserError. */
  static async connect(
    asked: string | undefined,
    { patienceMillis = PATIENCE_MILLIS } = {},
  ): Promise<Control> {
    const path = await findControl(asked);
    try {
      const connection = await Deno.connect({ transport: "unix", path });
      return new Control(connection, path, patienceMillis);
    } catch (error) {
      const [next, status] = error instanceof Deno.errors.PermissionDenied
        ? ["ask as root, its user or its group", Exit.privilege]
        : ["none runs there; its line 'ready: …' names its socket", Exit.usage];
      throw new UserError(`cannot ask the tegula at ${path}: ${messageOf(error)}; ${next}`, status);
    }
  }

  /** The one object that answers a request. Throws UserError when that is an error. */
  async one(request: Entry): Promise<Entry> {
    const [entry] = await this.each([request]);
    return throwing(entry);
  }

  /** The objects of an answer that is a list. Throws UserError when it is an error. */
  async *list(request: Entry): AsyncGenerator<Entry> {
    for await (const lines of this.lists(request)) yield* lines.map((line) => JSON.parse(line));
  }

  /** The same as lines of JSON, those together that came together. */
  async *lists(request: Entry): AsyncGenerator<string[]> {
    await this.#send([request]);
    for (;;) {
      const lines = await this.#next();
      const end = lines.findIndex((line) => /^\{"(?:end|error)":/.test(line));
      yield end < 0 ? lines : lines.slice(0, end);
      if (end < 0) continue;
      this.#lines = lines.slice(end + 1);
      throwing(JSON.parse(lines[end]));
      return;
    }
  }

  /** Many requests with one object each for an answer, which may be an error. */
  async each(requests: readonly Entry[]): Promise<Entry[]> {
    // Read while it is written: neither side holds all of it.
    const sent = this.#send(requests);
    const answers: Entry[] = [];
    while (answers.length < requests.length) {
      const lines = await this.#next();
      this.#lines = lines.splice(requests.length - answers.length);
      for (const line of lines) answers.push(JSON.parse(line));
    }
    await sent;
    return answers;
  }

  /** That a conversation has ended is told where its answers do not come. */
  #send(requests: readonly Entry[]): Promise<void> {
    const text = requests.map((request) => `${JSON.stringify(request)}\n`).join("");
    return this.#writer.write(new TextEncoder().encode(text)).catch(() => {});
  }

  /** Lines that came together. Throws UserError when none come any more. */
  async #next(): Promise<string[]> {
    if (this.#lines.length > 0) return this.#lines.splice(0);
    const batch = this.#batches.next().catch(() => ({ value: undefined }));
    while (!await within(batch, this.#patienceMillis)) {
      if (await isAnswering(this.#path, this.#patienceMillis)) continue;
      throw new UserError(
        `the tegula at ${this.#path} does not answer: it hangs or was stopped, as by SIGSTOP; ` +
          "SIGCONT or a new start mends that",
        Exit.failure,
      );
    }
    const { value } = await batch;
    if (value) return value;
    throw new EndedError(`the tegula at ${this.#path} ended in the middle of it`, Exit.failure);
  }
}

/** Whether the appliance at `path` answers within `millis` what it can at once. */
async function isAnswering(path: string, millis: number): Promise<boolean> {
  try {
    using connection = await Deno.connect({ transport: "unix", path });
    await connection.write(new TextEncoder().encode('{"do":"status"}\n'));
    // One that is asked by too many hangs up, which is an answer too.
    return await within(connection.read(new Uint8Array(1)), millis);
  } catch {
    return false;
  }
}

function throwing(entry: Entry): Entry {
  if ("error" in entry) throw new UserError(String(entry.error), Exit.failure);
  return entry;
}

/** The socket to ask: `asked`, else the only one that is served in the usual folder. Throws UserError. */
async function findControl(asked: string | undefined): Promise<string> {
  if (asked !== undefined) return asked;
  const served: string[] = [];
  for (const path of socketsIn(CONTROL_FOLDER)) if (await isServed(path)) served.push(path);
  if (served.length === 1) return served[0];
  const found = served.length === 0
    ? `no running tegula found in ${CONTROL_FOLDER}`
    : `several run: ${served.join(", ")}`;
  throw new UserError(`${found}; name its socket with --control PATH`, Exit.usage);
}

function socketsIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => `${folder}/${name}`)
      .filter((path) => path.endsWith(".sock")).sort();
  } catch {
    return [];
  }
}
