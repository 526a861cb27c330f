/**
 * The frame of every netlink message: its header and its attributes, read with every length checked
 * and written in order. Decoders of what is inside stand beside this file, one per kind.
 *
 * Netlink speaks the host's byte order and aligns messages and attributes to four bytes, so a
 * buffer is read through three typed arrays made once; nothing is allocated per message. IPv4
 * addresses inside are big-endian and are turned into host order (198.18.0.1 is 0xc6120001).
 */

import { NLA_F_NESTED, NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN } from "./constants.ts";

/** The codec's one error: a message that cannot be what the kernel sends. */
export class MalformedMessage extends Error {
  override readonly name = "MalformedMessage";
}

/** A buffer of messages in the three widths that they are read in. Its start is 4-aligned. */
export class MessageBytes {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;

  /** Throws RangeError for memory that is not aligned to four bytes. */
  constructor(bytes: Uint8Array) {
    this.u8 = bytes;
    this.u16 = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 1);
    this.u32 = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
  }
}

/** Turns the byte order of a 32-bit word round. */
export function swap32(word: number): number {
  return (word << 24 | (word & 0xff00) << 8 | word >>> 8 & 0xff00 | word >>> 24) >>> 0;
}

/** Turns the byte order of a 16-bit word round. */
export function swap16(word: number): number {
  return (word & 0xff) << 8 | word >>> 8;
}

/**
 * Walks the messages of one datagram. After `next()` the fields are those of the header, and the
 * body, family header first, lies from `bodyAt` to `end`.
 */
export class MessageCursor {
  readonly bytes: MessageBytes;
  type = 0;
  flags = 0;
  sequence = 0;
  port = 0;
  bodyAt = 0;
  end = 0;
  #nextAt = 0;
  #limit = 0;

  constructor(bytes: MessageBytes) {
    this.bytes = bytes;
  }

  /** Begins with the datagram of `length` bytes at `offset`, a multiple of four. */
  begin(offset: number, length: number): void {
    this.#nextAt = offset;
    this.#limit = Math.min(offset + length, this.bytes.u8.length);
  }

  /** Goes to the next message; false after the last. Throws `MalformedMessage`. */
  next(): boolean {
    const at = this.#nextAt;
    const left = this.#limit - at;
    if (left <= 0) return false;
    // Whatever is thrown, the walk is over: the next begin() starts a new one.
    this.#nextAt = this.#limit;
    if (left < NLMSG_HDRLEN) throw new MalformedMessage(`${left} bytes are no netlink header`);
    const { u16, u32 } = this.bytes;
    const length = u32[at >>> 2];
    if (length < NLMSG_HDRLEN || length > left) {
      throw new MalformedMessage(`a netlink message of ${length} bytes in ${left}`);
    }
    this.type = u16[(at >>> 1) + 2];
    this.flags = u16[(at >>> 1) + 3];
    this.sequence = u32[(at >>> 2) + 2];
    this.port = u32[(at >>> 2) + 3];
    this.bodyAt = at + NLMSG_HDRLEN;
    this.end = at + length;
    this.#nextAt = at + ((length + 3) & ~3);
    return true;
  }

  /**
   * Where attributes begin behind a family header of `headerBytes`. Throws when that is not there.
   */
  attributesAt(headerBytes: number): number {
    const at = this.bodyAt + headerBytes;
    if (at > this.end) {
      throw new MalformedMessage(
        `message type ${this.type} has ${this.end - this.bodyAt} bytes, not ${headerBytes}`,
      );
    }
    return at;
  }
}

/**
 * Length of the attribute at `at`, header included, which lies wholly before `end`. The next one is
 * at `at + padded(length)`. Throws `MalformedMessage`.
 */
export function attributeLength({ u16 }: MessageBytes, at: number, end: number): number {
  const left = end - at;
  const length = left < NLA_HDRLEN ? 0 : u16[at >>> 1];
  if (length < NLA_HDRLEN || length > left) {
    throw new MalformedMessage(`an attribute of ${length} bytes in ${left}`);
  }
  return length;
}

/** Type of the attribute at `at`, without its flags. */
export function attributeType({ u16 }: MessageBytes, at: number): number {
  return u16[(at >>> 1) + 1] & NLA_TYPE_MASK;
}

/** A length with the padding to the next four bytes. */
export function padded(length: number): number {
  return (length + 3) & ~3;
}

/** Throws unless an attribute of `length` bytes holds `payload` bytes or more. */
export function needPayload(length: number, payload: number): void {
  if (length < NLA_HDRLEN + payload) {
    throw new MalformedMessage(`an attribute of ${length - NLA_HDRLEN} bytes, not ${payload}`);
  }
}

/** The 32-bit word in the attribute at `at`. */
export function attributeU32({ u32 }: MessageBytes, at: number, length: number): number {
  needPayload(length, 4);
  return u32[(at >>> 2) + 1];
}

/** The IPv4 address in the attribute at `at`, host order. */
export function attributeAddress({ u32 }: MessageBytes, at: number, length: number): number {
  needPayload(length, 4);
  return swap32(u32[(at >>> 2) + 1]);
}

/** The 64-bit number in the attribute at `at`, exact up to 2⁵³. */
export function attributeU64({ u32 }: MessageBytes, at: number, length: number): number {
  needPayload(length, 8);
  return u32[(at >>> 2) + 1] + u32[(at >>> 2) + 2] * 2 ** 32;
}

