/**
 * An app as it is run, in a process of its own or inside a net tile: made from its module, called with
 * bursts and ticks, and kept from doing harm by what it throws.
 */

import type { View } from "../../ffi/view.ts";
import { bounded } from "../runtime/console.ts";
import { APP } from "../runtime/counters.ts";
import { AppError, readThrown, wordsOf } from "../runtime/thrown.ts";
import type { Answers, App, AppContext, AppFactory, Datagrams, PlainApp } from "./contract.ts";
import { MetricsWriter } from "./metrics.ts";
import { PromiseError } from "./misuse.ts";
import { fromPlain } from "./plain.ts";
import { refusals, type RefusalSetup } from "./refusals.ts";

/** Kinds of error that are logged; what comes after that is only counted. */
const MOST_KINDS = 64;

/** What main says of an app. Plain data. */
export interface ServiceSetup extends Pick<AppContext, "name" | "ports" | "options">, RefusalSetup {
  /** URL of its module. */
  readonly module: string;
  /** Every port served here, by whichever app. */
  readonly served: readonly number[];
  /** The region for its own numbers. */
  readonly metrics: View;
}

/** What a service reports to. */
export interface ServiceParts extends Pick<AppContext, "clock" | "state" | "log"> {
  /** Of the tile region that stands for the app, in the order of `APP`. */
  readonly counters: Float64Array;
  /** Where its own numbers are, if that is not the region for them. */
  readonly metrics?: MetricsWriter;
  /** Whether another may still run in its place: the caller calls `begin` then. */
  readonly beside?: boolean;
}

/** Imports the app's module and makes the app. Throws AppError with what is wrong with it. */
export async function loadService(setup: ServiceSetup, parts: ServiceParts): Promise<Service> {
  try {
    const module = await import(setup.module).catch((error) => {
      const [first, ...more] = readThrown(error).message.split("\n");
      const [place = ""] = more.join("\n").match(/ at file:\S+/) ?? [];
      throw new Error(`its module cannot be loaded: ${first}${place}`);
    });
    return await makeService(module, setup, parts);
  } catch (error) {
    throw new AppError(setup.name, grantable(wordsOf(error)));
  }
}

/** Deno's sentence of what it denies. */
const DENIED =
  /(?:NotCapable: )?Requires (read|write|env|net) access to (".*?"), run again with the \S+ flag/;

/** What no app can be granted. */
const NEVER_GRANTED =
  /(?:NotCapable: )?Requires (run|ffi|sys|import) access(?: to (".*?"))?, run again with the \S+ flag/;

/** What the system refuses: the walls of its process, or the modes of a file. */
const REFUSED =
  /((?:Permission denied|Operation not permitted) \(os error (?:1|13)\))(?:: (\w+) '(.*?)')?/;

/** The same with this program's way to be allowed it. */
function grantable(sentence: string): string {
  return named(sentence).replace(
    DENIED,
    (_, kind, what) => `it has no ${kind} access to ${what}: [apps] grants it, ${kind} = [${what}]`,
  );
}

/** What is refused whatever is granted, and what the system refuses. */
function named(sentence: string): string {
  return sentence
    .replace(
      NEVER_GRANTED,
      (_, kind, what) =>
        `it has no ${kind} access${
          what === undefined ? "" : ` to ${what}`
        }, which no app can be granted`,
    )
    .replace(
      REFUSED,
      (_, refusal, call, path) =>
        path === undefined
          ? `${refusal}: what it does is not within what [apps] grants it`
          : `${refusal}: ${call} '${path}': [apps] has to grant it (read, write), and the app's user to ` +
            "be allowed it by the file's mode",
    );
}

/** The same of a running app. */
function tooLate(stack: string): string {
  return named(stack).replace(
    DENIED,
    (_, kind, what) =>
      `it has no ${kind} access to ${what}: what [apps] grants ends with its start, unless keep = true`,
  );
}

/** Makes the app of a module that is loaded. */
export async function makeService(
  module: { default?: unknown; answer?: unknown },
  setup: ServiceSetup,
  parts: ServiceParts,
): Promise<Service> {
  const metrics = parts.metrics ?? new MetricsWriter(setup.metrics);
  const context: AppContext = {
    name: setup.name,
    ports: setup.ports,
    options: setup.options,
    ...(parts.clock && { clock: parts.clock }),
    ...(parts.state && { state: parts.state }),
    ...refusals(setup, parts.counters),
    metric: (name, kind) => metrics.metric(name, kind),
    log: bounded(parts.log),
  };
  const made = typeof module.default === "function"
    ? await (module.default as AppFactory)(context)
    : module;
  const service = new Service(toApp(made, context, typeof module.default === "function"), parts);
  if (!parts.beside) service.begin();
  return service;
}

