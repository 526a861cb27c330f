// SPDX-License-Identifier: Apache-2.0
/**
 * An app inside the net tile's loop: the same contract and the same counters, but no other thread and
 * no link. It reads a batch directly from the ring, and its answers are built in the frames that carry
 * them. It can therefore do everything that the net tile can: write into any frame, and stop the tile
 * by not returning.
 *
 * An answer is built in the request's own frame if it fits, with its headers, before the request's
 * payload, which the app may continue to read:
 *
 *     request   │ headroom              │ Ethernet │ IPv4 │ UDP │ payload …
 *     answer    │      Ethernet │ IPv4 │ UDP │ payload │
 *
 * A short answer then touches only memory that is already in the cache, and uses no other frame.
 * Otherwise it is built in a free frame, or, if it is too long for a frame, in a large buffer, from
 * which only a kernel socket can send.
 */

import type { View } from "../../ffi/region.ts";
import { Address, toIPv4 } from "../app/address.ts";
import type { Answers, Datagrams, Destination, HeaderFields } from "../app/contract.ts";
import * as host from "../app/host.ts";
import type { Service, ServiceSetup } from "../app/host.ts";
import { APP } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import { AllowedPeers, type PeerSetup } from "./app_link.ts";
import * as frame from "./rings.ts";
import type { Umem } from "./rings.ts";
import type { RouteCache } from "./route_cache.ts";
import type { Recipient, RxBatch } from "./rx.ts";
import type { Sender, Transmitter } from "./tx.ts";

// Own constants, see rings.ts.
const { LARGEST_PAYLOAD } = link;
const { BATCH, LOOK_UP, MOST_IN_FRAME, Packet, PACKET_SHIFT } = frame;
const { PAYLOAD_AT, USUAL_TOS_TTL } = frame;
const { checkPorts, checkSame, checkWithin, DRAIN_MILLIS, noDatagram } = host;
const { sendPayload, tooLong, tosTtlOf } = host;
const COUNT = APP.index;

/** The description that stands for no packet, see `makePackets`. */
const NONE = BATCH << PACKET_SHIFT;
/** In a description instead of the app: the frame was given away. */
const SPENT = -1;
/** A mask for the length of an answer that may be built before a payload. */
const MOST_IN_PLACE = 0xfff;

/** An app inside the net tile, as the master hands it over. */
export interface InlineSetup extends ServiceSetup, PeerSetup {
  /** The tile region with its counters. */
  readonly region: View;
  /** Whether the app wants the time of each packet, not of the burst. */
  readonly packetTimes?: boolean;
}

export class InlineApp implements Recipient, Sender {
  readonly index: number;
  readonly peers: AllowedPeers;
  readonly view: DataView;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  largeOut = 0;
  /** Whether the app waits for room. */
  #isFull = false;
  readonly #service: Service;
  readonly #counters: Float64Array;
  readonly #requests: InlineRequests;
  readonly #answers: InlineAnswers;

