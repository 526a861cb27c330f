// SPDX-License-Identifier: Apache-2.0
/**
 * Links: how net and app tiles pass datagrams to each other. Single producer, single consumer, fixed
 * depth, descriptors of eight words. Two regions form a pair of links, one written by each side:
 *
 *     written by net:  cursor of net→app │ how far net has read app→net │ descriptors net→app │ payloads
 *     written by app:  cursor of app→net │ how far app has read net→app │ descriptors app→net │ payloads
 *
 * So each region has one writer, and an impossible cursor is not trusted. An app reads the payloads of
 * its requests in the ring at the end of the net tile's region or, if it is the only app, in the UMEM:
 * then there is no such ring. Cursors run freely through 32 bits and are published once per burst.
 */

import { slice, u32, u8, type View } from "../../ffi/region.ts";

/** The largest UDP payload over IPv4 (RFC 768, RFC 791): 65,535 bytes less both headers. */
export const LARGEST_PAYLOAD = 65_507;

export const DESCRIPTOR_WORDS = 8;

/**
 * Word offsets in a descriptor. Addresses are host order (198.18.0.1 is 0xc6120001). `offset` counts
 * bytes from the start of the memory with the payload: a payload ring, or for net→app the UMEM. In
 * app→net the source is the address that sends the answer (0: choose as the kernel would).
 * `timeLow/High` are CLOCK_REALTIME nanoseconds when the burst was taken from the ring.
 */
export const Descriptor = {
  offset: 0,
  /** net→app: the lower half; the upper one is TOS << 8 | TTL of the request's IPv4 header. */
  length: 1,
  source: 2,
  destination: 3,
  /** source port << 16 | destination port */
  ports: 4,
  /** net→app: the interface on which the request arrived. */
  interface: 5,
  /** app→net: the slot, plus 1, of the answered request; addresses are then ignored. 0: use the addresses. */
  request: 5,
  /** app→net: TOS << 8 | TTL of the answer's IPv4 header; a TTL of 0 means 64. */
  tosTtl: 6,
  timeLow: 6,
  timeHigh: 7,
} as const;

/** As the length of an answer: return the request of the `offset`-th descriptor. All else is ignored. */
export const REFLECTED = 0xffff_ffff;

/** The word of the first descriptor, and log2 of a descriptor's words. */
const FIRST_DESCRIPTOR = 32;
const DESCRIPTOR_SHIFT = 3;
const MOST_DESCRIPTORS = 1 << 16;

/**
 * Word index of a descriptor. The mask changes nothing, but shows V8 that no index overflows, which
 * saves a check at every access; for the same reason cursors are kept as signed words.
 */
function descriptorAt(slot: number): number {
  return FIRST_DESCRIPTOR + ((slot & (MOST_DESCRIPTORS - 1)) << DESCRIPTOR_SHIFT);
}

const PRODUCED = 0;
const CONSUMED = 16;
const DESCRIPTORS_AT = FIRST_DESCRIPTOR * 4;

/** Index of words that read as a descriptor of zeros, in either region. They are between the two cursors. */
export const NO_DESCRIPTOR = 8;

/** The memory of requests continues this far after the last valid offset, so no payload exceeds it. */
export const PAYLOAD_MARGIN = 65_536;

/** Size of a link pair. All are powers of two; `depth` is at most 65,536. */
export interface LinkShape {
  readonly depth: number;
  /** Bytes of the ring for payloads of answers. */
  readonly payloadBytes: number;
  /** Bytes of the ring for copies of requests' payloads; absent: payloads stay in the UMEM. */
  readonly requestBytes?: number;
}

/** Bytes of the cursors and descriptors in either region. Payloads follow them. */
function descriptorBytes({ depth }: LinkShape): number {
  return DESCRIPTORS_AT + depth * DESCRIPTOR_WORDS * 4;
}

