// SPDX-License-Identifier: Apache-2.0
/**
 * The receive path: a batch of frames from a receive ring is checked, and each valid packet goes to the
 * app that serves its port, with its payload in place. Every frame ends with an app or back in the
 * UMEM; if it goes back, the reason is counted. Frames come from the wire, so no field in them is
 * trusted.
 *
 * Nearly all frames are alike: untagged, well formed, to a served port, from a peer with a cached
 * route. The first pass over the batch reads the addresses. The cache entries for them are prefetched
 * all at once, and the next pass finds the routes there. The pass after that recognises an ordinary
 * frame by a single condition over all headers. A frame that fails it is checked individually, step by
 * step, in the order of the headers. The last pass sums payloads.
 *
 * Each pass is a loop in its own function: V8 hoists invariants out of an innermost loop only if that
 * loop is small and calls nothing.
 */

import * as shared from "../../ffi/shared.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import * as route from "../../netbase/route.ts";
import { HISTOGRAMS, NET } from "../runtime/counters.ts";
import type { Capture } from "./capture.ts";
import * as frame from "./rings.ts";
import type { Umem, XdpSocket } from "./rings.ts";
import * as cached from "./route_cache.ts";
import * as counted from "./traffic.ts";

// Own constants, see rings.ts.
const { countBatch, layout: { PENDING_SHIFT }, PortCell, ticksOf } = counted;
const { RECEIVE_HEADER_WORDS } = shared;
const { RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST } = route;
const { layout: { MOST_WORDS, Route }, NO_PEER } = cached;
const { BATCH, CHECKSUM_PARTIAL, COUNT_BITS, SocketCell, CHECKSUM_VALID, Packet, PACKET_SHIFT } =
  frame;
const { ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETHERNET_BYTES, MOST_TAGS, TAG_BYTES } = frame;
const { IP_DESTINATION, IP_PROTOCOL, IP_SOURCE, IPPROTO_UDP, IPV4_BYTES, VERSION_WORD } = frame;
const { PACKET_HEADER_BYTES, PAYLOAD, UDP_BYTES, UDP_CONSTANT_SUM, UDP_PORTS } = frame;
const { flowHash, fold, halves, isPeer, MOST_BYTES, sumWords, swap16, swapHalves } = frame;
const COUNT = NET.index;
const BATCHES = HISTOGRAMS.rx_batch;

/** EtherType of IPv4, read little-endian. */
const ETH_P_IP_LE = swap16(ETH_P_IP);
/** A frame begins at this byte of a word, so that the IPv4 header after an Ethernet header is aligned. */
const IP_ALIGNMENT = 2;
/** "More fragments" and the fragment offset: bits of the second header word, read little-endian. */
const FRAGMENT_BITS = 0xff3f0000 | 0;
/** Bytes of the shortest frame. */
const SHORTEST = ETHERNET_BYTES + PACKET_HEADER_BYTES;
/** The protocol field of the third header word, and UDP there. */
const PROTOCOL_BITS = 0xff00;
const PROTOCOL_UDP = IPPROTO_UDP << 8;
/** TOS in the first word of the IPv4 header, and TTL in the third. */
const TOS_BITS = 0xff00;
const TTL_BITS = 0xff;
/** Bytes of both addresses, which end the IPv4 header. */
const ADDRESSES_BYTES = IPV4_BYTES - IP_SOURCE;
/** Word offsets from the start of the IPv4 header. */
const SOURCE_WORD = IP_SOURCE >>> 2;
const DESTINATION_WORD = IP_DESTINATION >>> 2;
const PORTS_WORD = UDP_PORTS >>> 2;
const UDP_LENGTH_WORD = PORTS_WORD + 1;
/** Bits that are 0 in the outcome of a route to a host that may send to us. */
const NOT_A_PEER = 0x8000_0000 | NO_PEER;
/** As a packet's app: not ordinary, to be checked individually. */
const UNUSUAL = -1 << 30;

/** A received batch; made once. */
export class RxBatch {
  /** Time low, time high, then offset and length of each frame, as `Xsk.receive` writes them. */
  readonly frames = new Uint32Array(RECEIVE_HEADER_WORDS + 2 * BATCH);
  /** The description of each packet, `Packet` words. For an invalid packet, only `app` is set. */
  readonly packets = frame.makePackets();
  /** Time low and time high of each packet. For frames only if an app requests it (`packetTimes`). */
  readonly times = new Uint32Array(2 * BATCH);
  /** `RouteCache.changes` when the routes were found. */
  changes = 0;
  /** When the batch arrived, in ticks (`traffic.ts`). */
  arrival = 0;
  frameBytes = 0;
}

