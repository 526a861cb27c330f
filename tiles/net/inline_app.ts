/**
 * An app inside the net tile's loop: the same contract and the same counters, but no other thread, and
 * its answers are built in the very frames that they leave in. It can therefore do whatever the net
 * tile can: write into any frame, and stop the tile by not returning.
 *
 * What it receives comes by a link as to any app, with both ends here, in memory of this tile alone.
 *
 * @module
 */

import { heapView, type View } from "../../ffi/view.ts";
import type { Answers, Destination } from "../app/contract.ts";
import { Requests } from "../app/requests.ts";
import type { Service, ServiceSetup } from "../app/service.ts";
import { APP } from "../runtime/counters.ts";
import { appLinkBytes, LinkConsumer, linkWords, netLinkBytes } from "../runtime/link.ts";
import { TILE_REGION_BYTES } from "../runtime/tile_region.ts";
import { AppLink, type PeerSetup } from "./app_link.ts";
import type { Origin } from "./detour.ts";
import { LARGEST_PAYLOAD, PAYLOAD_AT } from "./frame.ts";
import { BURST, Row, ROW_SHIFT } from "./rows.ts";
import type { Transmitter } from "./transmit.ts";
import type { Umem } from "./umem.ts";

/** The link to it: as deep as what a turn can bring from a few queues. No memory for answers. */
const SHAPE = { depth: 512, payloadBytes: 64 };

/** An app inside the net tile, as main tells of it. */
export interface InlineSetup extends ServiceSetup, PeerSetup {
  /** The tile region that its counters are in. */
  readonly region: View;
}

/** An app inside the net tile. */
export class InlineApp {
  /** The net tile's end. */
  readonly link: AppLink;
  readonly #service: Service;
  readonly #counters: Float64Array;
  readonly #requests: Requests;
  readonly #consumer: LinkConsumer;
  readonly #answers: FrameAnswers;

  /** `index` is its number among the tile's apps. */
  constructor(
    setup: InlineSetup,
    { service, counters, index, umem, transmitter }: {
      service: Service;
      counters: Float64Array;
      index: number;
      umem: Umem;
      transmitter: Transmitter;
    },
  ) {
    const [net, app] = [heapView(netLinkBytes(SHAPE)), heapView(appLinkBytes(SHAPE))];
    const tile = heapView(TILE_REGION_BYTES);
    const link = { ...setup, net, app, shape: SHAPE, tile, eventfd: -1 };
    this.link = new AppLink(link, { umem, wake() {} });
    this.#service = service;
    this.#counters = counters;
    this.#consumer = new LinkConsumer(app, net, SHAPE);
    this.#requests = new Requests(umem.bytes, {
      descriptors: this.#consumer.words,
      ...linkWords(SHAPE),
    });
    const origin = { payloads: umem.view, payloadBytes: umem.bytes, peers: this.link.peers };
    this.#answers = new FrameAnswers(origin, {
      requests: this.#requests,
      counters,
      index,
      umem,
      transmitter,
    });
  }

  /** Gives the app all that has come, and sends its answers. Returns how many had come. */
  run(): number {
    let all = 0;
    for (;;) {
      const count = Math.min(this.#consumer.available(), BURST);
      if (count === 0) break;
      this.#requests.begin(this.#consumer.slot(0), count);
      this.#service.receive(this.#requests, this.#answers);
      this.#answers.flush();
      this.#consumer.release(count);
      all += count;
    }
    this.#counters[APP.index.requests] += all;
    return all;
  }

  /** Milliseconds to its next tick; -1 when it has none. */
  nextDue(nowMillis: number): number {
    return this.#service.nextDue(nowMillis);
  }

  /** Calls its tick when that is due. */
  clock(nowMillis: number): void {
    if (this.#service.clock(nowMillis, this.#answers)) this.#answers.flush();
  }
}

/**
 * Answers that are built in free frames of the UMEM, where the payload of a frame that leaves stands;
 * what is too long for a frame in a large buffer, which only a kernel socket can send from.
 */
class FrameAnswers implements Answers {
  readonly bytes: Uint8Array;
  readonly #origin: Origin;
  readonly #requests: Requests;
  readonly #counters: Float64Array;
  readonly #index: number;
  readonly #umem: Umem;
  readonly #transmitter: Transmitter;
  /** What was reserved and is not sent yet: the frame, or large buffer, and where its room begins. */
  #frame = -1;
  #room = 0;
  #count = 0;

  constructor(
    origin: Origin,
    { requests, counters, index, umem, transmitter }: {
      requests: Requests;
      counters: Float64Array;
      index: number;
      umem: Umem;
      transmitter: Transmitter;
    },
  ) {
    this.bytes = umem.bytes;
    this.#origin = origin;
    this.#requests = requests;
    this.#counters = counters;
    this.#index = index;
    this.#umem = umem;
    this.#transmitter = transmitter;
  }

  reserve(size: number): number {
    const umem = this.#umem;
    if (this.#frame >= 0) umem.give(this.#frame);
    const isLarge = size > umem.frameBytes - PAYLOAD_AT;
    this.#frame = isLarge ? umem.takeLarge() : umem.takeFrame();
    if (this.#frame >= 0 && size > LARGEST_PAYLOAD) {
      umem.give(this.#frame);
      this.#frame = -1;
    }
    if (this.#frame < 0) {
      this.#counters[APP.index.answer_no_room]++;
      return -1;
    }
    this.#room = this.#frame + (isLarge ? 0 : PAYLOAD_AT);
    return this.#room;
  }

  copy(offset: number): void {
    const { words } = this.#umem;
    const from = this.#requests.offset;
    const size = this.#requests.size;
    let done = 0;
    if (((from | offset) & 3) === 0) {
      const [a, b] = [from >>> 2, offset >>> 2];
      for (let w = 0; w < size >>> 2; w++) words[b + w] = words[a + w];
      done = size & ~3;
    }
    for (; done < size; done++) this.bytes[offset + done] = this.bytes[from + done];
  }

  reply(offset: number, size: number): void {
    const { ports, sourceAddress, destinationAddress } = this.#requests;
    this.#send(offset, size, destinationAddress, sourceAddress, (ports << 16) | (ports >>> 16));
  }

  send(
    { address, port, sourcePort, sourceAddress = 0 }: Destination,
    offset: number,
    size: number,
  ) {
    this.#send(offset, size, sourceAddress, address, (sourcePort << 16) | port);
  }

  #send(offset: number, size: number, source: number, destination: number, ports: number): void {
    if (this.#frame < 0) {
      this.#counters[APP.index.answer_no_room]++;
      return;
    }
    const { rows } = this.#transmitter;
    const row = this.#count++ << ROW_SHIFT;
    rows[row + Row.offset] = offset;
    rows[row + Row.length] = size;
    rows[row + Row.source] = source;
    rows[row + Row.destination] = destination;
    rows[row + Row.ports] = ports;
    rows[row + Row.frame] = this.#frame;
    this.#frame = -1;
    this.#counters[APP.index.answers]++;
    if (this.#count === BURST) this.flush();
  }

  /** Sends what was answered. */
  flush(): void {
    if (this.#count === 0) return;
    this.#transmitter.sendFrames(this.#origin, this.#index, this.#count);
    this.#count = 0;
  }
}
