/**
 * An app inside the net tile's loop: the same contract and the same counters, but no other thread, and
 * no link: it reads a burst as it came off the ring, and its answers are built in the very frames that
 * they leave in. It can therefore do whatever the net tile can: write into any frame, and stop the
 * tile by not returning.
 */

import type { View } from "../../ffi/view.ts";
import type { Service, ServiceSetup } from "../app/service.ts";
import { APP } from "../runtime/counters.ts";
import { Peers, type PeerSetup } from "./app_link.ts";
import * as arrival from "./arrivals.ts";
import { ArrivedRequests } from "./arrived_requests.ts";
import { FrameAnswers } from "./frame_answers.ts";
import type { HeaderCache } from "./header_cache.ts";
import type { Transmitter } from "./transmit.ts";
import type { Umem } from "./umem.ts";

// Own constants, see frame.ts.
const { Arrival, ARRIVAL_SHIFT, PARTIAL, XDP_BURST } = arrival;

/** An app inside the net tile, as main tells of it. */
export interface InlineSetup extends ServiceSetup, PeerSetup {
  /** The tile region that its counters are in. */
  readonly region: View;
}

/** What an app is run with. */
export interface InlineAppParts {
  readonly service: Service;
  readonly counters: Float64Array;
  /** Its number among the tile's apps. */
  readonly index: number;
  readonly umem: Umem;
  readonly cache: HeaderCache;
  readonly transmitter: Transmitter;
  /** As in `AppLinkParts`. */
  readonly seed: number;
}

/** An app inside the net tile. */
export class InlineApp implements arrival.Recipient {
  largeOut = 0;
  readonly #service: Service;
  readonly #counters: Float64Array;
  readonly #peers: Peers;
  readonly #requests: ArrivedRequests;
  readonly #answers: FrameAnswers;
  /** What came by the kernel's sockets. */
  readonly #datagrams = new arrival.Arrivals();

  constructor(
    setup: InlineSetup,
    { service, counters, index, umem, cache, transmitter, seed }: InlineAppParts,
  ) {
    this.#service = service;
    this.#counters = counters;
    this.#peers = new Peers(setup, { cache, index, seed });
    const requests = new ArrivedRequests(umem, this.#datagrams);
    const origin = { payloads: umem.view, payloadBytes: umem.bytes, peers: this.#peers };
    this.#requests = requests;
    this.#answers = new FrameAnswers({ origin, index, requests, umem, transmitter, counters });
  }

  /** As `Recipient` says. It has room for a burst, and is to run after each. */
  push(arrivals: arrival.Arrivals, from: number, count: number): number {
    const end = this.#peers.hearRun(arrivals.rows, from, count);
    this.#requests.pick(arrivals, from, end);
    return end;
  }

  /** As `Recipient` says. It is to run after each burst. */
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
    const { count } = this.#requests;
    if (count === XDP_BURST) return false;
    const { frames, rows } = this.#datagrams;
    const row = count << ARRIVAL_SHIFT;
    frames[0] = timeLow;
    frames[1] = timeHigh;
    rows[row + Arrival.app] = 0;
    rows[row + Arrival.source] = source;
    rows[row + Arrival.destination] = destination;
    rows[row + Arrival.ports] = ports;
    rows[row + Arrival.offset] = offset;
    rows[row + Arrival.length] = length;
    rows[row + Arrival.entry] = -1;
    rows[row + Arrival.interface] = ifindex;
    rows[row + Arrival.sum] = PARTIAL;
    this.#requests.pick(this.#datagrams, count, count + 1);
    this.#peers.hear(source);
    return true;
  }

  /** Gives the app the burst that has come, and sends its answers. */
  run(): void {
    const requests = this.#requests;
    const { count } = requests;
    if (count === 0) return;
    this.#counters[APP.index.requests] += count;
    this.#service.receive(requests, this.#answers);
    this.#answers.finish();
    requests.end();
    // What it had of them is free.
    this.largeOut = 0;
  }

  /** Takes back what it has reserved: the tile ends. */
  relinquish(): void {
    this.#answers.takeBack();
  }

  /** Milliseconds to its next tick; -1 when it has none. */
  nextDue(nowMillis: number): number {
    return this.#service.nextDue(nowMillis);
  }

  /** Calls its tick when that is due. */
  clock(nowMillis: number): void {
    if (this.#service.clock(nowMillis, this.#answers)) this.#answers.finish();
  }
}
