// SPDX-License-Identifier: Apache-2.0
/**
 * The memory that holds packets, and the rings by which frames go to the kernel and come back.
 *
 * The UMEM holds the frames of a net tile, and after them buffers for datagrams of the kernel's
 * sockets, which may have the maximum length of IPv4:
 *
 *     │ frame 0 │ frame 1 │ … │ large buffer 0 (64 KiB) │ large buffer 1 │ … │
 *
 * A frame is in a ring of an AF_XDP socket, in an app's link, in the ARP queue, or free. Free frames and
 * buffers are kept on stacks, so that the most recently used one, which is still in the cache, is used next.
 */

import { u8, type View } from "../../ffi/region.ts";
import {
  UDP_BUFFER_BYTES,
  VISIBLE_HEADER_WORDS,
  XSK_CURSORS,
  XSK_STATISTICS,
  XskCursor,
} from "../../ffi/shared.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import { FRAME_BYTES } from "../runtime/plan.ts";

/*
 * A frame, and the description of the packet in it: the offsets of the fields of Ethernet, 802.1Q, IPv4
 * and UDP headers, the arithmetic of their checksums, and the words that a net tile carries from the
 * receive ring to the answer.
 *
 * In every frame that is sent, the IPv4 header begins at the same offset. The Ethernet header, with as
 * many tags as needed, ends there:
 *
 *     0        10          24            44         52
 *     │  (free) │ Ethernet │ IPv4 header │ UDP header │ payload …
 *
 * All but the Ethernet header is aligned to words, and the payload can be in place before the headers
 * are known.
 *
 * Checksums are summed in the machine's byte order (little-endian). A one's complement sum of 16-bit
 * words is independent of it, as long as the result is stored the way it was summed (RFC 1071 §1.2 B).
 *
 * Modules on the data path copy these names into local constants (`const { fold } = frame`). V8 folds
 * constants and inlines functions only if a module neither imports nor exports them. All others it
 * loads and checks at every use.
 */

/** Bytes of an Ethernet header without tags. */
export const ETHERNET_BYTES = 14;
/** Bytes of an 802.1Q or 802.1ad tag. */
export const TAG_BYTES = 4;
/** The most tags in a frame: 802.1ad with 802.1Q inside. */
export const MOST_TAGS = 2;
/** Bytes of an IPv4 header without options. The kernel handles packets with options. */
export const IPV4_BYTES = 20;
export const UDP_BYTES = 8;
/** Bytes of IPv4 and UDP headers. */
export const PACKET_HEADER_BYTES = IPV4_BYTES + UDP_BYTES;

/** EtherTypes (linux/if_ether.h). */
export const ETH_P_IP = 0x0800;
export const ETH_P_8021Q = 0x8100;
export const ETH_P_8021AD = 0x88a8;

/** Byte offsets in an IPv4 header (RFC 791 §3.1). */
export const IP_PROTOCOL = 9;
export const IP_SOURCE = 12;
export const IP_DESTINATION = 16;

/** Byte offsets of UDP's fields from the start of the IPv4 header (RFC 768). */
export const UDP_PORTS = 20;
export const PAYLOAD = 28;

export const IPPROTO_UDP = 17;

/** First word of the IPv4 headers that we send: version 4, five words, no TOS, no length yet. */
export const VERSION_WORD = 0x45;
/** Second word: identification 0 and "don't fragment" (an atomic datagram, RFC 6864 §4.1). */
export const FRAGMENT_WORD = 0x0040_0000;
/** Third word: protocol UDP, no time to live and no checksum yet. */
export const PROTOCOL_WORD = IPPROTO_UDP << 8;
/** `Packet.tosTtl` of a packet unless the app sets it. */
export const USUAL_TOS_TTL = 64;

/** The part of the IPv4 header's checksum that is the same in all packets sent. */
export const IP_CONSTANT_SUM = VERSION_WORD + halves(FRAGMENT_WORD) + PROTOCOL_WORD;
/** The protocol in the UDP pseudo header (RFC 768), in the byte order in which words are summed. */
export const UDP_CONSTANT_SUM = swap16(IPPROTO_UDP);

