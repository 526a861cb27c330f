/**
 * One net tile as an app sees it: the batch that came from it, and the memory in which answers to it are
 * written. All that the net tile wrote is checked before an app sees it, and all that the app passes is
 * checked again by the net tile.
 */

import { u32, u8, type View } from "../../ffi/region.ts";
import { APP } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import { TileReader, Waker } from "../runtime/tile_region.ts";
import type { Answers, Datagrams, Destination } from "./contract.ts";
import { checkWithin, noDatagram } from "./host.ts";

// V8 folds a module's own constants into the code; imported ones it loads and checks at each use.
const { Descriptor, DESCRIPTOR_WORDS, NO_DESCRIPTOR, PAYLOAD_MARGIN, REFLECTED } = link;
const COUNT = APP.index;

/** The longest batch given to an app at once. */
const BATCH = 64;
/** The largest UDP payload over IPv4 (RFC 768, RFC 791): 65,535 less both headers. */
const LARGEST_PAYLOAD = 65_507;

/** One net tile, as an app tile is joined to it. */
export interface NetJoin {
  /** The region this app writes. */
  readonly own: View;
  /** The region that net tile writes for this app. */
  readonly peer: View;
  /** Where the payloads of its requests are: in `peer` (`requestRing`), or that net tile's UMEM. */
  readonly payloads: View;
  readonly shape: link.LinkShape;
  /** That net tile's region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
}

/**
 * The current batch: descriptors of a link and the memory that their payloads are in. Fields are read
 * from the descriptors in place. Offset and size are bounded each time they are read, so that they stay
 * inside the memory even if the net tile changes them meanwhile: no payload begins in its last
 * `PAYLOAD_MARGIN` bytes.
 */
class Requests implements Datagrams {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Uint32Array<SharedArrayBuffer>;
  readonly #descriptors: Uint32Array;
  /** Word indices: first descriptor of the ring, its end, the current one, the one after that. */
  readonly #base: number;
  readonly #end: number;
  #at = NO_DESCRIPTOR;
  #following = 0;
  #left = 0;

  /** `descriptors`: the region of which some are of a link with this shape. */
  constructor(memory: View, descriptors: Uint32Array, shape: link.LinkShape) {
    this.bytes = u8(memory);
    this.words = u32(memory);
    this.#descriptors = descriptors;
    const { base, end } = link.linkWords(shape);
    this.#base = base;
    this.#end = end;
  }

  /** Begins a batch of `count` with the descriptor at word `first`. */
  begin(first: number, count: number): void {
    this.#at = NO_DESCRIPTOR;
    this.#following = first;
    this.#left = count;
  }

  /** Ends the batch: its datagrams are not the app's any more. */
  end(): void {
    this.#at = NO_DESCRIPTOR;
    this.#left = 0;
  }

  /** Whether there is a current datagram. */
  get isAtOne(): boolean {
    return this.#at !== NO_DESCRIPTOR;
  }

  /** Datagrams that `next` has not gone to yet. */
  get left(): number {
    return this.#left;
  }

