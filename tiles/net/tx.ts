// SPDX-License-Identifier: Apache-2.0
/**
 * The transmit path: each packet from an app is checked, gets a frame with its payload and the headers
 * that the route cache has for its peer, and is put on a transmit ring. A packet without a cached route
 * takes the slow path: its route is resolved, and it is sent, queued until the neighbour is known,
 * handed to the kernel's socket, or dropped. Every packet has exactly one of these outcomes, with one
 * counter.
 *
 * Nothing that an app writes is trusted. A descriptor is read once, its bounds are checked, and the
 * payload is copied once, into a frame that no app can write. Which request a packet answers, and so
 * its destination, is stored in the net tile.
 *
 * A batch goes through passes of one kind of work each, as in `rx.ts`.
 */

import { NET } from "../runtime/counters.ts";
import * as link from "../runtime/link.ts";
import type { AllowedPeers, AppLink } from "./app_link.ts";
import { ARP_QUEUE_LIMITS, ArpQueue, type Solicits } from "./arp_queue.ts";
import type { Capture } from "./capture.ts";
import * as frame from "./rings.ts";
import type { Umem, XdpSocket } from "./rings.ts";
import * as cached from "./route_cache.ts";
import type { Dispatch, RxBatch } from "./rx.ts";
import type { SocketSender } from "./sockets.ts";
import * as counted from "./traffic.ts";

// Own constants, see rings.ts.
const { Descriptor, LARGEST_PAYLOAD, REFLECTED } = link;
const { layout: { PENDING_SHIFT }, PortCell } = counted;
const { appBit, BEGIN_BITS, layout, LINK_BYTES, TICK_BITS } = cached;
const { isAdmitted, MOST_WORDS, Route } = layout;
const { dropCounter, Outcome, UNRESOLVED } = cached;
const { BATCH, CHECKSUM_PARTIAL, COUNT_BITS, LOOK_UP } = frame;
const { Packet, PACKET_SHIFT, PACKET_WORDS, PACKETS_BITS } = frame;
const { REFUSED, UNROUTED, PAYLOAD_AT, MOST_BYTES } = frame;
const { ETHERNET_BYTES, PACKET_HEADER_BYTES, UDP_BYTES } = frame;
const { fold, halves, sumWords, swap16, swapHalves } = frame;
const { FRAGMENT_WORD, PROTOCOL_WORD, USUAL_TOS_TTL, VERSION_WORD } = frame;
const COUNT = NET.index;

/** Instead of the counter of a drop: the packet is sent or queued, and its frame was given away. */
const GONE = 0;
/** As a route: the transmit ring has no room. */
const RING_FULL = REFUSED - COUNT.tx_drop_ring_full;
/** Where the Ethernet header begins when it has no tags. */
const UNTAGGED_BEGIN = LINK_BYTES - ETHERNET_BYTES;
/** All packets of a batch, in order, as `reflect` takes them. */
const ALL = Int32Array.from({ length: BATCH }, (_, i) => i << PACKET_SHIFT);

/** The descriptions of requests to be sent back; `arrival` 0: each has its own. */
type ReflectedBatch = Pick<RxBatch, "packets" | "changes" | "arrival">;

/** The sender of packets: an app, and the memory of their payloads. */
export interface Sender {
  /** The app's number in this tile. */
  readonly index: number;
  readonly peers: AllowedPeers;
  readonly view: DataView;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
}