  /** `index` is the app's number. `batch` is any of the batches that the app will receive. */
  constructor(setup: InlineSetup, parts: {
    service: Service;
    counters: Float64Array;
    index: number;
    umem: Umem;
    batch: RxBatch;
    cache: RouteCache;
    transmitter: Transmitter;
    seed: number;
  }) {
    const { umem, transmitter, counters } = parts;
    this.index = parts.index;
    this.peers = new AllowedPeers(setup, parts);
    this.view = umem.view;
    this.bytes = umem.bytes;
    this.#service = parts.service;
    this.#counters = counters;
    this.#requests = new InlineRequests(umem, parts.batch, setup.packetTimes ?? false);
    const [firstPort] = [...setup.ports, ...(setup.ownPorts ?? [])];
    this.#answers = new InlineAnswers(this, this.#requests, {
      ...{ umem, transmitter, counters, firstPort },
    });
  }

  /** See `Recipient`. There is always room for a batch; the app must run after each. */
  push(batch: RxBatch, from: number, count: number): number {
    const end = this.peers.addRun(batch.packets, from, count);
    this.#requests.pick(batch, from, end);
    return end;
  }

  /** Gives the app the current batch, and sends its answers. */
  run(): void {
    const requests = this.#requests;
    const { count } = requests;
    if (this.#isFull && this.#answers.room >= BATCH) this.#drain();
    if (count === 0) return;
    this.#counters[COUNT.requests] += count;
    this.#service.receive(requests, this.#answers);
    this.#finish();
    requests.end();
    // The large buffers of the batch are free again.
    this.largeOut = 0;
  }

  /** Lets the app continue after it ran out of room. Called when there is enough room to be worth it. */
  #drain(): void {
    this.#isFull = false;
    this.#service.drain(this.#answers);
    this.#finish();
  }

  #finish(): void {
    if (this.#answers.finish()) this.#isFull = this.#service.drains;
  }

  /** Frees what the app reserved, when the tile ends. */
  relinquish(): void {
    this.#answers.takeBack();
  }

  /** Milliseconds to the app's next timer or check for room; -1: neither. */
  nextDue(nowMillis: number): number {
    return this.#isFull ? DRAIN_MILLIS : this.#service.nextDue(nowMillis);
  }

  /** Calls the app's timers that are due. */
  clock(nowMillis: number): void {
    if (this.#service.clock(nowMillis, this.#answers)) this.#finish();
  }
}

/** The packets of a batch that are for one app, as the checks described them. */
class InlineRequests implements Datagrams {
  readonly bytes: Uint8Array;
  readonly #umem: Umem;
  /** Where the UMEM's large buffers begin. */
  readonly #framesEnd: number;
  /** Addresses of the current datagram, filled on request. */
  readonly #source = new Address();
  readonly #destination = new Address();
  /** The app's packets, by the first words of their descriptions. */
  readonly #picked = new Int32Array(BATCH);
  readonly #packetTimes: boolean;
  /** The times, and a mask for a packet's word in them: all bits, or none if all have the burst's time. */
  #times: Uint32Array;
  readonly #timeBits: number;
  #batch: RxBatch;
  #packets: Int32Array;
  #count = 0;
  #spent = 0;
  /** The number of datagrams that `next` has passed, and the packet of the last one. */
  #gone = 0;
  #current = NONE;

  constructor(umem: Umem, batch: RxBatch, packetTimes: boolean) {
    this.bytes = umem.bytes;
    this.#packetTimes = packetTimes;
    this.#timeBits = packetTimes ? -1 : 0;
    this.#times = packetTimes ? batch.times : batch.frames;
    this.#umem = umem;
    this.#framesEnd = umem.framesEnd;
    this.#batch = batch;
    this.#packets = batch.packets;
  }

  get count(): number {
    return this.#count;
  }

  /** Adds packets number `from` to before `end` of `batch`. Until `end()`, all come from that batch. */
  pick(batch: RxBatch, from: number, end: number): void {
    const picked = this.#picked;
    let count = this.#count;
    for (let i = from; i < end; i++) picked[count++ & (BATCH - 1)] = i << PACKET_SHIFT;
    this.#times = this.#packetTimes ? batch.times : batch.frames;
    this.#batch = batch;
    this.#packets = batch.packets;
    this.#count = count;
  }

  /** Frees the remaining frames, and prepares for the next batch. */
  end(): void {
    if (this.#spent < this.#count) this.#giveBack();
    this.#count = 0;
    this.#spent = 0;
    this.#gone = 0;
    this.#current = NONE;
  }

  #giveBack(): void {
    const packets = this.#packets;
    for (let i = 0; i < this.#count; i++) {
      const p = this.#picked[i];
      if (packets[p + Packet.app] !== SPENT) this.#umem.give(packets[p + Packet.offset]);
    }
  }

  get batch(): RxBatch {
    return this.#batch;
  }
  get packets(): Int32Array {
    return this.#packets;
  }
  /** The word of the current datagram's description; NONE if there is no current datagram. */
  get current(): number {
    return this.#current;
  }

