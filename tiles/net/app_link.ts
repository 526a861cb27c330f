// SPDX-License-Identifier: Apache-2.0
/**
 * The net tile's view of an app in its own process: the link for requests, the link for answers, the
 * frames that the app is reading, and the addresses that it may send to. A frame returns when the app's
 * cursor passes its descriptor. The link's depth bounds the outstanding frames, so an app that stops
 * holds no more than that.
 */

import { i32, slice, u32, u64, type View } from "../../ffi/region.ts";
import { hash, keyOf, Use } from "../../netbase/hash.ts";
import { NET } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import { TileReader, Waker } from "../runtime/tile.ts";
import * as frame from "./rings.ts";
import type { Umem } from "./rings.ts";
import * as cached from "./route_cache.ts";
import type { Recipient, RxBatch } from "./rx.ts";
import { ticksOf } from "./traffic.ts";
import type { Sender } from "./tx.ts";

// Own constants, see rings.ts.
const { Descriptor, PAYLOAD_MARGIN } = link;
const { COUNT_BITS, LOOK_UP, MOST_BYTES, Packet, PACKET_SHIFT } = frame;
const { appBit, layout: { MOST_WORDS, Route }, SHARED_BIT, TICK_BITS } = cached;
const LINK_FULL = NET.index.rx_drop_app_link_full;

/** Addresses in host order, signed words: all whose bits under `mask` equal `address`. */
export interface Prefix {
  readonly address: number;
  readonly mask: number;
}

/** Where an app may send. */
export interface PeerSetup {
  /** The table of addresses that sent to the app through this net tile. */
  readonly recentPeers: View;
  /** The tables of the other net tiles. */
  readonly otherRecentPeers: readonly View[];
  /** Addresses that the app may always send to. */
  readonly sendTo: readonly Prefix[];
}

/** An app, as the master hands it to a net tile. */
export interface AppSetup extends PeerSetup {
  /** Ports it answers on. Several apps with the same port share it by flow. */
  readonly ports: readonly number[];
  /** The region that this net tile writes for the app. */
  readonly net: View;
  /** The region that the app writes. */
  readonly app: View;
  /** The region, `requestsBytes` long, of what only this tile knows of outstanding requests. */
  readonly requests: View;
  readonly shape: link.LinkShape;
  /** The app's tile region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
  /** Whether the app wants the time of each packet, not of its burst. */
  readonly packetTimes?: boolean;
}

/** The peers of an app: it may send to those that have sent to it, and to configured ones. */
export class AllowedPeers {
  readonly #recent: RecentPeers;
  readonly #others: readonly RecentPeers[];
  readonly #sendTo: readonly Prefix[];
  readonly #cache: cached.RouteCache;
  readonly #routes: Int32Array;
  /** The app's bit in entries of the route cache. */
  readonly #bit: number;

  /** `index` is the app's number. `seed`, random, keys the table that is written here. */
  constructor(
    { recentPeers, otherRecentPeers, sendTo }: PeerSetup,
    { cache, index, seed }: { cache: cached.RouteCache; index: number; seed: number },
  ) {
    this.#recent = new RecentPeers(recentPeers, seed);
    this.#others = otherRecentPeers.map((view) => new RecentPeers(view));
    this.#sendTo = sendTo;
    this.#cache = cache;
    this.#routes = cache.words;
    this.#bit = appBit(index);
  }

