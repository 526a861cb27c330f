/**
 * One app as the net tile sees it: the link that datagrams go out on, the link that its answers come
 * in on, and the frames that it is reading. A frame comes back when the app's cursor has passed its
 * descriptor; how many are out is bounded by the link's depth, so an app that stops keeps those and
 * no more.
 */

import { i32, slice, u32, u64, type View } from "../../ffi/view.ts";
import { NET } from "../runtime/counters.ts";
import * as link_ from "../runtime/link.ts";
import {
  appLinkBytes,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
  PayloadRing,
  payloadRing,
  requestRing,
} from "../runtime/link.ts";
import { TileReader, Waker } from "../runtime/tile_region.ts";
import * as frame_ from "./frame.ts";
import { RecentPeers } from "./recent_peers.ts";
import type { Umem } from "./rings.ts";
import * as route_cache_ from "./route_cache.ts";
import type { RouteCache } from "./route_cache.ts";
import * as rx_ from "./rx.ts";
import type { Recipient, RxBatch } from "./rx.ts";
import * as tx_ from "./tx.ts";
import type { Origin } from "./tx.ts";

// Own constants, see frame.ts.
const { Descriptor, PAYLOAD_MARGIN } = link_;
const { ARRIVAL_SHIFT, Arrival, PARTIAL, XDP_BURST } = rx_;
const { Entry, MOST_WORDS, SHARED_BIT, TICK_BITS, appBit } = route_cache_;
const { MOST_BYTES, PAYLOAD_AT } = frame_;
const { NO_FRAME, Row, SLOW } = tx_;
const LINK_FULL = NET.index.rx_drop_app_link_full;

/** Addresses in host order, as signed words: those whose bits under `mask` are `address`. */
export interface Prefix {
  readonly address: number;
  readonly mask: number;
}

/** To whom an app may send unasked. */
export interface PeerSetup {
  /** The table of addresses that this net tile heard from for it. */
  readonly recentPeers: View;
  /** Those of the other net tiles. */
  readonly otherRecentPeers: readonly View[];
  /** Addresses that it may send to in any case. */
  readonly sendTo: readonly Prefix[];
}

/** An app, as main tells a net tile of it. */
export interface AppSetup extends PeerSetup {
  readonly name: string;
  /** Ports it answers on. Several apps with the same port share it by flow. */
  readonly ports: readonly number[];
  /** The region that this net tile writes for it. */
  readonly net: View;
  /** The region that the app writes. */
  readonly app: View;
  /** The region, `requestsBytes` long, of what this tile alone knows of requests that are out. */
  readonly requests: View;
  readonly shape: LinkShape;
  /** The app's tile region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
}

/** Whom an app may send to: who has sent to it, and whom it is configured to. */
export class AllowedPeers {
  readonly #recent: RecentPeers;
  readonly #elsewhere: readonly RecentPeers[];
  readonly #sendTo: readonly Prefix[];
  readonly #cache: RouteCache;
  readonly #entries: Int32Array;
  /** The app's bit in entries. */
  readonly #bit: number;

  /** Of app number `index`. */
  constructor(
    { recentPeers, otherRecentPeers, sendTo }: PeerSetup,
    { cache, index, seed }: { cache: RouteCache; index: number; seed: number },
  ) {
    this.#recent = new RecentPeers(recentPeers, seed);
    this.#elsewhere = otherRecentPeers.map((view) => new RecentPeers(view));
    this.#sendTo = sendTo;
    this.#cache = cache;
    this.#entries = cache.words;
    this.#bit = appBit(index);
  }

