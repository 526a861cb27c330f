// SPDX-License-Identifier: Apache-2.0
/**
 * An app is a module with a service in it. The short form is one function from a request to its answer:
 *
 * ```ts
 * export function answer({ payload, address }: Request) {
 *   return `${address} sent ${payload.length} bytes\n`;
 * }
 * ```
 *
 * The fast form is a default export that is given its context and returns an {@linkcode App}, which
 * reads bursts of datagrams in place and writes answers where they are sent from. Everything is
 * synchronous, nothing is copied without need, and nothing is allocated per datagram except by the app
 * itself.
 *
 * @example
 * ```ts
 * import type { AppContext, App } from "./contract.ts";
 *
 * /** Answers every datagram with its length, as one byte. *\/
 * export default function create(_context: AppContext): App {
 *   return {
 *     receive(requests, out) {
 *       while (requests.next()) {
 *         const at = out.reserve(1);
 *         if (at < 0) continue;
 *         out.bytes[at] = requests.size;
 *         out.reply(at, 1);
 *       }
 *     },
 *   };
 * }
 * ```
 *
 * @module
 */

/**
 * An IP address: of IPv4 today, of IPv6 in a later version. In the fast form `next` reuses the object for
 * the next datagram. To keep an address, keep a `copy` of it, or its words.
 */
export interface Address {
  /**
   * The address as an IPv6 address, in four words of host order, the most significant one first. An IPv4
   * address is IPv4-mapped: 198.18.0.1 is `[0, 0, 0xffff, 0xc6120001]`. Change them by `load` only.
   */
  readonly words: Uint32Array;
  /** Whether it is an IPv4 address. */
  readonly isIPv4: boolean;
  /** Whether `other` is the same address. */
  equals(other: Address): boolean;
  /** The order of addresses, for `sort`: -1, 0 or 1. */
  compare(other: Address): number;
  /** Whether `prefix` covers it. */
  isIn(prefix: Prefix): boolean;
  /**
   * A hash of 32 bits. If strangers choose the keys of a table, `key` must be a secret random word. Then
   * nobody can choose addresses that collide.
   */
  hash(key: number): number;
  /** Becomes the address whose words begin at `at`, and returns itself. */
  load(words: ArrayLike<number>, at?: number): this;
  /** Writes its words from `at` on. */
  store(words: Uint32Array, at?: number): void;
  /** A copy to keep. */
  copy(): Address;
  /** The text, such as `198.18.0.2`. */
  toString(): string;
}

/** A prefix, such as `198.51.100.0/24`: the addresses that have its first bits. */
export interface Prefix {
  readonly address: Address;
  /** Bits of the prefix. */
  readonly length: number;
}

/** Fields of the IP header of a datagram to be sent. */
export interface HeaderFields {
  /** Time to live, 1 to 255; 64 when left out. */
  readonly ttl?: number;
  /** Differentiated services code point (RFC 2474), 0 to 63; 0 when left out. */
  readonly dscp?: number;
  /** Explicit congestion notification (RFC 3168), 0 to 3; 0 when left out. */
  readonly ecn?: number;
}

/**
 * A burst of received datagrams. `next` makes the next one current; all else is about the current one.
 * Valid only during the call of `receive` that it is given to.
 */
export interface Datagrams {
  /** Makes the next datagram current; false when there is none. */
  next(): boolean;
  /**
   * The memory that payloads are in, read-only: a store into it ends the process. It has no data of
   * other apps: if this app is the only one, it is the net tile's frames, headers included; else it is
   * memory to which payloads of this app are copied.
   */
  readonly bytes: Uint8Array;
  /** Where the payload begins in `bytes`. */
  readonly offset: number;
  /** Bytes of the payload, 0 to 65,507. */
  readonly size: number;
  /** The address that the datagram came from. */
  readonly sourceAddress: Address;
  /** UDP port that it came from. */
  readonly sourcePort: number;
  /** Our address that it was sent to. */
  readonly destinationAddress: Address;
  /** Our UDP port that it was sent to. */
  readonly destinationPort: number;
  /** Time to live in its IP header, as it arrived. */
  readonly ttl: number;
  /** Differentiated services code point in its IP header. */
  readonly dscp: number;
  /** Explicit congestion notification in its IP header. */
  readonly ecn: number;
  /**
   * When its burst was taken from the ring: nanoseconds since 1970 UTC (CLOCK_REALTIME), in steps of
   * 256, since a double is no more precise. It is the same for all datagrams of a burst, up to 64. With
   * `packet_times = true` it is the time at which the host received the datagram itself.
   */
  readonly receivedAt: number;
}

