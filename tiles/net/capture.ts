// SPDX-License-Identifier: Apache-2.0
/**
 * The net tile's side of `tegula capture`: copies frames into the tile's capture ring, with their fate.
 * Without a capture it costs one check of `wanted` per batch, so nothing here needs to be fast.
 *
 * Frames are shown as they are on the wire. Datagrams of the kernel's sockets, and those that were
 * dropped before they had a frame, are shown as bare IPv4 packets with headers made for them.
 */

import { u32, u8, type View } from "../../ffi/region.ts";
import { RECEIVE_HEADER_WORDS, UDP_DESCRIPTOR_WORDS, UdpDescriptor } from "../../ffi/shared.ts";
import { fence } from "../../netbase/rcu.ts";
import { CaptureMode, type ControlReader } from "../runtime/control.ts";
import {
  fold,
  IPPROTO_UDP,
  IPV4_BYTES,
  Packet,
  PACKET_HEADER_BYTES,
  PACKET_SHIFT,
  UDP_BYTES,
} from "./rings.ts";
import type { RxBatch } from "./rx.ts";

/** Copies what passes into the ring. Made once; inactive until a capture is on. */
export class Capture {
  /** Whether a capture is on, as of the last `poll`. */
  wanted = false;
  readonly #control: ControlReader;
  readonly #ring: CaptureWriter;
  #dropsOnly = false;

  constructor(control: ControlReader, ring: CaptureWriter) {
    this.#control = control;
    this.#ring = ring;
  }

  /** Checks whether a capture began or ended. Called once per turn. */
  poll(): void {
    const mode = this.#control.captureMode;
    this.wanted = mode !== CaptureMode.off;
    this.#dropsOnly = mode === CaptureMode.drops;
  }

  /** A batch from a receive ring; `app` in each packet is its recipient or the reason for its drop. */
  received({ frames, packets }: RxBatch, count: number, umem: Uint8Array): void {
    for (let i = 0; i < count; i++) {
      const p = i << PACKET_SHIFT;
      const app = packets[p + Packet.app];
      const at = frames[RECEIVE_HEADER_WORDS + 2 * i];
      const bytes = umem.subarray(at, at + frames[RECEIVE_HEADER_WORDS + 2 * i + 1]);
      this.#frame(0, app < 0 ? -app : 0, packets[p + Packet.interface], bytes);
    }
  }

  /** A frame that goes to a transmit ring. */
  sent(umem: Uint8Array, at: number, size: number, ifindex: number): void {
    this.#frame(CaptureFlag.out, 0, ifindex, umem.subarray(at, at + size));
  }

  /** A packet of an app that is dropped; its payload is in `memory`. */
  dropped(reason: number, packet: Int32Array, memory: Uint8Array): void {
    const ports = packet[Packet.ports];
    const words = new Uint32Array(UDP_DESCRIPTOR_WORDS);
    words[UdpDescriptor.offset] = packet[Packet.offset];
    words[UdpDescriptor.length] = packet[Packet.length];
    words[UdpDescriptor.source] = packet[Packet.local];
    words[UdpDescriptor.destination] = packet[Packet.peer];
    words[UdpDescriptor.ports] = (ports << 16) | (ports >>> 16);
    words[UdpDescriptor.tosTtl] = packet[Packet.tosTtl];
    this.datagram(CaptureFlag.out, reason, words, memory);
  }

