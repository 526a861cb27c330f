// SPDX-License-Identifier: Apache-2.0
/**
 * The client of a running tegula's control socket, for `--live`, `tegula reload` and other commands.
 * docs/operating/observe.md describes the protocol.
 */

import type { AuditReport } from "../tiles/netlink/audit.ts";
import type { Outcome } from "../tiles/runtime/control.ts";
import type { Request } from "../tiles/runtime/handed.ts";
import type { Entry } from "../tiles/netlink/entries.ts";
import type { HealthReport } from "../tiles/runtime/health.ts";
import type { Listening } from "../tiles/status/capture.ts";
import { attempt } from "../ffi/library.ts";
import { command, Exit, JSON_OPTION, lineBatches, messageOf, say, UserError } from "./command.ts";
import { within } from "../tiles/runtime/tile.ts";

/** The default folder of control sockets. systemd creates it for the service. */
export const CONTROL_FOLDER = "/run/tegula";

export const CONTROL_OPTION = {
  type: "string",
  value: "PATH",
  help: "the control socket; by default the only one in /run/tegula",
} as const;

export const LIVE_OPTIONS = {
  live: {
    type: "boolean",
    help: "ask the running tegula, instead of reading the kernel's state",
  },
  control: {
    ...CONTROL_OPTION,
    help: "the same, with this control socket; by default the only one in /run/tegula",
  },
} as const;

/** Connects to the running tegula if these options request it, else returns null. Throws UserError. */
export async function liveControl(
  { live, control }: { live?: boolean; control?: string },
): Promise<Control | null> {
  return live || control !== undefined ? await Control.connect(control) : null;
}

/**
 * How long to wait for an answer before a second connection checks that the tegula responds, and
 * how long that check may take. An audit, or a capture without traffic, may be silent for minutes.
 */
const PATIENCE_MILLIS = 5000;
/** The most attempts of a request if connections close before the answer. A handover closes one. */
const MOST_ASKED = 8;

/** No tegula runs, at that path or in the usual folder. */
export class NotRunningError extends UserError {}

/** The connection was closed before the answer. */
class EndedError extends UserError {}

/**
 * Requests a change from the tegula at `control`, or the only running one, and returns its report.
 * The change may replace the status tile. A repeated request to its successor has the same number,
 * so that the change is made once. Throws UserError if it was not made.
 */
export async function askForChange(
  verb: Request,
  control: string | undefined,
): Promise<string> {
  const number = crypto.getRandomValues(new Uint32Array(1))[0] || 1;
  const outcome = await new LastingControl(control).one<Outcome>({ do: verb, number });
  if (outcome.ok) return outcome.line;
  throw new UserError(outcome.line, outcome.status);
}

/** The answer to `{"do":"status"}`. */
export interface Status {
  readonly health: HealthReport | null;
  readonly sync: string;
  readonly interfaces: readonly string[];
  readonly xdp: readonly string[];
  readonly listen: readonly Listening[];
}

/** A connection. Each request waits for the previous answer; `each` sends many together. */
export class Control {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #batches: AsyncGenerator<string[]>;
  readonly path: string;
  /** Whether it runs in another network namespace than this process. */
  readonly isElsewhere: boolean;
  readonly #patienceMillis: number;

  private constructor(connection: Deno.UnixConn, path: string, patienceMillis: number) {
    this.#writer = connection.writable.getWriter();
    this.#batches = lineBatches(connection.readable);
    this.path = path;
    this.isElsewhere = isElsewhere(path);
    this.#patienceMillis = patienceMillis;
  }

  /**
   * Connects to `path`, or to the only running appliance, or to the only one in this network
   * namespace. `says` tells the user if it runs in another. Throws UserError.
   */
  static async connect(
    asked: string | undefined,
    {
      patienceMillis = PATIENCE_MILLIS,
      says = (line: string) => console.error(`tegula: ${line}`),
    } = {},
  ): Promise<Control> {
    const path = await findControl(asked);
    let connection: Deno.UnixConn;
    try {
      connection = await Deno.connect({ transport: "unix", path });
    } catch (error) {
      const says = `cannot connect to the tegula at ${path}: ${messageOf(error)}`;
      if (error instanceof Deno.errors.PermissionDenied) {
        throw new UserError(`${says}; run this as root, or as its user or group`, Exit.privilege);
      }
      throw new NotRunningError(
        `${says}; no tegula listens there; the line 'ready: …' in its log names the socket`,
      );
    }
    const control = new Control(connection, path, patienceMillis);
    if (control.isElsewhere) {
      says(`the tegula at ${path} runs in another network namespace, which this describes`);
    }
    return control;
  }

