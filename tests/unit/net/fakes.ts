// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel's side of a net tile in memory: AF_XDP rings and UDP sockets, with checks that no frame is
 * lost or given away twice. The real ones are tested in tests/netns.
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { u8, type View } from "../../../ffi/region.ts";
import {
  RECEIVE_HEADER_WORDS,
  UDP_BUFFER_BYTES,
  UDP_DESCRIPTOR_WORDS,
  VISIBLE_HEADER_WORDS,
} from "../../../ffi/shared.ts";
import type { Udp } from "../../../ffi/sockets.ts";
import type { Xsk } from "../../../ffi/xsk.ts";
import { ticksOf } from "../../../tiles/net/traffic.ts";
import { HEADROOM_BYTES } from "../../../tiles/runtime/plan.ts";

/** XDP_PACKET_HEADROOM. */
const KERNEL_HEADROOM = 256;

/** One socket's rings. */
class Rings {
  readonly fill: number[] = [];
  readonly rx: [offset: number, length: number][] = [];
  /** What was sent, and the content that the frame must keep until then. */
  readonly completion: [offset: number, bytes: Uint8Array][] = [];
  readonly sent: Uint8Array[] = [];
  /** Frames that fit the transmit ring; they complete on request. */
  room = Infinity;
  /** How many of the last frames sent do not complete yet. */
  slow = 0;
  /** Whether those are already off the transmit ring, where nobody sees them. */
  hides = false;
  /** Frames that the driver took off the fill ring and has not filled. */
  readonly posted: number[] = [];
  /** How many frames were ever put on the fill ring, came in, were taken, were sent and were taken back. */
  readonly moved = { filled: 0, came: 0, received: 0, sent: 0, completed: 0 };
  /** Frames that fit the fill ring. */
  fillRoom = Infinity;
}

/** Thrown by the fake from then on: the process that made the call was killed. */
export class Killed extends Error {}

/** The content of a frame that waits to be filled. */
export const UNTOUCHED = 0xa5;

/**
 * AF_XDP in memory. It knows the kernel's frames, so that none can be given to it twice or written
 * meanwhile.
 */
export class FakeXsk implements Xsk {
  readonly #umem: Uint8Array;
  readonly #untouched: Uint8Array;
  readonly #frameBytes: number;
  readonly #headroom: number;
  readonly #rings = new Map<number, Rings>();
  /** Frames that the kernel has. */
  readonly owned = new Set<number>();
  /** Calls until the caller is killed. */
  callsLeft = Infinity;

  constructor(
    umem: View,
    { frameBytes, headroom = HEADROOM_BYTES }: { frameBytes: number; headroom?: number },
  ) {
    this.#umem = u8(umem);
    this.#untouched = new Uint8Array(frameBytes).fill(UNTOUCHED);
    this.#frameBytes = frameBytes;
    this.#headroom = headroom;
  }

  rings(slot: number): Rings {
    let rings = this.#rings.get(slot);
    if (rings === undefined) this.#rings.set(slot, rings = new Rings());
    return rings;
  }