/**
 * A mask for byte offsets of the largest UMEM. Masking changes no offset, but shows V8 that none
 * overflows, which saves a check at every access.
 */
export const MOST_BYTES = 0x3fffffff;

/** Where the IPv4 header begins in a frame that is sent. */
export const IP_AT = 24;
/** Where the payload begins in a frame that is sent. */
export const PAYLOAD_AT = IP_AT + PACKET_HEADER_BYTES;

/** The longest payload that a frame holds. */
export const MOST_IN_FRAME = FRAME_BYTES - PAYLOAD_AT;

/** The most packets in a batch, received or sent; a power of two. */
export const BATCH = 64;
/**
 * A mask for the number of packets in a batch. Masking changes no number, but shows V8 that a loop's
 * counter, and the indices computed from it, are small and cannot overflow, which saves the checks.
 */
export const COUNT_BITS = 2 * BATCH - 1;
/** log2 of the words of a description: that of packet `i` begins at word `i << PACKET_SHIFT`. */
export const PACKET_SHIFT = 4;
export const PACKET_WORDS = 1 << PACKET_SHIFT;
/** The same mask for the first words of descriptions. */
export const PACKETS_BITS = (BATCH << PACKET_SHIFT) - 1;

/**
 * Word offsets in the description of a packet. It is written once, when the packet arrives, and carried
 * to the answer: `peer` and `local` do not change places. Addresses are in host order, signed words.
 */
export const Packet = {
  /** Offset and length of the payload: in the UMEM, or in an app's memory until it is copied. */
  offset: 0,
  length: 1,
  /** The addresses of the other side and of this one. If ours is 0, the route chooses it. */
  peer: 2,
  local: 3,
  /** The peer's port << 16 | our port. */
  ports: 4,
  /** The interface on which it arrived: a VLAN device if it was tagged. */
  interface: 5,
  /** The app that receives it, or the negated counter of its drop. */
  app: 6,
  /** Its route: the index of an entry of the route cache, or one of the values below. */
  route: 7,
  /** Received: its UDP checksum, see below. To be sent: the sum of its payload. Neither is folded. */
  sum: 8,
  /** To be sent: its frame, with the payload at `PAYLOAD_AT`. -1: it has none. */
  frame: 9,
  /** To be sent, from a link: arrival of the request, in ticks (`traffic.ts`); 0: it answers no request. */
  arrival: 10,
  /** TOS << 8 | TTL of its IPv4 header, at their positions in the first and the third word. */
  tosTtl: 11,
} as const;

/** As a route: there is no usable cached route. The packet takes the slow path. */
export const UNROUTED = -1;
/** As a route: not looked up yet. */
export const LOOK_UP = -2;
/** As a route: below this, `REFUSED` − counter is the reason for the drop. */
export const REFUSED = -3;

/** As the sum of a received packet: the UDP checksum is valid or absent. Otherwise the headers' sum. */
export const CHECKSUM_VALID = -1;
/** The same for a packet whose UDP checksum covers, or may cover, only the pseudo header. */
export const CHECKSUM_PARTIAL = -2;

/** Descriptions for one batch, and one that stands for no packet: all zeros except `app`, -1. */
export function makePackets(): Int32Array {
  const packets = new Int32Array((BATCH + 1) << PACKET_SHIFT);
  packets[(BATCH << PACKET_SHIFT) + Packet.app] = -1;
  return packets;
}

/**
 * Whether `address` (host order) can belong to a single other host. 0.0.0.0/8, loopback, multicast,
 * reserved addresses, and 255.255.255.255 cannot (RFC 1122 §3.2.1.3).
 */
export function isPeer(address: number): boolean {
  const net = address >>> 24;
  return net <= 223 && net !== 0 && net !== 127;
}

/** Folds a sum of 16-bit words, at most 2³¹, to 16 bits (RFC 1071). */
export function fold(sum: number): number {
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
}

/** A 16-bit word with its bytes swapped. */
export function swap16(word: number): number {
  return ((word & 0xff) << 8) | (word >>> 8);
}