/** An app as seen by the receive path: its link, or an inline app. */
export interface Recipient {
  /** Large buffers that the app is reading. */
  largeOut: number;
  /**
   * Hands over packet number `from` and the following ones, up to `end`, all for the same app. Returns
   * the first that was not taken. If there was no room for it, its `app` is now the negated counter.
   */
  push(batch: RxBatch, from: number, end: number): number;
}

/** A kernel socket behind a served port, as the master hands it to a net tile. */
export interface UdpSocketSetup {
  readonly fd: number;
  readonly port: number;
  /** Whether this tile receives on it. Every tile may send on all sockets. */
  readonly receive: boolean;
}

/** Several apps share the port. */
const SHARED = -32768;

/**
 * Which app answers on a port, and which ports an app may send from. Fixed when the tile starts. A
 * served port has a small number, its service; 0 is none. Several apps may share a port. All datagrams
 * of a flow then go to the same app.
 */
export class Dispatch {
  /** For each port the result of `app`, or SHARED. */
  readonly #alone = new Int16Array(65_536).fill(-COUNT.rx_drop_no_app);
  readonly #services = new Uint16Array(65_536);
  /** The apps of each service. */
  readonly #members: Int32Array[] = [];
  readonly #fds: Int32Array;
  readonly #served: Uint8Array;
  readonly #width: number;
  /** All served ports. */
  readonly ports: readonly number[];

  constructor(
    apps: readonly { readonly ports: readonly number[] }[],
    sockets: readonly UdpSocketSetup[],
  ) {
    const ports = this.ports = [...new Set(apps.flatMap((app) => app.ports))];
    this.#width = ports.length + 1;
    this.#fds = new Int32Array(this.#width).fill(-1);
    this.#served = new Uint8Array(this.#width * apps.length);
    ports.forEach((port, i) => {
      const members = apps.flatMap((app, index) => app.ports.includes(port) ? [index] : []);
      this.#services[port] = i + 1;
      this.#members[i + 1] = Int32Array.from(members);
      this.#alone[port] = members.length > 1 ? SHARED : members[0];
      for (const index of members) this.#served[index * this.#width + i + 1] = 1;
    });
    for (const { fd, port } of sockets) this.#fds[this.#services[port]] = fd;
  }

  /**
   * The index of the app for a datagram from `peer` with `ports` (`Packet`). If the port is not served,
   * the negated counter to increment.
   */
  app(peer: number, ports: number): number {
    const app = this.#alone[ports & 0xffff];
    return app === SHARED ? this.#draw(peer, ports) : app;
  }

  #draw(peer: number, ports: number): number {
    const members = this.#members[this.#services[ports & 0xffff]];
    return members[(flowHash(peer, 0, ports) >>> 1) % members.length];
  }

  /** Whether app `index` serves `port`, and so may send from it. */
  serves(index: number, port: number): boolean {
    return this.#served[index * this.#width + this.#services[port]] === 1;
  }

  /** The kernel socket of a served port; -1: another program owns the port. */
  fd(port: number): number {
    return this.#fds[this.#services[port]];
  }
}

/** Receives from AF_XDP sockets. */
export class Receiver {
  readonly #batch: RxBatch;
  readonly #umem: Umem;
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #reader: NetbaseReader;
  readonly #devices: cached.Devices;
  readonly #cache: cached.RouteCache;
  readonly #dispatch: Dispatch;
  readonly #xsk: Pick<Xsk, "prefetch">;
  readonly #apps: readonly Recipient[];
  readonly #capture: Capture;
  readonly #counters: Float64Array;
  readonly #traffic: counted.TrafficCounter;
  readonly #trustChecksums: boolean;
  readonly #packetTimes: boolean;
  /** For each packet, the first slot in the route cache for its route. */
  readonly #slots = new Uint32Array(BATCH);
  /** An address of ours, found in this generation of netbase; 0: none. */
  #own = 0;
  /** Whether the batch arrived by loopback, where our own addresses are valid sources. */
  #isLoopback = false;
  #ifindex = -1;
  #generation = -1;

