// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel's sockets behind the served ports. They receive what the XDP program passes on (loopback,
 * reassembled fragments, other interfaces), and send what is routed to the host itself, leaves by an
 * interface without an AF_XDP socket, or exceeds one packet. The kernel has checked incoming packets;
 * only broadcast and multicast must still be dropped.
 * incoming packets; only broadcast and multicast are still to be kept out.
 */

import { checked, pollSet } from "../../ffi/library.ts";
import {
  BURST,
  RECEIVE_HEADER_WORDS,
  UDP_DESCRIPTOR_WORDS,
  UDP_TRUNCATED,
  UdpDescriptor,
} from "../../ffi/shared.ts";
import type { Udp } from "../../ffi/sockets.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import { RTN_BROADCAST } from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import { type Capture, CaptureFlag } from "./capture.ts";
import {
  CHECKSUM_PARTIAL,
  LOOK_UP,
  MOST_IN_FRAME,
  Packet,
  PACKET_HEADER_BYTES,
  PACKET_SHIFT,
  PAYLOAD_AT,
  type Umem,
} from "./rings.ts";
import { type Dispatch, type Recipient, RxBatch } from "./rx.ts";
import { PortCell, ticksOf, type TrafficCounter } from "./traffic.ts";

/** Reasons to drop a datagram that is known to be for an app. */
const AFTER_CHECKS: ReadonlySet<number> = new Set([
  NET.index.rx_drop_truncated,
  NET.index.rx_drop_no_buffer,
  NET.index.rx_drop_app_link_full,
]);

/**
 * Receives from kernel sockets. Datagrams are received into large buffers, since they can have the
 * maximum length of IPv4. Those that fit are copied to an ordinary frame, so that an app holds a large
 * buffer only for a datagram that needs one, and no more of them than its share.
 */
export class SocketReceiver {
  readonly #udp: Udp;
  readonly #umem: Umem;
  readonly #reader: NetbaseReader;
  readonly #dispatch: Dispatch;
  readonly #apps: readonly Recipient[];
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  readonly #traffic: TrafficCounter;
  readonly #batch = new RxBatch();
  /** Large buffers for the next datagrams. */
  readonly #buffers: Uint32Array;
  readonly #received = new Uint32Array(RECEIVE_HEADER_WORDS + BURST * UDP_DESCRIPTOR_WORDS);
  /** Large buffers that one app may hold. */
  readonly #share: number;

  constructor(parts: {
    udp: Udp;
    umem: Umem;
    reader: NetbaseReader;
    dispatch: Dispatch;
    apps: readonly Recipient[];
    capture: Capture;
    counters: Float64Array;
    traffic: TrafficCounter;
  }) {
    const { umem, apps } = parts;
    this.#udp = parts.udp;
    this.#umem = umem;
    this.#reader = parts.reader;
    this.#dispatch = parts.dispatch;
    this.#apps = apps;
    this.#capture = parts.capture;
    this.#counters = parts.counters;
    this.#traffic = parts.traffic;
    // This many are never with an app, so a successor of this tile finds them free.
    const own = Math.max(1, Math.min(BURST, umem.largeBuffers >>> 1));
    this.#buffers = Uint32Array.from({ length: own }, () => umem.takeLarge());
    const others = umem.largeBuffers - own;
    this.#share = Math.max(1, Math.floor(others / Math.max(1, apps.length)));
  }

  /**
   * Receives one batch from `fd`, the socket of `port`, and returns how many datagrams. The caller
   * publishes links and runs inline apps.
   */
  burst(fd: number, port: number): number {
    const buffers = this.#buffers;
    const { bytes } = this.#umem;
    const { frames, packets, times } = this.#batch;
    const received = this.#received;
    const count = this.#udp.receive(fd, port, bytes, buffers, buffers.length, received);
    if (count <= 0) return 0;
    this.#counters[NET.index.rx_socket] += count;
    frames.set(received.subarray(0, RECEIVE_HEADER_WORDS));
    this.#batch.arrival = ticksOf(frames[0], frames[1]);
    let total = 0;
    for (let i = 0; i < count; i++) {
      const at = RECEIVE_HEADER_WORDS + i * UDP_DESCRIPTOR_WORDS;
      const p = i << PACKET_SHIFT;
      packets[p + Packet.offset] = received[at + UdpDescriptor.offset];
      packets[p + Packet.length] = received[at + UdpDescriptor.length] & ~UDP_TRUNCATED;
      packets[p + Packet.peer] = received[at + UdpDescriptor.source];
      packets[p + Packet.local] = received[at + UdpDescriptor.destination];
      packets[p + Packet.ports] = received[at + UdpDescriptor.ports];
      packets[p + Packet.interface] = received[at + UdpDescriptor.interface];
      packets[p + Packet.tosTtl] = received[at + UdpDescriptor.tosTtl];
      times[2 * i] = received[at + UdpDescriptor.timeLow] || frames[0];
      times[2 * i + 1] = received[at + UdpDescriptor.timeHigh] || frames[1];
      packets[p + Packet.route] = LOOK_UP;
      packets[p + Packet.sum] = CHECKSUM_PARTIAL;
      total += packets[p + Packet.length] + PACKET_HEADER_BYTES;
      const isCut = (received[at + UdpDescriptor.length] & UDP_TRUNCATED) !== 0;
      const refused = isCut ? NET.index.rx_drop_truncated : this.#deliver(i, p);
      this.#counters[refused === 0 ? NET.index.rx_delivered : refused]++;
      if (refused !== 0) packets[p + Packet.app] = -refused;
      if (AFTER_CHECKS.has(refused)) this.#traffic.dropped(port, PortCell.rxDrops);
      if (refused === 0) this.#traffic.received(port, packets[p + Packet.length]);
      if (this.#capture.wanted) {
        this.#capture.datagram(0, refused, received.subarray(at), bytes);
      }
    }
    this.#traffic.passed(total);
    return count;
  }