/** Bytes of the region that the net side writes. */
export function netLinkBytes(shape: LinkShape): number {
  const { requestBytes } = shape;
  return descriptorBytes(shape) + (requestBytes === undefined ? 0 : requestBytes + PAYLOAD_MARGIN);
}

/** Bytes of the region that the app side writes. */
export function appLinkBytes(shape: LinkShape): number {
  return descriptorBytes(shape) + shape.payloadBytes;
}

/** Word indices of a link's descriptors in either region: of the first, and of their end. */
export function linkWords({ depth }: LinkShape): { base: number; end: number } {
  const base = DESCRIPTORS_AT >>> 2;
  return { base, end: base + depth * DESCRIPTOR_WORDS };
}

/** The payload ring at the end of the app's region. */
export function payloadRing(app: View, shape: LinkShape): Uint8Array<SharedArrayBuffer> {
  return u8(slice(app, descriptorBytes(shape), shape.payloadBytes));
}

/** The payload ring at the end of the net side's region, margin included; null: there is none. */
export function requestRing(net: View, shape: LinkShape): View | null {
  const { requestBytes } = shape;
  if (requestBytes === undefined) return null;
  return slice(net, descriptorBytes(shape), requestBytes + PAYLOAD_MARGIN);
}

/**
 * The free bytes of a payload ring, as tracked by its writer. Payloads are contiguous, each at a
 * multiple of eight; one that would cross the end is put at the start. What the reader has passed is
 * free; positions run freely through 32 bits.
 */
export class PayloadRing {
  /** Where the payload of each descriptor begins. Free room ends at the oldest outstanding one. */
  readonly #starts: Int32Array;
  readonly #mask: number;
  /** Where free room begins, and the last reservation. */
  #head = 0;
  #start = 0;

  /** `bytes` is its size, `depth` that of its link, and `starts` memory for that many words. */
  constructor(bytes: number, depth: number, starts: Int32Array = new Int32Array(depth)) {
    this.#starts = starts;
    this.#mask = bytes - 1;
  }

  /** Continues from a predecessor with the same `starts`: the last of `pushed` took `bytes`. */
  resume(pushed: number, bytes: number): void {
    const last = this.#starts[(pushed - 1) & (this.#starts.length - 1)];
    this.#start = this.#head = (last + ((bytes + 7) & ~7)) | 0;
  }

  /** Offset of `size` contiguous bytes; -1: none now. `outstanding` of the `pushed` descriptors are in use. */
  reserve(size: number, pushed: number, outstanding: number): number {
    const mask = this.#mask;
    // If none is outstanding the ring begins at its start again, which keeps it in the cache.
    if (outstanding === 0) this.#head = 0;
    let at = this.#head;
    if ((at & mask) + size > mask + 1) at = (at + mask + 1 - (at & mask)) | 0;
    const end = (at + ((size + 7) & ~7)) | 0;
    const starts = this.#starts;
    const tail = outstanding === 0 ? at : starts[(pushed - outstanding) & (starts.length - 1)];
    if (size > mask + 1 || ((end - tail) >>> 0) > mask + 1) return -1;
    this.#start = this.#head = at;
    return at & mask;
  }

  /** The `pushed`-th descriptor takes `bytes` of the last reservation. Later ones may take the same. */
  take(pushed: number, bytes: number): void {
    const starts = this.#starts;
    starts[pushed & (starts.length - 1)] = this.#start;
    this.#head = (this.#start + ((bytes + 7) & ~7)) | 0;
  }

  /** The `pushed`-th descriptor takes nothing. No later one takes what was reserved before it. */
  skip(pushed: number): void {
    this.#start = this.#head;
    this.take(pushed, 0);
  }
}

export class LinkProducer {
  /** The descriptors and cursors as words; write descriptor fields at `slot()`. */
  readonly words: Uint32Array;
  readonly depth: number;
  /** How often the consumer's cursor was impossible. */
  corrupt = 0;
  readonly #peer: Uint32Array;
  #head: number;
  #published: number;
  #passed: number;