  /** A datagram from or to a kernel socket, by its descriptor; its payload is in `memory`. */
  datagram(flags: number, reason: number, words: Uint32Array, memory: Uint8Array): void {
    if (this.#dropsOnly && reason === 0) return;
    const offset = words[UdpDescriptor.offset];
    const length = words[UdpDescriptor.length] & 0xffff;
    const { bytes, at } = this.#ring;
    writeBareHeaders(new DataView(bytes.buffer, bytes.byteOffset + at), words, length);
    const shown = Math.min(length, MOST_CAPTURED - PACKET_HEADER_BYTES);
    const to = at + PACKET_HEADER_BYTES;
    if (offset + shown <= memory.length) bytes.set(memory.subarray(offset, offset + shown), to);
    else bytes.fill(0, to, to + shown);
    const size = PACKET_HEADER_BYTES + length;
    const ifindex = words[UdpDescriptor.interface];
    this.#ring.publish(flags | CaptureFlag.bare, reason, ifindex, size, nowMillis());
  }

  #frame(flags: number, reason: number, ifindex: number, frame: Uint8Array): void {
    if (this.#dropsOnly && reason === 0) return;
    const { bytes, at: to } = this.#ring;
    bytes.set(frame.subarray(0, MOST_CAPTURED), to);
    this.#ring.publish(flags, reason, ifindex, frame.length, nowMillis());
  }
}

/** Milliseconds since the epoch, with fractions. */
function nowMillis(): number {
  return performance.timeOrigin + performance.now();
}

/** Writes IPv4 and UDP headers for the datagram of a descriptor, without a UDP checksum. */
function writeBareHeaders(view: DataView, words: Uint32Array, length: number): void {
  const total = PACKET_HEADER_BYTES + length;
  const tosTtl = words[UdpDescriptor.tosTtl];
  view.setUint32(0, 0x45000000 | ((tosTtl & 0xff00) << 8) | (total & 0xffff));
  view.setUint32(4, 0);
  view.setUint32(8, ((tosTtl & 0xff) << 24) | (IPPROTO_UDP << 16));
  view.setUint32(12, words[UdpDescriptor.source]);
  view.setUint32(16, words[UdpDescriptor.destination]);
  let sum = 0;
  for (let i = 0; i < IPV4_BYTES; i += 2) sum += view.getUint16(i);
  view.setUint16(10, ~fold(sum) & 0xffff);
  view.setUint32(IPV4_BYTES, words[UdpDescriptor.ports]);
  view.setUint32(IPV4_BYTES + 4, ((UDP_BYTES + length) & 0xffff) << 16);
}

// The capture ring holds the frames that a net tile has handled, each with its fate. While a capture is
// on (`control.ts`), the net tile writes it, never waits, and overwrites the oldest record. The status
// tile reads it, and computes from the cursor how many records it has lost. As a record may be
// overwritten while it is read, the reader copies it and then reads the cursor again.
//
//     word 0  records written so far, runs freely through 32 bits; moves once a record is whole
//     byte 2048·n  record n − 1: eight words (flags, reason, interface, size, seconds, microseconds: see
//                  `Captured`), then the first bytes of the frame

export const CAPTURE_RECORDS = 512;
const RECORD_BYTES = 2048;
const HEADER_WORDS = 8;
/** Bytes of a frame that are kept. Only a datagram of a kernel socket can be longer. */
export const MOST_CAPTURED = RECORD_BYTES - HEADER_WORDS * 4;
export const CAPTURE_BYTES = RECORD_BYTES * (CAPTURE_RECORDS + 1);

export const CaptureFlag = {
  /** Outgoing. */
  out: 1,
  /** It begins with the IPv4 header, because it has no Ethernet header, or none yet. */
  bare: 2,
} as const;

const WRITTEN = 0;

/** A record as returned to the reader. */
export interface Captured {
  /** Of {@linkcode CaptureFlag}. */
  readonly flags: number;
  /** Index of the counter (`NET`) of its drop; 0: it was not dropped. */
  readonly reason: number;
  /** Index of the interface; 0: unknown. */
  readonly ifindex: number;
  /** Bytes on the wire. `bytes` may be only the first of them. */
  readonly size: number;
  /** Since the epoch. */
  readonly seconds: number;
  readonly micros: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The net tile's end. */
export class CaptureWriter {
  /** The whole region, for the bytes of the current record, which begin at `at`. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly #words: Uint32Array;
  #written: number;

  constructor(view: View) {
    this.bytes = u8(view);
    this.#words = u32(view);
    this.#written = this.#words[WRITTEN];
  }

  /** Where to write the frame of the current record: up to `MOST_CAPTURED` bytes. */
  get at(): number {
    return this.#record * RECORD_BYTES + HEADER_WORDS * 4;
  }

  get #record(): number {
    return 1 + this.#written % CAPTURE_RECORDS;
  }

  /** Finishes the current record. Its frame of `size` bytes is in place, truncated to the room. */
  publish(flags: number, reason: number, ifindex: number, size: number, millis: number): void {
    const seconds = Math.floor(millis / 1000);
    const head = [flags, reason, ifindex, size, seconds, (millis - seconds * 1000) * 1000];
    this.#words.set(head, this.#record * RECORD_BYTES >>> 2);
    this.#written = (this.#written + 1) >>> 0;
    Atomics.store(this.#words, WRITTEN, this.#written);
    // Writes to the next record must not become visible before the cursor.
    fence(this.#words, WRITTEN);
  }
}

/** The status tile's end. There may be several. */
export class CaptureReader {
  /** Records that were overwritten before they were read. */
  lost = 0;
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  /** For `fence()`: the region is read-only here. */
  readonly #own = new Uint32Array(new SharedArrayBuffer(4));
  #read: number;

  /** Begins with the next record to be written. */
  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#read = Atomics.load(this.#words, WRITTEN);
  }

  /** The next record; null when there is none. */
  next(): Captured | null {
    for (;;) {
      let waiting = this.#waiting();
      // The writer may be writing the oldest slot before its cursor moves, so that one is never safe.
      if (waiting >= CAPTURE_RECORDS) {
        const skipped = waiting - CAPTURE_RECORDS / 2;
        this.lost += skipped;
        this.#read = (this.#read + skipped) >>> 0;
        waiting = CAPTURE_RECORDS / 2;
      }
      if (waiting === 0) return null;
      const record = this.#copy(1 + this.#read % CAPTURE_RECORDS);
      fence(this.#own, 0);
      if (this.#waiting() >= CAPTURE_RECORDS) continue;
      this.#read = (this.#read + 1) >>> 0;
      return record;
    }
  }

  #waiting(): number {
    return (Atomics.load(this.#words, WRITTEN) - this.#read) >>> 0;
  }

  #copy(record: number): Captured {
    const at = record * RECORD_BYTES;
    const [flags, reason, ifindex, size, seconds, micros] = this.#words.subarray(at >>> 2);
    const begin = at + HEADER_WORDS * 4;
    const bytes = new Uint8Array(this.#bytes.slice(begin, begin + Math.min(size, MOST_CAPTURED)));
    return { flags, reason, ifindex, size, seconds, micros, bytes };
  }
}