  /** Sends a request that is answered by one object. Throws UserError if it is an error. */
  async one<Answer = Entry>(request: Entry): Promise<Answer> {
    const [entry] = await this.each([request]);
    return throwing(entry) as Answer;
  }

  /** Sends a request that is answered by a list, and yields its objects. Throws UserError if the answer is an error. */
  async *list(request: Entry): AsyncGenerator<Entry> {
    for await (const lines of this.lists(request)) yield* lines.map((line) => JSON.parse(line));
  }

  /** Does the same, but yields batches of JSON lines as they arrive. */
  async *lists(request: Entry): AsyncGenerator<string[]> {
    await this.#send([request]);
    for (;;) {
      const lines = await this.#next();
      const isLast = /^\{"(?:end|error)":/.test(lines.at(-1)!);
      const last = isLast ? JSON.parse(lines.pop()!) : null;
      yield lines;
      if (last !== null) return void throwing(last);
    }
  }

  /** Sends requests that are each answered by one object, and returns all answers, also errors. */
  async each(requests: readonly Entry[]): Promise<Entry[]> {
    // Read answers while writing requests, so that neither side has to buffer all of them.
    const sent = this.#send(requests);
    const answers: Entry[] = [];
    while (answers.length < requests.length) {
      for (const line of await this.#next()) answers.push(JSON.parse(line));
    }
    await sent;
    return answers;
  }

  /** Sends requests. A closed connection is reported where the answers are read. */
  #send(requests: readonly Entry[]): Promise<void> {
    const text = requests.map((request) => `${JSON.stringify(request)}\n`).join("");
    return this.#writer.write(new TextEncoder().encode(text)).catch(() => {});
  }

  /** Returns the next batch of lines. Throws UserError if the connection ends or the tegula hangs. */
  async #next(): Promise<string[]> {
    const batch = this.#batches.next().catch(() => ({ value: undefined }));
    while (!await within(batch, this.#patienceMillis)) {
      if (await isAnswering(this.path, this.#patienceMillis)) continue;
      throw new UserError(
        `the tegula at ${this.path} does not answer: it hangs, or was stopped (SIGSTOP); ` +
          "continue it (SIGCONT) or restart it",
        Exit.failure,
      );
    }
    const { value } = await batch;
    if (value) return value;
    throw new EndedError(
      `the tegula at ${this.path} closed the connection before the answer`,
      Exit.failure,
    );
  }
}

/** A connection to a running tegula that is reopened after a handover closes it. */
export class LastingControl {
  /** The path of its socket; until the first connection it may be undefined, for the only one. */
  path: string | undefined;
  #control?: Control;
  #wasConnected = false;

  constructor(path: string | undefined) {
    this.path = path;
  }

  /**
   * Sends a request that is answered by one object, and repeats it if the connection closes before
   * the answer. Throws UserError, also if the tegula has ended.
   */
  async one<Answer = Entry>(request: Entry): Promise<Answer> {
    for (let asked = 1;; asked++) {
      try {
        // Report only once that it runs elsewhere.
        const says = this.#wasConnected ? () => {} : undefined;
        const control = this.#control ??= await Control.connect(this.path, { says });
        [this.path, this.#wasConnected] = [control.path, true];
        return await control.one<Answer>(request);
      } catch (error) {
        if (this.#wasConnected && this.#control === undefined) {
          throw new UserError("the tegula has ended", Exit.failure);
        }
        this.#control = undefined;
        if (!(error instanceof EndedError) || asked === MOST_ASKED) throw error;
      }
    }
  }
}

/** Whether a process listens at `path`; a dead process may have left the file. */
export async function isServed(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    return error instanceof Deno.errors.PermissionDenied;
  }
}

/** Whether the tegula at `path` answers a request for its status within `millis`. */
async function isAnswering(path: string, millis: number): Promise<boolean> {
  try {
    using connection = await Deno.connect({ transport: "unix", path });
    await connection.write(new TextEncoder().encode('{"do":"status"}\n'));
    // With too many connections it closes this one, which is also an answer.
    return await within(connection.read(new Uint8Array(1)), millis);
  } catch {
    return false;
  }
}

function throwing(entry: Entry): Entry {
  if ("error" in entry) throw new UserError(String(entry.error), Exit.failure);
  return entry;
}

/** Returns `asked`, or the only served socket in the default folder. Throws UserError. */
async function findControl(asked: string | undefined): Promise<string> {
  if (asked !== undefined) return asked;
  const served: string[] = [];
  const names = attempt(() => [...Deno.readDirSync(CONTROL_FOLDER)], []).map(({ name }) => name);
  for (const name of names.filter((each) => each.endsWith(".sock")).sort()) {
    if (await isServed(`${CONTROL_FOLDER}/${name}`)) served.push(`${CONTROL_FOLDER}/${name}`);
  }
  const here = served.filter((path) => !isElsewhere(path));
  if (here.length === 1 || served.length === 1) return here[0] ?? served[0];
  const next = "name its socket with --control PATH";
  if (served.length > 0) {
    throw new UserError(`several are running: ${served.join(", ")}; ${next}`);
  }
  throw new NotRunningError(`no running tegula found in ${CONTROL_FOLDER}; ${next}`);
}

/** Matches a line of /proc/net/unix (proc_net_unix(5)) for a socket that listens, and captures its path. */
const LISTENING = /^\S+ \S+ \S+ 00010000 .* (\/.*)$/gm;

/**
 * Whether the socket at `path` was created in another network namespace: /proc/net/unix lists only
 * sockets of the reader's namespace. Returns false if it cannot be read.
 */
function isElsewhere(path: string): boolean {
  // Other paths were removed, or are invisible to this process.
  const isAt = (path: string, real: string) =>
    attempt(() => Deno.realPathSync(path), undefined) === real;
  return attempt(() => {
    const [real, name] = [Deno.realPathSync(path), path.replace(/.*\//, "")];
    const bound = Deno.readTextFileSync("/proc/net/unix").matchAll(LISTENING);
    return !Array.from(bound, ([, each]) => each)
      .some((each) => each.endsWith(`/${name}`) && isAt(each, real));
  }, false);
}

// Commands that only send a request to a running tegula.

export const reload = changeCommand(
  "reload",
  `Makes the running tegula read its configuration and the files of its apps again, and waits until they are
in use. It keeps serving meanwhile. If there is an error in them, nothing changes; 'tegula check --config FILE'
finds errors beforehand.`,
);
export const upgrade = changeCommand(
  "upgrade",
  `Makes the running tegula execute the program that was installed in place of its own, with the current
configuration and apps, and waits until the new one serves. It keeps serving meanwhile, and its process id
stays. If the new program does not start, nothing changes. If it starts but cannot replace appliance and apps,
these continue under the new master.`,
);

export const drain = changeCommand(
  "drain",
  `Makes the running tegula not ready: /ready answers 503, and its marker route, if it has one, is withdrawn, so
that balancers and routers send traffic elsewhere. It continues to serve what comes. This lasts through reloads
and upgrades, until 'tegula undrain' or until it is started again.`,
);
export const undrain = changeCommand("undrain", "Makes a drained tegula ready again.");

function changeCommand(name: Request, about: string) {
  return command({
    name,
    usage: ["[--control PATH]"],
    about,
    options: { control: CONTROL_OPTION },
    status: "0 done, 2 not done, or no tegula runs here, 3 not permitted, 1 any other error.",
  }, async ({ values: { control } }) => {
    say(await askForChange(name, control));
    return Exit.ok;
  });
}

export const audit = command({
  name: "audit",
  usage: ["[-j] [--control PATH]"],
  about:
    `The running tegula reads the kernel's interfaces, routes and neighbours again and compares them
with its mirror. A difference counts if two reads show it and no event announced it between them. It is logged
and corrected. An audit also runs every five minutes by itself.`,
  options: { json: { ...JSON_OPTION, help: "print JSON" }, control: CONTROL_OPTION },
  status: "0 no difference, 1 a difference or no answer, 2 no tegula runs here, 3 not permitted.",
}, async ({ values }) => {
  const control = await Control.connect(values.control);
  const report = await control.one<AuditReport>({ do: "audit" });
  if (values.json) say(JSON.stringify(report));
  else {
    for (const [table, { entries, divergent }] of Object.entries(report.tables)) {
      say(`${table.padEnd(10)} ${entries} entries, ${divergent} divergent`);
    }
  }
  return report.divergent === 0 ? Exit.ok : Exit.failure;
});
