/**
 * The frame of every netlink message: its header and its attributes, read with every length checked
 * and written in order. Decoders of what is inside stand beside this file, one per kind.
 *
 * Netlink speaks the host's byte order and aligns messages and attributes to four bytes, so a
 * buffer is read through three typed arrays made once; nothing is allocated per message. IPv4
 * addresses inside are big-endian and are turned into host order (198.18.0.1 is 0xc6120001).
 */

import { NLA_HDRLEN, NLA_TYPE_MASK, NLMSG_HDRLEN } from "./constants.ts";

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
function swap32(word: number): number {
  return (word << 24 | (word & 0xff00) << 8 | word >>> 8 & 0xff00 | word >>> 24) >>> 0;
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

  /** What an NLMSG_ERROR or NLMSG_DONE says: -errno, or 0. Throws when it says nothing. */
  get error(): number {
    this.attributesAt(4);
    return this.bytes.u32[this.bodyAt >>> 2] | 0;
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

/** A length with the padding to the next four bytes. */
export function padded(length: number): number {
  return (length + 3) & ~3;
}

/** Places for attributes by type; types from the last on, which nobody asks for, share that. */
const PLACES = 64;
const ETH_ALEN = 6;
const text = new TextDecoder();

/**
 * The attributes of a message, found by one walk and read when they are asked for (the kernel's
 * `nlattr *tb[]`): the last of each type; what is not there is 0 or "". Reused from one message to
 * the next where messages are many. Its methods throw `MalformedMessage`.
 */
export class Attributes {
  #bytes!: MessageBytes;
  /** Where each begins, header included; 0: it is not there. */
  readonly #places = new Uint32Array(PLACES);
  /** The types that are there, and how many. */
  readonly #seen = new Uint8Array(PLACES);
  #count = 0;

  /** Turns to those of a message behind a family header of `headerBytes`. */
  of(message: MessageCursor, headerBytes: number): this {
    return this.within(message.bytes, message.attributesAt(headerBytes), message.end);
  }

  /** Turns to those from `at` to `end`. */
  within(bytes: MessageBytes, at: number, end: number): this {
    this.#bytes = bytes;
    const places = this.#places;
    const seen = this.#seen;
    // To go through these few takes half as long as to fill all places.
    for (let i = 0; i < this.#count; i++) places[seen[i]] = 0;
    this.#count = 0;
    const { u16 } = bytes;
    for (let place = at, length = 0; place < end; place += padded(length)) {
      const left = end - place;
      length = left < NLA_HDRLEN ? 0 : u16[place >>> 1];
      if (length < NLA_HDRLEN || length > left) {
        throw new MalformedMessage(`an attribute of ${length} bytes in ${left}`);
      }
      let type = u16[(place >>> 1) + 1] & NLA_TYPE_MASK;
      if (type >= PLACES) type = PLACES - 1;
      if (places[type] === 0) seen[this.#count++] = type;
      places[type] = place;
    }
    return this;
  }

  /** The types that are there. */
  get types(): number[] {
    return [...this.#seen.subarray(0, this.#count)];
  }

  has(type: number): boolean {
    return this.#places[type] !== 0;
  }

  u32(type: number, otherwise = 0): number {
    return this.has(type) ? this.#bytes.u32[this.#payload(type, 4) >>> 2] : otherwise;
  }

  /** An IPv4 address, host order. */
  address(type: number): number {
    return swap32(this.u32(type));
  }

  /** Exact up to 2⁵³. */
  u64(type: number): number {
    if (!this.has(type)) return 0;
    const at = this.#payload(type, 8) >>> 2;
    return this.#bytes.u32[at] + this.#bytes.u32[at + 1] * 2 ** 32;
  }

  /** Reads a MAC address into `out`, in which it is 0 where there is none of six bytes: false. */
  mac(type: number, out: { macHead: number; macTail: number }): boolean {
    const { u16, u32 } = this.#bytes;
    const at = this.#places[type];
    const isMac = at !== 0 && u16[at >>> 1] === NLA_HDRLEN + ETH_ALEN;
    out.macHead = isMac ? u32[(at >>> 2) + 1] : 0;
    out.macTail = isMac ? u16[(at >>> 1) + 4] : 0;
    return isMac;
  }

  /** Text up to its first zero byte. */
  string(type: number): string {
    const bytes = this.payload(type) ?? new Uint8Array(0);
    const zero = bytes.indexOf(0);
    return text.decode(zero < 0 ? bytes : bytes.subarray(0, zero));
  }

  /** The payload as bytes, `least` of them or more; null: it is not there. */
  payload(type: number, least = 0): Uint8Array | null {
    if (!this.has(type)) return null;
    return this.#bytes.u8.subarray(this.#payload(type, least), this.#end(type));
  }

  /** Where the payload of one that is there begins and ends. */
  extent(type: number): { at: number; end: number } {
    return { at: this.#payload(type, 0), end: this.#end(type) };
  }

  /** Turns `into` to the attributes inside one; none when it is not there. */
  nested(type: number, into = new Attributes()): Attributes {
    const { at, end } = this.has(type) ? this.extent(type) : { at: 0, end: 0 };
    return into.within(this.#bytes, at, end);
  }

  /** Where the payload of one that is there begins, which has `least` bytes or more. */
  #payload(type: number, least: number): number {
    const at = this.#places[type];
    const bytes = this.#bytes.u16[at >>> 1] - NLA_HDRLEN;
    if (bytes < least) throw new MalformedMessage(`an attribute of ${bytes} bytes, not ${least}`);
    return at + NLA_HDRLEN;
  }

  #end(type: number): number {
    const at = this.#places[type];
    return at + this.#bytes.u16[at >>> 1];
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

  /** Messages of at most `capacity` bytes. */
  constructor(capacity = 256) {
    this.bytes = new Uint8Array(capacity);
    this.#data = new DataView(this.bytes.buffer);
  }

  /** Begins a message. */
  begin(
    { type, flags, sequence = 0 }: { type: number; flags: number; sequence?: number },
  ): this {
    this.#at = 0;
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

  /** Fills in the message's length and returns it. */
  finish(): number {
    this.#data.setUint32(0, this.#at, true);
    return this.#at;
  }
}
