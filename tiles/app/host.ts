// SPDX-License-Identifier: Apache-2.0
/**
 * Hosts an app in its own process or inside a net tile: creates it from its module, calls it with
 * bursts and ticks, and handles its exceptions. For an app's process it has the app's end of the
 * links with net tiles (`NetSide`). It also creates slow sides, in processes with event loops.
 */

import { inWords } from "../../ffi/library.ts";
import { u32, u8, type View } from "../../ffi/region.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import { hash } from "../../netbase/hash.ts";
import { APP } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import {
  AppError,
  bounded,
  clipped,
  Level,
  type Log,
  readThrown,
  wordsOf,
} from "../runtime/log.ts";
import type { PortRange } from "../runtime/plan.ts";
import { type Tile, TileReader, Waker } from "../runtime/tile.ts";
import { Address, Prefix, toIPv4 } from "./address.ts";
import type {
  Answers,
  App,
  AppContext,
  AppFactory,
  Beside,
  BesideContext,
  BesideFactory,
  Datagrams,
  Destination,
  HeaderFields,
  PlainApp,
  Reply,
  Request,
  Timed,
} from "./contract.ts";
import type { MailboxEnd } from "./mailbox.ts";
import { MetricsWriter } from "./regions.ts";

/** The most kinds of error that are logged; further ones are only counted. */
const MOST_KINDS = 64;

/** Which datagrams an app leaves unanswered. Missing fields are as in a configuration without them. */
export interface RefusalSetup {
  readonly refuseSources?: readonly PortRange[];
  /** Answers a second to one address, from one of its ports to one of ours; 0: no limit. */
  readonly mostPerSecond?: number;
}

/** The configuration of an app, as plain data. */
export interface ServiceSetup
  extends
    Pick<AppContext, "name" | "ports" | "options">,
    Partial<Pick<AppContext, "ownPorts" | "instance" | "instances">>,
    RefusalSetup {
  /** URL of its module. */
  readonly module: string;
  /** Every port served here, by any app. */
  readonly served: readonly number[];
  readonly metrics: View;
}

interface ServiceHost extends Pick<AppContext, "clock" | "state"> {
  readonly log: Log;
  /** The counters of the app's tile region, in the order of `APP`. */
  readonly counters: Float64Array;
  /** The writer of its metrics, if they are not yet in their region. */
  readonly metrics?: MetricsWriter;
  /** Its end of the mailbox, if it has a slow side. */
  readonly mailbox?: MailboxEnd;
  /** A predecessor may still run: the caller calls `begin` when it has ended. */
  readonly hasPredecessor?: boolean;
  /** A monotonic clock, milliseconds; `performance.now` when left out. */
  readonly now?: () => number;
  /** Milliseconds since 1970; `Date.now` when left out. */
  readonly date?: () => number;
  /** Makes V8 free recent garbage. Left out: V8 decides when. */
  readonly collect?: () => void;
}

/** Imports the app's module and creates the app. Throws AppError if the app is wrong. */
export async function loadService(setup: ServiceSetup, host: ServiceHost): Promise<Service> {
  try {
    const module = await import(setup.module).catch((error) => {
      const [first, ...more] = readThrown(error).message.split("\n");
      const [place = ""] = more.join("\n").match(/ at file:\S+/) ?? [];
      throw new Error(`its module cannot be loaded: ${first}${place || placeOf(error)}`);
    });
    return await makeService(module, setup, host);
  } catch (error) {
    const words = explainDenials(wordsOf(error), "[apps] grants it, $1 = [$2]");
    throw new AppError(setup.name, words + placeOf(error));
  }
}

/** Where the app threw an error: ` at ` and the place; "" if this program or Deno threw it. */
function placeOf(error: unknown): string {
  const [place = PROGRAM] = /file:\S+:\d+:\d+/.exec(frameOf(readThrown(error)) ?? "") ?? [];
  return place.startsWith(PROGRAM) ? "" : ` at ${place}`;
}

/** The first frame of a stack. The message before it may contain untrusted lines that look like one. */
function frameOf({ message, stack }: { message: string; stack: string }): string | undefined {
  const words = stack.indexOf(message);
  const frames = words < 0 ? stack : stack.slice(words + message.length);
  return frames.split("\n").find((line) => line.startsWith("    at "));
}

/** The folder with this program's modules. */
const PROGRAM = new URL("../../", import.meta.url).href;

