/**
 * Netlink sockets: datagrams are received in bursts, and each message in them is given to a handler.
 * The monitor socket, the socket for requests and the socket for solicits are each one of these.
 * `Dumper` makes requests, one at a time, on a socket of its own so that no event comes between.
 */

import { EBUSY, ENOBUFS, SystemError } from "../../ffi/errno.ts";
import { type NetlinkLibrary, type NetlinkOptions, TRUNCATED } from "../../ffi/netlink.ts";
import {
  type DumpKind,
  MalformedMessage,
  MessageBytes,
  MessageCursor,
  MessageWriter,
  NLM_F_DUMP_INTR,
  NLM_F_MULTI,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_NOOP,
  type RouteQuery,
  writeDump,
  writeGetRoute,
} from "./codec.ts";

/**
 * Room for one datagram: the kernel fills at most 32 KiB. The odd quarter of a KiB keeps slots from
 * sharing sets of the processor's first-level cache.
 */
const SLOT_BYTES = 32_768 + 256;

/** Result of `receive` when the kernel dropped events for want of room; more may be queued. */
export const OVERRUN = -1;

/** Takes the messages of a socket. */
export interface MessageHandler {
  /** One message; valid only during the call. */
  message(message: MessageCursor): void;
  /** A message that the codec refused, or a datagram that is too large. */
  malformed(reason: string): void;
}

/** An open socket. */
export class NetlinkSocket {
  readonly fd: number;
  /** The port id, which replies to this socket carry. */
  readonly port: number;
  readonly #library: NetlinkLibrary;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #lengths: Uint32Array<ArrayBuffer>;
  readonly #cursor: MessageCursor;

  /** `burst`: datagrams per `receive`, at most 64. Throws SystemError. */
  constructor(
    library: NetlinkLibrary,
    { burst, ...options }: NetlinkOptions & { readonly burst: number },
  ) {
    this.#library = library;
    this.fd = library.open(options);
    this.port = library.portId(this.fd);
    this.#buffer = new Uint8Array(burst * SLOT_BYTES);
    this.#lengths = new Uint32Array(burst);
    this.#cursor = new MessageCursor(new MessageBytes(this.#buffer));
  }

  /**
   * Receives one burst and gives each message to `handler`. Returns the number of datagrams, fewer
   * than `burst` when no more were queued, or OVERRUN. Throws SystemError.
   */
  receive(handler: MessageHandler): number {
    const count = this.#library.receive(this.fd, this.#buffer, this.#lengths, SLOT_BYTES);
    if (count === -ENOBUFS) return OVERRUN;
    if (count < 0) throw new SystemError("read a netlink socket", count);
    for (let i = 0; i < count; i++) {
      const length = this.#lengths[i];
      if (length === TRUNCATED) handler.malformed("a datagram larger than 32 KiB");
      else this.#handle(i * SLOT_BYTES, length, handler);
    }
    return count;
  }

  #handle(offset: number, length: number, handler: MessageHandler): void {
    const cursor = this.#cursor;
    cursor.begin(offset, length);
    for (;;) {
      try {
        if (!cursor.next()) return;
        handler.message(cursor);
      } catch (error) {
        if (!(error instanceof MalformedMessage)) throw error;
        handler.malformed(error.message);
      }
    }
  }

  /** Sends the first `length` bytes of `bytes`. Returns 0 or -errno. */
  send(bytes: Uint8Array, length: number): number {
    return Math.min(0, this.#library.send(this.fd, bytes, length));
  }

  close(): void {
    this.#library.close(this.fd);
  }
}

/** Datagrams of a dump per turn: some two thousand routes. */
const DUMP_BURST = 4;
/** The kernel writes a dump's next datagram when one is read, so few need room. */
const DUMP_BUFFER = 1 << 20;

/** How a request ended. */
export type DumpEnd =
  | "done"
  /** The table changed during the dump (NLM_F_DUMP_INTR). */
  | "interrupted"
  /** A message was malformed or missing. */
  | "damaged"
  /** The kernel replied with an error, or is built without what was asked for. */
  | "refused";

