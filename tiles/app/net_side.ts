/**
 * One net tile as an app sees it: the burst that came from it, and the memory that answers to it are
 * written in. Everything the net tile wrote is checked before an app sees it, everything the app
 * passes is checked again by the net tile.
 */

import type { View } from "../../ffi/view.ts";
import { APP } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import {
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  linkWords,
  PayloadRing,
  payloadRing,
} from "../runtime/link.ts";
import { TileReader, Waker } from "../runtime/tile_region.ts";
import type { Answers, Destination } from "./contract.ts";
import { checkWithin, noDatagram } from "./host.ts";
import { Requests } from "./requests.ts";

// Own constants, as in requests.ts.
const { Descriptor, REFLECTED } = link;
const COUNT = APP.index;

/** One net tile, as an app tile is joined to it. */
export interface NetJoin {
  /** The region this app writes. */
  readonly own: View;
  /** The region that net tile writes for this app. */
  readonly peer: View;
  /** Where the payloads of its requests are: in `peer` (`requestRing`), or that net tile's UMEM. */
  readonly payloads: View;
  readonly shape: LinkShape;
  /** That net tile's region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
}

/** The longest burst given to an app at once. */
const BURST = 64;

/** The answers' memory: the payload ring of the app's region. */
class Replies implements Answers {
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #link: LinkProducer;
  readonly #requests: Requests;
  readonly #counters: Float64Array;
  readonly #ring: PayloadRing;
  /** Where the link stood when this side joined: what is older was sent by who ran here before. */
  readonly #joined: number;
  /** Where what was reserved and is not sent yet begins, and its bytes; -1: nothing is. */
  #at = 0;
  #room = -1;
  /** Which request was sent back last: its frame leaves, and cannot do that twice. */
  #reflected = -1;

  constructor(
    join: NetJoin,
    { link, requests, counters }: {
      link: LinkProducer;
      requests: Requests;
      counters: Float64Array;
    },
  ) {
    this.bytes = payloadRing(join.own, join.shape);
    this.#words = new Uint32Array(
      this.bytes.buffer,
      this.bytes.byteOffset,
      this.bytes.byteLength >>> 2,
    );
    this.#link = link;
    this.#requests = requests;
    this.#counters = counters;
    this.#ring = new PayloadRing(join.shape.payloadBytes, join.shape.depth);
    this.#joined = link.pushed;
  }

  /** Whether answers of a predecessor have not been read yet, as of the last `refresh()`. */
  get isForeign(): boolean {
    return this.#link.depth - this.#link.free > this.#answered;
  }

  /** How many answers were pushed here. */
  get #answered(): number {
    return (this.#link.pushed - this.#joined) >>> 0;
  }

  /** Looks how far the net tile has read. Once per burst. */
  refresh(): void {
    this.#link.refresh();
  }