/** A word with the bytes of both its 16-bit halves swapped. */
export function swapHalves(word: number): number {
  return ((word & 0x00ff00ff) << 8) | ((word >>> 8) & 0x00ff00ff);
}

/** Sum of the two 16-bit halves of a word. */
export function halves(word: number): number {
  return (word & 0xffff) + (word >>> 16);
}

/**
 * One's complement sum, not folded, of `length` bytes from word `at` of `words`, an odd last byte
 * padded with zero. At most 65,535 bytes, so that the sum stays below 2³¹.
 */
export function sumWords(words: Int32Array, at: number, length: number): number {
  const end = at + (length >>> 2);
  // As signed words, so that V8 does not check each sum for an overflow.
  let sum = 0;
  for (; at < end; at++) {
    const word = words[at];
    sum = (sum + (word & 0xffff) + (word >>> 16)) | 0;
  }
  const rest = length & 3;
  if (rest !== 0) {
    const word = words[at] & ((1 << (rest << 3)) - 1);
    sum = (sum + (word & 0xffff) + (word >>> 16)) | 0;
  }
  return sum;
}

/**
 * 32 well-mixed bits of a flow's addresses and ports, as a signed word (the finaliser of MurmurHash3
 * over their combination). It keeps a flow on one member of an ECMP route, and on one of several apps.
 */
export function flowHash(a: number, b: number, ports: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77) ^ Math.imul(ports, 0xc2b2ae3d);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** A UMEM and its free frames and buffers, all identified by their byte offset in it. */
export class Umem {
  /** Bytes of all frames: where the large buffers begin. */
  readonly framesEnd: number;
  readonly largeBuffers: number;
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Int32Array;
  readonly view: DataView;
  readonly #frameMask = ~(FRAME_BYTES - 1);
  readonly #frames: Int32Array;
  readonly #large: Int32Array;
  #freeFrames = 0;
  #freeLarge = 0;

  /** Initially everything is free. Throws RangeError if `region` is too small. */
  constructor(region: View, { frames, largeBuffers }: { frames: number; largeBuffers: number }) {
    this.framesEnd = frames * FRAME_BYTES;
    this.largeBuffers = largeBuffers;
    const needed = this.framesEnd + largeBuffers * UDP_BUFFER_BYTES;
    if (region.byteLength < needed || needed > MOST_BYTES + 1) {
      throw new RangeError(
        `a UMEM of ${frames} frames and ${largeBuffers} buffers takes ${needed} bytes, ` +
          `not ${region.byteLength}`,
      );
    }
    this.bytes = u8(region);
    this.words = new Int32Array(region.buffer, region.byteOffset, region.byteLength >>> 2);
    this.view = new DataView(region.buffer, region.byteOffset, region.byteLength);
    this.#frames = new Int32Array(frames);
    this.#large = new Int32Array(largeBuffers);
    this.restart(new Uint8Array(frames + largeBuffers).fill(1));
  }

  /** Frames, free or not. */
  get frameCount(): number {
    return this.#frames.length;
  }

  /** The number of the frame or large buffer that contains `offset`: frames come first. -1: there is none. */
  indexOf(offset: number): number {
    if (offset < 0) return -1;
    if (offset < this.framesEnd) return Math.floor(offset / FRAME_BYTES);
    const large = Math.floor((offset - this.framesEnd) / UDP_BUFFER_BYTES);
    return large < this.largeBuffers ? this.frameCount + large : -1;
  }

  /** Frees exactly those whose byte in `free`, by `indexOf`, is 1. */
  restart(free: Uint8Array): void {
    const frames = this.frameCount;
    this.#freeFrames = this.#freeLarge = 0;
    for (let i = free.length - 1; i >= 0; i--) {
      if (free[i] !== 1) continue;
      if (i < frames) this.give(i * FRAME_BYTES);
      else this.give(this.framesEnd + (i - frames) * UDP_BUFFER_BYTES);
    }
  }

