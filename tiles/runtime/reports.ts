/**
 * What main makes of a tile's messages. A message comes from the tile's worker, where an inline app's
 * code can post whatever the runtime can: so each is checked against the shape of its type and against what the tile may say
 * at this point of its life, and how many there may be is limited here.
 */

import { LONGEST_LINE } from "./console.ts";
import type { TileReport, WorkerKind } from "./tile.ts";

type Check = (value: unknown) => boolean;

const isWord: Check = (value) =>
  Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 0xffffffff;
const isNumber: Check = (value) => isWord(value) && value !== 0;
const isFlag: Check = (value) => typeof value === "boolean";
/** A line of the log, and the mark that it was clipped. */
const isText: Check = (value) => typeof value === "string" && value.length <= LONGEST_LINE + 1;
const isRequest = isShaped({
  number: isNumber,
  kind: isWord,
  arguments: (value) => Array.isArray(value) && value.length <= 4 && value.every(isWord),
});

/**
 * What each type of report has besides its type. A table of our own: a schema library takes 11 MiB of
 * main for it.
 */
const REPORTS: { readonly [type in TileReport["type"]]: Check } = {
  started: isShaped({ thread: isNumber }),
  ready: isShaped({}),
  running: isShaped({ landlock: isFlag, observed: isFlag }),
  log: isShaped({ line: isText }),
  ask: isShaped({ request: isRequest }),
  stopped: isShaped({}),
  failed: isShaped({ message: isText, app: (value) => value === undefined || isText(value) }),
};

/** Whether something is a plain object with these fields, and with none but them and `type`. */
function isShaped(fields: Readonly<Record<string, Check>>): Check {
  return (value) =>
    typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.keys(value).every((name) => name === "type" || Object.hasOwn(fields, name)) &&
    Object.entries(fields).every(([name, check]) =>
      check(Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined)
    );
}

/**
 * Messages that a tile may post within a second. Lines of the log beyond `LINES_A_SECOND` are left out
 * by the tile itself, for each app in it.
 */
export const REPORTS_A_SECOND = 2000;

/** Reads the messages of one worker. */
export class Reports {
  readonly #kind: WorkerKind;
  readonly #beside: boolean;
  readonly #said = new Set<TileReport["type"]>();
  readonly #now: () => number;
  /** When the second began in which `#count` messages came. */
  #begun = -Infinity;
  #count = 0;

  /** Of a worker of this kind; `beside`: it starts beside the one whose place it is to take. */
  constructor(
    { kind, beside }: { kind: WorkerKind; beside: boolean },
    now: () => number = () => performance.now(),
  ) {
    this.#kind = kind;
    this.#beside = beside;
    this.#now = now;
  }

  /** The report that `data` is. Throws Error, with what is wrong, when this tile cannot have said it now. */
  read(data: unknown): TileReport {
    const now = this.#now();
    if (now - this.#begun >= 1000) [this.#begun, this.#count] = [now, 0];
    if (++this.#count > REPORTS_A_SECOND) {
      throw new Error(`posted more than ${REPORTS_A_SECOND} messages in a second`);
    }
    const type = typeof data === "object" && data !== null && Object.hasOwn(data, "type")
      ? (data as { type: unknown }).type
      : undefined;
    if (typeof type !== "string" || !Object.hasOwn(REPORTS, type)) {
      throw new Error("posted a message that no tile posts");
    }
    const report = data as TileReport;
    if (!REPORTS[report.type](report)) {
      throw new Error(`posted a malformed message of type ${type}`);
    }
    this.#expect(report.type);
    return report;
  }

  #expect(type: TileReport["type"]): void {
    if (type === "log") return;
    if (type === "ask") {
      if (this.#kind === "status") return;
      throw new Error("posted a request, which only the status tile may");
    }
    const after = type === "started" || type === "failed" || type === "stopped"
      ? true
      : this.#said.has("started") && (type !== "ready" || this.#beside);
    if (!after || this.#said.has(type)) {
      throw new Error(`posted a message of type ${type} out of turn`);
    }
    this.#said.add(type);
  }
}
