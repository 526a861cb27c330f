/**
 * What an app is: a module with a service in it. The short way is one function from a request to its
 * answer:
 *
 * ```ts
 * export function answer({ payload, address }: Request) {
 *   return `${address} sent ${payload.length} bytes\n`;
 * }
 * ```
 *
 * The fast way is a default export that is given its context and returns an {@linkcode App}, which
 * takes datagrams in bursts where they lie and writes answers where they are sent from. Everything is
 * synchronous, nothing is copied that need not be, and nothing is allocated per datagram unless the
 * app does so itself.
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
 * A burst of received datagrams, gone through one by one: `next` goes on, all else is about the one
 * at hand. Valid only during the call of `receive` that it is given to.
 */
export interface Datagrams {
  /** Goes on to the next datagram; false when there is none. */
  next(): boolean;
  /**
   * The memory that payloads are in, read-only: a store into it ends the process. It has nothing of
   * other apps: where this app is the only one it is the net tile's frames, headers included, else
   * memory that payloads of this app are copied to.
   */
  readonly bytes: Uint8Array;
  /** Where the payload begins in `bytes`. */
  readonly offset: number;
  /** Bytes of the payload, 0 to 65,507. */
  readonly size: number;
  /** IPv4 address that the datagram came from, host order. */
  readonly sourceAddress: number;
  /** UDP port that it came from. */
  readonly sourcePort: number;
  /** Our IPv4 address that it was sent to, host order. */
  readonly destinationAddress: number;
  /** Our UDP port that it was sent to. */
  readonly destinationPort: number;
  /**
   * When its burst was taken from the ring: nanoseconds since 1970 UTC (CLOCK_REALTIME), to the 256
   * that a number of that size can tell apart.
   */
  readonly receivedAt: number;
}

/** Where an unsolicited datagram goes. Addresses in host order. */
export interface Destination {
  readonly address: number;
  readonly port: number;
  /** Our port that it comes from. */
  readonly sourcePort: number;
  /** Our address that it comes from; 0: the one the kernel would choose. */
  readonly sourceAddress?: number;
}

/**
 * Where answers are written. What does not fit is dropped and counted, it never blocks. `reply` and
 * `reflect` throw TypeError where there is no datagram at hand: before `next`, and in `tick`.
 */
export interface Answers {
  /** The memory to write payloads into, at offsets that `reserve` gave. */
  readonly bytes: Uint8Array;
  /**
   * Room for `size` bytes in a row: its offset in `bytes`, a multiple of four, or -1 when there is
   * none now. It is the app's until it is sent by `reply` or `send`, once; reserving again before that
   * takes it back. Nothing clears it: what the app sends of it without having written it is whatever
   * was there before.
   */
  reserve(size: number): number;
  /** Copies the payload of the datagram at hand to `offset` in `bytes`. */
  copy(offset: number): void;
  /**
   * Sends `size` bytes at `offset` back to the datagram's sender, from where it was sent to. Throws
   * RangeError, as `send` does, when not all of them were reserved.
   */
  reply(offset: number, size: number): void;
  /**
   * Sends the payload of the datagram at hand back to its sender as it came, which where it can be
   * costs no copy. What was reserved and not sent is taken back.
   */
  reflect(): void;
  /**
   * Sends `size` bytes at `offset` to an address that a datagram came from before, or that the
   * configuration lets the app send to (`send_to`). Others are dropped and counted.
   */
  send(destination: Destination, offset: number, size: number): void;
}

/**
 * A service. Handlers are synchronous and return soon. What one throws costs the datagram at hand, or
 * the tick; it is counted, and logged the first time.
 */
export interface App {
  /** Deals with a burst of datagrams. */
  receive(requests: Datagrams, out: Answers): void;
  /**
   * Called once, before the first datagram: when the app has been made, and whoever ran in its place has
   * ended. What it throws ends the app's start.
   */
  begin?(): void;
  /** Called about every `tickMillis`, for what is sent without being asked. */
  tick?(out: Answers): void;
  /** Milliseconds between two calls of `tick`; 1000 when left out. */
  readonly tickMillis?: number;
}