  /** Hears from `address`, host order, a signed word. */
  hear(address: number): void {
    if (this.#recent.add(address)) this.#cache.moveOn();
  }

  /**
   * Hears from whom the `from`-th datagram and those after it for the same app came, and returns the
   * first, of `end`, that is for another. Where a row's entry says that the app may send there, the
   * address is among the youngest already, since `has` saw to that, and the tick moves when others are
   * forgotten; other rows lose their entry.
   */
  hearRun(rows: Int32Array, from: number, end: number): number {
    const app = rows[(from << ARRIVAL_SHIFT) + Arrival.app];
    const entries = this.#entries;
    const cache = this.#cache;
    const bit = this.#bit;
    let checked = (cache.tick & TICK_BITS) | bit;
    let i = from;
    for (; i < end; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      if (rows[row + Arrival.app] !== app) break;
      const e = rows[row + Arrival.entry];
      if (e < 0 || (entries[(e & MOST_WORDS) + Entry.checked] & (TICK_BITS | bit)) !== checked) {
        rows[row + Arrival.entry] = -1;
      } else if (bit !== SHARED_BIT) continue;
      // Of a bit that others have, too, nothing follows for this app's table.
      this.hear(rows[row + Arrival.source]);
      checked = (cache.tick & TICK_BITS) | bit;
    }
    return i;
  }

  /** Whether it may send to `address`, host order, a signed word. */
  has(address: number): boolean {
    if (this.#sendTo.some((prefix) => (address & prefix.mask) === prefix.address)) return true;
    if (!this.#recent.has(address) && !this.#elsewhere.some((peers) => peers.has(address))) {
      return false;
    }
    this.hear(address);
    return true;
  }
}

/** What the net tile's ends of an app's links work with. */
export interface AppPortParts {
  readonly umem: Umem;
  readonly cache: RouteCache;
  /** The app's number in this tile. */
  readonly index: number;
  /** Wakes the tile that sleeps on an eventfd. */
  wake(eventfd: number): void;
  /** Of the table that is written here of whom the app heard from. */
  readonly seed: number;
}

/**
 * What the net tile alone knows of requests that are out stands in a region of its own, so that a
 * successor can go on with it:
 *
 *     word 0   how many descriptors were taken back, as cursors run
 *     word 1   1 once it goes with the links
 *     byte 64  for each descriptor `Out` words, then for each where its copy begins (`PayloadRing`)
 */
const State = { reclaimed: 0, joined: 1 } as const;
const OUT_AT = 64;

/** Bytes of that region. */
export function requestsBytes({ depth }: LinkShape): number {
  return OUT_AT + depth * ((4 << OUT_SHIFT) + 4);
}

/** What is known of a request that is out, log2 of its words, and their offsets. */
const OUT_SHIFT = 2;
const Out = {
  /** Of its payload; -1: its frame was sent back. */
  offset: 0,
  /** As in `Arrival`. */
  entry: 1,
  sum: 2,
} as const;

/** The payloads of an app's requests, each copied to memory that this app alone is given. */
class Copies {
  readonly #ring: PayloadRing;
  /** The ring and the UMEM in words, and in double words. */
  readonly #words: Int32Array;
  readonly #frames: Int32Array;
  readonly #wide: BigUint64Array;
  readonly #wideFrames: BigUint64Array;

  /** Copies from `umem` to `ring`, as `requestRing` has it. `starts` is as in `PayloadRing`. */
  constructor(ring: View, { umem, starts }: { umem: Umem; starts: Int32Array<SharedArrayBuffer> }) {
    this.#ring = new PayloadRing(ring.byteLength - PAYLOAD_MARGIN, starts.length, starts);
    this.#words = i32(ring);
    this.#frames = umem.words;
    this.#wide = u64(ring);
    this.#wideFrames = u64(umem.bytes);
  }

  /** Goes on after `pushed` descriptors, of which the last is of `length` bytes at `offset` of the ring. */
  resume(pushed: number, offset: number, length: number): void {
    this.#ring.resume(pushed, (offset & 4) + length);
  }

  /**
   * Copies `length` bytes at `offset` of the UMEM, a multiple of four, and returns where to; -1 when
   * there is no room. They are of the `pushed`-th descriptor; `outstanding` before it are on their way.
   */
  copy(offset: number, length: number, pushed: number, outstanding: number): number {
    // The copy begins in its double word where the payload does, so that those can be copied.
    const into = offset & 4;
    const at = this.#ring.reserve(into + length, pushed, outstanding);
    if (at < 0) return -1;
    this.#ring.take(pushed, into + length);
    const words = this.#words;
    const frames = this.#frames;
    let from = (offset & MOST_BYTES) >>> 2;
    let to = (at + into) >>> 2;
    let left = length >>> 2;
    if (left > 8) {
      if (into !== 0) {
        words[to++] = frames[from++];
        left--;
      }
      this.#copyWide(from >>> 1, to >>> 1, left >>> 3);
      from += left & ~7;
      to += left & ~7;
      left &= 7;
    }
    for (; left > 0; left--) words[to++] = frames[from++];
    const rest = length & 3;
    // What is behind a payload in its frame is what others were sent.
    if (rest !== 0) words[to] = frames[from] & ((1 << (rest << 3)) - 1);
    return at + into;
  }

  /** Copies `count` times four double words: three times as fast as words, and nothing is allocated. */
  #copyWide(from: number, to: number, count: number): void {
    const words = this.#wide;
    const frames = this.#wideFrames;
    for (; count > 0; count--) {
      words[to] = frames[from];
      words[to + 1] = frames[from + 1];
      words[to + 2] = frames[from + 2];
      words[to + 3] = frames[from + 3];
      from += 4;
      to += 4;
    }
  }
}

/** The net tile's ends of both links of one app. */
export class AppPort implements Recipient {
  readonly name: string;
  readonly ports: readonly number[];
  /** Answers: descriptors and payloads are the app's and can change at any time. */
  readonly answers: LinkConsumer;
  readonly payloads: DataView;
  readonly payloadBytes: Uint8Array<SharedArrayBuffer>;
  readonly peers: AllowedPeers;
  /** Where requests come from that are sent back as they came. */
  readonly received: Origin;
  largeOut = 0;
  readonly #requests: LinkProducer;
  readonly #umem: Umem;
  readonly #waker: Waker;
  /** Where the app does not read the UMEM. */
  readonly #copies: Copies | null;
  readonly #state: Uint32Array;
  /** For each descriptor of the link what is out, `Out` words. */
  readonly #out: Int32Array;
  #reclaimed: number;
  /**
   * How far the app was when it was last looked at, and how many of the answers that it had given by
   * then are not taken yet: one of them may send back what it has passed.
   */
  #passed: number;
  #untaken = 0;

