// SPDX-License-Identifier: Apache-2.0
/**
 * An app is a module that implements a service. The short form is one function from a request to its answer:
 *
 * ```ts
 * export function answer({ payload, address }: Request) {
 *   return `${address} sent ${payload.length} bytes\n`;
 * }
 * ```
 *
 * The fast form is a default export that takes a context and returns an {@linkcode App}, which
 * reads bursts of datagrams in place and writes answers directly into the send buffer. All calls
 * are synchronous. Payloads are not copied without need, and only the app itself allocates per
 * datagram.
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
   * A hash of 32 bits. If strangers choose the keys of a table, `key` must be a secret random word,
   * so that they cannot choose colliding addresses.
   */
  hash(key: number): number;
  /** Loads the address whose words begin at `at`, and returns itself. */
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
 * A burst of received datagrams. `next` makes the next one current; all other members describe the
 * current one. Valid only during the call of `receive`.
 */
export interface Datagrams {
  /** Makes the next datagram current; false when there is none. */
  next(): boolean;
  /**
   * The memory with the payloads, read-only: a store into it ends the process. It has no data of
   * other apps: for a single app it is the net tile's frames, with headers; otherwise this app's
   * payloads are copied to it.
   */
  readonly bytes: Uint8Array;
  /** Where the payload begins in `bytes`. */
  readonly offset: number;
  /** Bytes of the payload, 0 to 65,507. */
  readonly size: number;
  /** The datagram's source address. */
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

/** The destination of a datagram that is not an answer. */
export interface Destination extends HeaderFields {
  readonly address: Address;
  readonly port: number;
  /** Our port that it is sent from; the app's first when left out. */
  readonly sourcePort?: number;
  /** Our address that it is sent from; the one that the kernel would choose when left out. */
  readonly sourceAddress?: Address;
}

/**
 * The buffer for answers. An answer that does not fit is dropped and counted; no call blocks.
 * `reply` and `reflect` throw TypeError if no datagram is current: before `next`, and in `tick`.
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
   * Reserves `size` consecutive bytes and returns their offset in `bytes`, a multiple of four, or
   * -1 if there is no room, which is counted. They belong to the app until it reserves again. They
   * are not cleared: bytes that the app sends without writing them have old content. The app must
   * not change them after sending. Until the handler returns, it can send the same bytes to other
   * peers, so a payload for many peers is written once.
   */
  reserve(size: number): number;
  /** Copies the payload of the current datagram to `offset` in `bytes`. */
  copy(offset: number): void;
  /**
   * Sends `size` bytes at `offset` to the current datagram's sender, from its destination address
   * and port. Like `send`, it throws RangeError and sends nothing if a byte was not reserved, if
   * other bytes of the same reservation were sent before, or if a field or a port is out of range.
   */
  reply(offset: number, size: number, fields?: HeaderFields): void;
  /**
   * Sends the payload of the current datagram back to its sender unchanged, without a copy where
   * possible. A reservation that was not sent is released.
   */
  reflect(): void;
  /**
   * Sends `size` bytes at `offset` to an address from which a datagram came before, or which the
   * configuration allows (`send_to`). Datagrams to other addresses are dropped and counted.
   */
  send(destination: Destination, offset: number, size: number): void;
  /** Copies a payload and sends it. */
  send(destination: Destination, payload: Uint8Array | string): void;
}

/**
 * A service. Handlers are synchronous and must return soon. If a handler throws, the current
 * datagram or the tick is lost; the error is counted, and logged the first time.
 */
export interface App {
  /** Handles a burst of datagrams. */
  receive(requests: Datagrams, out: Answers): void;
  /**
   * Called once, before the first datagram, when the app has been created and its predecessor has
   * ended. If it throws, the start fails.
   */
  begin?(): void;
  /**
   * Called when there is room again after a handler found none: `room` was 0 at its end, or `reserve` returned
   * -1. There is now room for half of the app's `depth` (inline: for 64), so that the app can send the rest.
   */
  drain?(out: Answers): void;
  /** Called between bursts with each message of the app's slow side; the app may keep the bytes, which are a copy. */
  mail?(bytes: Uint8Array<ArrayBuffer>, out: Answers): void;
  /** Called about every `tickMillis`, for unsolicited datagrams; for further timers use `context.every`. */
  tick?: Timed;
  /** Milliseconds between two calls of `tick`, 1 or more; 1000 when left out. */
  readonly tickMillis?: number;
}

/** A handler that a timer calls. `now`: nanoseconds since 1970 UTC, in steps of a millisecond. */
export type Timed = (out: Answers, now: number) => void;

