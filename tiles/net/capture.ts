/**
 * The net tile's side of `tegula capture`: copies what the tile has dealt with into its capture ring,
 * with what became of it. While no capture is on, all that this costs is one look at `wanted` per
 * burst; nothing here has to be fast.
 *
 * Frames are shown as they are on the wire. Datagrams that go by the kernel's sockets, and those that
 * were dropped before they had a frame, are shown as bare IPv4 packets with headers made for them.
 */

import { UDP_DESCRIPTOR_WORDS } from "../../ffi/udp.ts";
import { RECEIVE_HEADER_WORDS } from "../../ffi/xsk.ts";
import { CaptureFlag, type CaptureWriter, MOST_CAPTURED } from "../runtime/capture_ring.ts";
import { CaptureMode, type ControlReader } from "../runtime/control.ts";
import { Descriptor } from "../runtime/link.ts";
import { Arrival, ARRIVAL_SHIFT, type RxBatch } from "./rx.ts";
import { fold, IPPROTO_UDP, IPV4_BYTES, PACKET_HEADER_BYTES, UDP_BYTES } from "./frame.ts";

/** Words of a descriptor, and offsets of a row (`tx.ts`), are the same up to the ports. */
type Words = Int32Array | Uint32Array;

/** Shows what passes. Made once; does nothing until it is wanted. */
export class Capture {
  /** Whether anyone looks, as of the last `look`. */
  wanted = false;
  readonly #control: ControlReader;
  readonly #ring: CaptureWriter;
  #dropsOnly = false;

  constructor(control: ControlReader, ring: CaptureWriter) {
    this.#control = control;
    this.#ring = ring;
  }

  /** Sees whether a capture was begun or ended. Once per turn. */
  look(): void {
    const mode = this.#control.captureMode;
    this.wanted = mode !== CaptureMode.off;
    this.#dropsOnly = mode === CaptureMode.drops;
  }

  /** A burst from a receive ring, delivered or refused as its `apps` say. */
  received(arrivals: RxBatch, count: number, umem: Uint8Array): void {
    const now = nowMillis();
    for (let i = 0; i < count; i++) {
      const row = i << ARRIVAL_SHIFT;
      const app = arrivals.rows[row + Arrival.app];
      const at = arrivals.frames[RECEIVE_HEADER_WORDS + 2 * i];
      const size = arrivals.frames[RECEIVE_HEADER_WORDS + 2 * i + 1];
      const reason = app < 0 ? -app : 0;
      this.#frame(0, reason, arrivals.rows[row + Arrival.interface], umem, at, size, now);
    }
  }

  /** A frame that goes onto a transmit ring. */
  sent(umem: Uint8Array, at: number, size: number, ifindex: number): void {
    this.#frame(CaptureFlag.out, 0, ifindex, umem, at, size, nowMillis());
  }

  /**
   * A datagram from or to the kernel's sockets: its descriptor at word `at`, its payload at byte
   * `offset` of `memory`.
   */
  datagram(
    flags: number,
    reason: number,
    words: Words,
    at: number,
    memory: Uint8Array,
    offset: number,
  ): void {
    if (this.#dropsOnly && reason === 0) return;
    const length = words[at + Descriptor.length] & 0xffff;
    const { bytes, at: to } = this.#ring;
    writePacketHeader(new DataView(bytes.buffer, bytes.byteOffset + to), words, at, length);
    const end = Math.min(offset + length, offset + MOST_CAPTURED - PACKET_HEADER_BYTES);
    if (offset >= 0 && end <= memory.length) {
      bytes.set(memory.subarray(offset, end), to + PACKET_HEADER_BYTES);
    } else {
      bytes.fill(0, to + PACKET_HEADER_BYTES, to + PACKET_HEADER_BYTES + end - offset);
    }
    const ifindex = (flags & CaptureFlag.out) !== 0 ? 0 : words[at + Descriptor.interface];
    const size = PACKET_HEADER_BYTES + length;
    this.#ring.publish(flags | CaptureFlag.bare, reason, ifindex, size, nowMillis());
  }

  /** Datagrams in a row of a batch (`../../ffi/udp.ts`) for a kernel socket, with one fate. */
  handedOver(reason: number, batch: Uint32Array, count: number, memory: Uint8Array): void {
    for (let i = 0; i < count; i++) {
      const at = i * UDP_DESCRIPTOR_WORDS;
      const offset = batch[at + Descriptor.offset];
      this.datagram(CaptureFlag.out, reason, batch, at, memory, offset);
    }
  }

  #frame(
    flags: number,
    reason: number,
    ifindex: number,
    memory: Uint8Array,
    at: number,
    size: number,
    millis: number,
  ): void {
    if (this.#dropsOnly && reason === 0) return;
    const { bytes, at: to } = this.#ring;
    bytes.set(memory.subarray(at, at + Math.min(size, MOST_CAPTURED)), to);
    this.#ring.publish(flags, reason, ifindex, size, millis);
  }
}

/** Milliseconds since the epoch, with fractions. */
function nowMillis(): number {
  return performance.timeOrigin + performance.now();
}

/** IPv4 and UDP headers for the datagram of a descriptor, without a UDP checksum. */
function writePacketHeader(view: DataView, words: Words, at: number, length: number): void {
  const total = PACKET_HEADER_BYTES + length;
  view.setUint32(0, 0x45000000 | (total & 0xffff));
  view.setUint32(4, 0);
  view.setUint32(8, (64 << 24) | (IPPROTO_UDP << 16));
  view.setUint32(12, words[at + Descriptor.source]);
  view.setUint32(16, words[at + Descriptor.destination]);
  let sum = 0;
  for (let i = 0; i < IPV4_BYTES; i += 2) sum += view.getUint16(i);
  view.setUint16(10, ~fold(sum) & 0xffff);
  view.setUint32(IPV4_BYTES, words[at + Descriptor.ports]);
  view.setUint32(IPV4_BYTES + 4, ((UDP_BYTES + length) & 0xffff) << 16);
}