  /** Calls `visit` with the offset of each free frame. */
  forEachFreeFrame(visit: (offset: number) => void): void {
    this.#frames.subarray(0, this.#freeFrames).forEach(visit);
  }

  get freeFrames(): number {
    return this.#freeFrames;
  }

  get freeLarge(): number {
    return this.#freeLarge;
  }

  /** Takes a free frame; -1: there is none. */
  takeFrame(): number {
    return this.#freeFrames === 0 ? -1 : this.#frames[--this.#freeFrames];
  }

  /** Takes up to `most` free frames into `into`, and returns how many. */
  takeFrames(into: Uint32Array, most: number): number {
    const frames = this.#frames;
    const free = this.#freeFrames;
    const count = free < most ? free : most;
    for (let i = 0; i < count; i++) into[i] = frames[free - 1 - i];
    this.#freeFrames = free - count;
    return count;
  }

  /** Takes a free large buffer; -1: there is none. */
  takeLarge(): number {
    return this.#freeLarge === 0 ? -1 : this.#large[--this.#freeLarge];
  }

  /** Whether `offset` is in a large buffer, not in a frame. */
  isLarge(offset: number): boolean {
    return offset >= this.framesEnd;
  }

  /** The beginning of the frame that contains `offset`, which is not in a large buffer. */
  frameAt(offset: number): number {
    return offset & this.#frameMask;
  }

  /** Frees the frames that contain `offsets`, from the `from`-th to before the `end`-th, as `give` does. */
  giveFrames(offsets: Uint32Array, from: number, end: number): void {
    const frames = this.#frames;
    const mask = this.#frameMask;
    let free = this.#freeFrames;
    for (let i = from; i < end; i++) frames[free++] = offsets[i] & mask;
    this.#freeFrames = free;
  }

  /** Frees the frame or large buffer that `offset` is in. The caller owned it. */
  give(offset: number): void {
    if (offset < this.framesEnd) {
      this.#frames[this.#freeFrames++] = offset & this.#frameMask;
    } else {
      const into = (offset - this.framesEnd) % UDP_BUFFER_BYTES;
      this.#large[this.#freeLarge++] = offset - into;
    }
  }
}

/** Doubles of a socket's record in the traffic region (`traffic.ts`). */
export const SocketCell = {
  rxPackets: 0,
  rxBytes: 1,
  txPackets: 2,
  txBytes: 3,
  rxRing: 4,
  txRing: 5,
  fillRing: 6,
  /** ifindex and queue: counts of another socket are not continued. */
  key: 7,
} as const;

/** The most AF_XDP sockets of a net tile: as many as an entry of the route cache can name. */
export const MOST_XDP_SOCKETS = 127;

/** An AF_XDP socket, as the master hands it to a net tile. */
export interface XdpSocketSetup {
  readonly fd: number;
  /** Its number in the library, if its rings are in plain memory; then it has no descriptor. */
  readonly slot?: number;
  readonly ifindex: number;
  readonly queue: number;
  /** Whether the device has no transmit queue of that number, so that the kernel cannot send by it. */
  readonly receivesOnly?: boolean;
  /** Entries of each of its rings. */
  readonly ring: number;
  /** Frames that the kernel usually has for receiving, and how many it has while the tile may be delayed. */
  readonly fill: number;
  readonly deepFill: number;
  readonly tx: number;
  /** Whether a bare pseudo-header sum is a valid UDP checksum here (veth, virtio, loopback). */
  readonly partialChecksums: boolean;
}

/**
 * One AF_XDP socket: a queue of an attached interface. Keeps its fill ring filled, returns received
 * frames, collects frames to be transmitted, and takes finished frames back. The number of frames it
 * may hold is bounded: `fill` for receiving, `tx` for sending.
 */
