/**
 * Dumps, one at a time, on a socket of their own, so that no event can come between. A dump's
 * replies are known by sequence and port; what an abandoned dump has left is read away before the
 * next begins.
 */

import { EBUSY } from "../../ffi/errno.ts";
import type { NetlinkLibrary } from "../../ffi/netlink.ts";
import * as nl from "./constants.ts";
import { type MessageCursor, MessageWriter } from "./message.ts";
import { type DumpKind, type RouteQuestion, writeDump, writeGetRoute } from "./requests.ts";
import { type MessageHandler, NetlinkSocket, Received } from "./socket.ts";

/** Datagrams of a dump taken with one turn: some two thousand routes. */
const BURST = 4;
/**
 * A dump takes what the kernel has ready, so its socket needs no more than a few datagrams' room.
 */
const RECEIVE_BUFFER = 1 << 20;

/** How a request ended. */
export type DumpEnd =
  | "done"
  /** The kernel says that it changed while it was dumped (NLM_F_DUMP_INTR). */
  | "interrupted"
  /** A message was malformed or missing. */
  | "damaged"
  /** The kernel answered with an error, or it is not built to dump this; `errno` tells. */
  | "refused";

/** Takes the messages that answer a request. */
export type Take = (message: MessageCursor) => void;

/** Asks the kernel for dumps and single routes. */
export class Dumper implements MessageHandler {
  /** Error number of the last request that was "refused", positive. */
  errno = 0;
  readonly #socket: NetlinkSocket;
  readonly #writer = new MessageWriter();
  #sequence = 0;
  #busy = false;
  /** Null while what was given up is read away. */
  #take: Take | null = null;
  #end: DumpEnd | null = null;
  #interrupted = false;
  #damaged = false;

  /** Throws SystemError. */
  constructor(library: NetlinkLibrary) {
    this.#socket = new NetlinkSocket(library, {
      groups: [],
      receiveBuffer: RECEIVE_BUFFER,
      strict: true,
      burst: BURST,
    });
  }

  get fd(): number {
    return this.#socket.fd;
  }

  /** Whether replies are still to come: nothing else can be asked until then. */
  get busy(): boolean {
    return this.#busy;
  }

  /** Whether what is under way was given up: `turn` reads it away. */
  get abandoned(): boolean {
    return this.#busy && this.#take === null;
  }

  /** Datagrams that the last turn took. */
  get datagrams(): number {
    return this.#socket.datagrams;
  }

  /** Begins a dump; `take` is given each message of it. False: not now. */
  dump(kind: DumpKind, take: Take): boolean {
    return this.#request((sequence) => writeDump(this.#writer, kind, sequence), take);
  }

  /** Asks for one route; `take` is given the answer. False: not now. */
  ask(question: RouteQuestion, take: Take): boolean {
    return this.#request((sequence) => writeGetRoute(this.#writer, question, sequence), take);
  }

  #request(write: (sequence: number) => number, take: Take): boolean {
    if (this.#busy) return false;
    this.#sequence = (this.#sequence + 1) >>> 0;
    const length = write(this.#sequence);
    if (this.#socket.send(this.#writer.bytes, length) < 0) return false;
    this.#busy = true;
    this.#take = take;
    this.#end = null;
    this.#interrupted = this.#damaged = false;
    return true;
  }

  /**
   * Gives up what is under way. It stays `busy` until turns have read its remaining replies away.
   */
  abandon(): void {
    this.#take = null;
  }

  /**
   * Takes one burst of replies; null while there are more to come, or they were given up. The
   * kernel writes a reply when it is asked and the next one whenever one is read, so where nothing
   * waits before the end has come, nothing will.
   */
  turn(): DumpEnd | null {
    const outcome = this.#socket.receive(this);
    if (outcome === Received.overrun) this.#damaged = true;
    if (this.#end === null && outcome === Received.empty) this.#end = "damaged";
    if (this.#end === null) return null;
    this.#busy = false;
    const wanted = this.#take !== null;
    this.#take = null;
    return wanted ? this.#end : null;
  }

  message(message: MessageCursor): void {
    if (!this.#busy || message.sequence !== this.#sequence) return;
    if (message.port !== this.#socket.port) return;
    if ((message.flags & nl.NLM_F_DUMP_INTR) !== 0) this.#interrupted = true;
    switch (message.type) {
      case nl.NLMSG_DONE:
      case nl.NLMSG_ERROR:
        // The dump's own error, or the request's; both are negative or 0.
        message.attributesAt(4);
        this.#finish(message.bytes.u32[message.bodyAt >>> 2] | 0);
        break;
      case nl.NLMSG_NOOP:
        break;
      default:
        this.#take?.(message);
        // A single answer is its own end.
        if ((message.flags & nl.NLM_F_MULTI) === 0) this.#finish(0);
    }
  }

  malformed(_reason: string): void {
    this.#damaged = true;
  }

  #finish(error: number): void {
    this.errno = -error;
    if (error !== 0) this.#end = this.errno === EBUSY ? "damaged" : "refused";
    else if (this.#damaged) this.#end = "damaged";
    else this.#end = this.#interrupted ? "interrupted" : "done";
  }

  close(): void {
    this.#socket.close();
  }
}
