/**
 * Two rings whose writer waits for nobody and overwrites the oldest record: the capture ring and the solicit
 * link. A reader that is too slow finds by the cursor how many records it has lost. A record may be
 * overwritten while it is read, so the reader copies it and then reads the cursor again.
 *
 * The capture ring has the frames that a net tile has dealt with, each with what became of it. One per net
 * tile, which writes it while a capture is on (`control.ts`). The status tile reads it.
 *
 *     word 0  records written so far, runs freely through 32 bits; moves once a record is whole
 *     byte 2048·n  record n − 1: eight words (flags, reason, interface, size, seconds, microseconds: see
 *                  `Captured`), then the first bytes of the frame
 */

import { u32, u8, type View } from "../../ffi/region.ts";
import { fence } from "../../netbase/rcu.ts";

/** Records that a ring keeps. */
export const CAPTURE_RECORDS = 512;
const RECORD_BYTES = 2048;
const HEADER_WORDS = 8;
/** Bytes of a frame that are kept: all of it but where a datagram came by the kernel's sockets. */
export const MOST_CAPTURED = RECORD_BYTES - HEADER_WORDS * 4;
/** Bytes of the region. */
export const CAPTURE_BYTES = RECORD_BYTES * (CAPTURE_RECORDS + 1);

/** Flags of a record. */
export const CaptureFlag = {
  /** On its way out. */
  out: 1,
  /** It begins with the IPv4 header: there is no Ethernet header, or none yet. */
  bare: 2,
} as const;

const WRITTEN = 0;

/** A record as it is read. */
export interface Captured {
  /** Of {@linkcode CaptureFlag}. */
  readonly flags: number;
  /** Index of the counter (`NET`) that says why it was dropped; 0: it was not. */
  readonly reason: number;
  /** 0: not known. */
  readonly ifindex: number;
  /** Bytes on the wire, of which `bytes` may be the first. */
  readonly size: number;
  /** Since the epoch. */
  readonly seconds: number;
  readonly micros: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The net tile's end. */
export class CaptureWriter {
  /** The whole region, for the bytes of the record at hand, which begin at `at`. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly #words: Uint32Array;
  #written: number;

  constructor(view: View) {
    this.bytes = u8(view);
    this.#words = u32(view);
    this.#written = this.#words[WRITTEN];
  }

  /** Where the frame of the record at hand is to be put: up to `MOST_CAPTURED` bytes. */
  get at(): number {
    return this.#record * RECORD_BYTES + HEADER_WORDS * 4;
  }

  get #record(): number {
    return 1 + this.#written % CAPTURE_RECORDS;
  }