export class XdpSocket {
  readonly ifindex: number;
  readonly partialChecksums: boolean;
  readonly #xsk: Xsk;
  readonly #umem: Umem;
  readonly #slot: number;
  readonly #setup: XdpSocketSetup;
  #fill: number;
  readonly #tx: number;
  /** (offset, length) pairs to be transmitted, oldest first, up to word `queueEnd`. */
  readonly queue: Uint32Array;
  readonly #frames = new Uint32Array(BATCH);
  readonly #statistics = new BigUint64Array(XSK_STATISTICS);
  readonly #cursors = new Uint32Array(XSK_CURSORS);
  /** Its counts, by `SocketCell`. The receiver counts what is received. */
  readonly cells: Float64Array;
  #queued = 0;
  #filled = 0;
  #transmitting = 0;

  /** `slot` is the socket's number in the library. Its rings are empty, or are resumed. */
  constructor(setup: XdpSocketSetup, { xsk, umem, slot, cells }: {
    xsk: Xsk;
    umem: Umem;
    slot: number;
    /** Its counts, by `SocketCell`. */
    cells: Float64Array;
  }) {
    this.ifindex = setup.ifindex;
    this.partialChecksums = setup.partialChecksums;
    this.#xsk = xsk;
    this.#umem = umem;
    this.#slot = slot;
    this.#setup = setup;
    this.cells = cells;
    this.#fill = setup.fill;
    this.#tx = setup.tx;
    this.queue = new Uint32Array(2 * setup.tx);
  }

  /** Continues with the rings as the predecessor, which has ended, left them. */
  resume(): void {
    this.#xsk.resume(this.#slot);
    const cursors = this.#readCursors();
    this.#filled = (cursors[XskCursor.fillProducer] - cursors[XskCursor.rxConsumer]) | 0;
    this.#transmitting = (cursors[XskCursor.txProducer] - cursors[XskCursor.completionConsumer]) |
      0;
  }

  /** Whether these rings were never used. */
  isNew(): boolean {
    return this.#readCursors().every((cursor) => cursor === 0);
  }

  /** Frames that the kernel has. */
  get held(): number {
    return this.#filled + this.#transmitting;
  }

  /**
   * Whether all frames that the kernel had taken off the fill and transmit rings are on the receive and
   * completion rings by now. Consumers are read before producers, so later arrivals do not matter.
   */
  isSettled(): boolean {
    const cursors = this.#readCursors();
    const receiving = cursors[XskCursor.fillConsumer] - cursors[XskCursor.rxProducer];
    const sending = cursors[XskCursor.txConsumer] - cursors[XskCursor.completionProducer];
    return (receiving | 0) <= 0 && (sending | 0) <= 0;
  }

  /** Calls `visit` with an offset in each frame that is in one of the rings. False: their cursors are corrupt. */
  forEachVisible(visit: (offset: number) => void): boolean {
    const words = new Uint32Array(VISIBLE_HEADER_WORDS + 4 * this.#setup.ring);
    const count = this.#xsk.visible(this.#slot, words);
    if (count < 0) return false;
    words.subarray(VISIBLE_HEADER_WORDS, VISIBLE_HEADER_WORDS + count).forEach(visit);
    return true;
  }

  #readCursors(): Uint32Array {
    this.#xsk.cursors(this.#slot, this.#cursors);
    return this.#cursors;
  }

  /** Frees the frames that are still queued, calls `visit` with where each begins, and returns how many. */
  dropQueued(visit: (offset: number) => void): number {
    const count = this.#queued;
    for (let i = 0; i < count; i++) {
      visit(this.queue[2 * i]);
      this.#umem.give(this.queue[2 * i]);
    }
    this.#queued = 0;
    return count;
  }

  /** Whether the kernel gets more frames for receiving than usual. It keeps them until it uses them. */
  set isDeep(isDeep: boolean) {
    this.#fill = isDeep ? this.#setup.deepFill : this.#setup.fill;
  }

  /** Frames that the kernel has for receiving, filled or not. */
  get filled(): number {
    return this.#filled;
  }

  /** How many more frames can be queued. */
  get room(): number {
    return this.#tx - this.#queued - this.#transmitting;
  }

  /** Takes a batch into `frames` and returns how many frames; the caller now owns them. */
  receive(frames: Uint32Array): number {
    const count = this.#xsk.receive(this.#slot, frames, BATCH);
    if (count <= 0) return 0;
    this.#filled -= count;
    return count;
  }

