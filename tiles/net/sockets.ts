/**
 * The way in through the kernel's sockets: for what the XDP program leaves alone, loopback,
 * reassembled fragments, interfaces that are not attached. The kernel has checked the packets; what
 * is left is to keep out broadcast and multicast. Datagrams are received into large buffers, since
 * one can be as long as IPv4 lets it; those that fit go on in an ordinary frame, so that an app keeps
 * a large buffer only for what needs one, and no more of them than its share.
 */

import { checked } from "../../ffi/errno.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import { type Udp, UDP_BURST, UDP_DESCRIPTOR_WORDS, UDP_TRUNCATED } from "../../ffi/udp.ts";
import { RECEIVE_HEADER_WORDS, type Xsk } from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { RTN_BROADCAST } from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import { Descriptor } from "../runtime/link.ts";
import type { Capture } from "./capture.ts";
import { PAYLOAD_AT } from "./frame.ts";
import type { Umem } from "./rings.ts";
import type { Dispatch, Recipient } from "./rx.ts";
import { Row } from "./tx.ts";

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

/*
 * The way out through the kernel's sockets: for what routes to `local`, leaves by an interface without
 * an AF_XDP socket here, or is too long for one packet. Datagrams are gathered while they come from
 * the same memory for the same socket, and sent by one call, straight from that memory.
 */

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

/*
 * What a net tile blocks on: its eventfd, its AF_XDP sockets and the kernel sockets that it receives
 * on. The last may be thousands, and stand behind one descriptor, which tells those that have something.
 */

/** poll(2): something to be read. */
const POLLIN = 0x1;

/** The descriptors of a poll set. */
export interface PollSetParts {
  readonly eventfd: number;
  readonly ports: readonly number[];
  readonly sockets: readonly number[];
}

/** A poll set, each entry two words: descriptor, events | revents << 16 (struct pollfd). */
export class PollSet {
  /** Indices of kernel sockets that have something to receive: the first {@linkcode readyCount}. */
  readonly ready = new Uint32Array(UDP_BURST);
  readyCount = 0;
  /** Whether the last look filled `ready`, so that other sockets may be waiting for their turn. */
  full = false;
  readonly #xsk: Xsk;
  readonly #udp: Udp;
  readonly #tile: TileLibrary;
  readonly #eventfd: number;
  /** Stands for all kernel sockets; -1, which poll(2) leaves out, where there are none. */
  readonly #watch: number;
  /** The eventfd, the watch, and the AF_XDP sockets. */
  readonly #all: Int32Array;

  /** Throws SystemError. */
  constructor(
    { xsk, udp, tile }: { xsk: Xsk; udp: Udp; tile: TileLibrary },
    { eventfd, ports, sockets }: PollSetParts,
  ) {
    this.#xsk = xsk;
    this.#udp = udp;
    this.#tile = tile;
    this.#eventfd = eventfd;
    this.#watch = sockets.length === 0
      ? -1
      : checked(udp.watch(Int32Array.from(sockets)), `watch ${sockets.length} sockets`);
    this.#all = Int32Array.from([eventfd, this.#watch, ...ports].flatMap((fd) => [fd, POLLIN]));
  }

  /** Blocks until something is ready or `timeoutMs` passed; empties the eventfd. */
  wait(timeoutMs: number): void {
    const set = this.#all;
    if (this.#xsk.wait(set, set.length >>> 1, timeoutMs) <= 0) return;
    if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
    if (set[3] >>> 16 !== 0) this.look();
  }

  /**
   * Finds out which kernel sockets have something, without blocking. Epoll moves the sockets that it
   * reports behind the others, so repeated looks reach every socket, however many stay busy.
   */
  look(): void {
    if (this.#watch < 0) return;
    const count = this.#udp.ready(this.#watch, this.ready, this.ready.length);
    this.readyCount = Math.max(count, 0);
    this.full = this.readyCount === this.ready.length;
  }

  /** Removes the socket at `at` of `ready`, which is empty now; the last one takes its place. */
  emptied(at: number): void {
    this.ready[at] = this.ready[--this.readyCount];
  }
}
