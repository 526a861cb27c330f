/**
 * What can be asked over the control socket, and the answers. docs/control.md is the same for users.
 */

import type { NetbaseReader } from "../../netbase/netbase.ts";
import { parseAddress } from "../netlink/addresses.ts";
import { Ask, type ControlReader, type Outcome } from "../runtime/control.ts";
import { type CountedTile, countersOf, STATUS } from "../runtime/counters.ts";
import type { Capturing, Listening } from "./capturing.ts";
import { DecisionEntries } from "./decision_entry.ts";
import {
  type Entry,
  interfaceEntries,
  jsonLine,
  neighborEntries,
  SYNC_STATES,
} from "../netlink/entries.ts";
import type { RoutesPart } from "../netlink/snapshots.ts";
import type { Question, Told } from "../runtime/snapshot.ts";

/** What answers are made from. */
export interface AnswerParts {
  readonly netbase: NetbaseReader;
  /** Makes netbase hold still for as long as `look` runs. */
  read<T>(look: () => T): T;
  /** Tiles as they are seen from here. */
  readonly tiles: readonly CountedTile[];
  /** The status tile's own. */
  readonly counters: Float64Array;
  readonly question: Question;
  /** Has main change what runs: `Ask.reload` or `Ask.upgrade`, once for each number. */
  change(kind: number, number: number): Promise<Outcome>;
  readonly capturing: Capturing;
  readonly interfaces: readonly string[];
  readonly control: ControlReader;
  readonly listen: readonly Listening[];
}

/** Thrown by `change` where a successor is to be asked: the conversation just ends. */
export const REPLACED = new Error("another status tile answers");

/** One answer: lines that are there, or that are still to come. */
type Answer = string | AsyncIterable<string>;
type Request = Readonly<Record<string, unknown>>;

/** Answers requests. */
export class Answers {
  readonly #parts: AnswerParts;
  readonly #decisions: DecisionEntries;
  readonly #verbs: Readonly<Record<string, (request: Request) => Answer>> = {
    status: () => this.#status(),
    counters: () => jsonLine(countersOf(this.#parts.tiles)),
    show: (request) => this.#show(request),
    route: (request) => this.#route(request),
    audit: () => this.#audit(),
    capture: (request) => this.#capture(request),
    reload: (request) => this.#change(Ask.reload, request),
    upgrade: (request) => this.#change(Ask.upgrade, request),
  };

  constructor(parts: AnswerParts) {
    this.#parts = parts;
    this.#decisions = parts.read(() => new DecisionEntries(parts.netbase));
  }

  /** The answer to one line, with line ends. What is wrong with it is an answer too. */
  answer(text: string): Answer {
    const { counters } = this.#parts;
    counters[STATUS.index.control_requests]++;
    try {
      const request = parse(text);
      const { do: verb } = request;
      if (typeof verb === "string" && Object.hasOwn(this.#verbs, verb)) {
        const answer = this.#verbs[verb](request);
        return typeof answer === "string" ? answer : this.#guarded(answer);
      }
      throw new Error(`"do" takes ${Object.keys(this.#verbs).join(", ")}`);
    } catch (error) {
      return this.#failed(error);
    }
  }

  async *#guarded(answer: AsyncIterable<string>): AsyncGenerator<string> {
    try {
      yield* answer;
    } catch (error) {
      if (error === REPLACED) throw error;
      yield this.#failed(error);
    }
  }

  #failed(error: unknown): string {
    this.#parts.counters[STATUS.index.control_errors]++;
    return jsonLine({ error: error instanceof Error ? error.message : String(error) });
  }

  #status(): string {
    const { netbase, tiles, interfaces, control, listen } = this.#parts;
    return jsonLine({
      sync: SYNC_STATES[netbase.syncState],
      since: new Date(netbase.syncTimeMillis).toISOString(),
      interfaces,
      xdp: interfaces.filter((_, i) => control.xdp(i)),
      listen,
      tiles: tiles.map(({ kind, name }) => ({ kind, name })),
    });
  }

  #show({ what }: Request): Answer {
    const { netbase, read } = this.#parts;
    switch (what) {
      case "interfaces":
        return list(read(() => interfaceEntries(netbase)));
      case "neighbors":
        return list(read(() => neighborEntries(netbase)));
      case "routes":
        return this.#routes();
    }
    throw new Error('"what" takes interfaces, routes, neighbors');
  }

  /** A full table is a million routes, so the netlink tile gives them part by part. */
  async *#routes(): AsyncGenerator<string> {
    const { question } = this.#parts;
    const part = (from: readonly number[]) => question.ask<RoutesPart>(Ask.routes, ...from);
    let count = 0;
    for (let asked: Promise<Told<RoutesPart>> | null = part([0, 0, 0]); asked !== null;) {
      const { head, lines }: Told<RoutesPart> = await asked;
      // It makes the next part while this one is taken.
      asked = head.next === null ? null : part(head.next);
      yield lines;
      count += head.count;
    }
    yield jsonLine({ end: count });
  }

  #route({ destination, source }: Request): string {
    const [to, from] = [address(destination), source === undefined ? 0 : address(source)];
    return jsonLine(this.#parts.read(() => this.#decisions.entry(to, from)));
  }

  #capture({ drops = false, app }: Request): Answer {
    const { capturing } = this.#parts;
    if (typeof drops !== "boolean") throw new Error('"drops" takes true, false');
    if (app !== undefined && (typeof app !== "string" || !capturing.apps.includes(app))) {
      throw new Error(`"app" takes ${capturing.apps.join(", ")}`);
    }
    return capturing.stream({ dropsOnly: drops, app });
  }

  /**
   * Whoever asked is answered when the change is over, which may be by a successor: to ask again with the
   * same number is to ask for the same change.
   */
  #change(kind: number, { number = randomNumber() }: Request): Answer {
    if (!Number.isInteger(number) || Number(number) < 1 || Number(number) > 0xffffffff) {
      throw new Error('"number" takes a whole number from 1 to 4294967295');
    }
    const { change } = this.#parts;
    return (async function* () {
      yield jsonLine({ ...await change(kind, Number(number)) });
    })();
  }

  async *#audit(): AsyncGenerator<string> {
    yield jsonLine((await this.#parts.question.ask<Entry>(Ask.audit)).head);
  }
}

function randomNumber(): number {
  return 1 + Math.floor(Math.random() * 0xffffffff);
}

function parse(text: string): Request {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (typeof value === "object" && value !== null) return value as Request;
  throw new Error("a request is a JSON object on one line");
}

function address(value: unknown): number {
  const parsed = typeof value === "string" ? parseAddress(value) : -1;
  if (parsed >= 0) return parsed;
  throw new Error(`no IPv4 address: ${JSON.stringify(value)}`);
}

/** Entries a line each, and how many there were. */
function list(entries: readonly Entry[]): string {
  return entries.map(jsonLine).join("") + jsonLine({ end: entries.length });
}