  reserve(size: number): number {
    this.#room = -1;
    const { free, pushed, depth } = this.#link;
    const outstanding = depth - free;
    // Where the payloads of a predecessor stand is not known: they have to be read first.
    if (free === 0 || outstanding > this.#answered) return this.#noRoom();
    const at = this.#ring.reserve(size, pushed, outstanding);
    if (at < 0) return this.#noRoom();
    this.#at = at;
    this.#room = size | 0;
    return at;
  }

  copy(offset: number): void {
    const from = this.#requests.offset;
    const size = this.#requests.size;
    let done = 0;
    if (((from | offset) & 3) === 0) {
      const source = this.#requests.words;
      const target = this.#words;
      const words = size >>> 2;
      const a = from >>> 2;
      const b = offset >>> 2;
      for (let w = 0; w < words; w++) target[b + w] = source[a + w];
      done = words << 2;
    }
    for (; done < size; done++) this.bytes[offset + done] = this.#requests.bytes[from + done];
  }

  reflect(): void {
    if (!this.#requests.isAtOne) throw noDatagram("reflect");
    this.#room = -1;
    const { place, size } = this.#requests;
    if (place !== this.#reflected) {
      this.#reflected = place;
      if (this.#link.free === 0) this.#noRoom();
      else this.#push(this.#link.slot(), place, REFLECTED, 0, 0);
      return;
    }
    const at = this.reserve(size);
    if (at < 0) return;
    this.copy(at);
    this.reply(at, size);
  }

  reply(offset: number, size: number): void {
    if (!this.#requests.isAtOne) throw noDatagram("reply");
    const slot = this.#slot(offset, size);
    if (slot < 0) return;
    this.#push(slot, offset, size, offset - this.#at + size, this.#requests.place + 1);
  }

  send(destination: Destination, offset: number, size: number): void {
    const { words } = this.#link;
    const slot = this.#slot(offset, size);
    if (slot < 0) return;
    words[slot + Descriptor.source] = destination.sourceAddress ?? 0;
    words[slot + Descriptor.destination] = destination.address;
    words[slot + Descriptor.ports] = (destination.sourcePort << 16) | destination.port;
    this.#push(slot, offset, size, offset - this.#at + size, 0);
  }

  /**
   * The next free descriptor, for `size` bytes at `offset`: what was reserved is sent with it. -1 where
   * nothing is reserved. Throws RangeError when they are not within what is.
   */
  #slot(offset: number, size: number): number {
    const room = this.#room;
    if (room < 0) return this.#noRoom();
    if (offset !== this.#at || !(size >= 0 && size <= room)) {
      checkWithin(offset, size, { at: this.#at, room });
    }
    this.#room = -1;
    return this.#link.slot();
  }

  #noRoom(): number {
    this.#counters[COUNT.tx_drop_reply_link_full]++;
    return -1;
  }

  /**
   * Takes the descriptor at `slot` into the burst, and `taken` bytes of the ring. `request` is as in
   * `Descriptor`.
   */
  #push(slot: number, offset: number, size: number, taken: number, request: number): void {
    const { words } = this.#link;
    words[slot + Descriptor.offset] = offset;
    words[slot + Descriptor.length] = size;
    words[slot + Descriptor.request] = request;
    this.#ring.take(this.#link.pushed, taken);
    this.#link.push();
    this.#counters[COUNT.answers]++;
  }
}

/** Both links of one net tile. */
export class NetSide {
  readonly requests: Requests;
  readonly answers: Answers & Pick<Replies, "isForeign" | "refresh">;
  readonly #consumer: LinkConsumer;
  readonly #producer: LinkProducer;
  readonly #waker: Waker;
  readonly #counters: Float64Array;
  /** Datagrams of the burst at hand. */
  #taken = 0;
  /** Whether answers of a predecessor may still be unread. */
  #follows = true;

  constructor(
    join: NetJoin,
    { counters, wake, handedOver = false }: {
      counters: Float64Array;
      wake: () => void;
      /** Whether a predecessor left between two bursts: what it has not read is ours then. */
      handedOver?: boolean;
    },
  ) {
    this.#counters = counters;
    this.#consumer = new LinkConsumer(join.own, join.peer, join.shape, { skip: !handedOver });
    this.#producer = new LinkProducer(join.own, join.peer, join.shape);
    this.requests = new Requests(join.payloads, {
      descriptors: this.#consumer.words,
      ...linkWords(join.shape),
    });
    this.answers = new Replies(join, {
      link: this.#producer,
      requests: this.requests,
      counters,
    });
    this.#waker = new Waker(new TileReader(join.tile), wake);
  }

  /** Whether datagrams wait. */
  get waiting(): boolean {
    return this.#consumer.available() > 0;
  }

  /** Takes the next burst into `requests` and returns its size. */
  take(): number {
    let count = Math.min(this.#consumer.available(), BURST);
    if (count > 0) this.#producer.refresh();
    if (this.#follows && count > 0) count = this.#afterPredecessor(count);
    this.#taken = count;
    this.requests.begin(this.#consumer.slot(0), count);
    return count;
  }

  /** Of a burst of `count`, how many can be taken: none while their answers would find no room. */
  #afterPredecessor(count: number): number {
    this.#follows = this.answers.isForeign;
    return this.#follows ? 0 : count;
  }

  /** Publishes the answers, passes the burst, and wakes the net tile if it sleeps. */
  finish(): void {
    this.#counters[COUNT.requests] += this.#taken;
    // Frames are given back in the same breath: the net tile learns of both by one wake-up.
    const published = this.#producer.publish();
    if (this.#taken > 0) this.#consumer.release(this.#taken);
    this.#taken = 0;
    this.requests.end();
    if (published) this.#waker.published();
  }
}