  /** Adds `address`, host order, a signed word. */
  add(address: number): void {
    if (this.#recent.add(address)) this.#cache.nextTick();
  }

  /**
   * Adds the peers of packet number `from` and of the following ones for the same app. Returns the
   * first packet, of `end`, for another app. If a packet's route permits the app, its peer is already
   * among the most recent: `has` added it, and the tick changes when addresses are forgotten.
   */
  addRun(packets: Int32Array, from: number, end: number): number {
    const app = packets[(from << PACKET_SHIFT) + Packet.app];
    const routes = this.#routes;
    const cache = this.#cache;
    const bit = this.#bit;
    let checked = (cache.tick & TICK_BITS) | bit;
    const limit = end & COUNT_BITS;
    let i = from & COUNT_BITS;
    for (; i < limit; i++) {
      const p = i << PACKET_SHIFT;
      if (packets[p + Packet.app] !== app) break;
      const r = packets[p + Packet.route];
      if (
        r >= 0 && (routes[(r & MOST_WORDS) + Route.checked] & (TICK_BITS | bit)) === checked &&
        // The shared bit does not describe this app's table.
        bit !== SHARED_BIT
      ) continue;
      this.add(packets[p + Packet.peer]);
      checked = (cache.tick & TICK_BITS) | bit;
    }
    return i;
  }

  /** Whether the app may send to `address`, host order, a signed word. */
  has(address: number): boolean {
    if (this.#sendTo.some((prefix) => (address & prefix.mask) === prefix.address)) return true;
    if (!this.#recent.has(address) && !this.#others.some((peers) => peers.has(address))) {
      return false;
    }
    this.add(address);
    return true;
  }
}

/**
 * The region of what only the net tile knows of outstanding requests, so that a successor can continue
 * with them:
 *
 *     word 0   how many descriptors were taken back, as cursors run
 *     word 1   1 once a net tile has used it with these links
 *     byte 64  for each descriptor `Out` words, then for each where its copy begins (`PayloadRing`)
 */
const State = { reclaimed: 0, joined: 1 } as const;
const OUT_AT = 64;

/** Bytes of that region. */
export function requestsBytes({ depth }: link.LinkShape): number {
  return OUT_AT + depth * ((4 << OUT_SHIFT) + 4);
}

/**
 * The fields of an outstanding request that the app does not need: log2 of their number, and their
 * offsets. Its descriptor has the others.
 */
const OUT_SHIFT = 2;
const Out = {
  /** -1: its frame was sent back. */
  offset: 0,
  route: 1,
  sum: 2,
} as const;

/** The payloads of an app's requests, copied to memory that only this app is given. */
class Copies {
  readonly #ring: link.PayloadRing;
  /** The ring and the UMEM in words, and in double words. */
  readonly #words: Int32Array;
  readonly #frames: Int32Array;
  readonly #wide: BigUint64Array;
  readonly #wideFrames: BigUint64Array;

  /** Copies from `umem` to `ring`, as `requestRing` returns it. `starts` is as in `PayloadRing`. */
  constructor(ring: View, umem: Umem, starts: Int32Array<SharedArrayBuffer>) {
    this.#ring = new link.PayloadRing(ring.byteLength - PAYLOAD_MARGIN, starts.length, starts);
    this.#words = i32(ring);
    this.#frames = umem.words;
    this.#wide = u64(ring);
    this.#wideFrames = u64(umem.bytes);
  }

  /** Continues after `pushed` descriptors. The last has `length` bytes at `offset` of the ring. */
  resume(pushed: number, offset: number, length: number): void {
    this.#ring.resume(pushed, (offset & 4) + length);
  }

  /**
   * Copies `length` bytes at `offset` of the UMEM, a multiple of four, for the `pushed`-th descriptor.
   * The `outstanding` before it are in use. Returns where the copy begins; -1: there is no room.
   */
  copy(offset: number, length: number, pushed: number, outstanding: number): number {
    // The copy and the payload begin at the same place in a double word, so that double words can be copied.
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
    // In a frame, bytes after the payload belong to other packets.
    if (rest !== 0) words[to] = frames[from] & ((1 << (rest << 3)) - 1);
    return at + into;
  }

  /** Copies `count` times four double words: three times as fast as words, and without allocation. */
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
export class AppLink implements Recipient, Sender {
  readonly index: number;
  /** Answers: the app owns descriptors and payloads and can change them at any time. */
  readonly answers: link.LinkConsumer;
  readonly view: DataView;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly peers: AllowedPeers;
  /** The app as the sender of requests that it returns unchanged: their payloads are in the UMEM. */
  readonly returning: Sender;
  largeOut = 0;
  readonly #requests: link.LinkProducer;
  readonly #umem: Umem;
  readonly #waker: Waker;
  /** Not null if the app does not read the UMEM. */
  readonly #copies: Copies | null;
  readonly #state: Uint32Array;
  readonly #packetTimes: boolean;
  /** `Out` words for each descriptor of the link. */
  readonly #out: Int32Array;
  #reclaimed: number;
  /**
   * The app's cursor as last read, and how many answers older than that are unread. Such an answer may
   * return a request that the app has already passed, so the frame is not freed yet.
   */
  #passed: number;
  #untaken = 0;

  /** `index` is the app's number; `wake` wakes a tile by its eventfd. RangeError: a region is too small. */
  constructor(
    setup: AppSetup,
    { umem, cache, index, wake, seed }: {
      umem: Umem;
      cache: cached.RouteCache;
      index: number;
      wake: (eventfd: number) => void;
      seed: number;
    },
  ) {
    const { net, app, shape } = setup;
    const { depth } = shape;
    if (
      app.byteLength < link.appLinkBytes(shape) || net.byteLength < link.netLinkBytes(shape) ||
      setup.requests.byteLength < requestsBytes(shape)
    ) {
      throw new RangeError("a region of an app's link is too small");
    }
    this.index = index;
    this.answers = new link.LinkConsumer(net, app, shape);
    this.#requests = new link.LinkProducer(net, app, shape);
    this.bytes = link.payloadRing(app, shape);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    const outBytes = depth << (OUT_SHIFT + 2);
    const starts = i32(slice(setup.requests, OUT_AT + outBytes, depth << 2));
    const copies = link.requestRing(net, shape);
    this.#copies = copies && new Copies(copies, umem, starts);
    this.peers = new AllowedPeers(setup, { cache, index, seed });
    this.returning = { index, peers: this.peers, view: umem.view, bytes: umem.bytes };
    this.#packetTimes = setup.packetTimes ?? false;
    this.#umem = umem;
    this.#waker = new Waker(new TileReader(setup.tile), () => wake(setup.eventfd));
    this.#state = u32(setup.requests);
    this.#out = i32(slice(setup.requests, OUT_AT, outBytes));
    const { pushed } = this.#requests;
    const reclaimed = this.#state[State.reclaimed] | 0;
    const continues = this.#state[State.joined] === 1 && ((pushed - reclaimed) >>> 0) <= depth;
    this.#reclaimed = this.#passed = continues ? reclaimed : pushed;
    this.#state[State.reclaimed] = this.#reclaimed;
    this.#state[State.joined] = 1;
    if (!continues || pushed === reclaimed) return;
    const last = this.#requests.slotAt((pushed - 1) & (depth - 1));
    const { words } = this.#requests;
    const length = words[last + Descriptor.length] & 0xffff;
    this.#copies?.resume(pushed, words[last + Descriptor.offset], length);
  }

  /**
   * Continues with the outstanding requests of a predecessor. `claim` returns whether this link can own
   * the frame or large buffer at an offset. If not, the request loses it. Routes are looked up again,
   * as the route cache is new.
   */
  resume(claim: (offset: number) => boolean): void {
    this.largeOut = 0;
    const out = this.#out;
    this.#forEachOut((at) => {
      out[at + Out.route] = LOOK_UP;
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

  /** Calls `visit` with the word in `#out` of each descriptor that was not reclaimed. */
  #forEachOut(visit: (at: number) => void): void {
    const mask = this.#requests.depth - 1;
    for (let i = 0; i < this.outstanding; i++) visit(((this.#reclaimed + i) & mask) << OUT_SHIFT);
  }

  /** Descriptors whose frames were not reclaimed yet. */
  get outstanding(): number {
    return (this.#requests.pushed - this.#reclaimed) >>> 0;
  }

  /** The share of the link to the app that the app has not passed. */
  get fill(): number {
    return this.outstanding / this.#requests.depth;
  }

  /** Impossible cursors that the app wrote, in either direction. */
  get corrupt(): number {
    return this.answers.corrupt + this.#requests.corrupt;
  }

  /**
   * Reclaims what the app's cursor has passed, and returns the number of requests. An app writes its
   * answers before it passes their requests, so the frames are free once the answers present now are
   * taken.
   */
  reclaim(): number {
    const requests = this.#requests;
    if (this.#reclaimed === requests.pushed) return 0;
    // An app must not withdraw answers. If it does, reclaiming does not wait for them.
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
    // A new link has its cursor one depth behind: nothing is outstanding.
    if (count > requests.depth) return 0;
    const mask = requests.depth - 1;
    for (let i = 0; i < count; i++) {
      const offset = this.#out[(((this.#reclaimed + i) & mask) << OUT_SHIFT) + Out.offset];
      if (offset < 0) continue;
      if (this.#umem.isLarge(offset)) this.largeOut--;
      this.#umem.give(offset);
    }
    this.#reclaimed = (this.#reclaimed + count) | 0;
    this.#state[State.reclaimed] = this.#reclaimed;
    return count;
  }

  /** Passes `count` answers. */
  release(count: number): void {
    this.answers.release(count);
    this.#untaken = Math.max(0, this.#untaken - count);
  }

  /**
   * Takes the request of descriptor `place` with its frame or buffer, and writes its description at
   * word `p` of `packets`. False: the app has no such request, or has already sent it back.
   */
  takeRequest(place: number, packets: Int32Array, p: number): boolean {
    if (!this.#isOut(place)) return false;
    const out = this.#out;
    const at = place << OUT_SHIFT;
    const offset = out[at + Out.offset];
    if (offset < 0) return false;
    out[at + Out.offset] = -1;
    if (this.#umem.isLarge(offset)) this.largeOut--;
    const requests = this.#requests;
    packets[p + Packet.offset] = offset;
    packets[p + Packet.length] = requests.words[requests.slotAt(place) + Descriptor.length] &
      0xffff;
    packets[p + Packet.sum] = out[at + Out.sum];
    this.#describe(place, packets, p);
    return true;
  }

  /** Whether the request of descriptor `place` is outstanding. */
  #isOut(place: number): boolean {
    const mask = this.#requests.depth - 1;
    return place <= mask && ((place - this.#reclaimed) & mask) < this.outstanding;
  }

  /**
   * Writes at word `p` of `packets` where an answer to the request of descriptor `place` goes. False:
   * the app has no such request.
   */
  answerTo(place: number, packets: Int32Array, p: number): boolean {
    if (!this.#isOut(place)) return false;
    this.#describe(place, packets, p);
    return true;
  }

  /** Writes peer, route etc. as this tile stored them. Only `place` comes from the app. */
  #describe(place: number, packets: Int32Array, p: number): void {
    const { words } = this.#requests;
    const at = this.#requests.slotAt(place);
    packets[p + Packet.peer] = words[at + Descriptor.source];
    packets[p + Packet.local] = words[at + Descriptor.destination];
    packets[p + Packet.ports] = words[at + Descriptor.ports];
    packets[p + Packet.route] = this.#out[(place << OUT_SHIFT) + Out.route];
    packets[p + Packet.arrival] = ticksOf(
      words[at + Descriptor.timeLow],
      words[at + Descriptor.timeHigh],
    );
  }

  /** See `Recipient`. The app sees the packets after `publish`. */
  push({ frames, packets, times }: RxBatch, from: number, count: number): number {
    const requests = this.#requests;
    const { words } = requests;
    const out = this.#out;
    const timeLow = frames[0];
    const timeHigh = frames[1];
    const room = requests.depth - ((requests.pushed - this.#reclaimed) | 0);
    const end = this.peers.addRun(packets, from, count);
    const most = Math.min(end, from + room) & COUNT_BITS;
    const copies = this.#copies;
    let i = from & COUNT_BITS;
    for (; i < most; i++) {
      const p = i << PACKET_SHIFT;
      const at = requests.slot();
      const offset = packets[p + Packet.offset];
      const length = packets[p + Packet.length];
      let seen = offset;
      if (copies !== null) {
        seen = copies.copy(offset, length, requests.pushed, this.outstanding);
        if (seen < 0) break;
      }
      words[at + Descriptor.offset] = seen;
      words[at + Descriptor.length] = length | (packets[p + Packet.tosTtl] << 16);
      words[at + Descriptor.source] = packets[p + Packet.peer];
      words[at + Descriptor.destination] = packets[p + Packet.local];
      words[at + Descriptor.ports] = packets[p + Packet.ports];
      words[at + Descriptor.interface] = packets[p + Packet.interface];
      words[at + Descriptor.timeLow] = timeLow;
      words[at + Descriptor.timeHigh] = timeHigh;
      const own = (requests.pushed & (requests.depth - 1)) << OUT_SHIFT;
      out[own + Out.offset] = offset;
      out[own + Out.route] = packets[p + Packet.route];
      out[own + Out.sum] = packets[p + Packet.sum];
      requests.push();
    }
    if (this.#packetTimes) this.#setTimes(times, from, i);
    if (i < end) packets[(i << PACKET_SHIFT) + Packet.app] = -LINK_FULL;
    return i;
  }

  /** Sets individual times in the requests that were pushed last: packets number `from` to before `end`. */
  #setTimes(times: Uint32Array, from: number, end: number): void {
    const requests = this.#requests;
    const { words } = requests;
    for (let i = from; i < end; i++) {
      const at = requests.slotAt((requests.pushed + i - end) & (requests.depth - 1));
      words[at + Descriptor.timeLow] = times[2 * i];
      words[at + Descriptor.timeHigh] = times[2 * i + 1];
    }
  }

  /** Publishes the batch and wakes the app if it sleeps. */
  publish(): void {
    if (this.#requests.publish()) this.#waker.published();
  }
}

const SLOT_BITS = 16;
const SLOTS = 1 << SLOT_BITS;
/** The least number of addresses that are remembered. */
const KEPT = SLOTS >>> 1;
/** Slots of a half in which an address may be. */
const PROBES = 64;
/**
 * Words: which half is the younger; three of the hash's key, 0 until a writer joins; slots in use in
 * the younger half; the halves.
 */
const [YOUNGER, KEY_AT, COUNT, HALVES_AT] = [0, 1, 4, 16];

/** Bytes of a table. */
export const RECENT_PEERS_BYTES = (HALVES_AT + 2 * SLOTS) * 4;

/**
 * The addresses that have sent to an app, to which it may therefore send. There is one table per app
 * and net tile. That net tile writes it; the others read it, since an app may send by any of them.
 *
 * Addresses go into the younger of two open-addressed halves. When that has `KEPT`, the older half is
 * cleared and becomes the younger. So the table holds at least the last `KEPT` addresses, whatever
 * strangers send, and only addresses that sent something. It always holds the most recent one.
 *
 * An address is within `PROBES` slots of its hash. If others occupy all of those, it replaces one of
 * them. Since at most half of the slots are in use, that happens once in about four hundred halves. The
 * hash is keyed, so nobody can choose colliding addresses (`netbase/hash.ts`). The table's header holds
 * the key, for the readers.
 *
 * Readers need no lock: a slot is one word, which is empty or holds an address, in host order, as a
 * signed word.
 */
export class RecentPeers {
  readonly #words: Int32Array;
  #victim = 0;

  /**
   * Joins the table at `view`, initially zeroed. Its writer passes a random `seed`. A writer that takes
   * over from another continues with its addresses and its key.
   */
  constructor(view: View, seed?: number) {
    const words = this.#words = i32(view);
    if (seed === undefined) return;
    if (words[KEY_AT + 1] !== 0) return;
    const { add, first, second } = keyOf(seed, Use.recentPeers);
    words.set([add, first, second], KEY_AT);
  }

  /** Adds an address as the most recent; for the writer only. Returns whether others were forgotten. */
  add(address: number): boolean {
    const words = this.#words;
    const half = words[YOUNGER];
    const first = this.#hash(address);
    const at = this.#find(half, first, address);
    if (at < 0) {
      words[this.#slot(half, first + this.#victim++ % PROBES)] = address;
      return true;
    }
    if (words[at] === address) return false;
    words[at] = address;
    if (++words[COUNT] < KEPT) return false;
    words[COUNT] = 0;
    const older = 1 - half;
    words.fill(0, HALVES_AT + older * SLOTS, HALVES_AT + (older + 1) * SLOTS);
    words[YOUNGER] = older;
    return true;
  }

  /** Whether an address is in the table. */
  has(address: number): boolean {
    if (address === 0) return false;
    const words = this.#words;
    const first = this.#hash(address);
    const one = this.#find(0, first, address);
    if (one >= 0 && words[one] === address) return true;
    const other = this.#find(1, first, address);
    return other >= 0 && words[other] === address;
  }

  /** The slot of a half that holds an address, or would; -1: others have all its slots. */
  #find(half: number, first: number, address: number): number {
    const words = this.#words;
    for (let i = 0; i < PROBES; i++) {
      const at = this.#slot(half, first + i);
      const found = words[at];
      if (found === address || found === 0) return at;
    }
    return -1;
  }

  #slot(half: number, slot: number): number {
    return HALVES_AT + half * SLOTS + (slot & (SLOTS - 1));
  }

  #hash(address: number): number {
    const words = this.#words;
    return hash(0, address, words[KEY_AT], words[KEY_AT + 1], words[KEY_AT + 2]);
  }
}
