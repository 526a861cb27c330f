/**
 * Writes captured frames as pcapng, which Wireshark and tshark read: a section, an interface block for
 * each interface and kind of link when it is first seen, and an enhanced packet block for each frame,
 * with its direction, and the reason of a drop as its comment.
 *
 * draft-ietf-opsawg-pcapng; lengths are multiples of four, byte order is little-endian.
 *
 * @module
 */

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;
/** Options: of every block, of a section, of an interface, of a packet. */
const OPT_COMMENT = 1;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const EPB_FLAGS = 2;

/** LINKTYPE_* of https://www.tcpdump.org/linktypes.html. */
const LINK_TYPES = { ethernet: 1, ipv4: 228 } as const;
/** Bits 0 and 1 of epb_flags. */
const DIRECTIONS = { in: 1, out: 2 } as const;

/** A frame with what is known of it. */
export interface CapturedPacket {
  /** Microseconds since the epoch. */
  readonly micros: bigint;
  /** "" where it is not known. */
  readonly interface: string;
  readonly link: keyof typeof LINK_TYPES;
  readonly direction: keyof typeof DIRECTIONS;
  /** "" for none. */
  readonly comment: string;
  readonly bytes: Uint8Array;
  /** Bytes that it had on the wire. */
  readonly size: number;
}

/** A pcapng file as it grows. */
export class CaptureFile {
  readonly #write: (bytes: Uint8Array) => void;
  readonly #interfaces = new Map<string, number>();

  /** Begins a section; `application` is who made it. */
  constructor(write: (bytes: Uint8Array) => void, application: string) {
    this.#write = write;
    const body = new Uint8Array(16);
    const view = new DataView(body.buffer);
    view.setUint32(0, BYTE_ORDER_MAGIC, true);
    view.setUint16(4, 1, true);
    // The section's length, all ones: not known.
    view.setBigInt64(8, -1n, true);
    this.#write(block(SECTION_HEADER, [body, option(SHB_USERAPPL, utf8(application)), END]));
  }

  /** Writes a frame. */
  packet(packet: CapturedPacket): void {
    const fields = new Uint8Array(20);
    const view = new DataView(fields.buffer);
    view.setUint32(0, this.#interface(packet.interface, packet.link), true);
    view.setUint32(4, Number(packet.micros >> 32n), true);
    view.setUint32(8, Number(packet.micros & 0xffffffffn), true);
    view.setUint32(12, packet.bytes.length, true);
    view.setUint32(16, packet.size, true);
    const flags = new Uint8Array(4);
    flags[0] = DIRECTIONS[packet.direction];
    const comment = packet.comment === "" ? [] : [option(OPT_COMMENT, utf8(packet.comment))];
    const options = [...comment, option(EPB_FLAGS, flags), END];
    this.#write(block(ENHANCED_PACKET, [fields, padded(packet.bytes), ...options]));
  }

  /** The number of an interface in this section, which is written when it is first asked for. */
  #interface(name: string, link: keyof typeof LINK_TYPES): number {
    const key = `${name} ${link}`;
    const known = this.#interfaces.get(key);
    if (known !== undefined) return known;
    const fields = new Uint8Array(8);
    new DataView(fields.buffer).setUint16(0, LINK_TYPES[link], true);
    const options = [option(IF_NAME, utf8(name === "" ? "unknown" : name)), END];
    this.#write(block(INTERFACE_DESCRIPTION, [fields, ...options]));
    this.#interfaces.set(key, this.#interfaces.size);
    return this.#interfaces.size - 1;
  }
}

/** opt_endofopt. */
const END = new Uint8Array(4);

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array((bytes.length + 3) & ~3);
  whole.set(bytes);
  return whole;
}

function option(code: number, value: Uint8Array): Uint8Array {
  const head = new Uint8Array(4);
  const view = new DataView(head.buffer);
  view.setUint16(0, code, true);
  view.setUint16(2, value.length, true);
  return concat([head, padded(value)]);
}

/** A block: its type, its length before and after the body. */
function block(type: number, parts: readonly Uint8Array[]): Uint8Array {
  const body = concat(parts);
  const head = new Uint8Array(8);
  const view = new DataView(head.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, body.length + 12, true);
  return concat([head, body, head.subarray(4)]);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
