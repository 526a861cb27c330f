/**
 * The events that arrived while a part of the mirror was being read. They are applied at once, so
 * that nothing waits for a long dump, and kept here to be applied once more at its end: a dump may
 * have told something as it was before an event that was already applied.
 */

import { MessageBytes, MessageCursor, NLMSG_HDRLEN, padded } from "./codec.ts";

const FIRST_BYTES = 1 << 16;
/** Half a million route events. With more than that the dump is given up and begun anew. */
const MOST_BYTES = 64 << 20;

/** A list of messages. */
export class EventLog {
  /** There was more than it takes. */
  overflowed = false;
  #bytes = new Uint8Array(FIRST_BYTES);
  #used = 0;

  /** Forgets everything. */
  clear(): void {
    this.#used = 0;
    this.overflowed = false;
    if (this.#bytes.length > FIRST_BYTES) this.#bytes = new Uint8Array(FIRST_BYTES);
  }

  /** Copies the message that `cursor` is at. */
  add({ bytes, bodyAt, end }: MessageCursor): void {
    const from = bodyAt - NLMSG_HDRLEN;
    const needed = this.#used + padded(end - from);
    if (needed > this.#bytes.length && !this.#grow(needed)) return;
    this.#bytes.set(bytes.u8.subarray(from, end), this.#used);
    this.#used = needed;
  }

  #grow(needed: number): boolean {
    if (needed > MOST_BYTES) this.overflowed = true;
    if (this.overflowed) return false;
    const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    larger.set(this.#bytes.subarray(0, this.#used));
    this.#bytes = larger;
    return true;
  }

  /** Calls `each` with a cursor at every message, in order. */
  forEach(each: (message: MessageCursor) => void): void {
    const cursor = new MessageCursor(new MessageBytes(this.#bytes));
    cursor.begin(0, this.#used);
    while (cursor.next()) each(cursor);
  }
}