  /** A restarted side continues from its own cursor; with `trusts`, from the other's if its own is impossible. */
  constructor(own: View, peer: View, shape: LinkShape, { trusts = false } = {}) {
    this.words = u32(own);
    this.#peer = u32(peer);
    this.depth = shape.depth;
    this.#head = this.words[PRODUCED] | 0;
    const seen = Atomics.load(this.#peer, CONSUMED) | 0;
    if (trusts && ((this.#head - seen) >>> 0) > this.depth) {
      this.#head = seen;
      Atomics.store(this.words, PRODUCED, seen);
    }
    this.#published = this.#head;
    this.#passed = (this.#head - this.depth) | 0;
    this.refresh();
  }

  /** How many descriptors the consumer has passed since the link was made, a signed word. */
  get passed(): number {
    return this.#passed;
  }

  /** How many were pushed, published or not, a signed word. */
  get pushed(): number {
    return this.#head;
  }

  /** Returns how many descriptors are free. Ignores a peer's cursor before its last value or after the published one. */
  refresh(): number {
    const seen = Atomics.load(this.#peer, CONSUMED);
    if (((this.#published - seen) >>> 0) <= ((this.#published - this.#passed) >>> 0)) {
      this.#passed = seen | 0;
    } else {
      this.corrupt++;
    }
    return this.depth - ((this.#head - this.#passed) >>> 0);
  }

  /** Free descriptors as of the last `refresh()`. */
  get free(): number {
    return this.depth - ((this.#head - this.#passed) >>> 0);
  }

  /** Word index of the next descriptor to be written. Valid only while `free` is not 0. */
  slot(): number {
    return descriptorAt(this.#head & (this.depth - 1));
  }

  /** Word index of the descriptor in this slot of the link. */
  slotAt(slot: number): number {
    return descriptorAt(slot);
  }

  /** Adds the descriptor just written to the burst. */
  push(): void {
    this.#head = (this.#head + 1) | 0;
  }

  /** Publishes the burst by one store. Returns false if there was nothing new. */
  publish(): boolean {
    if (this.#published === this.#head) return false;
    this.#published = this.#head;
    Atomics.store(this.words, PRODUCED, this.#head);
    return true;
  }
}

export class LinkConsumer {
  /** The other side's descriptors as words; read-only. Check values before you use them. */
  readonly words: Uint32Array;
  readonly depth: number;
  /** How often the producer's cursor was impossible. */
  corrupt = 0;
  readonly #own: Uint32Array;
  #tail: number;

  /** `skip`: skips published descriptors, so that a restarted app's frames return. `trusts` is as for a producer. */
  constructor(own: View, peer: View, shape: LinkShape, { skip = false, trusts = false } = {}) {
    this.#own = u32(own);
    this.words = u32(peer);
    this.depth = shape.depth;
    const published = Atomics.load(this.words, PRODUCED) | 0;
    const isWrong = ((published - this.#own[CONSUMED]) >>> 0) > this.depth;
    this.#tail = skip || (trusts && isWrong) ? published : this.#own[CONSUMED] | 0;
    Atomics.store(this.#own, CONSUMED, this.#tail);
  }

  /** How many descriptors wait. A cursor that claims more than `depth` is impossible, and counts as nothing new. */
  available(): number {
    const waiting = (Atomics.load(this.words, PRODUCED) - this.#tail) >>> 0;
    if (waiting <= this.depth) return waiting;
    this.corrupt++;
    return 0;
  }

  /** Word index of the `i`-th waiting descriptor, `i` below `available()`. */
  slot(i: number): number {
    return descriptorAt((this.#tail + i) & (this.depth - 1));
  }

  /** Passes `count` descriptors by one store: the producer may reuse their payloads. */
  release(count: number): void {
    this.#tail = (this.#tail + count) | 0;
    Atomics.store(this.#own, CONSUMED, this.#tail);
  }
}
