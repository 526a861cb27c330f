/**
 * One app as the net tile sees it: the link that datagrams go out on, the link that its answers come
 * in on, and the frames that it is reading. A frame comes back when the app's cursor has passed its
 * descriptor; how many are out is bounded by the link's depth, so an app that stops keeps those and
 * no more.
 *
 * @module
 */

import { slice, u8, type View } from "../../ffi/view.ts";
import { NET } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import {
  appLinkBytes,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
} from "../runtime/link.ts";
import { TileReader, Waker } from "../runtime/tile_region.ts";
import type { Arrivals } from "./arrivals.ts";
import * as frame from "./frame.ts";
import { Heard } from "./heard.ts";
import type { Umem } from "./umem.ts";

// Own constants, see frame.ts.
const { Descriptor } = link;
const { IP_DESTINATION, IP_SOURCE, MOST_BYTES, PAYLOAD, UDP_BYTES, UDP_LENGTH, UDP_PORTS } = frame;
const LINK_FULL = NET.index.app_link_full;

/** Addresses in host order, as signed words: those whose bits under `mask` are `address`. */
export interface Prefix {
  readonly address: number;
  readonly mask: number;
}

/** To whom an app may send unasked. */
export interface PeerSetup {
  /** The table of addresses that this net tile heard from for it. */
  readonly heard: View;
  /** Those of the other net tiles. */
  readonly heardElsewhere: readonly View[];
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
  readonly shape: LinkShape;
  /** The app's tile region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
}

/** Whom an app may send to: who has sent to it, and whom it is configured to. */
export class Peers {
  readonly heard: Heard;
  readonly #elsewhere: readonly Heard[];
  readonly #sendTo: readonly Prefix[];

  constructor({ heard, heardElsewhere, sendTo }: PeerSetup) {
    this.heard = new Heard(heard);
    this.#elsewhere = heardElsewhere.map((view) => new Heard(view));
    this.#sendTo = sendTo;
  }

  /** Hears from the sources of the packets whose IPv4 headers begin at `headers[from…to]` of `view`. */
  hear(view: DataView, headers: Int32Array, from: number, to: number): void {
    const { heard } = this;
    for (let i = from; i < to; i++) heard.add(view.getInt32((headers[i] & MOST_BYTES) + IP_SOURCE));
  }

  /** Whether it may send to `address`, host order, a signed word. */
  has(address: number): boolean {
    return this.heard.has(address) || this.#elsewhere.some((heard) => heard.has(address)) ||
      this.#sendTo.some((prefix) => (address & prefix.mask) === prefix.address);
  }
}

/** The net tile's ends of both links of one app. */
export class AppLink {
  readonly name: string;
  readonly ports: readonly number[];
  /** Answers: descriptors and payloads are the app's and can change at any time. */
  readonly answers: LinkConsumer;
  readonly payloads: DataView;
  readonly payloadBytes: Uint8Array<SharedArrayBuffer>;
  readonly peers: Peers;
  /** Large buffers that the app is reading. */
  largeOut = 0;
  readonly #requests: LinkProducer;
  readonly #umem: Umem;
  readonly #waker: Waker;
  /** For each descriptor of the link the offset of its payload: the link's own copy, which is out. */
  readonly #out: Int32Array;
  #reclaimed: number;

  constructor(setup: AppSetup, { umem, wake }: { umem: Umem; wake: (eventfd: number) => void }) {
    const { net, app, shape } = setup;
    if (app.byteLength < appLinkBytes(shape)) {
      throw new RangeError(`the link region of app ${setup.name} is too small`);
    }
    this.name = setup.name;
    this.ports = setup.ports;
    this.answers = new LinkConsumer(net, app, shape);
    this.#requests = new LinkProducer(net, app, shape);
    const ring = slice(app, netLinkBytes(shape), shape.payloadBytes);
    this.payloads = new DataView(ring.buffer, ring.byteOffset, ring.byteLength);
    this.payloadBytes = u8(ring);
    this.peers = new Peers(setup);
    this.#umem = umem;
    this.#waker = new Waker(new TileReader(setup.tile), () => wake(setup.eventfd));
    this.#out = new Int32Array(shape.depth);
    this.#reclaimed = this.#requests.pushed;
  }