/** Where to send a datagram that is not an answer. */
export interface Destination extends HeaderFields {
  readonly address: Address;
  readonly port: number;
  /** Our port that it is sent from; the app's first when left out. */
  readonly sourcePort?: number;
  /** Our address that it is sent from; the one that the kernel would choose when left out. */
  readonly sourceAddress?: Address;
}

/**
 * Where answers are written. An answer that does not fit is dropped and counted; nothing blocks. `reply`
 * and `reflect` throw TypeError when no datagram is current: before `next`, and in `tick`.
 */
export interface Answers {
  /** The memory to write payloads into, at offsets that `reserve` gave. */
  readonly bytes: Uint8Array;
  /**
   * How many datagrams can be sent now, of up to 1,500 bytes each: at most the app's `depth`. Inline: no more
   * than there are free frames, and free entries in the fullest transmit ring.
   */
  readonly room: number;
  /**
   * Reserves `size` consecutive bytes and returns their offset in `bytes`, a multiple of four, or -1 when
   * there is no room now, which is counted. They are the app's until it reserves again. They are not
   * cleared: bytes that the app sends without having written them are whatever was there before. The app
   * must not change them once they are sent. Until the handler returns, it can send the same bytes to
   * others: a payload for many peers is written once.
   */
  reserve(size: number): number;
  /** Copies the payload of the current datagram to `offset` in `bytes`. */
  copy(offset: number): void;
  /**
   * Sends `size` bytes at `offset` to the current datagram's sender, from the address and port that it was
   * sent to. Like `send`, it throws RangeError and sends nothing if a byte was not reserved, if other bytes
   * of the same reservation were sent before, or if a field or a port is out of range.
   */
  reply(offset: number, size: number, fields?: HeaderFields): void;
  /**
   * Sends the payload of the current datagram back to its sender unchanged, without a copy where possible.
   * What was reserved and not sent is taken back.
   */
  reflect(): void;
  /**
   * Sends `size` bytes at `offset` to an address that a datagram came from before, or that the
   * configuration lets the app send to (`send_to`). To others they are dropped and counted.
   */
  send(destination: Destination, offset: number, size: number): void;
  /** The same with a payload of its own, which is copied. */
  send(destination: Destination, payload: Uint8Array | string): void;
}

/**
 * A service. Handlers are synchronous and return soon. An error that one throws costs the current
 * datagram, or the tick; it is counted, and logged the first time.
 */
export interface App {
  /** Handles a burst of datagrams. */
  receive(requests: Datagrams, out: Answers): void;
  /**
   * Called once, before the first datagram: when the app has been made and its predecessor has ended. An
   * error that it throws ends the app's start.
   */
  begin?(): void;
  /**
   * Called after a handler found no room: `room` was 0 at its end, or `reserve` gave -1. By now there is room
   * for half of the app's `depth` (inline: for 64). The app continues with what did not fit.
   */
  drain?(out: Answers): void;
  /** Called between bursts with each mail of the app's slow side; the bytes are a copy, the app's to keep. */
  mail?(bytes: Uint8Array<ArrayBuffer>, out: Answers): void;
  /** Called about every `tickMillis`, for unsolicited datagrams; further timers: `context.every`. */
  tick?: Timed;
  /** Milliseconds between two calls of `tick`, 1 or more; 1000 when left out. */
  readonly tickMillis?: number;
}

/** A handler that a timer calls. `now`: nanoseconds since 1970 UTC, in steps of a millisecond. */
export type Timed = (out: Answers, now: number) => void;