  /** Writes the time of each of the `count` frames that `receive` returned last: `Xsk.times`. */
  times(frames: Uint32Array, count: number, out: Uint32Array): void {
    this.#xsk.times(this.#slot, frames, count, out);
  }

  /**
   * Gives the kernel free frames until it has as many as the fill ring takes, counting those that it is
   * sending and will soon return, but those for at most half of the ring.
   */
  refill(): void {
    const enough = this.#fill - Math.min(this.#transmitting, this.#fill >>> 1);
    while (this.#filled < enough) {
      const wanted = Math.min(enough - this.#filled, BATCH);
      const most = this.#umem.takeFrames(this.#frames, wanted);
      if (most === 0) return;
      const taken = Math.max(0, this.#xsk.fill(this.#slot, this.#frames, most));
      this.#filled += taken;
      for (let i = most - 1; i >= taken; i--) this.#umem.give(this.#frames[i]);
      if (taken < most) return;
    }
  }

  get queueEnd(): number {
    return 2 * this.#queued;
  }

  /**
   * Queues the frames that were written to `queue` from `queueEnd` up to word `end`, of `bytes` bytes
   * in total. There must be `room` for them.
   */
  queueUpTo(end: number, bytes: number): void {
    this.#queued = end >>> 1;
    this.cells[SocketCell.txBytes] += bytes;
  }

  /**
   * Hands queued frames to the kernel, as many as it takes, and returns how many. The rest stay queued,
   * in order, for the next turn.
   */
  flush(): number {
    if (this.#queued === 0) return 0;
    const taken = Math.max(0, this.#xsk.transmit(this.#slot, this.queue, this.#queued));
    this.#transmitting += taken;
    this.#queued -= taken;
    this.cells[SocketCell.txPackets] += taken;
    if (this.#queued > 0) this.queue.copyWithin(0, 2 * taken, 2 * (taken + this.#queued));
    return taken;
  }

  /**
   * Takes transmitted frames back: directly onto the fill ring while it lacks frames, otherwise into
   * the UMEM.
   */
  complete(): void {
    const frames = this.#frames;
    while (this.#transmitting > 0) {
      const wanted = Math.max(0, this.#fill - this.#filled);
      const result = this.#xsk.complete(this.#slot, frames, BATCH, wanted);
      const count = result & 0xffff;
      const taken = result >>> 16;
      this.#transmitting -= count;
      this.#filled += taken;
      if (taken < count) this.#umem.giveFrames(frames, taken, count);
      if (count < BATCH) return;
    }
  }

  /**
   * Called before the tile blocks: makes the kernel continue with its rings, and returns whether frames
   * still wait here for room.
   */
  unfinished(): boolean {
    if (this.#transmitting > 0) this.#xsk.transmit(this.#slot, this.queue, 0);
    return this.#queued > 0;
  }

  /** Records how full the rings are. */
  measure(): void {
    const cursors = this.#readCursors();
    const share = (producer: number, consumer: number, entries: number) =>
      ((cursors[producer] - cursors[consumer]) >>> 0) / entries;
    const { rxProducer, rxConsumer, txProducer, txConsumer } = XskCursor;
    // After a handover the kernel has more frames than usual until it has used them.
    const frames = Math.max(this.#fill, this.#filled);
    this.cells[SocketCell.rxRing] = share(rxProducer, rxConsumer, frames);
    this.cells[SocketCell.txRing] = share(txProducer, txConsumer, this.#tx);
    const { fillProducer, fillConsumer } = XskCursor;
    this.cells[SocketCell.fillRing] = share(fillProducer, fillConsumer, frames);
  }

  /**
   * Adds the kernel's counts of this socket, in the order of XDP_STATISTICS, to `sums`, as many as that
   * has room for. Returns false if the kernel does not provide them.
   */
  addStatistics(sums: Float64Array): boolean {
    if (this.#xsk.statistics(this.#slot, this.#statistics) < 0) return false;
    for (let i = 0; i < sums.length; i++) sums[i] += Number(this.#statistics[i]);
    return true;
  }
}
