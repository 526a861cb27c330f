/**
 * The way out through the kernel's sockets: for what routes to `local`, leaves by an interface without
 * an AF_XDP socket here, or is too long for one packet. Datagrams are gathered while they come from
 * the same memory for the same socket, and sent by one call, straight from that memory.
 */

import { type Udp, UDP_BURST, UDP_DESCRIPTOR_WORDS } from "../../ffi/udp.ts";
import { NET } from "../runtime/counters.ts";
import { Descriptor } from "../runtime/link.ts";
import type { Capture } from "./capture.ts";
import { Row } from "./rows.ts";

/** Sends through kernel sockets. Every datagram given to it is counted as sent or as dropped. */
export class SocketSender {
  readonly #udp: Udp;
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  readonly #batch = new Uint32Array(UDP_BURST * UDP_DESCRIPTOR_WORDS);
  #fd = -1;
  #memory: Uint8Array = new Uint8Array();
  #count = 0;

  constructor(udp: Udp, { capture, counters }: { capture: Capture; counters: Float64Array }) {
    this.#udp = udp;
    this.#capture = capture;
    this.#counters = counters;
  }

  /**
   * Sends the datagram of `row`, whose payload is at byte `offset` of `memory`, by the socket `fd`,
   * with the next flush at the latest; until then the memory must stay.
   */
  send(fd: number, memory: Uint8Array, offset: number, row: Int32Array): void {
    if (fd !== this.#fd || memory !== this.#memory || this.#count === UDP_BURST) this.flush();
    this.#fd = fd;
    this.#memory = memory;
    const at = this.#count++ * UDP_DESCRIPTOR_WORDS;
    this.#batch[at + Descriptor.offset] = offset;
    this.#batch[at + Descriptor.length] = row[Row.length];
    this.#batch[at + Descriptor.source] = row[Row.source];
    this.#batch[at + Descriptor.destination] = row[Row.destination];
    this.#batch[at + Descriptor.ports] = row[Row.ports];
    this.#batch[at + Descriptor.interface] = 0;
  }

  /** Sends what was gathered. What the kernel refuses, or has no room for now, is dropped. */
  flush(): void {
    let left = this.#count;
    this.#count = 0;
    let sent = 0;
    let refused = 0;
    while (left > 0) {
      const taken = this.#udp.send(this.#fd, this.#memory, this.#batch, left);
      if (taken === 0) break;
      // An error is about the first datagram alone: the others get their chance.
      const passed = taken > 0 ? taken : 1;
      if (taken > 0) sent += taken;
      else refused++;
      if (this.#capture.wanted) this.#show(taken > 0 ? 0 : NET.index.tx_drop_socket_error, passed);
      left -= passed;
      if (left > 0) {
        this.#batch.copyWithin(
          0,
          passed * UDP_DESCRIPTOR_WORDS,
          (passed + left) * UDP_DESCRIPTOR_WORDS,
        );
      }
    }
    if (left > 0 && this.#capture.wanted) this.#show(NET.index.tx_drop_socket_error, left);
    this.#counters[NET.index.tx_socket] += sent;
    this.#counters[NET.index.tx_drop_socket_error] += refused + left;
  }

  /** Shows what became of the first `count` of the batch. */
  #show(reason: number, count: number): void {
    this.#capture.handedOver(reason, this.#batch, count, this.#memory);
  }
}
