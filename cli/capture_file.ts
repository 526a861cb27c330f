/**
 * Writes captured frames as pcapng, which Wireshark and tshark read: a section, an interface block for
 * each interface and kind of link when it is first seen, and an enhanced packet block for each frame,
 * with its direction, and the reason of a drop as its comment.
 *
 * draft-ietf-opsawg-pcapng; lengths are multiples of four. The byte order is that of whoever writes,
 * which is little-endian on every machine this runs on.
 */

import { Buffer } from "node:buffer";
import type { CapturedFrame } from "../tiles/status/capture.ts";

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

/** A pcapng file as it grows. */
export class CaptureFile {
  readonly #write: (bytes: Uint8Array) => void;
  readonly #interfaces = new Map<string, number>();

  /** Begins a section of version 1.0 and unknown length; `application` is who made it. */
  constructor(write: (bytes: Uint8Array) => void, application: string) {
    this.#write = write;
    const fields = words(BYTE_ORDER_MAGIC, 1, 0xffffffff, 0xffffffff);
    write(block(SECTION_HEADER, fields, option(SHB_USERAPPL, Buffer.from(application)), END));
  }

  /** Writes a frame, with a comment unless that is "". */
  packet({ time, link, direction, size, ...captured }: CapturedFrame, comment: string): void {
    const number = this.#interface(captured.interface ?? "unknown", link);
    const micros = BigInt(time.replace(".", ""));
    const [high, low] = [Number(micros >> 32n), Number(micros & 0xffffffffn)];
    const bytes = Uint8Array.fromHex(captured.frame);
    this.#write(block(
      ENHANCED_PACKET,
      words(number, high, low, bytes.length, size),
      padded(bytes),
      ...comment === "" ? [] : [option(OPT_COMMENT, Buffer.from(comment))],
      option(EPB_FLAGS, words(DIRECTIONS[direction])),
      END,
    ));
  }

  /** The number of an interface in this section, which is written when it is first asked for. */
  #interface(name: string, link: keyof typeof LINK_TYPES): number {
    const key = `${name} ${link}`;
    const known = this.#interfaces.get(key);
    if (known !== undefined) return known;
    const named = option(IF_NAME, Buffer.from(name));
    this.#write(block(INTERFACE_DESCRIPTION, words(LINK_TYPES[link], 0), named, END));
    this.#interfaces.set(key, this.#interfaces.size);
    return this.#interfaces.size - 1;
  }
}

/** 32-bit words. */
function words(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** opt_endofopt. */
const END = words(0);

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes], (bytes.length + 3) & ~3);
}

function option(code: number, value: Uint8Array): Uint8Array {
  return Buffer.concat([words(value.length << 16 | code), padded(value)]);
}

/** A block: its type, its length before and after the body. */
function block(type: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const body = Buffer.concat(parts);
  const length = words(body.length + 12);
  return Buffer.concat([words(type), length, body, length]);
}
