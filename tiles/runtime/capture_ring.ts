/**
 * The capture ring: what a net tile shows of the frames that it has dealt with, each with what became
 * of it. One per net tile, written by it while a capture is on (`control.ts` says so), read by the
 * status tile.
 *
 *     word 0  records written so far, runs freely through 32 bits; moves once a record is whole
 *     byte 2048·n  record n − 1: eight words (flags, reason, interface, size, seconds, microseconds: see
 *                  `Captured`), then the first bytes of the frame
 *
 * The writer waits for nobody: it overwrites the oldest. A reader that is too slow sees by the cursor
 * how many it has lost. So a capture costs a bounded amount of memory and never a datagram.
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
