/**
 * A netlink socket with the memory that it is read into: datagrams are taken in bursts, and each
 * message in them is handed on. The monitor socket, the one for dumps and the one that neighbours
 * are asked for on are each one of these.
 */

import { ENOBUFS, SystemError } from "../../ffi/errno.ts";
import { type NetlinkLibrary, type NetlinkOptions, TRUNCATED } from "../../ffi/netlink.ts";
import { MalformedMessage, MessageBytes, MessageCursor } from "./codec.ts";

/**
 * Room for one datagram: the kernel fills at most 32 KiB. The odd quarter of a KiB keeps slots from
 * beginning at the same place of the processor's first-level cache.
 */
const SLOT_BYTES = 32_768 + 256;

/** What `receive` says when the kernel had no room for events and dropped some; more may wait. */
export const OVERRUN = -1;

/** What is done with messages. */
export interface MessageHandler {
  /** One message; good only during the call. */
  message(message: MessageCursor): void;
  /** A message that the codec refused, or one too large to be taken. */
  malformed(reason: string): void;
}

/** An open socket. */
export class NetlinkSocket {
  readonly fd: number;
  /** What replies to this socket carry as their port. */
  readonly port: number;
  readonly #library: NetlinkLibrary;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #lengths: Uint32Array<ArrayBuffer>;
  readonly #cursor: MessageCursor;

  /** `burst`: datagrams taken with one call, at most 64. Throws SystemError. */
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
   * Takes one burst and hands each message on. How many datagrams it was (where it is fewer than a burst
   * can be, no more waited), or OVERRUN. Throws SystemError.
   */
  receive(handler: MessageHandler): number {
    const count = this.#library.receive(this.fd, this.#buffer, this.#lengths, SLOT_BYTES);
    if (count === -ENOBUFS) return OVERRUN;
    if (count < 0) throw new SystemError("read a netlink socket", count);
    for (let i = 0; i < count; i++) {
      const length = this.#lengths[i];
      if (length === TRUNCATED) handler.malformed("a datagram larger than 32 KiB");
      else this.#handOn(i * SLOT_BYTES, length, handler);
    }
    return count;
  }

  #handOn(offset: number, length: number, handler: MessageHandler): void {
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

  /** Sends the first `length` bytes of `bytes`. 0, or -errno. */
  send(bytes: Uint8Array, length: number): number {
    return Math.min(0, this.#library.send(this.fd, bytes, length));
  }

  close(): void {
    this.#library.close(this.fd);
  }
}