/** A request in the short form. */
export interface Request {
  /** The payload, a copy that the app may keep. */
  readonly payload: Uint8Array<ArrayBuffer>;
  /** Its source address. The app may keep it. */
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

/** An answer in the short form with header fields. */
export interface Reply extends HeaderFields {
  readonly payload: Uint8Array | string;
}

/** The short form. It may have `begin`, `tick`, `drain` and `mail` too, as an {@linkcode App}. */
export interface PlainApp extends Pick<App, "begin" | "drain" | "tick" | "tickMillis" | "mail"> {
  /**
   * Returns the answer, as bytes or text, or nothing for no answer. `out` sends to other peers. It is
   * not called for a datagram whose answer could start a loop (see {@linkcode AppContext.mayLoop}).
   */
  answer(request: Request, out: Answers): Uint8Array | string | Reply | null | undefined | void;
}

/** A number that an app publishes among the metrics. */
export interface Metric {
  value: number;
}

/** Counts values by range. */
export interface Histogram {
  /** Counts a value. */
  observe(value: number): void;
}

/**
 * Labels of a metric: letters, digits and underscores for the names, except `app`, `tile`, `name` and
 * `le`; any text for the values. Each combination is a separate metric, so there should be few values.
 */
export type MetricLabels = Readonly<Record<string, string>>;

/**
 * An app's memory that its successor finds unchanged after a reload, a crash or a kill. Its content
 * does not survive a restart of Tegula or a change of its size. It may be used from `begin` on.
 */
export interface State {
  /** The bytes, zeros at first. Typed arrays over `view.buffer` begin at `view.byteOffset`. */
  readonly view: Uint8Array<SharedArrayBuffer>;
  /** The last version that a process of this app has set; 0: none yet. */
  readonly version: number;
  /**
   * Sets the version of the bytes' layout: a whole number of 32 bits. An app can be killed at any moment
   * and leave the bytes half written: set 0 before a change that must be atomic, and the version after it.
   */
  setVersion(version: number): void;
}

/** The host's clock, for an app that was granted it (`clock = true`). */
export interface Clock {
  /** The current time in nanoseconds since 1970 UTC, as in {@linkcode Datagrams.receivedAt}. */
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

/** The context of an app. */
export interface AppContext {
  /** The app's name, as in the configuration. */
  readonly name: string;
  /** The ports that this app answers on. Its instances share them by flow: source address and ports. */
  readonly ports: readonly number[];
  /**
   * This instance's share of `own_ports`. No other instance receives at these ports or sends from
   * them, so answers to datagrams from these ports come here.
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
  /** Only for apps with a slow side (`beside`): posts messages to its `mail`. */
  readonly mailbox?: Mailbox;
  /**
   * Whether to leave the current datagram unanswered: its source port is one of `refuse_sources`, or its
   * sender has had its `most_per_second` answers. True counts a refusal in the metrics, false uses up one
   * of the sender's answers, so call it once for each datagram, just before it is answered.
   */
  refuses(requests: Datagrams): boolean;
  /**
   * Like `refuses`, for an app that answers any datagram, even another server's answers: two such
   * apps would answer each other without end. It also refuses source ports that are served here. It
   * counts and uses up answers as `refuses` does: call one of the two, once for each datagram.
   */
  mayLoop(requests: Datagrams): boolean;
  /**
   * The metric `name`: a counter, which only grows, or a gauge. The same name, kind and labels give the same
   * metric. Null when the app already has 4,096 metrics, or when name and labels have more than 112 bytes.
   * Throws TypeError for a label that is not allowed.
   */
  metric(name: string, kind: "counter" | "gauge", labels?: MetricLabels): Metric | null;
  /**
   * The histogram `name` with these upper bounds, 1 to 32 and ascending; values above the last are counted
   * too. It counts as up to six metrics. Otherwise as `metric`. Throws RangeError for other bounds.
   */
  histogram(name: string, bounds: readonly number[], labels?: MetricLabels): Histogram | null;
  /**
   * Calls `handler` about every `millis` milliseconds, and returns a function that stops it. It may
   * be called anywhere. Calls are never early. They are late by up to a millisecond in an idle app,
   * and by the handling of up to 1,024 datagrams in a busy one. Missed calls are not repeated.
   * Throws RangeError for less than 1 ms.
   */
  every(millis: number, handler: Timed): () => void;
  /** Parses an address, of IPv4 today; null if `text` is not one. */
  parseAddress(text: string): Address | null;
  /** Parses a prefix such as `198.51.100.0/24`, or an address; null if `text` is neither. */
  parsePrefix(text: string): Prefix | null;
  /** Writes a line to the log under the app's name, at most 50 a second, as `console` does. */
  log(message: string): void;
}

/**
 * The default export of an app module. It may be async: the app starts with its grants, and its
 * thread is confined when the app has been created.
 */
export type AppFactory = (context: AppContext) => App | PlainApp | Promise<App | PlainApp>;

/** One direction between an app and its slow side. */
export interface Mailbox {
  /**
   * Posts a copy of the bytes, at most 65,536. Returns false if the mailbox is full: it holds 1,024 messages
   * or 1 MiB. It never blocks. Throws RangeError for more bytes, and TypeError for anything but a Uint8Array.
   */
  post(bytes: Uint8Array): boolean;
}

/** A TCP listener on one port of the app at one address that `tcp` grants. */
export interface TcpListener {
  /** Address and port that it listens on, such as `198.18.0.1` and 53. */
  readonly address: string;
  readonly port: number;
  /**
   * Makes a server of `node:net` or `node:http` accept connections. Call it once, in `begin` or
   * later: until then the predecessor accepts connections from the same socket.
   */
  accept(server: { listen(options: { fd: number }): unknown }): void;
}

/** The context of a slow side. */
export interface BesideContext
  extends
    Pick<AppContext, "name" | "ports" | "options" | "metric" | "histogram" | "log">,
    Pick<AppContext, "parseAddress" | "parsePrefix"> {
  /** Posts messages to `mail` of the app. */
  readonly mailbox: Mailbox;
  /** The listeners that the configuration grants by `tcp`. */
  readonly listeners: readonly TcpListener[];
}

/**
 * The slow side of an app: a module that runs beside it (`beside = "./beside.ts"`) with Deno's
 * event loop and the app's grants, for work with TCP, HTTP, a database or a file watch. An uncaught
 * error ends the slow side, and only it is restarted.
 */
export interface Beside {
  /** Called once, when its predecessor has ended. */
  begin?(): void | Promise<void>;
  /** Called with each message of the app; it may keep the bytes, which are a copy. */
  mail?(bytes: Uint8Array<ArrayBuffer>): void;
  /** Called when it must end. The process exits when the promise settles, or after a second; messages still arrive. */
  end?(): void | Promise<void>;
}

/** The default export of a slow side's module. */
export type BesideFactory = (context: BesideContext) => Beside | Promise<Beside>;