/** A request as the short way has it. */
export interface Request {
  /** The payload: a copy, the app's to keep. */
  readonly payload: Uint8Array<ArrayBuffer>;
  /** IPv4 address that it came from, as in `198.18.0.2`. */
  readonly address: string;
  /** UDP port that it came from. */
  readonly port: number;
  /** Our port that it was sent to. */
  readonly destinationPort: number;
  /** When it was received: milliseconds since 1970 UTC, with a fraction. */
  readonly receivedAt: number;
}

/** The short way. It may have `begin` and `tick` too, as an {@linkcode App}. */
export interface PlainApp extends Pick<App, "begin" | "tick" | "tickMillis"> {
  /**
   * What to answer, as bytes or as text; nothing: no answer. It is not called for a datagram whose
   * answer could start a loop (see {@linkcode AppContext.mayLoop}).
   */
  answer(request: Request): Uint8Array | string | null | undefined | void;
}

/** A number that an app shows under a name of its own, in the metrics. */
export interface Metric {
  value: number;
}

/**
 * Memory of an app's own that its successor finds as it was, after a reload, a crash or a kill. What is
 * in it survives neither a restart of Tegula nor another size. It may be used from `begin` on.
 */
export interface State {
  /** The bytes, zeros at first. Typed arrays over `view.buffer` begin at `view.byteOffset`. */
  readonly view: Uint8Array<SharedArrayBuffer>;
  /** What `setVersion` has been given last, by whichever process of this app; 0: nothing yet. */
  readonly version: number;
  /**
   * Says which layout the bytes have: a whole number of 32 bits. An app that is ended at any moment may
   * leave them half written: set 0 before a change that must be whole, and the version after it.
   */
  setVersion(version: number): void;
}

/** The host's clock, for an app that was granted it (`clock = true`). */
export interface Clock {
  /** Nanoseconds since 1970 UTC now, as in {@linkcode Datagrams.receivedAt}. */
  now(): number;
  /**
   * What the kernel says of its clock (adjtimex(2)): whether something keeps it synchronised, what it
   * may be off by at most (microseconds), and how many seconds the coming leap adds or removes.
   */
  status(): {
    readonly synchronised: boolean;
    readonly maxErrorMicros: number;
    readonly leap: number;
  };
}

/** What an app may know of where it runs, and be given. */
export interface AppContext {
  /** The app's name, as in the configuration. */
  readonly name: string;
  /** The ports that this app answers on. */
  readonly ports: readonly number[];
  /** What the configuration says under `[apps.NAME.options]`: what JSON can say; dates are texts. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Only for apps that were granted it. */
  readonly clock?: Clock;
  /** Only for apps that have one (`state = "64M"`). */
  readonly state?: State;
  /**
   * Whether to leave the datagram at hand unanswered: its source port is one of `refuse_sources`, or its
   * sender has had its `most_per_second` answers. Not a mere question: true counts a refusal in the
   * metrics, false uses up one of the sender's answers. Call it once for each datagram, just before it
   * is answered.
   */
  refuses(requests: Datagrams): boolean;
  /**
   * The same for an app that answers any datagram, and so would answer another server's answers: with
   * a second such app at the other end one datagram would start an endless loop. It refuses source
   * ports that are served here, too. It counts and uses up answers as `refuses` does: call one of the
   * two, once for each datagram.
   */
  mayLoop(requests: Datagrams): boolean;
  /**
   * The number shown as `name`: a counter, which only grows, or a gauge. The same name and kind give
   * the same number. Null when there are more than the 4,096 that an app may have, or when `name` has
   * more than 112 bytes.
   */
  metric(name: string, kind: "counter" | "gauge"): Metric | null;
  /** Writes a line to the log, in the app's name; at most 50 a second, as of `console`. */
  log(message: string): void;
}

/**
 * The default export of an app module. May be awaited once: the app starts with what it was granted,
 * and when it has been made, its thread is confined.
 */
export type AppFactory = (context: AppContext) => App | PlainApp | Promise<App | PlainApp>;