/** Sends the answers of apps. */
export class Transmitter {
  /** The descriptions of the current batch. The caller of `send` fills them. */
  readonly packets = frame.makePackets();
  /** Packets whose neighbour is being resolved. */
  readonly queue: ArpQueue;
  readonly #umem: Umem;
  readonly #frames: Int32Array;
  readonly #cache: cached.RouteCache;
  readonly #routes: Int32Array;
  readonly #resolver: cached.Resolver;
  readonly #solicits: Solicits;
  readonly #xdpSockets: readonly XdpSocket[];
  readonly #sockets: SocketSender;
  readonly #dispatch: Dispatch;
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  readonly #traffic: counted.TrafficCounter;
  /** Requests from a link that are sent back unchanged. */
  readonly #returned: ReflectedBatch = {
    packets: frame.makePackets(),
    changes: -1,
    arrival: 0,
  };
  /** The packet on the slow path, and one from the ARP queue. */
  readonly #packet = new Int32Array(PACKET_WORDS);
  readonly #waiting = new Int32Array(PACKET_WORDS);
  readonly #waitedFor = new Int32Array(2 * ARP_QUEUE_LIMITS.total);

  /** `random` and `seed` are for the ARP queue. */
  constructor(parts: {
    umem: Umem;
    cache: cached.RouteCache;
    resolver: cached.Resolver;
    solicits: Solicits;
    xdpSockets: readonly XdpSocket[];
    sockets: SocketSender;
    dispatch: Dispatch;
    capture: Capture;
    counters: Float64Array;
    traffic: counted.TrafficCounter;
    random: () => number;
    seed: number;
  }) {
    this.#umem = parts.umem;
    this.#frames = parts.umem.words;
    this.#cache = parts.cache;
    this.#routes = parts.cache.words;
    this.#resolver = parts.resolver;
    this.#solicits = parts.solicits;
    this.#xdpSockets = parts.xdpSockets;
    this.#sockets = parts.sockets;
    this.#dispatch = parts.dispatch;
    this.#capture = parts.capture;
    this.#counters = parts.counters;
    this.#traffic = parts.traffic;
    const { solicits, random, seed } = parts;
    const drop = (packet: Int32Array, counter: number) => {
      this.#drop(packet, 0, counter, this.#umem.bytes);
      this.#umem.give(packet[Packet.frame]);
    };
    this.queue = new ArpQueue(ARP_QUEUE_LIMITS, { solicits, drop, random, seed });
  }

  /** How many frames the fullest transmit ring can take now; without rings any number. */
  get room(): number {
    let room = Infinity;
    for (const socket of this.#xdpSockets) if (socket.room < room) room = socket.room;
    return room;
  }

  /** Takes one batch from the link of `app` and returns how many packets. */
  burst(app: AppLink): number {
    const count = Math.min(app.answers.available(), BATCH);
    if (count === 0) return 0;
    for (let i = 0; i < count;) {
      i = this.#reflectRun(app, i, count);
      if (i < count) i = this.#sendRun(app, i, count);
    }
    // Kernel sockets send from the app's memory, so this comes before the app may reuse it.
    this.#sockets.flush();
    app.release(count);
    return count;
  }

  /**
   * Sends back the requests that the answers name, from number `from` on. Returns the first answer that
   * names none, or one that is not this app's.
   */
  #reflectRun(app: AppLink, from: number, end: number): number {
    const { answers } = app;
    const { words } = answers;
    const { packets } = this.#returned;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      if (words[at + Descriptor.length] !== REFLECTED) break;
      const p = ((i - from) & (BATCH - 1)) << PACKET_SHIFT;
      if (!app.takeRequest(words[at + Descriptor.offset], packets, p)) break;
    }
    if (i > from) this.reflect(app.returning, this.#returned, ALL, i - from);
    return i;
  }

  /**
   * Sends received packets of `from` back, each in its own frame and without reading its payload: the
   * first `count` that `picked` lists, by the first words of their descriptions in `batch`. They leave
   * in order. A packet that cannot be reflected is sent like any other answer.
   */
  reflect(
    from: Sender,
    batch: ReflectedBatch,
    picked: Int32Array,
    count: number,
  ): void {
    const { packets, arrival } = batch;
    for (let done = 0; done < count; done++) {
      const first = done;
      done = this.#turnRound(from, batch, picked, first, count);
      this.#counters[COUNT.tx_accepted] += done - first;
      if (done === count) return;
      copyPacket(packets, picked[done], this.packets);
      this.packets[Packet.tosTtl] = USUAL_TOS_TTL;
      const offset = this.packets[Packet.offset];
      this.packets[Packet.frame] = this.#umem.isLarge(offset) ? -1 : offset - PAYLOAD_AT;
      this.send(from, 1, arrival);
    }
  }

  /**
   * Sends answer number `from`, and the following ones up to the first that names a request. Returns
   * the number of that one.
   */
  #sendRun(app: AppLink, from: number, end: number): number {
    const { packets } = this;
    const count = this.#read(app, from, end);
    this.#classify(app, count);
    this.#traffic.answeredEach(packets, ALL, 0, count);
    this.#takeFrames(count);
    copyPayloads(app.view, this.#frames, packets, count);
    if (this.#write(packets, count) > 0) this.#sendOthers(app, count);
    this.#counters[COUNT.tx_accepted] += count;
    return from + count;
  }

  /**
   * Sends the first `count` of `packets`, with payloads in place in the UMEM. Each gives away its frame, or
   * its large buffer (`frame` is -1 then). Kernel sockets send with their next flush. `arrival`: that of
   * the burst that they answer, in ticks; 0: each description has its own, if it answers a request.
   */
  send(from: Sender, count: number, arrival: number): void {
    const { packets } = this;
    this.#classify(from, count);
    if (arrival !== 0) this.#traffic.answered(arrival, count);
    else this.#traffic.answeredEach(packets, ALL, 0, count);
    sumPayloads(this.#frames, packets, count);
    if (this.#write(packets, count) > 0) this.#sendOthers(from, count);
    this.#counters[COUNT.tx_accepted] += count;
  }

  /** Reads the descriptors of a run, each word once, and returns how many there are. */
  #read(app: AppLink, from: number, end: number): number {
    const { answers } = app;
    const { words } = answers;
    const { packets } = this;
    let i = from;
    for (; i < end; i++) {
      const at = answers.slot(i);
      const length = words[at + Descriptor.length];
      // A run begins with one only if it names no request. Its length is then invalid.
      if (length === REFLECTED && i > from) break;
      const p = ((i - from) & (BATCH - 1)) << PACKET_SHIFT;
      packets[p + Packet.offset] = words[at + Descriptor.offset];
      packets[p + Packet.length] = length;
      const tosTtl = words[at + Descriptor.tosTtl] & 0xffff;
      packets[p + Packet.tosTtl] = (tosTtl & 0xff) === 0 ? tosTtl | USUAL_TOS_TTL : tosTtl;
      const request = words[at + Descriptor.request];
      if (request === 0) {
        const ports = words[at + Descriptor.ports];
        packets[p + Packet.peer] = words[at + Descriptor.destination];
        packets[p + Packet.local] = words[at + Descriptor.source];
        packets[p + Packet.ports] = (ports << 16) | (ports >>> 16);
        packets[p + Packet.route] = LOOK_UP;
        packets[p + Packet.arrival] = 0;
      } else if (!app.answerTo(request - 1, packets, p)) {
        // The app has no such request. A length of -1 is invalid.
        packets[p + Packet.length] = -1;
        packets[p + Packet.ports] = 0;
        packets[p + Packet.arrival] = 0;
      }
    }
    return i - from;
  }

  /** Checks the packets, keeps the routes of those that can be sent at once, and counts all by port. */
  #classify({ index, bytes }: Sender, count: number): void {
    const { packets } = this;
    const routes = this.#routes;
    const cache = this.#cache;
    const dispatch = this.#dispatch;
    const pending = this.#traffic.pending;
    const memoryBytes = bytes.length;
    const bit = appBit(index);
    const bits = TICK_BITS | bit;
    const checked = (cache.tick & TICK_BITS) | bit;
    const end = count & COUNT_BITS;
    let total = 0;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const offset = packets[p + Packet.offset];
      const length = packets[p + Packet.length];
      const ports = packets[p + Packet.ports];
      let r = packets[p + Packet.route];
      // A refused packet may name a port of another app.
      let port = 0;
      if (length < 0 || length > LARGEST_PAYLOAD || offset < 0 || offset > memoryBytes - length) {
        r = REFUSED - COUNT.tx_drop_invalid_descriptor;
        port = this.#traffic.portOf(index, ports & 0xffff);
      } else if (!dispatch.serves(index, ports & 0xffff)) {
        r = REFUSED - COUNT.tx_drop_port_not_owned;
      } else if (ports >>> 16 === 0) {
        r = REFUSED - COUNT.tx_drop_port_zero;
        port = this.#traffic.portOf(index, ports & 0xffff);
      } else {
        port = ports & 0xffff;
        const peer = packets[p + Packet.peer];
        const local = packets[p + Packet.local];
        if (r === LOOK_UP) r = cache.find(peer, local, 0);
        if (
          !cache.leads(r, peer, local, length) ||
          (routes[(r & MOST_WORDS) + Route.checked] & bits) !== checked
        ) r = UNROUTED;
      }
      packets[p + Packet.route] = r;
      // An invalid length adds no more than the longest.
      const bytes = length & 0xffff;
      pending[(port << PENDING_SHIFT) + PortCell.txPackets]++;
      pending[(port << PENDING_SHIFT) + PortCell.txBytes] += bytes;
      total += bytes + PACKET_HEADER_BYTES;
    }
    this.#traffic.passed(total);
  }

  /** Gives a frame to each packet with a route. */
  #takeFrames(count: number): void {
    const { packets } = this;
    const umem = this.#umem;
    const end = count & COUNT_BITS;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const taken = packets[p + Packet.route] < 0 ? -1 : umem.takeFrame();
      packets[p + Packet.frame] = taken;
      if (taken < 0 && packets[p + Packet.route] >= 0) {
        packets[p + Packet.route] = REFUSED - COUNT.tx_drop_no_frame;
      }
    }
  }

  /**
   * Writes the headers of each packet with a route, whose payload is in its frame and summed, and
   * queues it for its transmit ring. If the ring is full, the route becomes `RING_FULL`, and the caller
   * still owns the frame. Returns the number of packets without a route.
   */
  #write(packets: Int32Array, count: number): number {
    const frames = this.#frames;
    const routes = this.#routes;
    const xdpSockets = this.#xdpSockets;
    const end = count & COUNT_BITS;
    let others = 0;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const r = packets[p + Packet.route];
      if (r < 0) {
        others++;
        continue;
      }
      const outcome = routes[(r & MOST_WORDS) + Route.outcome];
      const socket = xdpSockets[outcome >>> 24];
      if (socket.room === 0) {
        packets[p + Packet.route] = RING_FULL;
        others++;
        continue;
      }
      writeHeaders(frames, routes, packets, p);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const length = packets[p + Packet.length] + PAYLOAD_AT - begin;
      const queued = socket.queueEnd;
      socket.queue[queued] = packets[p + Packet.frame] + begin;
      socket.queue[queued + 1] = length;
      socket.queueUpTo(queued + 2, length);
    }
    if (this.#capture.wanted) {
      for (let i = 0; i < count; i++) {
        const p = i << PACKET_SHIFT;
        if (packets[p + Packet.route] >= 0) this.#show(packets, p, packets[p + Packet.frame]);
      }
    }
    return others;
  }

  /**
   * Reverses the headers of received packets by their routes and queues them, from number `from` of
   * `picked` on. Returns the first that cannot be reflected, or `end`.
   */
  #turnRound(
    { index }: Sender,
    { packets, changes, arrival }: ReflectedBatch,
    picked: Int32Array,
    from: number,
    end: number,
  ): number {
    const frames = this.#frames;
    const cache = this.#cache;
    const routes = cache.words;
    const xdpSockets = this.#xdpSockets;
    const bit = appBit(index);
    const bits = TICK_BITS | bit;
    const checked = (cache.tick & TICK_BITS) | bit;
    // Nothing here changes the cache.
    const isCurrent = changes === cache.changes;
    const { pending } = this.#traffic;
    const limit = end & COUNT_BITS;
    // The socket of the previous packet, where its next frame is queued, and where its room ends.
    let number = -1;
    let socket: XdpSocket | undefined;
    let queue: Uint32Array | undefined;
    let queued = 0;
    let full = 0;
    let frameBytes = 0;
    let i = from & COUNT_BITS;
    for (; i < limit; i++) {
      const p = picked[i] & PACKETS_BITS;
      const r = packets[p + Packet.route];
      if (r < 0) break;
      const length = packets[p + Packet.length];
      const outcome = routes[(r & MOST_WORDS) + Route.outcome];
      if (!isAdmitted(outcome, length)) break;
      if (!isCurrent && !cache.isOf(r, packets[p + Packet.peer], packets[p + Packet.local])) break;
      if (
        (routes[(r & MOST_WORDS) + Route.checked] & bits) !== checked ||
        packets[p + Packet.sum] === CHECKSUM_PARTIAL
      ) break;
      // Port 0 is never valid.
      const ports = packets[p + Packet.ports];
      if (ports >>> 16 === 0) break;
      if (outcome >>> 24 !== number) {
        if (socket !== undefined) this.#queueUpTo(socket, queued, frameBytes);
        frameBytes = 0;
        number = outcome >>> 24;
        socket = xdpSockets[number];
        queue = socket.queue;
        queued = socket.queueEnd;
        full = queued + 2 * socket.room;
      }
      if (queued === full) break;
      const at = (packets[p + Packet.offset] - PAYLOAD_AT) & MOST_BYTES;
      turnHeaders(frames, routes, at, r, length);
      const begin = (outcome >>> 16) & BEGIN_BITS;
      const size = length + PAYLOAD_AT - begin;
      queue![queued] = at + begin;
      queue![queued + 1] = size;
      queued += 2;
      frameBytes += size;
      const cells = (ports & 0xffff) << PENDING_SHIFT;
      pending[cells + PortCell.txPackets]++;
      pending[cells + PortCell.txBytes] += length;
    }
    if (i > from) {
      this.#queueUpTo(socket!, queued, frameBytes);
      // Requests are answered in order: if the first and the last arrived together, all did.
      const first = arrival || packets[picked[from] + Packet.arrival];
      const last = arrival || packets[picked[i - 1] + Packet.arrival];
      if (first === last) this.#traffic.answered(first, i - from);
      else this.#traffic.answeredEach(packets, picked, from, i);
    }
    if (this.#capture.wanted) {
      for (let j = from; j < i; j++) {
        this.#show(packets, picked[j], packets[picked[j] + Packet.offset] - PAYLOAD_AT);
      }
    }
    return i;
  }

  /** Queues the frames, `bytes` long in total, that were written to the queue of `socket` up to word `end`. */
  #queueUpTo(socket: XdpSocket, end: number, bytes: number): void {
    socket.queueUpTo(end, bytes);
    this.#traffic.passed(bytes);
  }

  /** Captures a packet that was queued for a transmit ring, its frame at `at`. */
  #show(packets: Int32Array, p: number, at: number): void {
    const outcome = this.#routes[packets[p + Packet.route] + Route.outcome];
    const begin = (outcome >>> 16) & BEGIN_BITS;
    const size = packets[p + Packet.length] + PAYLOAD_AT - begin;
    this.#capture.sent(
      this.#umem.bytes,
      at + begin,
      size,
      this.#xdpSockets[outcome >>> 24].ifindex,
    );
  }

  /** Sends or drops the packets of the batch that have no route, one by one. */
  #sendOthers(from: Sender, count: number): void {
    const { packets } = this;
    for (let i = 0; i < count; i++) {
      const p = i << PACKET_SHIFT;
      const r = packets[p + Packet.route];
      if (r >= 0) continue;
      const counter = r === UNROUTED ? this.#sendSlowly(from, p) : REFUSED - r;
      if (counter === GONE) continue;
      const port = this.#traffic.portOf(from.index, packets[p + Packet.ports] & 0xffff);
      this.#drop(packets, p, counter, from.bytes, port);
      if (from.bytes === this.#umem.bytes) this.#umem.give(packets[p + Packet.offset]);
      else if (packets[p + Packet.frame] >= 0) this.#umem.give(packets[p + Packet.frame]);
    }
  }

  /** The slow path of the packet at word `p` of the batch. Returns GONE, or the counter of the drop. */
  #sendSlowly(from: Sender, p: number): number {
    const packet = this.#packet;
    copyPacket(this.packets, p, packet);
    const [peer, local, ports] = [packet[Packet.peer], packet[Packet.local], packet[Packet.ports]];
    if (!from.peers.has(peer)) return COUNT.tx_drop_unsolicited;
    let found = this.#resolver.resolve(peer, local, ports);
    // Older packets may wait for a neighbour that was just found. They are sent first.
    if (found.isNew && this.#release(found.ifindex, found.neighbor)) {
      found = this.#resolver.resolve(peer, local, ports);
    }
    return this.#forward(from, packet, found);
  }

  /**
   * Handles `packet` according to its resolution. `from`: the app that sends it; null: it waited in the
   * queue, until `deadline` at most. Returns GONE, or the counter of its drop. After a drop the caller
   * still owns its memory.
   */
  #forward(from: Sender | null, packet: Int32Array, found: cached.Resolution, deadline?: number) {
    const routes = this.#routes;
    const r = found.route;
    const isResolved = r !== UNRESOLVED;
    const outcome = isResolved ? routes[r + Route.outcome] : found.mostPayload;
    if (isResolved && outcome === Outcome.kernel) {
      return this.#sendByKernel(from, packet, COUNT.tx_drop_no_socket);
    }
    if (isResolved && outcome < 0) return dropCounter(outcome);
    if (packet[Packet.length] > (isResolved ? outcome & 0xffff : outcome)) {
      // The kernel fragments it.
      return this.#sendByKernel(from, packet, COUNT.tx_drop_exceeds_mtu);
    }
    if (isResolved && from !== null) this.#check(r, from.index);
    packet[Packet.route] = isResolved ? r : 0;
    const offset = packet[Packet.offset];
    const isCopied = packet[Packet.frame] < 0;
    if (from !== null && !this.#fillFrame(from, packet)) return COUNT.tx_drop_no_frame;
    const isGone = isResolved
      ? this.#write(packet, 1) === 0
      : this.queue.add(found, packet, deadline);
    if (!isGone) {
      if (isCopied) this.#umem.give(packet[Packet.frame]);
      return isResolved ? COUNT.tx_drop_ring_full : COUNT.tx_drop_arp_queue_full;
    }
    if (!isResolved && from !== null) this.#counters[COUNT.tx_queued]++;
    // The payload was in a large buffer.
    if (isCopied && from !== null && from.bytes === this.#umem.bytes) this.#umem.give(offset);
    return GONE;
  }

  /** Permits app `index` to send by entry `r` until the next tick, and keeps its neighbour reachable. */
  #check(r: number, index: number): void {
    const routes = this.#routes;
    const now = this.#cache.tick & TICK_BITS;
    if ((routes[r + Route.checked] & TICK_BITS) !== now) {
      routes[r + Route.checked] = now;
      this.#resolver.confirm(r);
    }
    routes[r + Route.checked] |= appBit(index);
  }

  /** Copies the payload of `packet` into a frame, if it is in none, and sums it. False: no frame is free. */
  #fillFrame(from: Sender, packet: Int32Array): boolean {
    if (packet[Packet.frame] >= 0) {
      sumPayloads(this.#frames, packet, 1);
      return true;
    }
    const taken = this.#umem.takeFrame();
    if (taken < 0) return false;
    packet[Packet.frame] = taken;
    copyPayloads(from.view, this.#frames, packet, 1);
    packet[Packet.offset] = taken + PAYLOAD_AT;
    return true;
  }

  /** Hands `packet` to the kernel's socket of its port. Returns GONE; `counter` if there is none. */
  #sendByKernel(from: Sender | null, packet: Int32Array, counter: number): number {
    const fd = this.#dispatch.fd(packet[Packet.ports] & 0xffff);
    if (fd < 0) return counter;
    this.#sockets.send(fd, from === null ? this.#umem.bytes : from.bytes, packet);
    return GONE;
  }

  /** Sends all that can be sent now. Called when netbase has changed, before newer packets are sent. */
  releaseAll(): void {
    if (this.queue.count === 0) return;
    const waiting = this.#waitedFor;
    const count = this.queue.neighbors(waiting);
    for (let i = 0; i < count; i++) this.#release(waiting[2 * i], waiting[2 * i + 1]);
  }

  /** Sends what waits for (ifindex, address), if it can be sent now. True: something waited. */
  #release(ifindex: number, address: number): boolean {
    const { queue } = this;
    const packet = this.#waiting;
    let any = false;
    // Each iteration takes one packet out of this queue. Others may join or displace neighbours
    // meanwhile, so the queue is looked up again.
    while (queue.count > 0) {
      const neighbor = queue.find(ifindex, address);
      if (neighbor < 0) break;
      any = true;
      const deadline = queue.peek(neighbor, packet);
      const [peer, local] = [packet[Packet.peer], packet[Packet.local]];
      const found = this.#resolver.resolve(peer, local, packet[Packet.ports]);
      if (
        found.route === UNRESOLVED && found.ifindex === ifindex && found.neighbor === address
      ) break;
      this.#solicits.forget(ifindex, address);
      queue.shift(neighbor);
      const counter = this.#forward(null, packet, found, deadline);
      if (counter === GONE) continue;
      this.#drop(packet, 0, counter, this.#umem.bytes);
      this.#umem.give(packet[Packet.frame]);
    }
    return any;
  }

  /** Counts and captures the drop of the packet at word `p`. Its payload is in `memory`. */
  #drop(
    packets: Int32Array,
    p: number,
    counter: number,
    memory: Uint8Array,
    port = packets[p + Packet.ports] & 0xffff,
  ): void {
    this.#counters[counter]++;
    this.#traffic.dropped(port, PortCell.txDrops);
    if (this.#capture.wanted) this.#capture.dropped(counter, packets.subarray(p), memory);
  }
}