const text = new TextDecoder();

/**
 * The text in the attribute at `at`, up to its first zero byte. Allocates: not for hot messages.
 */
export function attributeString({ u8 }: MessageBytes, at: number, length: number): string {
  const bytes = u8.subarray(at + NLA_HDRLEN, at + length);
  const zero = bytes.indexOf(0);
  return text.decode(zero < 0 ? bytes : bytes.subarray(0, zero));
}

/**
 * The attributes from `at` to `end` of a message that comes seldom: the last of each type, each read
 * when it is asked for. What is not there is 0 or "". Throws `MalformedMessage`, as do its methods.
 */
export class Attributes {
  readonly #bytes: MessageBytes;
  /** Where each stands, header included, and its length. */
  readonly #places = new Map<number, readonly [at: number, length: number]>();

  constructor(bytes: MessageBytes, at: number, end: number) {
    this.#bytes = bytes;
    for (let from = at, length = 0; from < end; from += padded(length)) {
      length = attributeLength(bytes, from, end);
      this.#places.set(attributeType(bytes, from), [from, length]);
    }
  }

  /** Those of a message behind a family header of `headerBytes`. */
  static of(message: MessageCursor, headerBytes: number): Attributes {
    return new Attributes(message.bytes, message.attributesAt(headerBytes), message.end);
  }

  get types(): Iterable<number> {
    return this.#places.keys();
  }

  has(type: number): boolean {
    return this.#places.has(type);
  }

  u32(type: number, otherwise = 0): number {
    const place = this.#places.get(type);
    return place === undefined ? otherwise : attributeU32(this.#bytes, ...place);
  }

  address(type: number): number {
    const place = this.#places.get(type);
    return place === undefined ? 0 : attributeAddress(this.#bytes, ...place);
  }

  u64(type: number): number {
    const place = this.#places.get(type);
    return place === undefined ? 0 : attributeU64(this.#bytes, ...place);
  }

  string(type: number): string {
    const place = this.#places.get(type);
    return place === undefined ? "" : attributeString(this.#bytes, ...place);
  }

  /** The payload as bytes, `least` of them or more; null: it is not there. */
  payload(type: number, least = 0): Uint8Array | null {
    const place = this.#places.get(type);
    if (place === undefined) return null;
    const [at, length] = place;
    needPayload(length, least);
    return this.#bytes.u8.subarray(at + NLA_HDRLEN, at + length);
  }

  /** The attributes inside one; none when it is not there. */
  nested(type: number): Attributes {
    const [at, length] = this.#places.get(type) ?? [0, 0];
    return new Attributes(this.#bytes, at + NLA_HDRLEN, at + length);
  }
}

/**
 * Writes messages, one after the other's start. `begin`, then the family header and attributes in
 * order, then `finish`, which fills in the length. For requests and for tests; what does not fit
 * throws RangeError.
 */
export class MessageWriter {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #data: DataView;
  #at = 0;
  #start = 0;

  /** Messages of at most `capacity` bytes. */
  constructor(capacity = 256) {
    this.bytes = new Uint8Array(capacity);
    this.#data = new DataView(this.bytes.buffer);
  }

  /** Begins a message at `start`, a multiple of four. */
  begin(
    { type, flags, sequence = 0, start = 0 }: {
      type: number;
      flags: number;
      sequence?: number;
      start?: number;
    },
  ): this {
    this.#start = this.#at = start;
    return this.u32(0).u16(type).u16(flags).u32(sequence).u32(0);
  }

  u8(value: number): this {
    this.#data.setUint8(this.#at, value);
    this.#at += 1;
    return this;
  }

  u16(value: number): this {
    this.#data.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#data.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  /** An attribute with a 32-bit word. */
  word(type: number, value: number): this {
    return this.u16(NLA_HDRLEN + 4).u16(type).u32(value);
  }

  /** An attribute with an IPv4 address, given in host order. */
  address(type: number, address: number): this {
    return this.word(type, swap32(address));
  }

  /** An attribute with bytes, padded. */
  raw(type: number, bytes: Uint8Array): this {
    this.u16(NLA_HDRLEN + bytes.length).u16(type);
    this.bytes.set(bytes, this.#at);
    this.bytes.fill(0, this.#at + bytes.length, this.#at + padded(bytes.length));
    this.#at += padded(bytes.length);
    return this;
  }

  /** An attribute with zero-terminated text. */
  string(type: number, value: string): this {
    return this.raw(type, new TextEncoder().encode(`${value}\0`));
  }

  /** An attribute that holds what `inside` writes. */
  nested(type: number, inside: (writer: this) => void): this {
    return this.sized(() => this.u16(type | NLA_F_NESTED), inside);
  }

  /** A 16-bit length, then `header`, then what `inside` writes; the length covers all three. */
  sized(header: (writer: this) => void, inside: (writer: this) => void): this {
    const at = this.#at;
    this.u16(0);
    header(this);
    inside(this);
    this.#data.setUint16(at, this.#at - at, true);
    return this;
  }

  /** Fills in the message's length and returns where it ends. */
  finish(): number {
    this.#data.setUint32(this.#start, this.#at - this.#start, true);
    return this.#at;
  }
}