/** Throws TypeError where it is none. `isMade`: by the module's default export. */
function toApp(made: object, context: AppContext, isMade: boolean): App {
  if (isApp(made)) return synchronous(made, ["begin", "receive", "tick"]);
  if (isPlain(made)) return fromPlain(synchronous(made, ["begin", "answer", "tick"]), context);
  throw new TypeError(
    isMade
      ? "what its default export makes has neither receive() nor answer()"
      : "its module exports neither a function as its default nor one called answer",
  );
}

function isApp(made: object): made is App {
  return typeof (made as App | undefined)?.receive === "function";
}

function isPlain(made: object): made is PlainApp {
  return typeof (made as PlainApp | undefined)?.answer === "function";
}

const AsyncFunction = (async () => {}).constructor;

/**
 * The same app. Throws TypeError where one of `names` is `async`: what that awaits never comes, and what
 * V8 and Deno keep for it meanwhile adds up with every call.
 */
function synchronous<Made extends object>(made: Made, names: readonly (keyof Made)[]): Made {
  const name = names.find((each) => made[each] instanceof AsyncFunction);
  if (name === undefined) return made;
  throw new TypeError(`its ${String(name)}() must not be async: a promise never settles there`);
}

/** A burst as a service goes through it, wherever its datagrams are described. */
export interface Burst extends Datagrams {
  /** Datagrams that `next` has not gone to yet. */
  readonly left: number;
}

/** A running app. */
export class Service {
  readonly #app: App;
  readonly #parts: ServiceParts;
  readonly #tickMillis: number;
  readonly #seen = new Set<string>();
  #nextTick: number;

  constructor(app: App, parts: ServiceParts) {
    this.#app = app;
    this.#parts = parts;
    const { tickMillis = 1000 } = app;
    if (typeof tickMillis !== "number" || Number.isNaN(tickMillis)) {
      throw new TypeError("its tickMillis is to be a number of milliseconds");
    }
    this.#tickMillis = app.tick === undefined ? -1 : Math.min(Math.max(1, tickMillis), 2 ** 31 - 1);
    this.#nextTick = performance.now() + this.#tickMillis;
  }

  /** Says that nobody else runs in its place. Once, before all else; throws what the app throws. */
  begin(): void {
    this.#app.begin?.();
  }

  /** Gives it a burst. A datagram that it throws at is lost, those after it are not. */
  receive(requests: Burst, out: Answers): void {
    for (;;) {
      const before = requests.left;
      try {
        const said: unknown = this.#app.receive(requests, out);
        if (!(said instanceof Promise)) return;
        throw new PromiseError("receive", said);
      } catch (error) {
        this.#failed(error);
      }
      if (requests.left === before) requests.next();
      if (requests.left === 0) return;
    }
  }

  /** Milliseconds to its next tick; -1 when it has none. */
  nextDue(nowMillis: number): number {
    return this.#tickMillis < 0 ? -1 : Math.max(0, Math.ceil(this.#nextTick - nowMillis));
  }

  /** Calls its tick when that is due, and says whether it was. */
  clock(nowMillis: number, out: Answers): boolean {
    if (this.#tickMillis < 0 || nowMillis < this.#nextTick) return false;
    this.#nextTick = Math.max(this.#nextTick + this.#tickMillis, nowMillis);
    try {
      const said: unknown = this.#app.tick?.(out);
      if (said instanceof Promise) throw new PromiseError("tick", said);
    } catch (error) {
      this.#failed(error);
    }
    return true;
  }

  #say(kind: string, line: string): void {
    if (this.#seen.has(kind)) return;
    this.#seen.add(kind);
    this.#parts.log(line);
  }

  /** Counts an error of the app, and logs it the first time that it comes from this place. */
  #failed(error: unknown): void {
    this.#parts.counters[APP.index.errors]++;
    if (this.#seen.size >= MOST_KINDS) return;
    if (PromiseError.is(error)) return this.#say(error.message, error.message);
    const { name, message, stack } = readThrown(error);
    // What makes an error the same as another: its class and where it was thrown, not its words.
    const place = stack.split("\n").find((line) => line.startsWith("    at "));
    const kind = name === undefined ? typeof error : `${name} ${place ?? message}`;
    this.#say(kind, `the app threw, which cost a datagram; said once: ${tooLate(stack)}`);
  }
}