/** Copies the description at word `p` of `from` to the beginning of `to`. */
function copyPacket(from: Int32Array, p: number, to: Int32Array): void {
  for (let word = 0; word < PACKET_WORDS; word++) to[word] = from[p + word];
}

/**
 * Copies the payload of each packet with a route from `source` into its frame, and stores its one's
 * complement sum, not folded. It sums the copied bytes, even if the source changes meanwhile.
 */
function copyPayloads(
  source: DataView,
  frames: Int32Array,
  packets: Int32Array,
  count: number,
): void {
  const end = count & COUNT_BITS;
  for (let i = 0; i < end; i++) {
    const p = i << PACKET_SHIFT;
    if (packets[p + Packet.route] < 0) continue;
    const length = packets[p + Packet.length];
    let at = packets[p + Packet.offset];
    let to = (packets[p + Packet.frame] + PAYLOAD_AT) >>> 2;
    // A signed word, see `sumWords`.
    let sum = 0;
    for (const last = to + (length >>> 2); to < last; to++) {
      const word = source.getInt32(at, true);
      frames[to] = word;
      sum = (sum + halves(word)) | 0;
      at += 4;
    }
    if ((length & 3) !== 0) {
      const word = lastBytes(source, at, length & 3);
      frames[to] = word;
      sum = (sum + halves(word)) | 0;
    }
    packets[p + Packet.sum] = sum;
  }
}