  /** Hands packet number `i` to its app. Returns 0, or the counter to increment. */
  #deliver(i: number, p: number): number {
    const { packets } = this.#batch;
    const peer = packets[p + Packet.peer];
    if (this.#isMany(packets[p + Packet.local])) return NET.index.rx_drop_not_local;
    if (peer === 0 || this.#isMany(peer)) return NET.index.rx_drop_invalid_source;
    const index = this.#dispatch.app(peer, packets[p + Packet.ports]);
    packets[p + Packet.app] = index;
    if (index < 0) return -index;
    const app = this.#apps[index];
    const offset = this.#place(i, packets[p + Packet.length], app);
    if (offset < 0) return NET.index.rx_drop_no_buffer;
    packets[p + Packet.offset] = offset;
    if (app.push(this.#batch, i, i + 1) > i) return 0;
    if (this.#umem.isLarge(offset)) app.largeOut--;
    this.#umem.give(offset);
    return -packets[p + Packet.app];
  }

  /** Whether `address` is not that of a single host: multicast, reserved, or a broadcast address of ours. */
  #isMany(address: number): boolean {
    const { fib, nextHops } = this.#reader;
    return (address >>> 24) > 223 || nextHops.kind(fib.lookup(address)) === RTN_BROADCAST;
  }

  /**
   * Moves the payload in buffer number `i` to a frame, with room for headers before it as in frames
   * from AF_XDP, or keeps it in the buffer, which is then replaced. Returns its offset; -1: there is
   * neither a frame nor a buffer.
   */
  #place(i: number, length: number, app: Recipient): number {
    const umem = this.#umem;
    const buffer = this.#buffers[i];
    if (length <= MOST_IN_FRAME) {
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
}

/**
 * Sends through kernel sockets. Datagrams are collected as long as they have the same memory and the
 * same socket, and sent by one call, directly from that memory. Each is counted as sent or dropped. A
 * datagram in the UMEM gives up its frame or large buffer.
 */
export class SocketSender {
  readonly #udp: Udp;
  readonly #umem: Pick<Umem, "bytes" | "give">;
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  readonly #traffic: Pick<TrafficCounter, "dropped">;
  readonly #batch = new Uint32Array(BURST * UDP_DESCRIPTOR_WORDS);
  #fd = -1;
  #memory: Uint8Array = new Uint8Array();
  #count = 0;

  constructor({ udp, umem, capture, counters, traffic }: {
    udp: Udp;
    umem: Pick<Umem, "bytes" | "give">;
    capture: Capture;
    counters: Float64Array;
    traffic: Pick<TrafficCounter, "dropped">;
  }) {
    this.#udp = udp;
    this.#umem = umem;
    this.#capture = capture;
    this.#counters = counters;
    this.#traffic = traffic;
  }

  /**
   * Sends `packet`, whose payload is in `memory`, by the socket `fd`, with the next flush at the
   * latest. The memory must remain valid until then.
   */
  send(fd: number, memory: Uint8Array, packet: Int32Array): void {
    if (fd !== this.#fd || memory !== this.#memory || this.#count === BURST) this.flush();
    this.#fd = fd;
    this.#memory = memory;
    const at = this.#count++ * UDP_DESCRIPTOR_WORDS;
    const ports = packet[Packet.ports];
    this.#batch[at + UdpDescriptor.offset] = packet[Packet.offset];
    this.#batch[at + UdpDescriptor.length] = packet[Packet.length];
    this.#batch[at + UdpDescriptor.source] = packet[Packet.local];
    this.#batch[at + UdpDescriptor.destination] = packet[Packet.peer];
    this.#batch[at + UdpDescriptor.ports] = (ports << 16) | (ports >>> 16);
    this.#batch[at + UdpDescriptor.interface] = 0;
    this.#batch[at + UdpDescriptor.tosTtl] = packet[Packet.tosTtl];
  }

  /** Sends the collected datagrams. Those that the kernel refuses, or has no room for now, are dropped. */
  flush(): void {
    let left = this.#count;
    this.#count = 0;
    let sent = 0;
    let refused = 0;
    while (left > 0) {
      const taken = this.#udp.send(this.#fd, this.#memory, this.#batch, left);
      if (taken === 0) break;
      // An error concerns only the first datagram: the others are tried again.
      const passed = taken > 0 ? taken : 1;
      if (taken > 0) sent += taken;
      else refused++;
      this.#finish(taken > 0 ? 0 : NET.index.tx_drop_socket_error, passed);
      left -= passed;
      if (left > 0) {
        const from = passed * UDP_DESCRIPTOR_WORDS;
        this.#batch.copyWithin(0, from, from + left * UDP_DESCRIPTOR_WORDS);
      }
    }
    this.#finish(NET.index.tx_drop_socket_full, left);
    this.#counters[NET.index.tx_socket] += sent;
    this.#counters[NET.index.tx_drop_socket_error] += refused;
    this.#counters[NET.index.tx_drop_socket_full] += left;
  }

  /** Captures the first `count` datagrams of the batch with their fate, and frees their memory. */
  #finish(reason: number, count: number): void {
    const isInUmem = this.#memory === this.#umem.bytes;
    for (let i = 0; i < count; i++) {
      const at = i * UDP_DESCRIPTOR_WORDS;
      if (this.#capture.wanted) {
        const descriptor = this.#batch.subarray(at);
        this.#capture.datagram(CaptureFlag.out, reason, descriptor, this.#memory);
      }
      if (reason !== 0) {
        this.#traffic.dropped(this.#batch[at + UdpDescriptor.ports] >>> 16, PortCell.txDrops);
      }
      if (isInUmem) this.#umem.give(this.#batch[at + UdpDescriptor.offset]);
    }
  }
}

/**
 * The descriptors that a net tile blocks on: its eventfd, its AF_XDP sockets, and the kernel sockets that
 * it receives on. There may be thousands of the latter, so one epoll descriptor watches them. A poll set
 * has two words for each descriptor: the descriptor, and events | revents << 16 (struct pollfd).
 */
export class PollSet {
  /** Indices of kernel sockets with datagrams: the first {@linkcode readyCount}. */
  readonly ready = new Uint32Array(BURST);
  readyCount = 0;
  /** Whether the last poll filled `ready`, so that more sockets may have datagrams. */
  full = false;
  readonly #xsk: Xsk;
  readonly #udp: Udp;
  readonly #tile: TileLibrary;
  readonly #eventfd: number;
  /** The epoll descriptor of all kernel sockets; -1, which poll(2) ignores, if there are none. */
  readonly #watch: number;
  /** The eventfd, the epoll descriptor, and the AF_XDP sockets. */
  readonly #all: Int32Array;

  /** `xdpSockets`: descriptors of AF_XDP sockets; `sockets`: of kernel sockets. Throws SystemError. */
  constructor(
    { xsk, udp, tile }: { xsk: Xsk; udp: Udp; tile: TileLibrary },
    { eventfd, xdpSockets, sockets }: {
      eventfd: number;
      xdpSockets: readonly number[];
      sockets: readonly number[];
    },
  ) {
    this.#xsk = xsk;
    this.#udp = udp;
    this.#tile = tile;
    this.#eventfd = eventfd;
    this.#watch = sockets.length === 0
      ? -1
      : checked(udp.watch(Int32Array.from(sockets)), `watch ${sockets.length} sockets`);
    this.#all = pollSet([eventfd, this.#watch, ...xdpSockets]);
  }

  /** Blocks until something is ready or `timeoutMs` passed; clears the eventfd. */
  wait(timeoutMs: number): void {
    const set = this.#all;
    if (this.#xsk.wait(set, set.length >>> 1, timeoutMs) <= 0) return;
    if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
    if (set[3] >>> 16 !== 0) this.poll();
  }

  /**
   * Finds, without blocking, the kernel sockets with datagrams. Epoll moves the sockets that it reports
   * to the end of its list, so repeated polls reach every socket, however many stay busy.
   */
  poll(): void {
    if (this.#watch < 0) return;
    const count = this.#udp.ready(this.#watch, this.ready, this.ready.length);
    this.readyCount = Math.max(count, 0);
    this.full = this.readyCount === this.ready.length;
  }

  /** Removes the socket at `at` of `ready`, which has no more datagrams. The last one takes its place. */
  emptied(at: number): void {
    this.ready[at] = this.ready[--this.readyCount];
  }
}