  next(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    const at = this.#following;
    this.#at = at;
    this.#following = at + DESCRIPTOR_WORDS === this.#end ? this.#base : at + DESCRIPTOR_WORDS;
    return true;
  }
  get offset(): number {
    const offset = this.#descriptors[this.#at + Descriptor.offset];
    return offset <= this.bytes.length - PAYLOAD_MARGIN ? offset : 0;
  }
  get size(): number {
    const size = this.#descriptors[this.#at + Descriptor.length];
    return size <= LARGEST_PAYLOAD ? size : 0;
  }
  get sourceAddress(): number {
    return this.#descriptors[this.#at + Descriptor.source];
  }
  get sourcePort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] >>> 16;
  }
  get destinationAddress(): number {
    return this.#descriptors[this.#at + Descriptor.destination];
  }
  get destinationPort(): number {
    return this.#descriptors[this.#at + Descriptor.ports] & 0xffff;
  }
  get receivedAt(): number {
    const low = this.#descriptors[this.#at + Descriptor.timeLow];
    return this.#descriptors[this.#at + Descriptor.timeHigh] * 2 ** 32 + low;
  }
  /** The number of its descriptor in the link. */
  get place(): number {
    return ((this.#at - this.#base) / DESCRIPTOR_WORDS) | 0;
  }
}

/** The answers' memory: the payload ring of the app's region. */
class Replies implements Answers {
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #link: link.LinkProducer;
  readonly #requests: Requests;
  readonly #counters: Float64Array;
  readonly #ring: link.PayloadRing;
  /** Where the link was when this side joined: what is older, a predecessor sent. */
  readonly #joined: number;
  /** Where the room begins that was reserved and is not used yet, and its bytes; -1: nothing is reserved. */
  #at = 0;
  #room = -1;
  /** The request that was sent back last: its frame leaves, and cannot leave twice. */
  #reflected = -1;

  constructor(
    join: NetJoin,
    answers: link.LinkProducer,
    { requests, counters }: { requests: Requests; counters: Float64Array },
  ) {
    this.bytes = link.payloadRing(join.own, join.shape);
    const { buffer, byteOffset, byteLength } = this.bytes;
    this.#words = new Uint32Array(buffer, byteOffset, byteLength >>> 2);
    this.#link = answers;
    this.#requests = requests;
    this.#counters = counters;
    this.#ring = new link.PayloadRing(join.shape.payloadBytes, join.shape.depth);
    this.#joined = answers.pushed;
  }

  /** Whether answers of a predecessor have not been read yet, as of the last `refresh()`. */
  get isForeign(): boolean {
    return this.#link.depth - this.#link.free > this.#answered;
  }

  /** How many answers were pushed here. */
  get #answered(): number {
    return (this.#link.pushed - this.#joined) >>> 0;
  }

  /** Reads how far the net tile is. Once per batch. */
  refresh(): void {
    this.#link.refresh();
  }

  reserve(size: number): number {
    this.#room = -1;
    const { free, pushed, depth } = this.#link;
    const outstanding = depth - free;
    // Where the payloads of a predecessor are is not known: the net tile has to read them first.
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
   * The next free descriptor, for `size` bytes at `offset` of the reserved room. -1 when nothing is
   * reserved. Throws RangeError outside of the room.
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
   * Takes the descriptor at `slot` into the batch, and `taken` bytes of the ring. `request` is as in
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
  readonly #consumer: link.LinkConsumer;
  readonly #producer: link.LinkProducer;
  readonly #waker: Waker;
  readonly #counters: Float64Array;
  /** Datagrams of the current batch. */
  #taken = 0;
  /** Whether answers of a predecessor may still be unread. */
  #follows = true;

  constructor(
    join: NetJoin,
    { counters, wake, handedOver = false }: {
      counters: Float64Array;
      wake: () => void;
      /** Whether a predecessor left between two batches: then what it has not read is ours. */
      handedOver?: boolean;
    },
  ) {
    this.#counters = counters;
    this.#consumer = new link.LinkConsumer(join.own, join.peer, join.shape, { skip: !handedOver });
    this.#producer = new link.LinkProducer(join.own, join.peer, join.shape);
    const requests = new Requests(join.payloads, this.#consumer.words, join.shape);
    this.requests = requests;
    this.answers = new Replies(join, this.#producer, { requests, counters });
    this.#waker = new Waker(new TileReader(join.tile), wake);
  }

  /** Whether datagrams wait. */
  get waiting(): boolean {
    return this.#consumer.available() > 0;
  }

  /** Takes the next batch into `requests` and returns its size. */
  take(): number {
    let count = Math.min(this.#consumer.available(), BATCH);
    if (count > 0) this.#producer.refresh();
    if (this.#follows && count > 0) {
      // None while their answers would find no room.
      this.#follows = this.answers.isForeign;
      if (this.#follows) count = 0;
    }
    this.#taken = count;
    this.requests.begin(this.#consumer.slot(0), count);
    return count;
  }

  /** Publishes the answers, passes the batch, and wakes the net tile if it sleeps. */
  finish(): void {
    this.#counters[COUNT.requests] += this.#taken;
    // Both before the wake-up: the net tile sees answers and passed requests at once.
    const published = this.#producer.publish();
    if (this.#taken > 0) this.#consumer.release(this.#taken);
    this.#taken = 0;
    this.requests.end();
    if (published) this.#waker.published();
  }
}