  /** Descriptors that the app has not passed yet. */
  get outstanding(): number {
    return (this.#requests.pushed - this.#reclaimed) >>> 0;
  }

  /** Cursors of the app, in either direction, that could not be true. */
  get corrupt(): number {
    return this.answers.corrupt + this.#requests.corrupt;
  }

  /** Takes back what the app's cursor has passed, and returns how many frames and buffers. */
  reclaim(): number {
    const requests = this.#requests;
    if (this.#reclaimed === requests.pushed) return 0;
    requests.refresh();
    const count = (requests.passed - this.#reclaimed) >>> 0;
    // A link that starts anew has its cursor one depth behind: nothing is out then.
    if (count > requests.depth) return 0;
    const mask = requests.depth - 1;
    for (let i = 0; i < count; i++) {
      const offset = this.#out[(this.#reclaimed + i) & mask];
      if (this.#umem.isLarge(offset)) this.largeOut--;
      this.#umem.give(offset);
    }
    this.#reclaimed = (this.#reclaimed + count) >>> 0;
    return count;
  }

  /**
   * Hands over the `from`-th and all following datagrams of `arrivals`, of `count`, that are for the
   * same app in a row. Returns the first that it did not take; where that is because the link is full
   * it is marked as such. The app sees them after `publish`.
   */
  push(arrivals: Arrivals, from: number, count: number): number {
    const { frames, verdicts, interfaces, apps } = arrivals;
    const requests = this.#requests;
    const { words } = requests;
    const out = this.#out;
    const view = this.#umem.view;
    const app = apps[from];
    const timeLow = frames[0];
    const timeHigh = frames[1];
    let i = from;
    for (; i < count && apps[i] === app; i++) {
      if (requests.free === 0) {
        apps[i] = -LINK_FULL;
        break;
      }
      const ip = verdicts[i] & MOST_BYTES;
      const at = requests.slot();
      words[at + Descriptor.offset] = ip + PAYLOAD;
      words[at + Descriptor.length] = view.getUint16(ip + UDP_LENGTH) - UDP_BYTES;
      words[at + Descriptor.source] = view.getInt32(ip + IP_SOURCE);
      words[at + Descriptor.destination] = view.getInt32(ip + IP_DESTINATION);
      words[at + Descriptor.ports] = view.getInt32(ip + UDP_PORTS);
      words[at + Descriptor.interface] = interfaces[i];
      words[at + Descriptor.timeLow] = timeLow;
      words[at + Descriptor.timeHigh] = timeHigh;
      out[requests.pushed & (requests.depth - 1)] = ip + PAYLOAD;
      requests.push();
    }
    this.peers.hear(view, verdicts, from, i);
    return i;
  }

  /**
   * Hands over a datagram whose payload is `length` bytes at `offset` of the UMEM. False when the
   * link is full; the frame is then still the caller's. Addresses, ports and times may come as signed
   * words. The app sees it after `publish`.
   */
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
    if (requests.free === 0) return false;
    const words = requests.words;
    const at = requests.slot();
    words[at + Descriptor.offset] = offset;
    words[at + Descriptor.length] = length;
    words[at + Descriptor.source] = source;
    words[at + Descriptor.destination] = destination;
    words[at + Descriptor.ports] = ports;
    words[at + Descriptor.interface] = ifindex;
    words[at + Descriptor.timeLow] = timeLow;
    words[at + Descriptor.timeHigh] = timeHigh;
    this.#out[requests.pushed & (requests.depth - 1)] = offset;
    this.peers.heard.add(source);
    requests.push();
    return true;
  }

  /** Publishes the burst and wakes the app if it sleeps. */
  publish(): void {
    if (this.#requests.publish()) this.#waker.published();
  }
}