/** Creates the app of a loaded module. */
export async function makeService(
  module: { default?: unknown; answer?: unknown },
  setup: Omit<ServiceSetup, "module">,
  host: ServiceHost,
): Promise<Service> {
  const metrics = host.metrics ?? new MetricsWriter(setup.metrics);
  const timers = new Timers(host.now);
  const context: AppContext = {
    name: setup.name,
    ports: setup.ports,
    ownPorts: setup.ownPorts ?? [],
    instance: setup.instance ?? 0,
    instances: setup.instances ?? 1,
    options: setup.options,
    clock: host.clock,
    state: host.state,
    mailbox: host.mailbox && { post: (bytes) => host.mailbox!.post(bytes) },
    ...refusals(setup, host.counters),
    ...commonContext(metrics, bounded(host.log, host.now)),
    every: (millis, handler) => timers.add(millis, handler),
  };
  const isMade = typeof module.default === "function";
  const made = isMade ? await (module.default as AppFactory)(context) : module as PlainApp;
  const form = formOf(made, isMade);
  const app = form === "receive" ? made as App : fromPlain(made as PlainApp, context, host.collect);
  const service = new Service(app, form, timers, host);
  if (!host.hasPredecessor) service.begin();
  return service;
}

/** The common context of an app's tile and its slow side. */
function commonContext(metrics: MetricsWriter, say: ReturnType<typeof bounded>) {
  return {
    metric: metrics.metric.bind(metrics),
    histogram: metrics.histogram.bind(metrics),
    parseAddress: Address.parse,
    parsePrefix: Prefix.parse,
    log: (...said: unknown[]) => say(Level.info, ...said),
  };
}

/** The setup of a slow side, as plain data. */
export interface BesideSetup {
  /** URL of its module. */
  readonly module: string;
  /** The addresses of its listening sockets. */
  readonly tcp: readonly { readonly address: string; readonly port: number }[];
}

/** Creates the slow side of a loaded module. */
export async function makeBeside(
  module: { default?: unknown },
  { name, ports, options }: Pick<AppContext, "name" | "ports" | "options">,
  { mailbox, listeners, metrics, log }: Pick<BesideContext, "mailbox" | "listeners"> & {
    readonly metrics: MetricsWriter;
    readonly log: Log;
  },
): Promise<Beside> {
  const { default: create } = module;
  if (typeof create !== "function") {
    throw new TypeError("its module exports no function as its default");
  }
  const made = await (create as BesideFactory)({
    ...{ name, ports, options, listeners },
    ...commonContext(metrics, bounded(log)),
    mailbox: { post: (bytes) => mailbox.post(bytes) },
  });
  if (typeof made === "object" && made !== null) return made;
  throw new TypeError(`the result of its default export is ${typeof made}, not an object`);
}

/** The handler of `made`, made by a default export if `isMade`. Throws TypeError without one, or for an `async` one. */
function formOf(made: Partial<App & PlainApp> | undefined, isMade: boolean): "receive" | "answer" {
  const form = (["receive", "answer"] as const).find((name) => typeof made?.[name] === "function");
  if (form === undefined) {
    throw new TypeError(
      isMade
        ? "the result of its default export has neither receive() nor answer()"
        : "its module exports neither a function as its default nor one called answer",
    );
  }
  for (const name of ["begin", form, "tick", "drain", "mail"] as const) {
    if (made![name] instanceof AsyncFunction) throw asyncError(name);
  }
  return form;
}

const AsyncFunction = (async () => {}).constructor;

/** The error for an `async` handler: each call would leave a promise that never settles. */
function asyncError(name: string): TypeError {
  return new TypeError(`its ${name}() must not be async: a promise never settles there`);
}

const ENCODER = new TextEncoder();

/** `collect`, which takes a tenth of a millisecond, is called after this many bytes. V8 waits for 64 MiB. */
export const COLLECT_BYTES = 8 << 20;

/** Makes an app that passes each datagram to `answer`, except those that could start a loop. */
function fromPlain(app: PlainApp, context: AppContext, collect?: () => void): App {
  let allocated = 0;
  return {
    begin: app.begin?.bind(app),
    tick: app.tick?.bind(app),
    tickMillis: app.tickMillis,
    drain: app.drain?.bind(app),
    mail: app.mail?.bind(app),
    /** Returns a promise that `answer` gave, to be refused. */
    receive(requests, out) {
      while (requests.next()) {
        if (context.mayLoop(requests)) continue;
        if (allocated >= COLLECT_BYTES) {
          allocated = 0;
          collect?.();
        }
        allocated += requests.size;
        const said = app.answer(new PlainRequest(requests), out);
        if (said === undefined || said === null) continue;
        if (said instanceof Promise) return said;
        const fields = (said as Reply).payload === undefined ? undefined : said as Reply;
        const bytes = toBytes(fields?.payload ?? said, "answer() gave");
        allocated += bytes.length;
        const at = put(out, bytes);
        if (at >= 0) out.reply(at, bytes.length, fields);
      }
    },
  };
}

/** Throws TypeError, which begins with `what`, unless `payload` is bytes or a string. */
function toBytes(payload: unknown, what: string): Uint8Array {
  if (typeof payload === "string") return ENCODER.encode(payload);
  if (payload instanceof Uint8Array) return payload;
  throw new TypeError(`${what} ${typeof payload}; it must be bytes or a string`);
}

/** Copies a payload into reserved room and returns its offset, or -1 without room. */
function put(out: Answers, payload: Uint8Array): number {
  const at = out.reserve(payload.length);
  if (at >= 0) out.bytes.set(payload, at);
  return at;
}