  /**
   * Returns where an answer of `size` bytes fits into the frame of the current datagram, before its
   * payload and after room for headers. -1: it does not fit, or the frame was given away.
   */
  room(size: number): number {
    if ((size & ~MOST_IN_PLACE) !== 0 || !this.isFramed) return -1;
    const at = (this.offset - size) & ~3;
    return at >= this.#umem.frameAt(this.offset) + PAYLOAD_AT ? at : -1;
  }

  /** Whether the current datagram is in a frame or buffer that was not given away. */
  get isHere(): boolean {
    return this.#packets[this.#current + Packet.app] !== SPENT;
  }

  /** Whether that is a frame, with room for headers before the payload. */
  get isFramed(): boolean {
    return this.isHere && this.offset < this.#framesEnd;
  }

  /** Gives away the frame of the packet at word `p`. */
  spend(p: number): void {
    this.#packets[p + Packet.app] = SPENT;
    this.#spent++;
  }

  /** Whether `frame` belongs to the current datagram and was given away. */
  isReading(frame: number): boolean {
    return this.#current !== NONE && !this.isHere && this.#umem.frameAt(this.offset) === frame;
  }

  /** Datagrams that `next` has not passed yet. */
  get left(): number {
    return this.#count - this.#gone;
  }

  next(): boolean {
    const gone = this.#gone;
    if (gone >= this.#count) return false;
    this.#gone = gone + 1;
    this.#current = this.#picked[gone & (BATCH - 1)];
    return true;
  }

  get offset(): number {
    return this.#packets[this.#current + Packet.offset];
  }
  get size(): number {
    return this.#packets[this.#current + Packet.length];
  }
  get sourceAddress(): Address {
    this.#source.words[3] = this.#packets[this.#current + Packet.peer];
    return this.#source;
  }
  get sourcePort(): number {
    return this.#packets[this.#current + Packet.ports] >>> 16;
  }
  get destinationAddress(): Address {
    this.#destination.words[3] = this.#packets[this.#current + Packet.local];
    return this.#destination;
  }
  get destinationPort(): number {
    return this.#packets[this.#current + Packet.ports] & 0xffff;
  }
  get ttl(): number {
    return this.#packets[this.#current + Packet.tosTtl] & 0xff;
  }
  get dscp(): number {
    return this.#packets[this.#current + Packet.tosTtl] >>> 10;
  }
  get ecn(): number {
    return (this.#packets[this.#current + Packet.tosTtl] >>> 8) & 3;
  }
  get receivedAt(): number {
    const at = (this.#current & this.#timeBits) >>> (PACKET_SHIFT - 1);
    return this.#times[at + 1] * 2 ** 32 + this.#times[at];
  }
}

/** The answers of one app, built in the memory that they are sent from. */
class InlineAnswers implements Answers {
  readonly bytes: Uint8Array;
  readonly #sender: Sender;
  readonly #requests: InlineRequests;
  readonly #umem: Umem;
  readonly #transmitter: Transmitter;
  /** The transmitter's batch; the first `#count` descriptions are in use. */
  readonly #packets: Int32Array;
  readonly #counters: Float64Array;
  readonly #firstPort: number;
  /**
   * Where the reserved, unused room begins, -1 without one, and its size. Bytes after it belong to
   * other packets, so no more than that is sent.
   */
  #at = -1;
  #size = 0;
  /**
   * What was last sent from that room: its offset and size, as the app passed them, and where it was put. If it is
   * sent again, it is copied from there into another frame. -1: nothing was sent, or the room is another one.
   */
  #sentAt = -1;
  #sentSize = 0;
  #copyAt = 0;
  #isFull = false;
  /** Whether the room is in a large buffer. Otherwise, the request whose frame it is in; -1: none. */
  #isLarge = false;
  #owner = -1;
  #count = 0;
  /** Requests to be sent back unchanged, by the words of their descriptions; they follow `#packets`. */
  readonly #reflected = new Int32Array(BATCH);
  #reflections = 0;

  constructor(
    sender: Sender,
    requests: InlineRequests,
    parts: { umem: Umem; transmitter: Transmitter; counters: Float64Array; firstPort: number },
  ) {
    this.#firstPort = parts.firstPort;
    this.bytes = parts.umem.bytes;
    this.#sender = sender;
    this.#requests = requests;
    this.#umem = parts.umem;
    this.#transmitter = parts.transmitter;
    this.#packets = parts.transmitter.packets;
    this.#counters = parts.counters;
  }

  get room(): number {
    const room = this.#transmitter.room - this.#count - this.#reflections;
    return Math.max(0, Math.min(room, this.#umem.freeFrames));
  }

  reserve(size: number): number {
    this.takeBack();
    const at = this.#requests.room(size);
    if (at < 0) return this.#reserveApart(size);
    this.#owner = this.#requests.current;
    this.#isLarge = false;
    this.#at = at;
    this.#size = size | 0;
    return at;
  }

  /** Frees room that was reserved and not used. */
  takeBack(): void {
    // A request keeps its frame.
    if (this.#at >= 0 && this.#owner < 0) this.#umem.give(this.#at);
    this.#at = -1;
    this.#sentAt = -1;
  }

  /** Reserves room outside the request's frame. */
  #reserveApart(size: number): number {
    if (size > LARGEST_PAYLOAD) return tooLong(this.#counters);
    const umem = this.#umem;
    const isLarge = size > MOST_IN_FRAME;
    const begin = isLarge ? umem.takeLarge() : this.#takeFrame();
    if (begin < 0) return this.#noRoom();
    this.#owner = -1;
    this.#isLarge = isLarge;
    this.#at = isLarge ? begin : begin + PAYLOAD_AT;
    this.#size = size | 0;
    return this.#at;
  }

  /**
   * Takes a free frame, but not the current request's. That one can be free if more answers to the
   * request were sent than fit into a batch, and the first of them was dropped.
   */
  #takeFrame(): number {
    const umem = this.#umem;
    const frame = umem.takeFrame();
    if (!this.#requests.isReading(frame)) return frame;
    const other = umem.takeFrame();
    umem.give(frame);
    return other;
  }

  copy(offset: number): void {
    const { words } = this.#umem;
    const from = this.#requests.offset;
    const size = this.#requests.size;
    let done = 0;
    if (((from | offset) & 3) === 0) {
      const a = from >>> 2;
      const b = offset >>> 2;
      const count = size >>> 2;
      for (let w = 0; w < count; w++) words[b + w] = words[a + w];
      done = size & ~3;
    }
    for (; done < size; done++) this.bytes[offset + done] = this.bytes[from + done];
  }

  reflect(): void {
    if (this.#at >= 0 || this.#sentAt >= 0) this.takeBack();
    const requests = this.#requests;
    if (!requests.isFramed) return this.#reflectApart();
    // Answers leave in order.
    if (this.#count > 0) this.#flush();
    const { current } = requests;
    this.#reflected[this.#reflections++ & (BATCH - 1)] = current;
    requests.spend(current);
  }

  /** Sends back a request that is in a large buffer, or whose frame was given away. */
  #reflectApart(): void {
    const requests = this.#requests;
    if (requests.current === NONE) throw noDatagram("reflect");
    const { offset, size } = requests;
    if (requests.isHere) {
      this.#owner = requests.current;
      this.#isLarge = true;
      this.#at = offset;
      this.#size = size;
      this.reply(offset, size);
      return;
    }
    const room = this.reserve(size);
    if (room < 0) return;
    this.copy(room);
    this.reply(room, size);
  }

  reply(offset: number, size: number, fields?: HeaderFields): void {
    const { packets, current } = this.#requests;
    if (current === NONE) throw noDatagram("reply");
    const p = this.#add(offset, size, fields);
    if (p < 0) return;
    const answers = this.#packets;
    answers[p + Packet.peer] = packets[current + Packet.peer];
    answers[p + Packet.local] = packets[current + Packet.local];
    answers[p + Packet.ports] = packets[current + Packet.ports];
    answers[p + Packet.route] = packets[current + Packet.route];
  }

  send(destination: Destination, offset: number | Uint8Array | string, size = 0): void {
    if (typeof offset !== "number") return sendPayload(this, destination, offset);
    const { port, sourcePort = this.#firstPort, sourceAddress } = destination;
    checkPorts(port, sourcePort);
    const peer = toIPv4(destination.address);
    const local = sourceAddress === undefined ? 0 : toIPv4(sourceAddress);
    const p = this.#add(offset, size, destination);
    if (p < 0) return;
    const answers = this.#packets;
    answers[p + Packet.peer] = peer;
    answers[p + Packet.local] = local;
    answers[p + Packet.ports] = (port << 16) | sourcePort;
    answers[p + Packet.route] = LOOK_UP;
  }

  /**
   * Adds the answer in the reserved room to the batch. Returns the word of its description, to which
   * the caller adds the destination; -1: nothing is reserved. Throws RangeError if it exceeds the room.
   */
  #add(offset: number, size: number, fields: HeaderFields | undefined): number {
    const tosTtl = fields === undefined ? USUAL_TOS_TTL : tosTtlOf(fields);
    if (this.#at < 0) {
      if (this.#sentAt < 0) return this.#noRoom();
      offset = this.#again(offset, size);
      if (offset < 0) return -1;
    } else {
      this.#sentAt = offset;
      this.#sentSize = size;
      if (offset !== this.#at || !(size >= 0 && size <= this.#size)) {
        offset = this.#move(offset, size);
      }
    }
    this.#copyAt = offset;
    if (this.#reflections > 0) this.#turnBack();
    if (this.#count === BATCH) this.#flush();
    const answers = this.#packets;
    const p = (this.#count & (BATCH - 1)) << PACKET_SHIFT;
    answers[p + Packet.offset] = offset;
    answers[p + Packet.length] = size;
    answers[p + Packet.frame] = this.#isLarge ? -1 : offset - PAYLOAD_AT;
    answers[p + Packet.tosTtl] = tosTtl;
    this.#count++;
    if (this.#owner >= 0) this.#requests.spend(this.#owner);
    this.#at = -1;
    return p;
  }

  #noRoom(): number {
    this.#isFull = true;
    this.#counters[COUNT.tx_drop_reply_link_full]++;
    return -1;
  }

  /** Copies the last answer into another frame, and returns where it is; -1: there is no room. */
  #again(offset: number, size: number): number {
    checkSame(offset, size, this.#sentAt, this.#sentSize);
    const at = this.#reserveApart(size);
    if (at >= 0) this.bytes.copyWithin(at, this.#copyAt, this.#copyAt + size);
    return at;
  }

  /**
   * Moves an answer that does not begin at the start of its room to its place in the frame, and returns
   * where it is. Throws RangeError if it exceeds its room.
   */
  #move(offset: number, size: number): number {
    checkWithin(offset, size, { at: this.#at, room: this.#size });
    if (this.#isLarge) return offset;
    this.bytes.copyWithin(this.#at, offset, offset + size);
    return this.#at;
  }

  /** Sends the requests that go back unchanged. */
  #turnBack(): void {
    const count = this.#reflections;
    this.#reflections = 0;
    this.#counters[COUNT.answers] += count;
    this.#transmitter.reflect(this.#sender, this.#requests.batch, this.#reflected, count);
  }

  #flush(): void {
    const count = this.#count;
    if (count === 0) return;
    this.#counters[COUNT.answers] += count;
    const { batch, count: requests } = this.#requests;
    this.#transmitter.send(this.#sender, count, requests > 0 ? batch.arrival : 0);
    this.#count = 0;
  }

  /**
   * Sends the answers when a handler is done. Returns whether the handler lacked room or left none.
   * Reserved, unused room remains the app's.
   */
  finish(): boolean {
    this.#flush();
    if (this.#reflections > 0) this.#turnBack();
    this.#sentAt = -1;
    const isFull = this.#isFull || this.room === 0;
    this.#isFull = false;
    if (this.#at >= 0 && this.#owner >= 0) {
      this.#requests.spend(this.#owner);
      this.#owner = -1;
    }
    return isFull;
  }
}