  /** Receives a frame from the wire. False: there is no frame for it. */
  deliver(slot: number, bytes: Uint8Array): boolean {
    const { fill, rx, posted, moved } = this.rings(slot);
    const frame = posted.shift() ?? fill.shift();
    if (frame === undefined) return false;
    moved.came++;
    const memory = this.#umem.subarray(frame, frame + this.#frameBytes);
    assert.equal(Buffer.compare(memory, this.#untouched), 0, `frame ${frame} was written to`);
    const offset = frame + KERNEL_HEADROOM + this.#headroom;
    assert.ok(bytes.length <= frame + this.#frameBytes - offset);
    this.#umem.set(bytes, offset);
    rx.push([offset, bytes.length]);
    return true;
  }

  /** Frames sent since the last call. */
  sent(slot: number): Uint8Array[] {
    return this.rings(slot).sent.splice(0);
  }

  #take(offset: number): void {
    const frame = offset - offset % this.#frameBytes;
    assert.ok(!this.owned.has(frame), `frame ${frame} is the kernel's already`);
    this.owned.add(frame);
  }

  #give(offset: number): void {
    assert.ok(this.owned.delete(offset - offset % this.#frameBytes));
  }

  fd(slot: number): number {
    return 100 + slot;
  }

  adopt(fd: number): number {
    return fd - 100;
  }

  resume(): void {}
  release(): void {}
  memorySlot(..._: Parameters<Xsk["memorySlot"]>): number {
    return -1;
  }
  inject(): number {
    return 0;
  }

  /** Each call of a tile passes here, before and after its effect. */
  #step(): void {
    if (this.callsLeft-- <= 0) throw new Killed();
  }

  cursors(slot: number, out: Uint32Array): void {
    const { fill, rx, completion, slow, hides, moved } = this.rings(slot);
    const late = Math.min(slow, completion.length);
    assert.equal(rx.length, moved.came - moved.received);
    assert.equal(completion.length, moved.sent - moved.completed);
    out.set([
      ...[moved.filled, moved.filled - fill.length, moved.came, moved.received],
      ...[moved.sent, hides ? moved.sent : moved.sent - late],
      ...[moved.sent - late, moved.completed],
    ]);
  }

  visible(slot: number, out: Uint32Array): number {
    const { fill, rx, completion, slow, hides } = this.rings(slot);
    const seen = completion.slice(0, hides ? Math.max(0, completion.length - slow) : undefined);
    const offsets = [...fill, ...rx.map(([offset]) => offset), ...seen.map(([offset]) => offset)];
    out.set(offsets, VISIBLE_HEADER_WORDS);
    return fill.length + rx.length + seen.length;
  }

  receive(slot: number, descriptors: Uint32Array, most: number): number {
    this.#step();
    const frames = this.rings(slot).rx.splice(0, most);
    this.rings(slot).moved.received += frames.length;
    if (frames.length > 0) descriptors.set([0x1234, 0x5678]);
    frames.forEach(([offset, length], i) => {
      this.#give(offset);
      descriptors.set([offset, length], 2 + 2 * i);
    });
    this.#step();
    return frames.length;
  }

  prefetch(): void {}

  /** The next high word after `receive`'s, with the frame's offset as the low word. */
  times(_slot: number, descriptors: Uint32Array, count: number, out: Uint32Array): void {
    for (let i = 0; i < count; i++) {
      out.set([descriptors[RECEIVE_HEADER_WORDS + 2 * i], 0x5679], 2 * i);
    }
  }

  /** The time of `receive` plus 10 µs. */
  ticks(): number {
    return ticksOf(0x1234, 0x5678) + 40;
  }

  fill(slot: number, frames: Uint32Array, count: number): number {
    this.#step();
    const rings = this.rings(slot);
    const taken = Math.min(count, rings.fillRoom);
    rings.moved.filled += taken;
    rings.fillRoom -= taken;
    for (const frame of frames.subarray(0, taken)) {
      assert.equal(frame % this.#frameBytes, 0);
      this.#take(frame);
      this.#umem.set(this.#untouched, frame);
      rings.fill.push(frame);
    }
    this.#step();
    return taken;
  }

  transmit(slot: number, descriptors: Uint32Array, count: number): number {
    this.#step();
    const rings = this.rings(slot);
    const taken = Math.min(count, rings.room);
    rings.room -= taken;
    rings.moved.sent += taken;
    for (let i = 0; i < taken; i++) {
      const [offset, length] = descriptors.subarray(2 * i, 2 * i + 2);
      assert.ok(offset % this.#frameBytes + length <= this.#frameBytes);
      this.#take(offset);
      const bytes = this.#umem.slice(offset, offset + length);
      rings.sent.push(bytes.slice());
      rings.completion.push([offset, bytes]);
    }
    this.#step();
    return taken;
  }

  complete(slot: number, frames: Uint32Array, most: number, again: number): number {
    this.#step();
    const rings = this.rings(slot);
    const ready = Math.max(0, rings.completion.length - rings.slow);
    const done = rings.completion.splice(0, Math.min(most, ready));
    rings.room += done.length;
    rings.moved.completed += done.length;
    done.forEach(([offset, bytes], i) => {
      const now = this.#umem.subarray(offset, offset + bytes.length);
      assert.equal(Buffer.compare(now, bytes), 0, `frame at ${offset} changed while it was sent`);
      this.#give(offset);
      frames[i] = offset;
    });
    const taken = Math.min(again, done.length);
    const first = frames.subarray(0, taken).map((offset) => offset - offset % this.#frameBytes);
    return done.length | (this.fill(slot, first, taken) << 16);
  }

  statistics(_slot: number, _out: BigUint64Array): number {
    return 0;
  }

  /** Nothing blocks here, and all descriptors are reported ready. */
  wait(pollSet: Int32Array, count: number): number {
    for (let i = 0; i < count; i++) pollSet[2 * i + 1] |= pollSet[2 * i + 1] << 16;
    return count;
  }
}

/** A datagram in or out of a kernel socket. Addresses in host order. */
export interface Datagram {
  readonly source: number;
  readonly destination: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly payload: Uint8Array;
  /** TOS << 8 | TTL; absent in a sent one with the default. */
  readonly tosTtl?: number;
  /** When the kernel received it, low and high, if requested. */
  readonly time?: readonly number[];
}

/** UDP sockets in memory. */
export class FakeUdp implements Udp {
  readonly #incoming = new Map<number, Datagram[]>();
  /** The sockets of the watch, and their indices in the order in which epoll reports them. */
  #watched: Int32Array = new Int32Array();
  #order: number[] = [];
  readonly sent: (Datagram & { fd: number })[] = [];
  /** Destinations that the kernel refuses. */
  readonly refused = new Set<number>();
  /** Datagrams that the kernel takes before its buffer is full. */
  room = Infinity;

  /** A datagram for the socket `fd` arrives. */
  arrive(fd: number, datagram: Datagram): void {
    const queue = this.#incoming.get(fd) ?? [];
    queue.push(datagram);
    this.#incoming.set(fd, queue);
  }

  receive(
    fd: number,
    _port: number,
    memory: Uint8Array,
    buffers: Uint32Array,
    count: number,
    out: Uint32Array,
  ): number {
    const datagrams = (this.#incoming.get(fd) ?? []).splice(0, count);
    out.set([0x1234, 0x5678]);
    datagrams.forEach((datagram, i) => {
      const fits = Math.min(datagram.payload.length, UDP_BUFFER_BYTES);
      memory.set(datagram.payload.subarray(0, fits), buffers[i]);
      const { source, destination, sourcePort, destinationPort } = datagram;
      const ports = sourcePort * 0x10000 + destinationPort;
      const { tosTtl = 0, time = [0, 0] } = datagram;
      out.set(
        [buffers[i], fits, source, destination, ports, 1, tosTtl, ...time],
        RECEIVE_HEADER_WORDS + UDP_DESCRIPTOR_WORDS * i,
      );
    });
    return datagrams.length;
  }

  watch(fds: Int32Array): number {
    this.#watched = fds;
    this.#order = [...fds.keys()];
    return 900;
  }

  /** As epoll(7), level-triggered: reported sockets move to the end of its list. */
  ready(_watch: number, indices: Uint32Array, most: number): number {
    const ready = this.#order
      .filter((i) => (this.#incoming.get(this.#watched[i]) ?? []).length > 0)
      .slice(0, most);
    indices.set(ready);
    this.#order = [...this.#order.filter((i) => !ready.includes(i)), ...ready];
    return ready.length;
  }

  send(fd: number, memory: Uint8Array, descriptors: Uint32Array, count: number): number {
    for (let i = 0; i < count; i++) {
      const [offset, length, source, destination, ports, , tosTtl] = descriptors.subarray(
        UDP_DESCRIPTOR_WORDS * i,
      );
      if (this.refused.has(destination)) return i > 0 ? i : -13;
      if (this.room === 0) return i;
      this.room--;
      this.sent.push({
        fd,
        source,
        destination,
        sourcePort: ports >>> 16,
        destinationPort: ports & 0xffff,
        payload: memory.slice(offset, offset + length),
        ...(tosTtl !== 64 && { tosTtl }),
      });
    }
    return count;
  }
}