/** Sends a payload that is not yet in `out`. */
export function sendPayload(out: Answers, destination: Destination, payload: unknown): void {
  const bytes = toBytes(payload, "send() was given");
  const at = put(out, bytes);
  if (at >= 0) out.send(destination, at, bytes.length);
}

/** Header fields as in `Descriptor.tosTtl`. Throws RangeError if one is out of range. */
export function tosTtlOf({ ttl = 64, dscp = 0, ecn = 0 }: HeaderFields): number {
  if (ttl >= 1 && ttl <= 255 && (dscp & ~63) === 0 && (ecn & ~3) === 0) {
    return (dscp << 10) | (ecn << 8) | ttl;
  }
  throw new RangeError(
    `ttl ${ttl}, dscp ${dscp}, ecn ${ecn}: they go from 1 to 255, 0 to 63, and 0 to 3`,
  );
}

/** Throws RangeError if a value has more bits than a port. */
export function checkPorts(port: number, sourcePort: number): void {
  if (((port | sourcePort) & ~0xffff) === 0) return;
  throw new RangeError(`port ${port}, source port ${sourcePort}: they go from 1 to 65535`);
}

/** The current datagram for the short form. Address objects are expensive, so they are created on demand. */
class PlainRequest implements Request {
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly port: number;
  readonly destinationPort: number;
  readonly ttl: number;
  readonly dscp: number;
  readonly ecn: number;
  readonly receivedAt: number;
  readonly #source: number;
  readonly #destination: number;

  constructor(requests: Datagrams) {
    const { bytes, offset, size } = requests;
    this.payload = new Uint8Array(bytes.subarray(offset, offset + size));
    this.#source = toIPv4(requests.sourceAddress);
    this.port = requests.sourcePort;
    this.#destination = toIPv4(requests.destinationAddress);
    this.destinationPort = requests.destinationPort;
    this.ttl = requests.ttl;
    this.dscp = requests.dscp;
    this.ecn = requests.ecn;
    this.receivedAt = requests.receivedAt / 1e6;
  }