  /** `trustChecksums`: the NIC verifies UDP checksums. `packetTimes`: an app requests a time for each packet. */
  constructor(
    parts: {
      batch: RxBatch;
      umem: Umem;
      reader: NetbaseReader;
      devices: cached.Devices;
      cache: cached.RouteCache;
      dispatch: Dispatch;
      xsk: Pick<Xsk, "prefetch">;
      apps: readonly Recipient[];
      capture: Capture;
      counters: Float64Array;
      traffic: counted.TrafficCounter;
      trustChecksums?: boolean;
      packetTimes?: boolean;
    },
  ) {
    this.#batch = parts.batch;
    this.#umem = parts.umem;
    this.#view = parts.umem.view;
    this.#words = parts.umem.words;
    this.#reader = parts.reader;
    this.#devices = parts.devices;
    this.#cache = parts.cache;
    this.#dispatch = parts.dispatch;
    this.#xsk = parts.xsk;
    this.#apps = parts.apps;
    this.#capture = parts.capture;
    this.#counters = parts.counters;
    this.#traffic = parts.traffic;
    this.#trustChecksums = parts.trustChecksums ?? false;
    this.#packetTimes = parts.packetTimes ?? false;
  }

  /**
   * Receives one batch from `socket` and returns how many frames. The caller publishes links and runs
   * inline apps.
   */
  burst(socket: XdpSocket): number {
    const batch = this.#batch;
    const count = socket.receive(batch.frames);
    if (count === 0) return 0;
    batch.arrival = ticksOf(batch.frames[0], batch.frames[1]);
    // Before the checks, which may move frames.
    if (this.#packetTimes) socket.times(batch.frames, count, batch.times);
    this.#traffic.settle(batch.arrival);
    this.#check(count, socket.ifindex, socket.partialChecksums);
    const { packets } = batch;
    let dropped = 0;
    for (let i = 0; i < count;) {
      const app = packets[(i << PACKET_SHIFT) + Packet.app];
      if (app >= 0) {
        i = this.#apps[app].push(batch, i, count);
        continue;
      }
      dropped++;
      this.#counters[-app]++;
      if (app === -COUNT.rx_drop_app_link_full) {
        this.#uncount(i << PACKET_SHIFT);
        const port = packets[(i << PACKET_SHIFT) + Packet.ports] & 0xffff;
        this.#traffic.dropped(port, PortCell.rxDrops);
      }
      this.#umem.give(batch.frames[RECEIVE_HEADER_WORDS + 2 * i]);
      i++;
    }
    this.#counters[COUNT.rx_frames] += count;
    this.#counters[COUNT.rx_delivered] += count - dropped;
    countBatch(this.#counters, BATCHES, count);
    socket.cells[SocketCell.rxPackets] += count;
    socket.cells[SocketCell.rxBytes] += batch.frameBytes;
    this.#traffic.passed(batch.frameBytes);
    // Returned frames are intact until they are on the fill ring.
    if (this.#capture.wanted) this.#capture.received(batch, count, this.#umem.bytes);
    return count;
  }

  /**
   * Describes the packets of the batch, and counts those for served ports. A frame that does not begin
   * where the UMEM's headroom puts frames is moved, and `frames` is updated. `partialChecksums`: the
   * bare sum of the pseudo header is also a valid UDP checksum, since the sender left the rest to
   * hardware that does not exist.
   */
  #check(count: number, ifindex: number, partialChecksums: boolean): void {
    const { generation, interfaces } = this.#reader;
    if (this.#generation !== generation || this.#ifindex !== ifindex) {
      this.#generation = generation;
      this.#ifindex = ifindex;
      this.#own = 0;
      const record = interfaces.find(ifindex);
      this.#isLoopback = record >= 0 && interfaces.isLoopback(record);
    }
    this.#readAddresses(count);
    this.#findRoutes(count);
    this.#batch.changes = this.#cache.changes;
    const others = this.#passOrdinary(count, ifindex, partialChecksums);
    if (others < count) this.#sumPayloads(count);
    if (others === 0) return;
    const { packets } = this.#batch;
    for (let p = 0; p < count << PACKET_SHIFT; p += 1 << PACKET_SHIFT) {
      if (packets[p + Packet.app] !== UNUSUAL) continue;
      const app = packets[p + Packet.app] = this.#checkOne(p, ifindex, partialChecksums);
      if (app < 0) continue;
      this.#traffic.received(packets[p + Packet.ports] & 0xffff, packets[p + Packet.length]);
    }
  }

  /**
   * Reads the addresses of each frame at their place in an ordinary one, and hashes them. For a frame
   * that cannot be ordinary they are 0, which is nobody's address.
   */
  #readAddresses(count: number): void {
    const { frames, packets } = this.#batch;
    const view = this.#view;
    const cache = this.#cache;
    const slots = this.#slots;
    const end = count & COUNT_BITS;
    let bytes = 0;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const at = frames[2 * i + RECEIVE_HEADER_WORDS];
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      bytes = (bytes + length) | 0;
      let peer = 0;
      let local = 0;
      if (length >= SHORTEST && (at & 3) === IP_ALIGNMENT) {
        const ip = (at + ETHERNET_BYTES) & MOST_BYTES;
        peer = view.getInt32(ip + IP_SOURCE);
        local = view.getInt32(ip + IP_DESTINATION);
      }
      packets[p + Packet.peer] = peer;
      packets[p + Packet.local] = local;
      slots[i] = cache.slot(peer, local, 0);
    }
    this.#batch.frameBytes = bytes;
  }

