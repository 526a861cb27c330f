/**
 * What main makes of a tile's messages. A message comes from the tile's worker, where an app's code can
 * post whatever the runtime can: so each is checked against its schema and against what the tile may say
 * at this point of its life, and how many there may be is limited here.
 */

import * as z from "zod/mini";
import { LONGEST_LINE } from "./console.ts";
import type { TileKind, TileReport } from "./tile.ts";

const uint32 = z.int().check(z.minimum(0), z.maximum(0xffffffff));
/** A line of the log, and the mark that it was clipped. */
const text = z.string().check(z.maxLength(LONGEST_LINE + 1));

const SCHEMAS: { readonly [type in TileReport["type"]]: z.ZodMiniType } = {
  started: z.strictObject({ type: z.literal("started"), thread: uint32.check(z.minimum(1)) }),
  ready: z.strictObject({ type: z.literal("ready") }),
  running: z.strictObject({
    type: z.literal("running"),
    landlock: z.boolean(),
    observed: z.boolean(),
  }),
  log: z.strictObject({ type: z.literal("log"), line: text }),
  ask: z.strictObject({
    type: z.literal("ask"),
    request: z.strictObject({
      number: uint32.check(z.minimum(1)),
      kind: uint32,
      arguments: z.array(uint32).check(z.maxLength(4)),
    }),
  }),
  stopped: z.strictObject({ type: z.literal("stopped") }),
  failed: z.strictObject({
    type: z.literal("failed"),
    message: text,
    app: z.optional(text),
  }),
};

/**
 * Messages that a tile may post within a second. Lines of the log beyond `LINES_A_SECOND` are left out
 * by the tile itself, for each app in it.
 */
export const REPORTS_A_SECOND = 2000;

/** Reads the messages of one worker. */
export class Reports {
  readonly #kind: TileKind;
  readonly #beside: boolean;
  readonly #said = new Set<TileReport["type"]>();
  readonly #now: () => number;
  /** When the second began in which `#count` messages came. */
  #begun = -Infinity;
  #count = 0;

  /** Of a worker of this kind; `beside`: it starts beside the one whose place it is to take. */
  constructor(
    { kind, beside }: { kind: TileKind; beside: boolean },
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
    const type = (data as { type?: unknown } | null)?.type;
    const schema = typeof type === "string" && Object.hasOwn(SCHEMAS, type)
      ? SCHEMAS[type as TileReport["type"]]
      : undefined;
    if (schema === undefined) throw new Error("posted a message that no tile posts");
    const { success, data: report } = z.safeParse(schema, data);
    if (!success) throw new Error(`posted a malformed message of type ${type}`);
    this.#expect((report as TileReport).type);
    return report as TileReport;
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