  constructor(setup: AppSetup, { umem, cache, index, wake, seed }: AppPortParts) {
    const { net, app, shape } = setup;
    const { depth } = shape;
    if (
      app.byteLength < appLinkBytes(shape) || net.byteLength < netLinkBytes(shape) ||
      setup.requests.byteLength < requestsBytes(shape)
    ) {
      throw new RangeError(`the link region of app ${setup.name} is too small`);
    }
    this.name = setup.name;
    this.ports = setup.ports;
    this.answers = new LinkConsumer(net, app, shape);
    this.#requests = new LinkProducer(net, app, shape);
    this.payloadBytes = payloadRing(app, shape);
    const { buffer, byteOffset, byteLength } = this.payloadBytes;
    this.payloads = new DataView(buffer, byteOffset, byteLength);
    const outBytes = depth << (OUT_SHIFT + 2);
    const starts = i32(slice(setup.requests, OUT_AT + outBytes, depth << 2));
    const copies = requestRing(net, shape);
    this.#copies = copies && new Copies(copies, { umem, starts });
    this.peers = new AllowedPeers(setup, { cache, index, seed });
    this.received = { payloads: umem.view, payloadBytes: umem.bytes, peers: this.peers };
    this.#umem = umem;
    this.#waker = new Waker(new TileReader(setup.tile), () => wake(setup.eventfd));
    this.#state = u32(setup.requests);
    this.#out = i32(slice(setup.requests, OUT_AT, outBytes));
    const { pushed } = this.#requests;
    const reclaimed = this.#state[State.reclaimed] | 0;
    const goesOn = this.#state[State.joined] === 1 && ((pushed - reclaimed) >>> 0) <= depth;
    this.#reclaimed = this.#passed = goesOn ? reclaimed : pushed;
    this.#state[State.reclaimed] = this.#reclaimed;
    this.#state[State.joined] = 1;
    if (!goesOn || pushed === reclaimed) return;
    const last = this.#requests.slotAt((pushed - 1) & (depth - 1));
    const { words } = this.#requests;
    this.#copies?.resume(pushed, words[last + Descriptor.offset], words[last + Descriptor.length]);
  }