  /** Looks up the route of each answer, after all cache lines were prefetched. */
  #findRoutes(count: number): void {
    const { packets } = this.#batch;
    const cache = this.#cache;
    const slots = this.#slots;
    const end = count & COUNT_BITS;
    this.#xsk.prefetch(cache.words, slots, count);
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const peer = packets[p + Packet.peer];
      const local = packets[p + Packet.local];
      packets[p + Packet.route] = cache.findFrom(slots[i], peer, local, 0);
    }
  }

  /**
   * Describes ordinary packets, marks the others `UNUSUAL`, and returns the number of the latter. An
   * ordinary packet is valid except for the UDP checksum, which is not checked yet.
   */
  #passOrdinary(count: number, ifindex: number, partialChecksums: boolean): number {
    const { frames, packets } = this.#batch;
    const words = this.#words;
    const routes = this.#cache.words;
    const dispatch = this.#dispatch;
    // Numbers in constants, since V8 checks the type of a parameter or a field at every use.
    const isTrusted = this.#trustChecksums ? 1 : 0;
    const mayBePartial = partialChecksums ? 1 : 0;
    const device = ifindex | 0;
    const pending = this.#traffic.pending;
    const end = count & COUNT_BITS;
    let ordinary = 0;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const at = frames[2 * i + RECEIVE_HEADER_WORDS];
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      packets[p + Packet.app] = UNUSUAL;
      const r = packets[p + Packet.route];
      // A peer with a cached route is a valid source, and sends to an address of ours.
      if (r < 0 || (routes[(r & MOST_WORDS) + Route.outcome] & NOT_A_PEER) !== 0) continue;
      const ip = (at + ETHERNET_BYTES) & MOST_BYTES;
      const w = ip >>> 2;
      const first = words[w];
      const third = words[w + 2];
      const udp = words[w + UDP_LENGTH_WORD];
      const total = swap16(first >>> 16);
      const udpLength = swap16(udp & 0xffff);
      const addresses = halves(words[w + SOURCE_WORD]) + halves(words[w + DESTINATION_WORD]);
      const sum = halves(first) + halves(words[w + 1]) + halves(third) + addresses;
      // Every term is 0 when its field is valid, the last one when no difference is negative.
      const wrong = (words[w - 1] >>> 16) ^ ETH_P_IP_LE | (first & 0xff) ^ VERSION_WORD |
        fold(sum) ^ 0xffff | words[w + 1] & FRAGMENT_BITS | (third & PROTOCOL_BITS) ^ PROTOCOL_UDP |
        (udpLength + IPV4_BYTES) ^ total |
        ((length - ETHERNET_BYTES - total) | (udpLength - UDP_BYTES)) >>> 31;
      if (wrong !== 0) continue;
      const portsBe = words[w + PORTS_WORD];
      const portsSwapped = swapHalves(portsBe);
      const ports = (portsSwapped << 16) | (portsSwapped >>> 16);
      const app = dispatch.app(packets[p + Packet.peer], ports);
      if (app < 0) continue;
      const pseudo = addresses + UDP_CONSTANT_SUM + (udp & 0xffff);
      const checksum = udp >>> 16;
      let rest = pseudo + halves(portsBe) + halves(udp);
      if (checksum === 0) rest = CHECKSUM_VALID;
      else if (mayBePartial !== 0) {
        if (isTrusted !== 0 || fold(pseudo) === checksum) rest = CHECKSUM_PARTIAL;
      } else if (isTrusted !== 0) rest = CHECKSUM_VALID;
      packets[p + Packet.app] = app;
      packets[p + Packet.ports] = ports;
      packets[p + Packet.offset] = ip + PAYLOAD;
      packets[p + Packet.length] = udpLength - UDP_BYTES;
      packets[p + Packet.interface] = device;
      packets[p + Packet.sum] = rest;
      const port = (ports & 0xffff) << PENDING_SHIFT;
      pending[port + PortCell.rxPackets]++;
      pending[port + PortCell.rxBytes] += udpLength - UDP_BYTES;
      packets[p + Packet.tosTtl] = (first & TOS_BITS) | (third & TTL_BITS);
      ordinary++;
    }
    return end - ordinary;
  }

  /** Sums the payloads whose UDP checksum must be verified. */
  #sumPayloads(count: number): void {
    const { packets } = this.#batch;
    const words = this.#words;
    const end = count & COUNT_BITS;
    for (let i = 0; i < end; i++) {
      const p = i << PACKET_SHIFT;
      const headers = packets[p + Packet.sum];
      if (packets[p + Packet.app] < 0 || headers < 0) continue;
      const length = packets[p + Packet.length];
      const sum = headers + sumWords(words, packets[p + Packet.offset] >>> 2, length);
      if (fold(sum) === 0xffff) continue;
      packets[p + Packet.app] = -COUNT.rx_drop_udp_checksum;
      this.#uncount(p);
    }
  }

  /** Removes the packet at word `p` from the counts of its port, because it is dropped. */
  #uncount(p: number): void {
    const { packets } = this.#batch;
    this.#traffic.notReceived(packets[p + Packet.ports] & 0xffff, packets[p + Packet.length]);
  }

  /** Checks and describes the packet at word `p` individually. Returns its app, or a negated counter. */
  #checkOne(p: number, ifindex: number, partialChecksums: boolean): number {
    const { frames, packets } = this.#batch;
    const i = p >>> PACKET_SHIFT;
    const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
    packets[p + Packet.interface] = ifindex;
    packets[p + Packet.sum] = CHECKSUM_VALID;
    if (length < SHORTEST) return -COUNT.rx_drop_too_short;
    const isInPlace = (frames[2 * i + RECEIVE_HEADER_WORDS] & 3) === IP_ALIGNMENT;
    const at = this.#align(i);
    const ip = this.#untag(at, length, p);
    if (ip < 0) return ip;
    const refused = this.#checkPacket(ip, at + length - ip, p) ||
      this.#checkAddresses(packets[p + Packet.peer], packets[p + Packet.local]) ||
      this.#checkDatagram(ip, p, partialChecksums);
    if (refused !== 0) return -refused;
    const peer = packets[p + Packet.peer];
    // Addresses found at another offset have not been looked up yet.
    if (!isInPlace || ip !== at + ETHERNET_BYTES) {
      packets[p + Packet.route] = this.#cache.find(peer, packets[p + Packet.local], 0);
    }
    return this.#dispatch.app(peer, packets[p + Packet.ports]);
  }

  /** Checks the IPv4 header at `ip`, with `room` bytes to the frame's end. Returns 0, or a counter. */
  #checkPacket(ip: number, room: number, p: number): number {
    const view = this.#view;
    const { packets } = this.#batch;
    const first = this.#words[ip >>> 2];
    if ((first & 0xf0) !== 0x40) return COUNT.rx_drop_ip_version;
    if ((first & 0x0f) !== IPV4_BYTES >>> 2) return COUNT.rx_drop_ip_header_length;
    if (fold(sumWords(this.#words, ip >>> 2, IPV4_BYTES)) !== 0xffff) {
      return COUNT.rx_drop_ip_checksum;
    }
    const total = swap16(first >>> 16);
    if (total < IPV4_BYTES || total > room) return COUNT.rx_drop_ip_length;
    if ((this.#words[(ip >>> 2) + 1] & FRAGMENT_BITS) !== 0) return COUNT.rx_drop_fragment;
    if (view.getUint8(ip + IP_PROTOCOL) !== IPPROTO_UDP) return COUNT.rx_drop_not_udp;
    packets[p + Packet.peer] = view.getInt32(ip + IP_SOURCE);
    packets[p + Packet.local] = view.getInt32(ip + IP_DESTINATION);
    packets[p + Packet.ports] = view.getInt32(ip + UDP_PORTS);
    packets[p + Packet.offset] = ip + PAYLOAD;
    packets[p + Packet.tosTtl] = (first & TOS_BITS) | (this.#words[(ip >>> 2) + 2] & TTL_BITS);
    // The room for UDP, until UDP's own length is validated.
    packets[p + Packet.length] = total - IPV4_BYTES;
    return 0;
  }

  /** Checks addresses against netbase, since the route cache has no entry. Returns 0, or a counter. */
  #checkAddresses(peer: number, local: number): number {
    const { fib, nextHops } = this.#reader;
    if (local !== this.#own) {
      if (nextHops.kind(fib.lookup(local)) !== RTN_LOCAL) return COUNT.rx_drop_not_local;
      this.#own = local;
    }
    const from = nextHops.kind(fib.lookup(peer));
    const isHost = this.#isLoopback
      ? isPeer(peer) || peer >>> 24 === 127
      : isPeer(peer) && from !== RTN_LOCAL;
    return isHost && from !== RTN_BROADCAST && from !== RTN_MULTICAST
      ? 0
      : COUNT.rx_drop_invalid_source;
  }

  /** Checks the UDP header of the packet at `ip`. Returns 0, or a counter. */
  #checkDatagram(ip: number, p: number, partialChecksums: boolean): number {
    const { packets } = this.#batch;
    const words = this.#words;
    const w = ip >>> 2;
    const udp = words[w + UDP_LENGTH_WORD];
    const length = swap16(udp & 0xffff);
    const checksum = udp >>> 16;
    if (length < UDP_BYTES || length > packets[p + Packet.length]) {
      return COUNT.rx_drop_udp_length;
    }
    packets[p + Packet.length] = length - UDP_BYTES;
    // 0: the sender computed none (RFC 768).
    if (checksum === 0) return 0;
    const lengths = UDP_CONSTANT_SUM + (udp & 0xffff);
    if (partialChecksums) {
      const pseudo = halves(words[w + SOURCE_WORD]) + halves(words[w + DESTINATION_WORD]);
      if (this.#trustChecksums || fold(pseudo + lengths) === checksum) {
        packets[p + Packet.sum] = CHECKSUM_PARTIAL;
        return 0;
      }
    }
    if (this.#trustChecksums) return 0;
    // The addresses of the pseudo header directly precede the UDP header.
    const sum = sumWords(words, w + SOURCE_WORD, ADDRESSES_BYTES + length);
    return fold(sum + lengths) === 0xffff ? 0 : COUNT.rx_drop_udp_checksum;
  }

  /** Moves frame number `i`, if necessary, so that its headers are aligned, and returns its offset. */
  #align(i: number): number {
    const { frames } = this.#batch;
    const at = frames[2 * i + RECEIVE_HEADER_WORDS];
    if ((at & 3) === IP_ALIGNMENT) return at;
    // Downwards, into the headroom that the kernel keeps before every frame.
    const to = (at & ~3) - IP_ALIGNMENT;
    this.#umem.bytes.copyWithin(to, at, at + frames[2 * i + RECEIVE_HEADER_WORDS + 1]);
    frames[2 * i + RECEIVE_HEADER_WORDS] = to;
    return to;
  }

  /** Skips the VLAN tags of a frame and sets its interface. Returns where IPv4 begins, or a negated counter. */
  #untag(at: number, length: number, p: number): number {
    const view = this.#view;
    const { packets } = this.#batch;
    let ip = at + ETHERNET_BYTES;
    if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    for (let tags = 0; tags < MOST_TAGS; tags++) {
      const protocol = view.getUint16(ip - 2);
      if (protocol !== ETH_P_8021Q && protocol !== ETH_P_8021AD) return -COUNT.rx_drop_not_ipv4;
      if (at + length < ip + TAG_BYTES + PACKET_HEADER_BYTES) return -COUNT.rx_drop_too_short;
      const id = view.getUint16(ip) & 0xfff;
      const device = this.#devices.tagged(packets[p + Packet.interface], protocol, id);
      if (device < 0) return -COUNT.rx_drop_unknown_vlan;
      packets[p + Packet.interface] = device;
      ip += TAG_BYTES;
      if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    }
    return -COUNT.rx_drop_not_ipv4;
  }
}