  /** Finishes the record at hand, whose frame of `size` bytes is in place as far as there is room. */
  publish(flags: number, reason: number, ifindex: number, size: number, millis: number): void {
    const seconds = Math.floor(millis / 1000);
    const head = [flags, reason, ifindex, size, seconds, (millis - seconds * 1000) * 1000];
    this.#words.set(head, this.#record * RECORD_BYTES >>> 2);
    this.#written = (this.#written + 1) >>> 0;
    Atomics.store(this.#words, WRITTEN, this.#written);
    // What is written into the next record must not be seen before the cursor is.
    fence(this.#words, WRITTEN);
  }
}

/** The status tile's end; any number of them. */
export class CaptureReader {
  /** Records that were overwritten before they were read. */
  lost = 0;
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  /** For `fence()`: the region cannot be written. */
  readonly #own = new Uint32Array(new SharedArrayBuffer(4));
  #read: number;

  /** Begins with what is written from now on. */
  constructor(view: View) {
    this.#words = u32(view);
    this.#bytes = u8(view);
    this.#read = Atomics.load(this.#words, WRITTEN);
  }

  /** The next record; null when there is none. */
  next(): Captured | null {
    for (;;) {
      let waiting = this.#waiting();
      // The writer may be at the slot of the oldest before its cursor moves: that one is never safe.
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

// The solicit link: a net tile's only way to ask for something. A message is two words, interface index and
// IPv4 address (host order), and nothing else, because it is the one path from untrusted traffic into the
// netlink tile.

/**
 * Messages that fit, a power of two: what a flood of ten million a second puts in while the netlink
 * tile waits some milliseconds for a processor.
 */
export const SOLICIT_DEPTH = 65_536;

/** Of these, the oldest that are not safe to read: the producer may be overwriting them unpublished. */
const UNSAFE = SOLICIT_DEPTH >>> 2;

const PRODUCED = 0;
const MESSAGES_AT = 16;
/** Bytes of the region, in pages. */
export const SOLICIT_LINK_BYTES = Math.ceil((MESSAGES_AT + SOLICIT_DEPTH * 2) * 4 / 4096) * 4096;

/** The net tile's end. */
export class SolicitProducer {
  readonly #words: Uint32Array;
  #head: number;

  constructor(own: View) {
    this.#words = u32(own);
    this.#head = this.#words[PRODUCED];
  }

  /** Asks for the neighbour `address` (host order) on `ifindex`; goes out with the next publish. */
  push(ifindex: number, address: number): void {
    const at = MESSAGES_AT + (this.#head & (SOLICIT_DEPTH - 1)) * 2;
    this.#words[at] = ifindex;
    this.#words[at + 1] = address;
    this.#head = (this.#head + 1) >>> 0;
  }

  /** Publishes what was pushed by one store; false when there was nothing. */
  publish(): boolean {
    if (this.#words[PRODUCED] === this.#head) return false;
    Atomics.store(this.#words, PRODUCED, this.#head);
    // What is pushed from now on must not be seen before the cursor is.
    fence(this.#words, PRODUCED);
    return true;
  }
}

/** The netlink tile's end, one per net tile. */
export class SolicitConsumer {
  readonly #words: Uint32Array;
  /** For `fence()`: the region cannot be written. */
  readonly #own = new Uint32Array(new SharedArrayBuffer(4));
  #tail: number;
  /** Messages that were overwritten before they were read. */
  lapped = 0;

  /** Begins with what is asked from now on. */
  constructor(peer: View) {
    this.#words = u32(peer);
    this.#tail = Atomics.load(this.#words, PRODUCED);
  }

  /** Whether anything has been asked that was not taken yet. */
  get waiting(): boolean {
    return Atomics.load(this.#words, PRODUCED) !== this.#tail;
  }

  /** Takes at most `most` messages as pairs into `out` and returns how many. */
  take(out: Uint32Array, most: number): number {
    let head = Atomics.load(this.#words, PRODUCED);
    if (((head - this.#tail) >>> 0) > SOLICIT_DEPTH - UNSAFE) this.#skip(head);
    const waiting = (head - this.#tail) >>> 0;
    const count = Math.min(most, waiting, out.length >>> 1);
    for (let i = 0; i < count; i++) {
      const at = MESSAGES_AT + ((this.#tail + i) & (SOLICIT_DEPTH - 1)) * 2;
      out[i * 2] = this.#words[at];
      out[i * 2 + 1] = this.#words[at + 1];
    }
    // The producer overwrites slots from `head` on before it publishes them.
    fence(this.#own, 0);
    head = Atomics.load(this.#words, PRODUCED);
    const behind = (head - this.#tail) >>> 0;
    if (behind > SOLICIT_DEPTH - UNSAFE) {
      this.#skip(head);
      return 0;
    }
    this.#tail = (this.#tail + count) >>> 0;
    return count;
  }

  /** Passes what was overwritten, and the older half of what was not: it soon will be. */
  #skip(head: number): void {
    const tail = (head - SOLICIT_DEPTH / 2) >>> 0;
    this.lapped += (tail - this.#tail) >>> 0;
    this.#tail = tail;
  }
}