/** Takes the replies to a request. */
export interface ReplyHandler {
  /** One reply; valid only during the call. */
  reply(message: MessageCursor): void;
  /**
   * No more replies come; another request may be made at once. `errno`, positive, tells why the
   * kernel refused; `now` is the time of the turn.
   */
  done(end: DumpEnd, errno: number, now: number): void;
}

/** Requests dumps and route lookups, one at a time. */
export class Dumper implements MessageHandler {
  /** Whether replies are still to come; until then no request can be made. */
  busy = false;
  readonly #socket: NetlinkSocket;
  readonly #writer = new MessageWriter();
  #sequence = 0;
  /** Null for a request that was abandoned. */
  #handler: ReplyHandler | null = null;
  /** Dumps that follow this one. */
  #next: readonly DumpKind[] = [];
  #end: DumpEnd | null = null;
  /** Why a request that completes is not "done". */
  #flaw: DumpEnd | null = null;
  #errno = 0;

  /** Throws SystemError. */
  constructor(library: NetlinkLibrary) {
    this.#socket = new NetlinkSocket(library, {
      groups: [],
      receiveBuffer: DUMP_BUFFER,
      strict: true,
      burst: DUMP_BURST,
    });
  }

  get fd(): number {
    return this.#socket.fd;
  }

  /** Begins dumps, one after the other until one fails. False: not now. */
  dump([kind, ...next]: readonly DumpKind[], handler: ReplyHandler): boolean {
    const begun = this.#request((sequence) => writeDump(this.#writer, kind, sequence), handler);
    if (begun) this.#next = next;
    return begun;
  }

  /** Requests one route. False: not now. */
  lookup(query: RouteQuery, handler: ReplyHandler): boolean {
    return this.#request((sequence) => writeGetRoute(this.#writer, query, sequence), handler);
  }

  #request(write: (sequence: number) => number, handler: ReplyHandler): boolean {
    if (this.busy) return false;
    this.#sequence = (this.#sequence + 1) >>> 0;
    const length = write(this.#sequence);
    if (this.#socket.send(this.#writer.bytes, length) < 0) return false;
    this.busy = true;
    this.#handler = handler;
    this.#next = [];
    this.#end = this.#flaw = null;
    this.#errno = 0;
    return true;
  }

  /** Abandons the request. The dumper stays `busy` until turns have read its remaining replies. */
  abandon(): void {
    this.#handler = null;
  }

  /**
   * Takes one burst of replies; returns how much was done. The kernel writes the first datagram with
   * the request and each other one when one is read, so an empty queue means that no more come.
   */
  turn(now = performance.now()): number {
    if (!this.busy) return 0;
    const count = this.#socket.receive(this);
    if (count === OVERRUN) this.#flaw = "damaged";
    if (this.#end === null && count === 0) this.#end = "damaged";
    if (this.#end !== null) this.#conclude(this.#end, now);
    return Math.max(1, count);
  }

  #conclude(end: DumpEnd, now: number): void {
    const handler = this.#handler;
    this.busy = false;
    this.#handler = null;
    if (handler === null) return;
    const goesOn = end === "done" && this.#next.length > 0;
    if (!goesOn) handler.done(end, this.#errno, now);
    else if (!this.dump(this.#next, handler)) handler.done("damaged", 0, now);
  }

  message(message: MessageCursor): void {
    if (!this.busy || message.sequence !== this.#sequence) return;
    if (message.port !== this.#socket.port) return;
    if ((message.flags & NLM_F_DUMP_INTR) !== 0) this.#flaw ??= "interrupted";
    switch (message.type) {
      case NLMSG_DONE:
      case NLMSG_ERROR:
        this.#finish(-message.error);
        break;
      case NLMSG_NOOP:
        break;
      default:
        this.#handler?.reply(message);
        // A reply that is not part of a dump is the only one.
        if ((message.flags & NLM_F_MULTI) === 0) this.#finish(0);
    }
  }

  malformed(_reason: string): void {
    this.#flaw = "damaged";
  }

  #finish(errno: number): void {
    this.#errno = errno;
    if (errno === 0) this.#end = this.#flaw ?? "done";
    else this.#end = errno === EBUSY ? "damaged" : "refused";
  }

  close(): void {
    this.#socket.close();
  }
}
