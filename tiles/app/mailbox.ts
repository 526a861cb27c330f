// SPDX-License-Identifier: Apache-2.0
/**
 * The mailbox between an app's tile and its slow side: a queue of bytes in each direction, of fixed size.
 * Each side writes one region:
 *
 *     page 0    tile region of the writer, of which the other reads the sleep word
 *     page 1 …  a link as between net and app tiles: cursors, descriptors, payload ring
 *
 * Messages are copied in and out. A full mailbox refuses messages, so that no side waits.
 */

import { slice, type View } from "../../ffi/region.ts";
import {
  appLinkBytes,
  Descriptor,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  PayloadRing,
  payloadRing,
} from "../runtime/link.ts";
import { TILE_REGION_BYTES, TileReader, TileRegion, Waker } from "../runtime/tile.ts";
import type { Mailbox } from "./contract.ts";

const SHAPE: LinkShape = { depth: 1024, payloadBytes: 1 << 20 };
/** Bytes of either side's region. */
export const MAILBOX_BYTES = TILE_REGION_BYTES + appLinkBytes(SHAPE);
export const LONGEST_MAIL = 65_536;
/** The most messages that are taken at once. */
const MOST_AT_ONCE = 64;

/** One side's end. */
export class MailboxEnd implements Mailbox {
  /** The region with its sleep word, which the app's tile does not use: its own is in its tile region. */
  readonly region: TileRegion;
  readonly #producer: LinkProducer;
  readonly #consumer: LinkConsumer;
  readonly #ring = new PayloadRing(SHAPE.payloadBytes, SHAPE.depth);
  readonly #room: Uint8Array;
  readonly #received: Uint8Array;
  readonly #waker: Waker;
  /** The cursor of its queue when it joined. Older messages are a predecessor's. */
  readonly #joined: number;

  /** Skips waiting messages, which are a predecessor's. `sleeper` has the other side's sleep word; `wake` wakes it. */
  constructor(
    { own, peer, sleeper = peer }: { own: View; peer: View; sleeper?: View },
    wake: () => void,
  ) {
    const [ownLink, peerLink] = [own, peer].map((view) =>
      slice(view, TILE_REGION_BYTES, appLinkBytes(SHAPE))
    );
    this.region = new TileRegion(slice(own, 0, TILE_REGION_BYTES));
    this.#producer = new LinkProducer(ownLink, peerLink, SHAPE);
    this.#consumer = new LinkConsumer(ownLink, peerLink, SHAPE, { skip: true });
    this.#room = payloadRing(ownLink, SHAPE);
    this.#received = payloadRing(peerLink, SHAPE);
    this.#waker = new Waker(new TileReader(slice(sleeper, 0, TILE_REGION_BYTES)), wake);
    this.#joined = this.#producer.pushed;
  }

  post(bytes: Uint8Array): boolean {
    if (!(bytes instanceof Uint8Array)) throw new TypeError("a mail must be a Uint8Array");
    const size = bytes.length;
    if (size > LONGEST_MAIL) {
      throw new RangeError(`a mail has at most ${LONGEST_MAIL} bytes, not ${size}`);
    }
    const producer = this.#producer;
    const outstanding = producer.depth - producer.refresh();
    // The places of a predecessor's messages in the ring are unknown: the other side must take them first.
    const posted = (producer.pushed - this.#joined) >>> 0;
    if (outstanding === producer.depth || outstanding > posted) return false;
    const at = this.#ring.reserve(size, producer.pushed, outstanding);
    if (at < 0) return false;
    this.#room.set(bytes, at);
    const slot = producer.slot();
    producer.words[slot + Descriptor.offset] = at;
    producer.words[slot + Descriptor.length] = size;
    this.#ring.take(producer.pushed, size);
    producer.push();
    producer.publish();
    this.#waker.published();
    return true;
  }

  get waiting(): boolean {
    return this.#consumer.available() > 0;
  }

  /** Passes copies of at most `MOST_AT_ONCE` messages to `read`; returns how many, also those for which it threw. */
  take(read: (bytes: Uint8Array<ArrayBuffer>) => void): number {
    const consumer = this.#consumer;
    const count = Math.min(consumer.available(), MOST_AT_ONCE);
    for (let i = 0; i < count; i++) {
      const slot = consumer.slot(0);
      // Each is read once, as the other side may change it.
      const at = consumer.words[slot + Descriptor.offset];
      const size = consumer.words[slot + Descriptor.length];
      const isWithin = size <= LONGEST_MAIL && at <= SHAPE.payloadBytes - size;
      const bytes = isWithin ? new Uint8Array(this.#received.subarray(at, at + size)) : null;
      consumer.release(1);
      if (bytes !== null) read(bytes);
    }
    return count;
  }
}