/** The same sum of payloads that are already in their frames. */
function sumPayloads(frames: Int32Array, packets: Int32Array, count: number): void {
  const end = count & COUNT_BITS;
  for (let i = 0; i < end; i++) {
    const p = i << PACKET_SHIFT;
    if (packets[p + Packet.route] < 0) continue;
    const at = ((packets[p + Packet.frame] + PAYLOAD_AT) & MOST_BYTES) >>> 2;
    packets[p + Packet.sum] = sumWords(frames, at, packets[p + Packet.length]);
  }
}

/** One to three bytes at `at` as a word, padded with zeros. */
function lastBytes(source: DataView, at: number, count: number): number {
  if (count === 1) return source.getUint8(at);
  const word = source.getUint16(at, true);
  return count === 2 ? word : word | (source.getUint8(at + 2) << 16);
}

/**
 * Writes the headers of the packet at word `p`, whose payload is in place and summed, into its frame,
 * from its entry of the route cache. Frames begin at multiples of four.
 */
function writeHeaders(
  frames: Int32Array,
  routes: Int32Array,
  packets: Int32Array,
  p: number,
): void {
  const r = packets[p + Packet.route] & MOST_WORDS;
  const w = (packets[p + Packet.frame] & MOST_BYTES) >>> 2;
  const ports = packets[p + Packet.ports];
  const length = packets[p + Packet.length] & 0xffff;
  writePacketHeader(frames, routes, w, r, length, packets[p + Packet.tosTtl]);

  // The peer's port is the higher half, and second in memory. In each port the higher byte comes first.
  const portsBe = swapHalves(ports);
  const udpLength = swap16(length + UDP_BYTES);
  // The length counts twice: in the pseudo header and in the UDP header itself.
  const sum = (routes[r + Route.sums] & 0xffff) + 2 * udpLength + halves(portsBe) +
    packets[p + Packet.sum];
  const udpSum = ~fold(sum) & 0xffff;
  frames[w + 11] = portsBe;
  // A sum of 0 means "no checksum", so it is sent as 0xffff (RFC 768).
  frames[w + 12] = udpLength | ((udpSum === 0 ? 0xffff : udpSum) << 16);
}