  get address(): Address {
    return new Address(this.#source);
  }

  get destinationAddress(): Address {
    return new Address(this.#destination);
  }
}

/** The shortest time between two calls of a timer, and the longest. */
const [SHORTEST_MILLIS, LONGEST_MILLIS] = [1, 2 ** 31 - 1];

/** A timer: `tick`, or one of `every`. */
interface Timer {
  readonly name: "tick" | "every";
  readonly millis: number;
  readonly handler: Timed;
  due: number;
}

class Timers {
  readonly #now: () => number;
  #all: Timer[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** As `AppContext.every`. */
  add(millis: number, handler: Timed, name: Timer["name"] = "every"): () => void {
    const what = name === "tick" ? "its tickMillis" : "the interval of every()";
    if (typeof millis !== "number" || Number.isNaN(millis)) {
      throw new TypeError(`${what} must be a number of milliseconds`);
    }
    if (millis < SHORTEST_MILLIS) {
      throw new RangeError(`${what} is ${millis} ms: the shortest is ${SHORTEST_MILLIS} ms`);
    }
    if (typeof handler !== "function") {
      throw new TypeError(`the handler of ${name}() is not a function`);
    }
    if (handler instanceof AsyncFunction) throw asyncError("every");
    const period = Math.min(millis, LONGEST_MILLIS);
    const timer = { name, millis: period, handler, due: this.#now() + period };
    this.#all.push(timer);
    return () => {
      timer.due = Infinity;
      this.#all = this.#all.filter((each) => each !== timer);
    };
  }

  /** When the first is due; Infinity without any. */
  get due(): number {
    let due = Infinity;
    for (const timer of this.#all) if (timer.due < due) due = timer.due;
    return due;
  }

  /** Passes each timer that is due to `call`. */
  run(nowMillis: number, call: (timer: Timer) => void): void {
    for (const timer of this.#all) {
      if (timer.due > nowMillis) continue;
      timer.due += timer.millis;
      if (timer.due <= nowMillis) timer.due = nowMillis + timer.millis;
      call(timer);
    }
  }
}

export class Service {
  /** The name of the handler that runs, or of the one for datagrams. */
  handler: string;
  readonly #app: App;
  /** The name of its handler for datagrams. */
  readonly #form: "receive" | "answer";
  readonly #timers: Timers;
  readonly #host: Pick<ServiceHost, "counters" | "log" | "date">;
  readonly #seen = new Set<string>();

  constructor(
    app: App,
    form: "receive" | "answer",
    timers: Timers,
    host: Pick<ServiceHost, "counters" | "log" | "date">,
  ) {
    this.#app = app;
    this.handler = this.#form = form;
    this.#timers = timers;
    this.#host = host;
    if (app.tick === undefined) return;
    const { tickMillis = 1000 } = app;
    timers.add(tickMillis, (out, now) => app.tick?.(out, now), "tick");
  }

  /** Calls the app's `begin`, after its predecessor has ended. Must be the first call. Throws the app's errors. */
  begin(): void {
    this.#app.begin?.();
  }

  /** Passes a burst to the app. An error loses only the current datagram, not the `left` ones after it. */
  receive(requests: Datagrams & { readonly left: number }, out: Answers): void {
    for (;;) {
      const before = requests.left;
      try {
        const said: unknown = this.#app.receive(requests, out);
        if (!(said instanceof Promise)) return;
        this.#refuse(said);
      } catch (error) {
        this.#failed(error);
      }
      if (requests.left === before) requests.next();
      if (requests.left === 0) return;
    }
  }

  /** Whether the app has a `drain` handler. */
  get drains(): boolean {
    return this.#app.drain !== undefined;
  }

  drain(out: Answers): void {
    this.#call("drain", () => this.#app.drain?.(out));
  }

  /** Milliseconds to its next timer; -1 when it has none. */
  nextDue(nowMillis: number): number {
    const { due } = this.#timers;
    return due === Infinity ? -1 : Math.max(0, Math.ceil(due - nowMillis));
  }

  /** Calls its timers that are due; returns whether there were any. */
  clock(nowMillis: number, out: Answers): boolean {
    if (this.#timers.due > nowMillis) return false;
    const now = (this.#host.date ?? Date.now)() * 1e6;
    this.#timers.run(nowMillis, ({ name, handler }) => this.#call(name, () => handler(out, now)));
    return true;
  }

  /** Passes the messages in its mailbox to the app. Returns their number. */
  mail(mailbox: MailboxEnd, out: Answers): number {
    return mailbox.take((bytes) => this.#call("mail", () => this.#app.mail?.(bytes, out)));
  }

  /** Calls a handler. An error affects only this call. */
  #call(name: string, handler: () => unknown): void {
    this.handler = name;
    try {
      const said = handler();
      if (said instanceof Promise) this.#refuse(said);
    } catch (error) {
      this.#failed(error);
    }
    this.handler = this.#form;
  }

  /** Counts a promise that a handler returned, which is not awaited. Functions without `async` can also return one. */
  #refuse(promise: Promise<unknown>): void {
    // If it settles anyway, in a test or at the end, its result is ignored.
    promise.catch(() => {});
    const line =
      `its ${this.handler}() returned a promise: it must not be async, because promises never settle there`;
    this.#host.counters[APP.index.errors]++;
    this.#say(line, () => line);
  }

  #say(kind: string, line: () => string): void {
    if (this.#seen.has(kind)) return;
    this.#seen.add(kind);
    this.#host.log(line(), Level.error);
  }

  /** Counts an error of the app, and logs it the first time that it comes from this place. */
  #failed(error: unknown): void {
    this.#host.counters[APP.index.errors]++;
    if (this.#seen.size >= MOST_KINDS) return;
    const thrown = readThrown(error);
    const { name, message } = thrown;
    // Errors are the same if their class and place are the same; messages may differ.
    const kind = name === undefined ? typeof error : `${name} ${frameOf(thrown) ?? message}`;
    this.#say(kind, () => {
      const explained = explainDenials(
        clipped(thrown.stack),
        "its grants in [apps] end with its start, unless keep = true",
      );
      return `the app threw, which cost a datagram; said once: ${explained}`;
    });
  }
}

/** Deno's sentence about a permission that a configuration can grant. */
const DENIED =
  /(?:NotCapable: )?Requires (read|write|env|net) access to (".*?"), run again with the \S+ flag/;
/** Deno's sentence about a permission that no app can be granted. */
const NEVER_GRANTED =
  /(?:NotCapable: )?Requires (run|ffi|sys|import) access(?: to (".*?"))?, run again with the \S+ flag/;
/** Refusals of the system: by the confinement of the process, or by a file's mode. */
const REFUSED =
  /(?:Permission denied|Operation not permitted) \(os error (?:1|13)\)(?:: (\w+) '(.*?)')?/;

/** Explains to an operator what an app was denied. `grant` explains a permission: $1 its kind, $2 its object. */
export function explainDenials(text: string, grant: string): string {
  const explained = text
    .replace(NEVER_GRANTED, (_, kind, what) => {
      const access = what === undefined ? "" : ` to ${what}`;
      return `it has no ${kind} access${access}, which no app can be granted`;
    })
    .replace(
      REFUSED,
      (_, call, path) =>
        path === undefined
          ? "permission denied: [apps] does not grant this"
          : `permission denied: ${call} '${path}': [apps] has to grant it (read, write), and the app's user to ` +
            "be allowed it by the file's mode",
    )
    .replace(DENIED, `it has no $1 access to $2: ${grant}`);
  return inWords(explained);
}

/** Throws RangeError unless `size` bytes at `offset` lie within the `room` bytes reserved at `at`. */
export function checkWithin(
  offset: number,
  size: number,
  { at, room }: { at: number; room: number },
): void {
  if (offset >= at && size >= 0 && offset - at + size <= room) return;
  throw new RangeError(
    `an answer of ${size} bytes at ${offset} is outside the reservation: ${room} at ${at}`,
  );
}

/** Throws RangeError unless the same bytes of the reservation were sent before. */
export function checkSame(offset: number, size: number, sentAt: number, sentSize: number): void {
  if (offset === sentAt && size === sentSize) return;
  throw new RangeError(
    `${sentSize} bytes at ${sentAt} were sent: only these can be sent again, not ${size} at ${offset}`,
  );
}

/** Counts a payload that is too long for a datagram, and returns the result of `reserve`. */
export function tooLong(counters: Float64Array): -1 {
  counters[APP.index.tx_drop_too_long]++;
  return -1;
}

/** The error of `call` if no datagram is current. */
export function noDatagram(call: "reply" | "reflect"): TypeError {
  return new TypeError(
    `${call}() is about the current datagram, and there is none: next() makes one current, in receive()`,
  );
}

/** The well-known ports (RFC 6335 §6), from which services like echo answer, except DNS and NTP, which clients use. */
const WELL_KNOWN_PORTS: readonly PortRange[] = [[0, 52], [54, 122], [124, 1023]];

/** Bits of a port. */
const [REFUSED_PORT, SERVED_PORT] = [1, 2];

/**
 * Decides which datagrams an app leaves unanswered, so that two servers do not answer each other
 * without end: those from ports that no client uses, and those of senders that already got their
 * answers of this second. `served`: every port served here.
 */
export function refusals(
  { refuseSources = WELL_KNOWN_PORTS, mostPerSecond = 0, served }: RefusalSetup & {
    readonly served: readonly number[];
  },
  counters: Float64Array,
): Pick<AppContext, "refuses" | "mayLoop"> {
  // A table is three times as fast as a set.
  const ports = new Uint8Array(65_536);
  for (const [first, last] of refuseSources) ports.fill(REFUSED_PORT, first, last + 1);
  for (const port of served) ports[port] |= SERVED_PORT;
  const recent = mostPerSecond > 0 ? new RecentAnswers(mostPerSecond) : null;

  const refused = (requests: Datagrams, bits: number): boolean => {
    if ((ports[requests.sourcePort] & bits) !== 0) {
      counters[APP.index.rx_drop_refused_source]++;
      return true;
    }
    if (recent === null || recent.take(requests)) return false;
    counters[APP.index.rx_drop_rate_limited]++;
    return true;
  };
  return {
    refuses: (requests) => refused(requests, REFUSED_PORT),
    mayLoop: (requests) => refused(requests, REFUSED_PORT | SERVED_PORT),
  };
}

/** Slots of the table, and words of a slot. */
const [SLOT_BITS, SLOT_WORDS] = [16, 4];
const Word = { address: 0, ports: 1, second: 2, count: 3 } as const;

/** Counts answers to each sender in this second. A keyed hash gives its only slot; a new sender replaces an old one. */
export class RecentAnswers {
  readonly #words = new Uint32Array(SLOT_WORDS << SLOT_BITS);
  readonly #key: Uint32Array;
  readonly #most: number;

  /** `key`: three random words, the hash's key. */
  constructor(most: number, key = crypto.getRandomValues(new Uint32Array(3))) {
    this.#key = key;
    this.#most = most;
  }

  /** Counts an answer to the current datagram. Returns false if its sender already got all its answers. */
  take(
    requests: Pick<Datagrams, "sourceAddress" | "sourcePort" | "destinationPort" | "receivedAt">,
  ): boolean {
    const words = this.#words;
    const address = toIPv4(requests.sourceAddress);
    const ports = ((requests.sourcePort << 16) | requests.destinationPort) >>> 0;
    const second = Math.floor(requests.receivedAt / 1e9) >>> 0;
    const key = this.#key;
    const hashed = hash(ports, address, key[0], key[1] | 1, key[2] | 1);
    const at = (hashed & ((1 << SLOT_BITS) - 1)) * SLOT_WORDS;
    // One net tile may be a burst behind another, so the previous second counts as this one.
    const behind = words[at + Word.second] - second;
    if (
      words[at + Word.address] !== address || words[at + Word.ports] !== ports ||
      behind < 0 || behind > 1
    ) {
      words[at + Word.address] = address;
      words[at + Word.ports] = ports;
      words[at + Word.second] = second;
      words[at + Word.count] = 0;
    }
    if (words[at + Word.count] >= this.#most) return false;
    words[at + Word.count]++;
    return true;
  }
}

// An app's view of one net tile: the current batch from it, and the memory for answers. All data
// from the net tile is checked before the app sees it, and the net tile checks all data from the
// app.

// V8 folds a module's own constants into the code, but loads and checks imported ones at each use.
const { Descriptor, DESCRIPTOR_WORDS, LARGEST_PAYLOAD, NO_DESCRIPTOR, PAYLOAD_MARGIN } = link;
const { REFLECTED } = link;
const COUNT = APP.index;

/** The longest batch for an app. */
const BATCH = 64;

/** The connection of an app tile to one net tile. */
interface NetJoin {
  readonly own: View;
  /** The region that the net tile writes for this app. */
  readonly peer: View;
  /** The memory of request payloads: in `peer` (`requestRing`), or the net tile's UMEM. */
  readonly payloads: View;
  readonly shape: link.LinkShape;
  /** The net tile's region, for its sleep word. */
  readonly tile: View;
}

/**
 * The current batch: descriptors of a link and the memory of their payloads. Fields are read from
 * the descriptors in place. Each read limits offset and size, so that they stay inside the memory
 * even if the net tile changes them meanwhile: no payload begins in its last `PAYLOAD_MARGIN`
 * bytes.
 */
class Requests implements Datagrams {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Uint32Array<SharedArrayBuffer>;
  readonly #descriptors: Uint32Array;
  /** Addresses of the current datagram, loaded on demand. */
  readonly #source = new Address();
  readonly #destination = new Address();
  /** Word indices: first descriptor of the ring, its end, the current one, the one after that. */
  readonly #base: number;
  readonly #end: number;
  #at = NO_DESCRIPTOR;
  #following = 0;
  #left = 0;

  /** `descriptors`: the region with the link of this shape. */
  constructor(memory: View, descriptors: Uint32Array, shape: link.LinkShape) {
    this.bytes = u8(memory);
    this.words = u32(memory);
    this.#descriptors = descriptors;
    const { base, end } = link.linkWords(shape);
    this.#base = base;
    this.#end = end;
  }

  /** Begins a batch of `count` with the descriptor at word `first`. */
  begin(first: number, count: number): void {
    this.#at = NO_DESCRIPTOR;
    this.#following = first;
    this.#left = count;
  }

  /** Ends the batch: its datagrams no longer belong to the app. */
  end(): void {
    this.#at = NO_DESCRIPTOR;
    this.#left = 0;
  }

  get isAtOne(): boolean {
    return this.#at !== NO_DESCRIPTOR;
  }

  /** The number of datagrams that `next` has not reached. */
  get left(): number {
    return this.#left;
  }

  next(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    const at = this.#following;
    this.#at = at;
    this.#following = at + DESCRIPTOR_WORDS === this.#end ? this.#base : at + DESCRIPTOR_WORDS;
    return true;
  }
  get offset(): number {
    const offset = this.#descriptors[this.#at + Descriptor.offset];
    return offset <= this.bytes.length - PAYLOAD_MARGIN ? offset : 0;
  }
  get size(): number {
    const size = this.#descriptors[this.#at + Descriptor.length] & 0xffff;
    return size <= LARGEST_PAYLOAD ? size : 0;
  }
  get sourceAddress(): Address {
    this.#source.words[3] = this.#descriptors[this.#at + Descriptor.source];
    return this.#source;
  }
  get sourcePort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] >>> 16;
  }
  get destinationAddress(): Address {
    this.#destination.words[3] = this.#descriptors[this.#at + Descriptor.destination];
    return this.#destination;
  }
  get destinationPort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] & 0xffff;
  }
  get ttl(): number {
    return (this.#descriptors[this.#at + Descriptor.length] >>> 16) & 0xff;
  }
  get dscp(): number {
    return this.#descriptors[this.#at + Descriptor.length] >>> 26;
  }
  get ecn(): number {
    return (this.#descriptors[this.#at + Descriptor.length] >>> 24) & 3;
  }
  get receivedAt(): number {
    const low = this.#descriptors[this.#at + Descriptor.timeLow];
    return this.#descriptors[this.#at + Descriptor.timeHigh] * 2 ** 32 + low;
  }
  /** The number of its descriptor in the link. */
  get place(): number {
    return ((this.#at - this.#base) / DESCRIPTOR_WORDS) | 0;
  }
}

/** The memory of answers: the payload ring of the app's region. */
class Replies implements Answers {
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #link: link.LinkProducer;
  readonly #requests: Requests;
  readonly #counters: Float64Array;
  readonly #ring: link.PayloadRing;
  /** The cursor of the link when this side joined. Older answers are a predecessor's. */
  readonly #joined: number;
  readonly #firstPort: number;
  /** Offset and size of the last reservation; -1: none. */
  #at = 0;
  #room = -1;
  /** Offset and size of its bytes that were sent; a size of -1: none yet. */
  #sentAt = 0;
  #sentSize = -1;
  #isFull = false;
  /** The request that was reflected last: its frame cannot be sent twice. */
  #reflected = -1;

  constructor(join: NetJoin, answers: link.LinkProducer, { requests, counters, firstPort }: {
    requests: Requests;
    counters: Float64Array;
    firstPort: number;
  }) {
    this.#firstPort = firstPort;
    this.bytes = link.payloadRing(join.own, join.shape);
    const { buffer, byteOffset, byteLength } = this.bytes;
    this.#words = new Uint32Array(buffer, byteOffset, byteLength >>> 2);
    this.#link = answers;
    this.#requests = requests;
    this.#counters = counters;
    this.#ring = new link.PayloadRing(join.shape.payloadBytes, join.shape.depth);
    this.#joined = answers.pushed;
  }

  /** Whether answers of a predecessor have not been read yet, as of the last `refresh()`. */
  get isForeign(): boolean {
    return this.#link.depth - this.#link.free > this.#answered;
  }

  /** How many answers were pushed here. */
  get #answered(): number {
    return (this.#link.pushed - this.#joined) >>> 0;
  }

  /** Reads the net tile's cursor, once per batch. Throws Error if the app has overwritten its own cursor. */
  refresh(): void {
    this.#link.refresh();
    if (this.#link.corrupt === 0) return;
    throw new Error(
      "it wrote outside of its reservation, over its link (out.bytes begins at " +
        `${this.bytes.byteOffset} of its buffer)`,
    );
  }

  get room(): number {
    return this.isForeign ? 0 : this.#link.free;
  }

  /** Whether a handler found no room, or left none. */
  get isFull(): boolean {
    return this.#isFull || this.#link.free === 0;
  }

  /** Whether there was enough room at the last `refresh()` to call the app. */
  get hasRoom(): boolean {
    return this.room >= this.#link.depth >>> 1;
  }

  /** Ends a handler: its sent bytes cannot be sent again. */
  end(): void {
    if (this.#sentSize >= 0) this.#room = -1;
    this.#isFull = this.isFull;
  }

  /** Begins a handler that is called because there is room again. */
  beginDrain(): void {
    this.#isFull = false;
  }

  reserve(size: number): number {
    this.#room = -1;
    const { free, pushed, depth } = this.#link;
    const outstanding = depth - free;
    if (size > LARGEST_PAYLOAD) return tooLong(this.#counters);
    // The places of a predecessor's payloads are unknown, so wait until the net tile has read them.
    if (free === 0 || outstanding > this.#answered) return this.#noRoom();
    const at = this.#ring.reserve(size, pushed, outstanding);
    if (at < 0) return this.#noRoom();
    this.#at = at;
    this.#room = size | 0;
    this.#sentSize = -1;
    return at;
  }

  copy(offset: number): void {
    const from = this.#requests.offset;
    const size = this.#requests.size;
    let done = 0;
    if (((from | offset) & 3) === 0) {
      const source = this.#requests.words;
      const target = this.#words;
      const words = size >>> 2;
      const a = from >>> 2;
      const b = offset >>> 2;
      for (let w = 0; w < words; w++) target[b + w] = source[a + w];
      done = words << 2;
    }
    for (; done < size; done++) this.bytes[offset + done] = this.#requests.bytes[from + done];
  }

  reflect(): void {
    if (!this.#requests.isAtOne) throw noDatagram("reflect");
    this.#room = -1;
    const { place, size } = this.#requests;
    if (place !== this.#reflected) {
      this.#reflected = place;
      if (this.#link.free === 0) this.#noRoom();
      else {
        this.#ring.skip(this.#link.pushed);
        this.#push(this.#link.slot(), place, REFLECTED, 0, 0);
      }
      return;
    }
    const at = this.reserve(size);
    if (at < 0) return;
    this.copy(at);
    this.reply(at, size);
  }

  reply(offset: number, size: number, fields?: HeaderFields): void {
    if (!this.#requests.isAtOne) throw noDatagram("reply");
    const tosTtl = fields === undefined ? 0 : tosTtlOf(fields);
    const slot = this.#slot(offset, size);
    if (slot < 0) return;
    this.#push(slot, offset, size, this.#requests.place + 1, tosTtl);
  }

  send(destination: Destination, offset: number | Uint8Array | string, size = 0): void {
    if (typeof offset !== "number") return sendPayload(this, destination, offset);
    // All of these may throw, so take nothing before.
    const { address, port, sourcePort = this.#firstPort, sourceAddress } = destination;
    checkPorts(port, sourcePort);
    const peer = toIPv4(address);
    const local = sourceAddress === undefined ? 0 : toIPv4(sourceAddress);
    const tosTtl = tosTtlOf(destination);
    const slot = this.#slot(offset, size);
    if (slot < 0) return;
    const { words } = this.#link;
    words[slot + Descriptor.source] = local;
    words[slot + Descriptor.destination] = peer;
    words[slot + Descriptor.ports] = (sourcePort << 16) | port;
    this.#push(slot, offset, size, 0, tosTtl);
  }

  /** The next descriptor, for reserved bytes; -1 if none is free, or no room. Throws RangeError for other bytes. */
  #slot(offset: number, size: number): number {
    const room = this.#room;
    if (room < 0 || this.#link.free === 0) return this.#noRoom();
    if (this.#sentSize >= 0) checkSame(offset, size, this.#sentAt, this.#sentSize);
    else if (offset !== this.#at || !(size >= 0 && size <= room)) {
      checkWithin(offset, size, { at: this.#at, room });
    }
    this.#sentAt = offset;
    this.#sentSize = size;
    this.#ring.take(this.#link.pushed, offset - this.#at + size);
    return this.#link.slot();
  }

  #noRoom(): number {
    this.#isFull = true;
    this.#counters[COUNT.tx_drop_reply_link_full]++;
    return -1;
  }

  /** Takes the descriptor at `slot` into the batch. `request` and `tosTtl` are as in `Descriptor`. */
  #push(slot: number, offset: number, size: number, request: number, tosTtl: number): void {
    const { words } = this.#link;
    words[slot + Descriptor.tosTtl] = tosTtl;
    words[slot + Descriptor.offset] = offset;
    words[slot + Descriptor.length] = size;
    words[slot + Descriptor.request] = request;
    this.#link.push();
    this.#counters[COUNT.answers]++;
  }
}

/** Both links of one net tile. */
export class NetSide {
  readonly requests: Requests;
  readonly answers: Replies;
  readonly #consumer: link.LinkConsumer;
  readonly #producer: link.LinkProducer;
  readonly #waker: Waker;
  readonly #counters: Float64Array;
  /** Datagrams of the current batch. */
  #taken = 0;
  /** Whether answers of a predecessor may still be unread. */
  #follows = true;

  constructor(join: NetJoin, { counters, firstPort, wake, handedOver = false }: {
    counters: Float64Array;
    /** The default source port. */
    firstPort: number;
    wake: () => void;
    /** Whether a predecessor left between two batches: then unread requests are answered here. */
    handedOver?: boolean;
  }) {
    this.#counters = counters;
    const { own, peer, shape } = join;
    const skip = !handedOver;
    this.#consumer = new link.LinkConsumer(own, peer, shape, { skip, trusts: true });
    this.#producer = new link.LinkProducer(own, peer, shape, { trusts: true });
    const requests = new Requests(join.payloads, this.#consumer.words, shape);
    this.requests = requests;
    this.answers = new Replies(join, this.#producer, { requests, counters, firstPort });
    this.#waker = new Waker(new TileReader(join.tile), wake);
  }

  get waiting(): boolean {
    return this.#consumer.available() > 0;
  }

  /** Whether the app found no room here, and there is room again. */
  get drains(): boolean {
    if (!this.answers.isFull) return false;
    this.answers.refresh();
    return this.answers.hasRoom;
  }

  /** Calls the app's `drain`. */
  drain(service: Service): void {
    this.answers.beginDrain();
    service.drain(this.answers);
    this.finish();
  }

  /** Takes the next batch into `requests` and returns its size. */
  take(): number {
    let count = Math.min(this.#consumer.available(), BATCH);
    if (count > 0) this.answers.refresh();
    if (this.#follows && count > 0) {
      // Take none while there is no room for answers.
      this.#follows = this.answers.isForeign;
      if (this.#follows) count = 0;
    }
    this.#taken = count;
    this.requests.begin(this.#consumer.slot(0), count);
    return count;
  }

  /** Publishes the answers, releases the batch, and wakes the net tile if it sleeps. */
  finish(): void {
    this.#counters[COUNT.requests] += this.#taken;
    // Both before the wake-up, so that the net tile sees answers and released requests together.
    const published = this.#producer.publish();
    if (this.#taken > 0) this.#consumer.release(this.#taken);
    this.#taken = 0;
    this.requests.end();
    this.answers.end();
    if (published) this.#waker.published();
  }
}

/** The interval at which an app that needs room polls for it: there is no wake-up for room. */
export const DRAIN_MILLIS = 1;

/** The app for a tile's loop, with a side for each net tile. */
export function appTile(
  service: Service,
  sides: readonly NetSide[],
  { library, eventfd, mailbox }: {
    library: TileLibrary;
    eventfd: number;
    mailbox?: MailboxEnd;
  },
): Tile {
  const { drains } = service;
  return {
    descriptors: [eventfd],
    turn() {
      let work = 0;
      for (const side of sides) {
        if (drains && side.drains) {
          side.drain(service);
          work++;
        }
        const count = side.take();
        if (count === 0) continue;
        work += count;
        service.receive(side.requests, side.answers);
        side.finish();
      }
      if (mailbox?.waiting) {
        const [side] = sides;
        side.answers.refresh();
        work += service.mail(mailbox, side.answers);
        side.finish();
      }
      return work;
    },
    pending: () =>
      sides.some((side) => side.waiting || (drains && side.drains)) || mailbox?.waiting === true,
    wait: (timeoutMs) => library.wait(eventfd, timeoutMs),
    nextDue: (nowMillis) =>
      drains && sides.some(({ answers }) => answers.isFull)
        ? DRAIN_MILLIS
        : service.nextDue(nowMillis),
    clock(nowMillis) {
      const [side] = sides;
      side.answers.refresh();
      if (service.clock(nowMillis, side.answers)) side.finish();
    },
  };
}
