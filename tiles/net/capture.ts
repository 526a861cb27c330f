/**
 * The net tile's side of `tegula capture`: copies what the tile has dealt with into its capture ring,
 * with what became of it. Without a capture it costs one check of `wanted` per batch; nothing here has to
 * be fast.
 *
 * Frames are shown as they are on the wire. Datagrams of the kernel's sockets, and those that were
 * dropped before they had a frame, are shown as bare IPv4 packets with headers made for them.
 */

import { RECEIVE_HEADER_WORDS } from "../../ffi/xsk.ts";
import { CaptureFlag, type CaptureWriter, MOST_CAPTURED } from "../runtime/lossy_rings.ts";
import { CaptureMode, type ControlReader } from "../runtime/control.ts";
import { Descriptor, DESCRIPTOR_WORDS } from "../runtime/link.ts";
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

/** Shows what passes. Made once; does nothing until it is wanted. */
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

  /** Sees whether a capture was begun or ended. Once per turn. */
  poll(): void {
    const mode = this.#control.captureMode;
    this.wanted = mode !== CaptureMode.off;
    this.#dropsOnly = mode === CaptureMode.drops;
  }

  /** A batch from a receive ring, delivered or refused as each `app` says. */
  received({ frames, packets }: RxBatch, count: number, umem: Uint8Array): void {
    for (let i = 0; i < count; i++) {
      const p = i << PACKET_SHIFT;
      const app = packets[p + Packet.app];
      const at = frames[RECEIVE_HEADER_WORDS + 2 * i];
      const bytes = umem.subarray(at, at + frames[RECEIVE_HEADER_WORDS + 2 * i + 1]);
      this.#frame(0, app < 0 ? -app : 0, packets[p + Packet.interface], bytes);
    }
  }

  /** A frame that goes onto a transmit ring. */
  sent(umem: Uint8Array, at: number, size: number, ifindex: number): void {
    this.#frame(CaptureFlag.out, 0, ifindex, umem.subarray(at, at + size));
  }

  /** A packet that an app sent and that is dropped, its payload in `memory`. */
  dropped(reason: number, packet: Int32Array, memory: Uint8Array): void {
    const ports = packet[Packet.ports];
    const words = new Uint32Array(DESCRIPTOR_WORDS);
    words[Descriptor.offset] = packet[Packet.offset];
    words[Descriptor.length] = packet[Packet.length];
    words[Descriptor.source] = packet[Packet.local];
    words[Descriptor.destination] = packet[Packet.peer];
    words[Descriptor.ports] = (ports << 16) | (ports >>> 16);
    this.datagram(CaptureFlag.out, reason, words, memory);
  }

  /** A datagram from or to a kernel's socket, by its descriptor; its payload is in `memory`. */
  datagram(flags: number, reason: number, words: Uint32Array, memory: Uint8Array): void {
    if (this.#dropsOnly && reason === 0) return;
    const offset = words[Descriptor.offset];
    const length = words[Descriptor.length] & 0xffff;
    const { bytes, at } = this.#ring;
    writePacketHeader(new DataView(bytes.buffer, bytes.byteOffset + at), words, length);
    const shown = Math.min(length, MOST_CAPTURED - PACKET_HEADER_BYTES);
    const to = at + PACKET_HEADER_BYTES;
    if (offset + shown <= memory.length) bytes.set(memory.subarray(offset, offset + shown), to);
    else bytes.fill(0, to, to + shown);
    const size = PACKET_HEADER_BYTES + length;
    const ifindex = words[Descriptor.interface];
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

/** IPv4 and UDP headers for the datagram of a descriptor, without a UDP checksum. */
function writePacketHeader(view: DataView, words: Uint32Array, length: number): void {
  const total = PACKET_HEADER_BYTES + length;
  view.setUint32(0, 0x45000000 | (total & 0xffff));
  view.setUint32(4, 0);
  view.setUint32(8, (64 << 24) | (IPPROTO_UDP << 16));
  view.setUint32(12, words[Descriptor.source]);
  view.setUint32(16, words[Descriptor.destination]);
  let sum = 0;
  for (let i = 0; i < IPV4_BYTES; i += 2) sum += view.getUint16(i);
  view.setUint16(10, ~fold(sum) & 0xffff);
  view.setUint32(IPV4_BYTES, words[Descriptor.ports]);
  view.setUint32(IPV4_BYTES + 4, ((UDP_BYTES + length) & 0xffff) << 16);
}