  /**
   * Goes on with what a predecessor has out. `claim` says of an offset whether its frame or large buffer
   * can be this link's; else the request has none any more. The route cache is a new one.
   */
  resume(claim: (offset: number) => boolean): void {
    this.largeOut = 0;
    const out = this.#out;
    this.#forEachOut((at) => {
      out[at + Out.entry] = SLOW;
      const offset = out[at + Out.offset];
      if (offset === -1) return;
      if (!claim(offset)) out[at + Out.offset] = -1;
      else if (this.#umem.isLarge(offset)) this.largeOut++;
    });
  }

  /** Calls `visit` with an offset in each frame or large buffer that the app is reading. */
  forEachHeld(visit: (offset: number) => void): void {
    this.#forEachOut((at) => {
      if (this.#out[at + Out.offset] >= 0) visit(this.#out[at + Out.offset]);
    });
  }

  /** Calls `visit` with the word in `#out` of each descriptor that was not taken back. */
  #forEachOut(visit: (at: number) => void): void {
    const mask = this.#requests.depth - 1;
    for (let i = 0; i < this.outstanding; i++) visit(((this.#reclaimed + i) & mask) << OUT_SHIFT);
  }

  /** Descriptors whose frames were not taken back yet. */
  get outstanding(): number {
    return (this.#requests.pushed - this.#reclaimed) >>> 0;
  }

  /** Cursors of the app, in either direction, that could not be true. */
  get corrupt(): number {
    return this.answers.corrupt + this.#requests.corrupt;
  }

  /**
   * Takes back what the app's cursor has passed, and returns how many requests that was. An app gives
   * its answers before it passes the requests to them, so what it has passed is free when the answers
   * that there are after that have been taken.
   */
  reclaim(): number {
    const requests = this.#requests;
    if (this.#reclaimed === requests.pushed) return 0;
    // One that takes answers back, which it cannot, is not waited for.
    if (this.#untaken > 0 && this.answers.available() > 0) return 0;
    let count = this.#takeBack();
    requests.refresh();
    this.#passed = requests.passed;
    this.#untaken = this.answers.available();
    if (this.#untaken === 0) count += this.#takeBack();
    return count;
  }

  #takeBack(): number {
    const requests = this.#requests;
    const count = (this.#passed - this.#reclaimed) >>> 0;
    // A link that starts anew has its cursor one depth behind: nothing is out then.
    if (count > requests.depth) return 0;
    const mask = requests.depth - 1;
    for (let i = 0; i < count; i++) {
      const out = ((this.#reclaimed + i) & mask) << OUT_SHIFT;
      this.#giveBack(this.#out[out + Out.offset]);
    }
    this.#reclaimed = (this.#reclaimed + count) | 0;
    this.#state[State.reclaimed] = this.#reclaimed;
    return count;
  }

  #giveBack(offset: number): void {
    if (offset < 0) return;
    if (this.#umem.isLarge(offset)) this.largeOut--;
    this.#umem.give(offset);
  }

  /** Passes `count` answers. */
  release(count: number): void {
    this.answers.release(count);
    this.#untaken = Math.max(0, this.#untaken - count);
  }

  /**
   * Makes the row at word `row` of `rows` an answer out of the request of descriptor `place`, as it
   * came; its frame or buffer belongs to the row then. `Row.entry` is what the checks found, SLOW, or
   * NO_FRAME; `Row.sum` as in `Arrival`. False when the app has no such request, or sent it back
   * before. All but `place` is the net tile's own knowledge.
   */
  takeRequest(place: number, rows: Int32Array, row: number): boolean {
    if (!this.#isOut(place)) return false;
    const out = this.#out;
    const at = place << OUT_SHIFT;
    const offset = out[at + Out.offset];
    if (offset < 0) return false;
    out[at + Out.offset] = -1;
    const isLarge = this.#umem.isLarge(offset);
    if (isLarge) this.largeOut--;
    const requests = this.#requests;
    rows[row + Row.offset] = offset;
    rows[row + Row.length] = requests.words[requests.slotAt(place) + Descriptor.length];
    this.#address(place, rows, row);
    rows[row + Row.entry] = isLarge ? NO_FRAME : out[at + Out.entry];
    rows[row + Row.frame] = isLarge ? offset : offset - PAYLOAD_AT;
    rows[row + Row.sum] = out[at + Out.sum];
    return true;
  }

  /** Whether the request of descriptor `place` is out. */
  #isOut(place: number): boolean {
    const mask = this.#requests.depth - 1;
    return place <= mask && ((place - this.#reclaimed) & mask) < this.outstanding;
  }

  /**
   * Addresses the row at word `row` of `rows` to the sender of the request of descriptor `place`. False
   * when the app has no such request. All but `place` is the net tile's own knowledge.
   */
  answerTo(place: number, rows: Int32Array, row: number): boolean {
    if (!this.#isOut(place)) return false;
    this.#address(place, rows, row);
    return true;
  }

  #address(place: number, rows: Int32Array, row: number): void {
    const { words } = this.#requests;
    const from = this.#requests.slotAt(place);
    const ports = words[from + Descriptor.ports];
    rows[row + Row.source] = words[from + Descriptor.destination];
    rows[row + Row.destination] = words[from + Descriptor.source];
    rows[row + Row.ports] = (ports << 16) | (ports >>> 16);
  }

  /** As `Recipient` says. The app sees them after `publish`. */
  push(arrivals: RxBatch, from: number, count: number): number {
    const { frames, rows } = arrivals;
    const requests = this.#requests;
    const { words } = requests;
    const out = this.#out;
    const timeLow = frames[0];
    const timeHigh = frames[1];
    const room = requests.depth - ((requests.pushed - this.#reclaimed) | 0);
    const end = this.peers.hearRun(rows, from, count);
    const most = Math.min(end, from + room);
    const copies = this.#copies;
    let i = from;
    for (; i < most; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      const at = requests.slot();
      const offset = rows[row + Arrival.offset];
      const length = rows[row + Arrival.length];
      let seen = offset;
      if (copies !== null) {
        seen = copies.copy(offset, length, requests.pushed, this.outstanding);
        if (seen < 0) break;
      }
      words[at + Descriptor.offset] = seen;
      words[at + Descriptor.length] = length;
      words[at + Descriptor.source] = rows[row + Arrival.source];
      words[at + Descriptor.destination] = rows[row + Arrival.destination];
      words[at + Descriptor.ports] = rows[row + Arrival.ports];
      words[at + Descriptor.interface] = rows[row + Arrival.interface];
      words[at + Descriptor.timeLow] = timeLow;
      words[at + Descriptor.timeHigh] = timeHigh;
      const own = (requests.pushed & (requests.depth - 1)) << OUT_SHIFT;
      out[own + Out.offset] = offset;
      out[own + Out.entry] = rows[row + Arrival.entry];
      out[own + Out.sum] = rows[row + Arrival.sum];
      requests.push();
    }
    if (i < end) rows[(i << ARRIVAL_SHIFT) + Arrival.app] = -LINK_FULL;
    return i;
  }

  /** As `Recipient` says. The app sees it after `publish`. */
  pushOne(
    offset: number,
    length: number,
    source: number,
    destination: number,
    ports: number,
    ifindex: number,
    timeLow: number,
    timeHigh: number,
  ): boolean {
    const requests = this.#requests;
    const { outstanding } = this;
    if (outstanding === requests.depth) return false;
    const copies = this.#copies;
    const seen = copies === null
      ? offset
      : copies.copy(offset, length, requests.pushed, outstanding);
    if (seen < 0) return false;
    const words = requests.words;
    const at = requests.slot();
    words[at + Descriptor.offset] = seen;
    words[at + Descriptor.length] = length;
    words[at + Descriptor.source] = source;
    words[at + Descriptor.destination] = destination;
    words[at + Descriptor.ports] = ports;
    words[at + Descriptor.interface] = ifindex;
    words[at + Descriptor.timeLow] = timeLow;
    words[at + Descriptor.timeHigh] = timeHigh;
    const own = (requests.pushed & (requests.depth - 1)) << OUT_SHIFT;
    this.#out[own + Out.offset] = offset;
    this.#out[own + Out.entry] = SLOW;
    this.#out[own + Out.sum] = PARTIAL;
    this.peers.hear(source);
    requests.push();
    return true;
  }

  /** Publishes the burst and wakes the app if it sleeps. */
  publish(): void {
    if (this.#requests.publish()) this.#waker.published();
  }
}