/**
 * Reverses the headers of a received packet: its payload of `length` bytes is in place in the frame at
 * byte `at`, and `r` is the entry of its peer. Addresses and ports are only swapped, which changes no
 * one's complement sum: the UDP checksum stays valid (RFC 1071 §2).
 */
function turnHeaders(
  frames: Int32Array,
  routes: Int32Array,
  at: number,
  r: number,
  length: number,
): void {
  const w = at >>> 2;
  writePacketHeader(frames, routes, w, r & MOST_WORDS, length & 0xffff, USUAL_TOS_TTL);
  const ports = frames[w + 11];
  frames[w + 11] = (ports << 16) | (ports >>> 16);
}

/** Writes everything before the UDP header of the frame at word `w`. */
function writePacketHeader(
  frames: Int32Array,
  routes: Int32Array,
  w: number,
  r: number,
  length: number,
  tosTtl: number,
): void {
  if (((routes[r + Route.outcome] >>> 16) & BEGIN_BITS) < UNTAGGED_BEGIN) {
    frames[w] = routes[r + Route.link];
    frames[w + 1] = routes[r + Route.link + 1];
  }
  frames[w + 2] = routes[r + Route.link + 2];
  frames[w + 3] = routes[r + Route.link + 3];
  frames[w + 4] = routes[r + Route.link + 4];
  frames[w + 5] = routes[r + Route.link + 5];

  const total = swap16(length + PACKET_HEADER_BYTES);
  frames[w + 6] = VERSION_WORD | (tosTtl & 0xff00) | (total << 16);
  frames[w + 7] = FRAGMENT_WORD;
  frames[w + 8] = PROTOCOL_WORD | (tosTtl & 0xff) |
    (~fold((routes[r + Route.sums] >>> 16) + total + tosTtl) << 16);
  frames[w + 9] = routes[r + Route.localBe];
  frames[w + 10] = routes[r + Route.peerBe];
}

/** For tests and benchmarks. V8 does not inline functions here that are exported individually. */
export const headers = { copyPayloads, writeHeaders } as const;