/** A request in the short form. */
export interface Request {
  /** The payload: a copy, the app's to keep. */
  readonly payload: Uint8Array<ArrayBuffer>;
  /** The address that it came from. The app may keep it. */
  readonly address: Address;
  /** UDP port that it came from. */
  readonly port: number;
  /** Our address that it was sent to. The app may keep it. */
  readonly destinationAddress: Address;
  /** Our port that it was sent to. */
  readonly destinationPort: number;
  /** Fields of its IP header, as in {@linkcode Datagrams}. */
  readonly ttl: number;
  readonly dscp: number;
  readonly ecn: number;
  /** When it was received: milliseconds since 1970 UTC, with a fraction. */
  readonly receivedAt: number;
}

/** An answer in the short form, with header fields of its own. */
export interface Reply extends HeaderFields {
  readonly payload: Uint8Array | string;
}

/** The short form. It may have `begin`, `tick`, `drain` and `mail` too, as an {@linkcode App}. */
export interface PlainApp extends Pick<App, "begin" | "drain" | "tick" | "tickMillis" | "mail"> {
  /**
   * Returns the answer, as bytes or text; nothing: no answer. `out` sends to others. It is not called for a
   * datagram whose answer could start a loop (see {@linkcode AppContext.mayLoop}).
   */
  answer(request: Request, out: Answers): Uint8Array | string | Reply | null | undefined | void;
}

/** A number that an app publishes among the metrics, under a name of its own. */
export interface Metric {
  value: number;
}

/** How often values fell into each of some ranges. */
export interface Histogram {
  /** Counts a value. */
  observe(value: number): void;
}

/**
 * Labels of a metric: letters, digits and underscores for the names, except `app`, `tile`, `name` and `le`;
 * any text for the values. Each combination is a metric of its own, so values are to be few.
 */
export type MetricLabels = Readonly<Record<string, string>>;

/**
 * Memory of an app's own that its successor finds unchanged, after a reload, a crash or a kill. Its
 * content survives neither a restart of Tegula nor a change of its size. It may be used from `begin` on.
 */
export interface State {
  /** The bytes, zeros at first. Typed arrays over `view.buffer` begin at `view.byteOffset`. */
  readonly view: Uint8Array<SharedArrayBuffer>;
  /** The last version that any process of this app has set; 0: none yet. */
  readonly version: number;
  /**
   * Sets which layout the bytes have: a whole number of 32 bits. An app can be ended at any moment and
   * leave them half written: set 0 before a change that must be whole, and the version after it.
   */
  setVersion(version: number): void;
}

/** The host's clock, for an app that was granted it (`clock = true`). */
export interface Clock {
  /** Nanoseconds since 1970 UTC now, as in {@linkcode Datagrams.receivedAt}. */
  now(): number;
  /**
   * The kernel's clock status (adjtimex(2)): whether something keeps it synchronised, its largest error
   * (microseconds), and how many seconds the coming leap adds or removes.
   */
  status(): {
    readonly synchronised: boolean;
    readonly maxErrorMicros: number;
    readonly leap: number;
  };
}

