/**
 * How the kernel is made to resolve a neighbour: by RTM_NEWNEIGH with NTF_USE, or, without
 * CAP_NET_ADMIN, by an empty datagram to the neighbour's discard port, sent out of that interface.
 */

import { EPERM } from "../../ffi/errno.ts";
import type { NetlinkLibrary } from "../../ffi/netlink.ts";
import * as nl from "./codec.ts";
import {
  type MessageCursor,
  MessageWriter,
  writeDeleteNeighbor,
  writeUseNeighbor,
} from "./codec.ts";
import { type MessageHandler, NetlinkSocket } from "./socket.ts";

/** Asks, on a socket of its own: the kernel answers there only what it refuses. */
export class Asker implements MessageHandler {
  /** Whether the kernel lets us say NTF_USE, as far as is known. */
  privileged = true;
  readonly #library: NetlinkLibrary;
  readonly #socket: NetlinkSocket;
  readonly #probeFd: number;
  readonly #writer = new MessageWriter();
  readonly #log: (line: string) => void;

  /** Opens its sockets. Throws SystemError. */
  constructor(library: NetlinkLibrary, log: (line: string) => void) {
    this.#library = library;
    this.#log = log;
    this.#socket = new NetlinkSocket(library, {
      groups: [],
      receiveBuffer: 1 << 18,
      strict: false,
      burst: 16,
    });
    this.#probeFd = library.openProbe();
  }

  /** Descriptors that are sent on, and the one to be polled for reading first. */
  get descriptors(): readonly number[] {
    return [this.#socket.fd, this.#probeFd];
  }

  /** Asks for one neighbour (address in host order). False: the kernel took no request. */
  ask(ifindex: number, address: number): boolean {
    if (this.privileged) {
      const length = writeUseNeighbor(this.#writer, { ifindex, address });
      const sent = this.#socket.send(this.#writer.bytes, length) === 0;
      // The kernel has answered by now if it does not let us, and then there is another way.
      if (sent) this.turn();
      if (this.privileged) return sent;
    }
    return this.#library.probe(this.#probeFd, ifindex, address) >= 0;
  }

  /** Takes an entry that does not resolve out of the kernel's table. False: without privilege. */
  release(ifindex: number, address: number): boolean {
    if (!this.privileged) return false;
    const length = writeDeleteNeighbor(this.#writer, { ifindex, address });
    return this.#socket.send(this.#writer.bytes, length) === 0;
  }

  /** Reads what was refused. */
  turn(): void {
    this.#socket.receive(this);
  }

  /** A refusal. Only that for want of privilege matters: what is to be deleted may be gone already. */
  message(message: MessageCursor): void {
    if (message.type !== nl.NLMSG_ERROR || message.error !== -EPERM || !this.privileged) return;
    this.privileged = false;
    this.#log("no CAP_NET_ADMIN: neighbours are resolved by datagrams to their discard port");
  }

  malformed(_reason: string): void {}

  close(): void {
    this.#socket.close();
    this.#library.close(this.#probeFd);
  }
}
