/**
 * What an app is. An app module's default export is a function that is given its context and returns
 * an {@linkcode App}. The tile calls `receive` with a burst of datagrams; the app writes answers into
 * memory that it reserves from `out`. Everything is synchronous, nothing is copied that need not be,
 * and nothing is allocated per datagram unless the app does so itself.
 *
 * @example
 * ```ts
 * import type { AppContext, App } from "./contract.ts";
 *
 * /** Answers every datagram with its length, as one byte. *\/
 * export default function create(_context: AppContext): App {
 *   return {
 *     receive(requests, out) {
 *       for (let i = 0; i < requests.count; i++) {
 *         const at = out.reserve(1);
 *         if (at < 0) return;
 *         out.bytes[at] = requests.size(i);
 *         out.reply(i, at, 1);
 *       }
 *     },
 *   };
 * }
 * ```
 *
 * @module
 */

/** A burst of received datagrams. Valid only during the call of `receive` that it is given to. */
export interface Datagrams {
  /** How many there are. */
  readonly count: number;
  /** The memory that all payloads stand in, read-only: a store into it ends the process. */
  readonly bytes: Uint8Array;
  /** Where payload `i` begins in `bytes`. */
  offset(i: number): number;
  /** Bytes of payload `i`, 0 to 65,507. */
  size(i: number): number;
  /** IPv4 address that datagram `i` came from, host order. */
  sourceAddress(i: number): number;
  /** UDP port that datagram `i` came from. */
  sourcePort(i: number): number;
  /** Our IPv4 address that datagram `i` was sent to, host order. */
  destinationAddress(i: number): number;
  /** Our UDP port that datagram `i` was sent to. */
  destinationPort(i: number): number;
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

/** Where answers are written. What does not fit is dropped and counted, it never blocks. */
export interface Answers {
  /** The memory to write payloads into, at offsets that `reserve` gave. */
  readonly bytes: Uint8Array;
  /**
   * Room for `size` bytes in a row: its offset in `bytes`, or -1 when there is none now. It is the
   * app's until it is sent by `reply` or `send`; reserving again before that takes it back.
   */
  reserve(size: number): number;
  /** Copies the payload of datagram `i` to `offset` in `bytes`. */
  copy(i: number, offset: number): void;
  /** Sends `size` bytes at `offset` back to the sender of datagram `i`, from where it was sent to. */
  reply(i: number, offset: number, size: number): void;
  /** Sends `size` bytes at `offset` to `destination`. */
  send(destination: Destination, offset: number, size: number): void;
}

/** A service. Handlers are synchronous and return soon. */
export interface App {
  /** Deals with a burst of datagrams. */
  receive(requests: Datagrams, out: Answers): void;
  /** Called about every `tickMillis`, for what is sent without being asked. */
  tick?(out: Answers): void;
  /** Milliseconds between two calls of `tick`. */
  readonly tickMillis?: number;
}

/** What an app may know of where it runs. */
export interface AppContext {
  /** The ports that this app answers on. */
  readonly ports: readonly number[];
  /** Whether `port` is served by any app here: an answer to it could come back for ever. */
  serves(port: number): boolean;
  /** Writes a line to the log, in the app's name. */
  log(message: string): void;
}

/** The default export of an app module. */
export type AppFactory = (context: AppContext) => App | Promise<App>;
