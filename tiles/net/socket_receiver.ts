/**
 * The way in through the kernel's sockets: for what the XDP program leaves alone, loopback,
 * reassembled fragments, interfaces that are not attached. The kernel has checked the packets; what
 * is left is to keep out broadcast and multicast. Datagrams are received into large buffers, since
 * one can be as long as IPv4 lets it; those that fit go on in an ordinary frame, so that an app keeps
 * a large buffer only for what needs one, and no more of them than its share.
 */

import { type Udp, UDP_BURST, UDP_DESCRIPTOR_WORDS, UDP_TRUNCATED } from "../../ffi/udp.ts";
import { RECEIVE_HEADER_WORDS } from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { RTN_BROADCAST } from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import { Descriptor } from "../runtime/link.ts";
import type { Recipient } from "./arrivals.ts";
import type { Capture } from "./capture.ts";
import type { Dispatch } from "./dispatch.ts";
import { PAYLOAD_AT } from "./frame.ts";
import type { Umem } from "./umem.ts";

/** What datagrams are received with. */
export interface SocketReceiverParts {
  readonly udp: Udp;
  readonly umem: Umem;
  readonly reader: NetbaseReader;
  readonly dispatch: Dispatch;
  readonly apps: readonly Recipient[];
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Receives from kernel sockets. */
export class SocketReceiver {
  readonly #parts: SocketReceiverParts;
  /** Large buffers that the next datagrams go into. */
  readonly #buffers: Uint32Array;
  readonly #received = new Uint32Array(RECEIVE_HEADER_WORDS + UDP_BURST * UDP_DESCRIPTOR_WORDS);
  /** Large buffers that one app may keep. */
  readonly #share: number;

  constructor(parts: SocketReceiverParts) {
    this.#parts = parts;
    const { umem, apps } = parts;
    // So many are never out with an app: a successor of this tile finds them free, too.
    const own = Math.max(1, Math.min(UDP_BURST, umem.largeBuffers >>> 1));
    this.#buffers = new Uint32Array(own);
    for (let i = 0; i < own; i++) this.#buffers[i] = umem.takeLarge();
    const others = umem.largeBuffers - own;
    this.#share = Math.max(1, Math.floor(others / Math.max(1, apps.length)));
  }

  /**
   * Takes one burst from `fd`, the socket of `port`, and returns how many datagrams. Links are published
   * by the caller.
   */
  burst(fd: number, port: number): number {
    const { udp, umem, capture, counters } = this.#parts;
    const received = this.#received;
    const count = udp.receive(fd, port, umem.bytes, this.#buffers, this.#buffers.length, received);
    if (count <= 0) return 0;
    counters[NET.index.rx_socket] += count;
    for (let i = 0; i < count; i++) {
      const at = RECEIVE_HEADER_WORDS + i * UDP_DESCRIPTOR_WORDS;
      const refused = this.#deliver(i, at);
      counters[refused === 0 ? NET.index.rx_delivered : refused]++;
      if (!capture.wanted) continue;
      capture.datagram(0, refused, received, at, umem.bytes, received[at + Descriptor.offset]);
    }
    return count;
  }

  /**
   * Hands the datagram in the i-th buffer, whose descriptor is at word `at`, to its app. Returns 0,
   * or the number of the counter to move.
   */
  #deliver(i: number, at: number): number {
    const { dispatch, apps } = this.#parts;
    const words = this.#received;
    const length = words[at + Descriptor.length] | 0;
    if ((length & UDP_TRUNCATED) !== 0) return NET.index.rx_drop_truncated;
    const source = words[at + Descriptor.source] | 0;
    const destination = words[at + Descriptor.destination] | 0;
    if (this.#isMany(destination)) return NET.index.rx_drop_not_local;
    if (source === 0 || this.#isMany(source)) return NET.index.rx_drop_invalid_source;
    const ports = words[at + Descriptor.ports] | 0;
    const index = dispatch.app(source, ports);
    if (index < 0) return -index;
    const app = apps[index];
    const offset = this.#place(i, length, app);
    if (offset < 0) return NET.index.rx_drop_no_buffer;
    const ifindex = words[at + Descriptor.interface];
    if (
      app.pushOne(offset, length, source, destination, ports, ifindex, words[0] | 0, words[1] | 0)
    ) return 0;
    this.#giveBack(offset, app);
    return NET.index.rx_drop_app_link_full;
  }

  /** Whether `address` stands for many: multicast, reserved, or a broadcast address of ours. */
  #isMany(address: number): boolean {
    const { fib, nextHops } = this.#parts.reader;
    return (address >>> 24) > 223 || nextHops.kind(fib.lookup(address)) === RTN_BROADCAST;
  }

  /**
   * Where the payload in the i-th buffer goes on: a frame that it is copied to, with room for headers
   * before it as in those from AF_XDP, or the buffer itself, which another one replaces. -1 when
   * neither is to be had.
   */
  #place(i: number, length: number, app: Recipient): number {
    const { umem } = this.#parts;
    const buffer = this.#buffers[i];
    if (length <= umem.frameBytes - PAYLOAD_AT) {
      const frame = umem.takeFrame();
      if (frame < 0) return -1;
      umem.bytes.copyWithin(frame + PAYLOAD_AT, buffer, buffer + length);
      return frame + PAYLOAD_AT;
    }
    if (app.largeOut >= this.#share) return -1;
    const fresh = umem.takeLarge();
    if (fresh < 0) return -1;
    this.#buffers[i] = fresh;
    app.largeOut++;
    return buffer;
  }

  #giveBack(offset: number, app: Recipient): void {
    const { umem } = this.#parts;
    if (umem.isLarge(offset)) app.largeOut--;
    umem.give(offset);
  }
}