/** What an app is given. */
export interface AppContext {
  /** The app's name, as in the configuration. */
  readonly name: string;
  /** The ports that this app answers on. Its instances share them by flow: source address and ports. */
  readonly ports: readonly number[];
  /**
   * This instance's share of `own_ports`. No other instance receives at these ports or sends from them, so
   * what answers a datagram that was sent from one comes here.
   */
  readonly ownPorts: readonly number[];
  /** The number of this instance, from 0 on: `NAME.1` in the log is 0. Inline: that of the net tile. */
  readonly instance: number;
  /** How many instances there are. Inline: how many net tiles. */
  readonly instances: number;
  /** The configuration's `[apps.NAME.options]`: values that JSON has; dates are texts. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Only for apps with `clock = true`. */
  readonly clock?: Clock;
  /** Only for apps with `state`, such as `state = "64M"`. */
  readonly state?: State;
  /** Only for apps with a slow side (`beside`): what goes to its `mail`. */
  readonly mailbox?: Mailbox;
  /**
   * Whether to leave the current datagram unanswered: its source port is one of `refuse_sources`, or its
   * sender has had its `most_per_second` answers. True counts a refusal in the metrics, false uses up one
   * of the sender's answers, so call it once for each datagram, just before it is answered.
   */
  refuses(requests: Datagrams): boolean;
  /**
   * The same for an app that answers any datagram, even another server's answers: two such apps would
   * answer each other without end. It refuses source ports that are served here, too. It counts and uses
   * up answers as `refuses` does: call one of the two, once for each datagram.
   */
  mayLoop(requests: Datagrams): boolean;
  /**
   * The metric `name`: a counter, which only grows, or a gauge. The same name, kind and labels give the same
   * metric. Null when the app already has 4,096 metrics, or when name and labels have more than 112 bytes.
   * Throws TypeError for a label that is not allowed.
   */
  metric(name: string, kind: "counter" | "gauge", labels?: MetricLabels): Metric | null;
  /**
   * The histogram `name` with these upper bounds, 1 to 32 and ascending; what is above the last is counted
   * too. It takes the place of up to six metrics. Otherwise as `metric`. Throws RangeError for other bounds.
   */
  histogram(name: string, bounds: readonly number[], labels?: MetricLabels): Histogram | null;
  /**
   * Calls `handler` about every `millis` milliseconds from now on, and returns a function that ends this. It
   * may be called anywhere. No call comes early; one is late by up to a millisecond while the app is idle,
   * and by the handling of up to 1,024 datagrams while it is busy. Calls that were missed are not made up
   * for. Throws RangeError for less than 1 ms.
   */
  every(millis: number, handler: Timed): () => void;
  /** The address that `text` is, of IPv4 today; null: it is none. */
  parseAddress(text: string): Address | null;
  /** The prefix that `text` is: an address, or one with a length as `198.51.100.0/24`; null: it is none. */
  parsePrefix(text: string): Prefix | null;
  /** Writes a line to the log, in the app's name; at most 50 a second, as `console` does. */
  log(message: string): void;
}

/**
 * The default export of an app module. It may be async: the app starts with what it was granted, and
 * when it has been made, its thread is confined.
 */
export type AppFactory = (context: AppContext) => App | PlainApp | Promise<App | PlainApp>;

/** One direction between an app and its slow side. */
export interface Mailbox {
  /**
   * Posts a copy of the bytes, at most 65,536. False if the mailbox is full: it holds 1,024 mails or 1 MiB.
   * It never waits. Throws RangeError for more bytes, and TypeError for anything but a Uint8Array.
   */
  post(bytes: Uint8Array): boolean;
}

/** TCP on one port of the app at one address that `tcp` grants. */
export interface TcpListener {
  /** Address and port that it listens on, such as `198.18.0.1` and 53. */
  readonly address: string;
  readonly port: number;
  /**
   * Starts to accept connections by a server of `node:net` or `node:http`. Call it once, in `begin` or
   * later: until then the predecessor accepts connections from the same socket.
   */
  accept(server: { listen(options: { fd: number }): unknown }): void;
}

/** What a slow side is given. */
export interface BesideContext
  extends
    Pick<AppContext, "name" | "ports" | "options" | "metric" | "histogram" | "log">,
    Pick<AppContext, "parseAddress" | "parsePrefix"> {
  /** What goes to `mail` of the app. */
  readonly mailbox: Mailbox;
  /** What the configuration grants by `tcp`. */
  readonly listeners: readonly TcpListener[];
}

/**
 * The slow side of an app: a module that runs beside it (`beside = "./beside.ts"`) with Deno's event loop and
 * the app's grants, for what needs TCP, HTTP, a database or a file watch. An error that it does not catch ends
 * it; it is started again, alone.
 */
export interface Beside {
  /** Called once, when its predecessor has ended. */
  begin?(): void | Promise<void>;
  /** Called with each mail of the app; the bytes are a copy, its to keep. */
  mail?(bytes: Uint8Array<ArrayBuffer>): void;
  /** Called when it must end. The process ends when the promise settles, or after a second. Mail arrives until then. */
  end?(): void | Promise<void>;
}

/** The default export of a slow side's module. */
export type BesideFactory = (context: BesideContext) => Beside | Promise<Beside>;
