/**
 * Requests, one at a time, on a socket of their own, so that no event can come between. Replies are
 * known by sequence and port; what an abandoned request has left is read away before the next.
 */

import { EBUSY } from "../../ffi/errno.ts";
import type { NetlinkLibrary } from "../../ffi/netlink.ts";
import * as nl from "./codec.ts";
import {
  type DumpKind,
  type MessageCursor,
  MessageWriter,
  type RouteQuery,
  writeDump,
  writeGetRoute,
} from "./codec.ts";
import { type MessageHandler, NetlinkSocket, OVERRUN } from "./socket.ts";

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

/** Who has asked. */
export interface Inquirer {
  /** A message of the answer; good only during the call. */
  take(message: MessageCursor): void;
  /** Nothing more comes. Another request may be made at once. */
  done(end: DumpEnd): void;
}

/** Asks the kernel for dumps and single routes. */
export class Dumper implements MessageHandler {
  /** Whether replies are still to come: nothing else can be asked until then. */
  busy = false;
  /** Error number of the last request that was "refused", positive. */
  errno = 0;
  readonly #socket: NetlinkSocket;
  readonly #writer = new MessageWriter();
  #sequence = 0;
  /** Null while what was given up is read away. */
  #inquirer: Inquirer | null = null;
  /** What is dumped after this. */
  #next: readonly DumpKind[] = [];
  #end: DumpEnd | null = null;
  /** What keeps a request that is answered from being "done". */
  #flaw: DumpEnd | null = null;

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

  /** Begins dumps, one after the other as long as they end well. False: not now. */
  dump([kind, ...next]: readonly DumpKind[], inquirer: Inquirer): boolean {
    if (!this.#request((sequence) => writeDump(this.#writer, kind, sequence), inquirer)) {
      return false;
    }
    this.#next = next;
    return true;
  }

  /** Asks for one route. False: not now. */
  ask(question: RouteQuery, inquirer: Inquirer): boolean {
    return this.#request((sequence) => writeGetRoute(this.#writer, question, sequence), inquirer);
  }

  #request(write: (sequence: number) => number, inquirer: Inquirer): boolean {
    if (this.busy) return false;
    this.#sequence = (this.#sequence + 1) >>> 0;
    const length = write(this.#sequence);
    if (this.#socket.send(this.#writer.bytes, length) < 0) return false;
    this.busy = true;
    this.#inquirer = inquirer;
    this.#next = [];
    this.#end = this.#flaw = null;
    return true;
  }

  /**
   * Gives up what is under way. It stays `busy` until turns have read its remaining replies away.
   */
  abandon(): void {
    this.#inquirer = null;
  }

  /**
   * Takes one burst of replies. How much was done. The kernel writes a reply when it is asked and the
   * next one whenever one is read, so where nothing waits before the end has come, nothing will.
   */
  turn(): number {
    if (!this.busy) return 0;
    const count = this.#socket.receive(this);
    if (count === OVERRUN) this.#flaw = "damaged";
    if (this.#end === null && count === 0) this.#end = "damaged";
    if (this.#end !== null) this.#conclude(this.#end);
    return Math.max(1, count);
  }

  #conclude(end: DumpEnd): void {
    const inquirer = this.#inquirer;
    this.busy = false;
    this.#inquirer = null;
    if (inquirer === null) return;
    const goesOn = end === "done" && this.#next.length > 0;
    if (!goesOn) inquirer.done(end);
    else if (!this.dump(this.#next, inquirer)) inquirer.done("damaged");
  }

  message(message: MessageCursor): void {
    if (!this.busy || message.sequence !== this.#sequence) return;
    if (message.port !== this.#socket.port) return;
    if ((message.flags & nl.NLM_F_DUMP_INTR) !== 0) this.#flaw ??= "interrupted";
    switch (message.type) {
      case nl.NLMSG_DONE:
      case nl.NLMSG_ERROR:
        // The dump's own error, or the request's.
        this.#finish(message.error);
        break;
      case nl.NLMSG_NOOP:
        break;
      default:
        this.#inquirer?.take(message);
        // A single answer is its own end.
        if ((message.flags & nl.NLM_F_MULTI) === 0) this.#finish(0);
    }
  }

  malformed(_reason: string): void {
    this.#flaw = "damaged";
  }

  #finish(error: number): void {
    this.errno = -error;
    if (error === 0) this.#end = this.#flaw ?? "done";
    else this.#end = this.errno === EBUSY ? "damaged" : "refused";
  }

  close(): void {
    this.#socket.close();
  }
}
