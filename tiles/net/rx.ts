/**
 * The way in: a burst of frames from a receive ring goes through the checks, and what is good goes
 * onto the link of the app that serves its port, payload in place. Every frame ends in an app's link
 * or back in the UMEM, and every one that goes back is counted with its reason.
 */

import * as xsk_ from "../../ffi/xsk.ts";
import type { Xsk } from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import * as route_ from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import type { Capture } from "./capture.ts";
import * as frame_ from "./frame.ts";
import type { Umem, XdpPort } from "./rings.ts";
import * as route_cache_ from "./route_cache.ts";
import type { Devices, RouteCache } from "./route_cache.ts";

// Own constants, see frame.ts.
const { RECEIVE_HEADER_WORDS } = xsk_;
const { RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST } = route_;
const { Entry, MOST_WORDS, NO_PEER, flowHash } = route_cache_;
const {
  ETHERNET_BYTES,
  ETH_P_8021AD,
  ETH_P_8021Q,
  ETH_P_IP,
  IPPROTO_UDP,
  IPV4_BYTES,
  IP_DESTINATION,
  IP_PROTOCOL,
  IP_SOURCE,
  MOST_BYTES,
  MOST_TAGS,
  PACKET_HEADER_BYTES,
  PAYLOAD,
  TAG_BYTES,
  UDP_BYTES,
  UDP_CONSTANT_SUM,
  UDP_PORTS,
  VERSION_WORD,
  fold,
  halves,
  isPeer,
  sumWords,
  swap16,
} = frame_;
const COUNT = NET.index;

/** What frames are received with. */
export interface ReceiverParts {
  readonly umem: Umem;
  readonly arrivals: RxBatch;
  readonly checks: Checks;
  readonly apps: readonly Recipient[];
  readonly capture: Capture;
  readonly counters: Float64Array;
}

/** Receives from AF_XDP sockets. */
export class Receiver {
  readonly #umem: Umem;
  readonly #arrivals: RxBatch;
  readonly #checks: Checks;
  readonly #apps: readonly Recipient[];
  readonly #capture: Capture;
  readonly #counters: Float64Array;

  constructor({ umem, arrivals, checks, apps, capture, counters }: ReceiverParts) {
    this.#umem = umem;
    this.#arrivals = arrivals;
    this.#checks = checks;
    this.#apps = apps;
    this.#capture = capture;
    this.#counters = counters;
  }

  /**
   * Takes one burst from `port` and returns how many frames. Links are published, and apps in this
   * tile run, by the caller.
   */
  burst(port: XdpPort): number {
    const arrivals = this.#arrivals;
    const count = port.receive(arrivals.frames);
    if (count === 0) return 0;
    this.#checks.check(count, port.ifindex, port.partialChecksums);
    const { rows } = arrivals;
    let dropped = 0;
    for (let i = 0; i < count;) {
      const app = rows[(i << ARRIVAL_SHIFT) + Arrival.app];
      if (app >= 0) {
        i = this.#apps[app].push(arrivals, i, count);
        continue;
      }
      dropped++;
      this.#counters[-app]++;
      this.#umem.give(arrivals.frames[RECEIVE_HEADER_WORDS + 2 * i]);
      i++;
    }
    this.#counters[COUNT.rx_frames] += count;
    this.#counters[COUNT.rx_delivered] += count - dropped;
    // Frames that were given back are whole as long as the fill ring has none of them.
    if (this.#capture.wanted) this.#capture.received(arrivals, count, this.#umem.bytes);
    return count;
  }
}

/*
 * A burst on its way in: what a receive ring gave, and what became known of each frame since. Filled
 * by `xdp_port.ts` and `checks.ts`, then handed on by `app_link.ts`, or read in place by an app in the
 * net tile (`inline_app.ts`).
 *
 * What headers say is read from them once and stands here in rows, in one array: V8 keeps the bounds
 * of few arrays in registers, and the first-level cache few of frames that are two kilobytes apart.
 */

/** Most frames taken from a receive ring, or put on a transmit ring, by one call. */
export const XDP_BURST = 64;

/** Who datagrams are for: an app's link, or an app in this tile. */
export interface Recipient {
  /** Large buffers that the app is reading. */
  largeOut: number;
  /**
   * Hands over the `from`-th and all following datagrams of `arrivals`, of `count`, that are for the
   * same app in a row. Returns the first that it did not take; where that is because there is no room
   * it is marked as such.
   */
  push(arrivals: RxBatch, from: number, count: number): number;
  /**
   * Hands over a datagram whose payload is `length` bytes at `offset` of the UMEM. False when there
   * is no room; the frame is then still the caller's. Addresses, ports and times may come as signed
   * words.
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
  ): boolean;
}

/** log2 of a row's words: row `i` begins at word `i << ARRIVAL_SHIFT`. */
export const ARRIVAL_SHIFT = 4;

/** Word offsets in a row. All but the first are of good frames alone. */
export const Arrival = {
  /** The app that it is for, or the number of the counter to move, negated. */
  app: 0,
  /** Addresses, host order, and ports, source << 16 | destination. */
  source: 1,
  destination: 2,
  ports: 3,
  /** Where its payload begins in the UMEM, and how long it is. */
  offset: 4,
  length: 5,
  /** The route cache's entry for an answer; -1: not known. */
  entry: 6,
  /** The interface that it came in on: a VLAN device when it was tagged. */
  interface: 7,
  /** Sum of the pseudo header and the UDP header; or one of the two below. */
  sum: 8,
} as const;

/** Instead of a sum: the UDP checksum stands as it is, none included. */
export const STANDS = -1;
/** Instead of a sum: there is no more than the pseudo header's, or that is not known. */
export const PARTIAL = -2;

/** The row that stands for none. */
export const NONE = XDP_BURST << ARRIVAL_SHIFT;

/** The burst at hand; made once. */
export class RxBatch {
  /** Time low, time high, then offset and length of each frame, as `Xsk.receive` writes them. */
  readonly frames = new Uint32Array(RECEIVE_HEADER_WORDS + 2 * XDP_BURST);
  /** A row for each, and one that stands for none. */
  readonly rows = new Int32Array((XDP_BURST + 1) << ARRIVAL_SHIFT);
  /** `RouteCache.changes` when their entries were found. */
  changes = 0;

  constructor() {
    this.rows[NONE + Arrival.app] = -1;
  }
}

/*
 * What a received frame must be to reach an app: the checks in the order of the headers, each failure
 * with its own counter. Frames come straight from the wire; nothing in them is believed.
 *
 * Nearly all are alike: untagged, well made, for a port that is served, from a peer that the header
 * cache has an answer ready for. One pass over the burst reads addresses; the entries that they name
 * are fetched all at once, and the next pass finds the answer there. The one after knows the ordinary
 * frames by one condition for all headers; what fails that for whatever reason is judged by itself,
 * step by step. A last pass sums payloads.
 */

const DROP = NET.index;

/** EtherType of IPv4 as it reads little-endian. */
const ETH_P_IP_LE = swap16(ETH_P_IP);
/** A frame begins at this in a word, so that the IPv4 header after an Ethernet header is aligned. */
const IP_ALIGNMENT = 2;
/** More fragments, and the fragment offset: bits of the second header word, read little-endian. */
const FRAGMENT_BITS = 0xff3f0000 | 0;
/** Bytes of the shortest frame. */
const SHORTEST = ETHERNET_BYTES + PACKET_HEADER_BYTES;
/** The protocol field of the third header word, and UDP there. */
const PROTOCOL_BITS = 0xff00;
const PROTOCOL_UDP = IPPROTO_UDP << 8;
/** Bytes of both addresses, which end the IPv4 header. */
const ADDRESSES_BYTES = IPV4_BYTES - IP_SOURCE;
/** Word offsets from the start of the IPv4 header. */
const SOURCE_WORD = IP_SOURCE >>> 2;
const DESTINATION_WORD = IP_DESTINATION >>> 2;
const PORTS_WORD = UDP_PORTS >>> 2;
const UDP_LENGTH_WORD = PORTS_WORD + 1;
/** Bits that no outcome has whose destination may ask us: a negative one, and this. */
const NOT_ASKING = 0x8000_0000 | NO_PEER;
/** No verdict yet. */
const UNUSUAL = -1 << 30;

/** The memory that frames are in, and who knows which addresses are ours. */
export interface ChecksParts {
  readonly view: DataView;
  readonly words: Int32Array;
  readonly reader: NetbaseReader;
  readonly devices: Devices;
  readonly cache: RouteCache;
  readonly dispatch: Dispatch;
  readonly xsk: Pick<Xsk, "prefetch">;
  /** Where the burst at hand is, and what is found out of it. */
  readonly arrivals: RxBatch;
  /** Whether UDP checksums are left to the NIC. */
  readonly trustChecksums?: boolean;
}

/** The checks over the frames of one UMEM. */
export class Checks {
  readonly #arrivals: RxBatch;
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #reader: NetbaseReader;
  readonly #devices: Devices;
  readonly #trustChecksums: boolean;
  readonly #cache: RouteCache;
  readonly #dispatch: Dispatch;
  readonly #xsk: Pick<Xsk, "prefetch">;
  /** Where in the route cache each of the burst is looked for first. */
  readonly #places = new Uint32Array(XDP_BURST);
  /** An address that was found to be ours in this generation of netbase; 0: none. */
  #own = 0;
  /** Whether the burst at hand came in by loopback, where our own addresses are right sources. */
  #isLoopback = false;
  #ifindex = -1;
  #generation = -1;

  constructor(parts: ChecksParts) {
    const { view, words, reader, devices, cache, dispatch, arrivals, xsk } = parts;
    this.#xsk = xsk;
    this.#trustChecksums = parts.trustChecksums ?? false;
    this.#arrivals = arrivals;
    this.#view = view;
    this.#words = words;
    this.#reader = reader;
    this.#devices = devices;
    this.#cache = cache;
    this.#dispatch = dispatch;
  }

  /**
   * Checks the burst at hand. A frame that does not begin where the UMEM's headroom lets frames begin
   * is moved, and `frames` says where to. `partialChecksums`: the bare sum of the pseudo header is a
   * right UDP checksum too, since the sender left it to hardware that there is not.
   */
  check(count: number, ifindex: number, partialChecksums: boolean): void {
    const { generation, interfaces } = this.#reader;
    if (this.#generation !== generation || this.#ifindex !== ifindex) {
      this.#generation = generation;
      this.#ifindex = ifindex;
      this.#own = 0;
      const record = interfaces.find(ifindex);
      this.#isLoopback = record >= 0 && interfaces.isLoopback(record);
    }
    this.#readAddresses(count);
    this.#findEntries(count);
    this.#arrivals.changes = this.#cache.changes;
    const others = this.#passOrdinary(count, ifindex, partialChecksums);
    if (others < count) this.#sumPayloads(count);
    if (others === 0) return;
    const { rows } = this.#arrivals;
    for (let i = 0; i < count; i++) {
      const app = (i << ARRIVAL_SHIFT) + Arrival.app;
      if (rows[app] === UNUSUAL) rows[app] = this.#judge(i, ifindex, partialChecksums);
    }
  }

  /**
   * Reads the addresses of each frame from where an ordinary one has them, and says where the entry for
   * an answer would be. Those of one that cannot be ordinary read as 0, which nobody asks from.
   */
  #readAddresses(count: number): void {
    const { frames, rows } = this.#arrivals;
    const view = this.#view;
    const cache = this.#cache;
    const places = this.#places;
    for (let i = 0; i < count; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      const at = frames[2 * i + RECEIVE_HEADER_WORDS];
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      let source = 0;
      let destination = 0;
      if (length >= SHORTEST && (at & 3) === IP_ALIGNMENT) {
        const ip = (at + ETHERNET_BYTES) & MOST_BYTES;
        source = view.getInt32(ip + IP_SOURCE);
        destination = view.getInt32(ip + IP_DESTINATION);
      }
      rows[row + Arrival.source] = source;
      rows[row + Arrival.destination] = destination;
      places[i] = cache.place(source, destination, 0);
    }
  }

  /** Finds the route cache's entry for an answer to each, once all of them are on their way. */
  #findEntries(count: number): void {
    const { rows } = this.#arrivals;
    const cache = this.#cache;
    const places = this.#places;
    this.#xsk.prefetch(cache.words, places, count);
    for (let i = 0; i < count; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      const source = rows[row + Arrival.source];
      const destination = rows[row + Arrival.destination];
      rows[row + Arrival.entry] = cache.findFrom(places[i], source, destination, 0);
    }
  }

  /**
   * Fills the rows of ordinary frames, and leaves the others at `UNUSUAL`. Returns how many those are.
   * An ordinary frame is right in all but the UDP checksum, which is yet to be seen.
   */
  #passOrdinary(count: number, ifindex: number, partialChecksums: boolean): number {
    const { frames, rows } = this.#arrivals;
    const words = this.#words;
    const view = this.#view;
    const entries = this.#cache.words;
    const dispatch = this.#dispatch;
    // Words, since V8 looks anew at every use of a parameter, or a field, what it is.
    const isTrusted = this.#trustChecksums ? 1 : 0;
    const mayBePartial = partialChecksums ? 1 : 0;
    const device = ifindex | 0;
    let others = 0;
    for (let i = 0; i < count; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      const at = frames[2 * i + RECEIVE_HEADER_WORDS];
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      rows[row + Arrival.app] = UNUSUAL;
      others++;
      const e = rows[row + Arrival.entry];
      // Whom there is an answer ready for can ask, and asks at an address of ours.
      if (e < 0 || (entries[(e & MOST_WORDS) + Entry.outcome] & NOT_ASKING) !== 0) continue;
      const ip = (at + ETHERNET_BYTES) & MOST_BYTES;
      const w = ip >>> 2;
      const first = words[w];
      const third = words[w + 2];
      const udp = words[w + UDP_LENGTH_WORD];
      const total = swap16(first >>> 16);
      const udpLength = swap16(udp & 0xffff);
      const addresses = halves(words[w + SOURCE_WORD]) + halves(words[w + DESTINATION_WORD]);
      const sum = halves(first) + halves(words[w + 1]) + halves(third) + addresses;
      // Every term is 0 when it is as it should be, the last one when no difference is negative.
      const wrong = (words[w - 1] >>> 16) ^ ETH_P_IP_LE | (first & 0xff) ^ VERSION_WORD |
        fold(sum) ^ 0xffff | words[w + 1] & FRAGMENT_BITS | (third & PROTOCOL_BITS) ^ PROTOCOL_UDP |
        (udpLength + IPV4_BYTES) ^ total |
        ((length - ETHERNET_BYTES - total) | (udpLength - UDP_BYTES)) >>> 31;
      if (wrong !== 0) continue;
      const ports = view.getInt32(ip + UDP_PORTS);
      const app = dispatch.app(rows[row + Arrival.source], ports);
      if (app < 0) continue;
      const pseudo = addresses + UDP_CONSTANT_SUM + (udp & 0xffff);
      const checksum = udp >>> 16;
      let rest = pseudo + halves(words[w + PORTS_WORD]) + halves(udp);
      if (checksum === 0) rest = STANDS;
      else if (mayBePartial !== 0) {
        if (isTrusted !== 0 || fold(pseudo) === checksum) rest = PARTIAL;
      } else if (isTrusted !== 0) rest = STANDS;
      rows[row + Arrival.app] = app;
      rows[row + Arrival.ports] = ports;
      rows[row + Arrival.offset] = ip + PAYLOAD;
      rows[row + Arrival.length] = udpLength - UDP_BYTES;
      rows[row + Arrival.interface] = device;
      rows[row + Arrival.sum] = rest;
      others--;
    }
    return others;
  }

  /** Sums the payloads of those whose UDP checksum is yet to be seen. */
  #sumPayloads(count: number): void {
    const { rows } = this.#arrivals;
    const words = this.#words;
    for (let i = 0; i < count; i++) {
      const row = (i & (XDP_BURST - 1)) << ARRIVAL_SHIFT;
      const headers = rows[row + Arrival.sum];
      if (rows[row + Arrival.app] < 0 || headers < 0) continue;
      const length = rows[row + Arrival.length];
      const sum = headers + sumWords(words, rows[row + Arrival.offset] >>> 2, length);
      if (fold(sum) !== 0xffff) rows[row + Arrival.app] = -DROP.rx_drop_udp_checksum;
    }
  }

  /** Judges the i-th frame by itself, and fills its row. Returns its app, or its verdict. */
  #judge(i: number, ifindex: number, partialChecksums: boolean): number {
    const { frames, rows } = this.#arrivals;
    const row = i << ARRIVAL_SHIFT;
    const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
    rows[row + Arrival.interface] = ifindex;
    rows[row + Arrival.entry] = -1;
    rows[row + Arrival.sum] = STANDS;
    if (length < SHORTEST) return -DROP.rx_drop_too_short;
    const at = this.#align(i);
    const ip = this.#untag(at, length, row);
    if (ip < 0) return ip;
    const refused = this.#judgePacket(ip, at + length - ip, row) ||
      this.#judgeAddresses(rows[row + Arrival.source], rows[row + Arrival.destination]) ||
      this.#judgeDatagram(ip, row, partialChecksums);
    if (refused !== 0) return -refused;
    const source = rows[row + Arrival.source];
    rows[row + Arrival.entry] = this.#cache.find(source, rows[row + Arrival.destination], 0);
    return this.#dispatch.app(source, rows[row + Arrival.ports]);
  }

  /** Judges the IPv4 header at `ip`, with `room` bytes to the frame's end. 0, or what is wrong. */
  #judgePacket(ip: number, room: number, row: number): number {
    const view = this.#view;
    const { rows } = this.#arrivals;
    const first = this.#words[ip >>> 2];
    if ((first & 0xf0) !== 0x40) return DROP.rx_drop_ip_version;
    if ((first & 0x0f) !== IPV4_BYTES >>> 2) return DROP.rx_drop_ip_header_length;
    if (fold(sumWords(this.#words, ip >>> 2, IPV4_BYTES)) !== 0xffff) {
      return DROP.rx_drop_ip_checksum;
    }
    const total = swap16(first >>> 16);
    if (total < IPV4_BYTES || total > room) return DROP.rx_drop_ip_length;
    if ((this.#words[(ip >>> 2) + 1] & FRAGMENT_BITS) !== 0) return DROP.rx_drop_fragment;
    if (view.getUint8(ip + IP_PROTOCOL) !== IPPROTO_UDP) return DROP.rx_drop_not_udp;
    rows[row + Arrival.source] = view.getInt32(ip + IP_SOURCE);
    rows[row + Arrival.destination] = view.getInt32(ip + IP_DESTINATION);
    rows[row + Arrival.ports] = view.getInt32(ip + UDP_PORTS);
    rows[row + Arrival.offset] = ip + PAYLOAD;
    // What UDP has room for, until its own length is known to be right.
    rows[row + Arrival.length] = total - IPV4_BYTES;
    return 0;
  }

  /** Judges addresses by netbase, since the route cache does not know them. 0, or what is wrong. */
  #judgeAddresses(source: number, destination: number): number {
    const { fib, nextHops } = this.#reader;
    if (destination !== this.#own) {
      if (nextHops.kind(fib.lookup(destination)) !== RTN_LOCAL) return DROP.rx_drop_not_local;
      this.#own = destination;
    }
    const from = nextHops.kind(fib.lookup(source));
    const isHost = this.#isLoopback
      ? isPeer(source) || source >>> 24 === 127
      : isPeer(source) && from !== RTN_LOCAL;
    return isHost && from !== RTN_BROADCAST && from !== RTN_MULTICAST
      ? 0
      : DROP.rx_drop_invalid_source;
  }

  /** Judges the UDP header of the packet at `ip`. 0, or what is wrong. */
  #judgeDatagram(ip: number, row: number, partialChecksums: boolean): number {
    const { rows } = this.#arrivals;
    const words = this.#words;
    const w = ip >>> 2;
    const udp = words[w + UDP_LENGTH_WORD];
    const length = swap16(udp & 0xffff);
    const checksum = udp >>> 16;
    if (length < UDP_BYTES || length > rows[row + Arrival.length]) return DROP.rx_drop_udp_length;
    rows[row + Arrival.length] = length - UDP_BYTES;
    // 0: the sender made none (RFC 768).
    if (checksum === 0) return 0;
    const lengths = UDP_CONSTANT_SUM + (udp & 0xffff);
    if (partialChecksums) {
      const pseudo = halves(words[w + SOURCE_WORD]) + halves(words[w + DESTINATION_WORD]);
      if (this.#trustChecksums || fold(pseudo + lengths) === checksum) {
        rows[row + Arrival.sum] = PARTIAL;
        return 0;
      }
    }
    if (this.#trustChecksums) return 0;
    // The addresses of the pseudo header stand right before the datagram.
    const sum = sumWords(words, w + SOURCE_WORD, ADDRESSES_BYTES + length);
    return fold(sum + lengths) === 0xffff ? 0 : DROP.rx_drop_udp_checksum;
  }

  /** Moves the i-th frame, if need be, to where its headers are aligned, and returns where that is. */
  #align(i: number): number {
    const { frames } = this.#arrivals;
    const at = frames[2 * i + RECEIVE_HEADER_WORDS];
    if ((at & 3) === IP_ALIGNMENT) return at;
    // Downwards, into the room that the kernel keeps before every frame.
    const to = (at & ~3) - IP_ALIGNMENT;
    const bytes = new Uint8Array(this.#view.buffer, this.#view.byteOffset);
    bytes.copyWithin(to, at, at + frames[2 * i + RECEIVE_HEADER_WORDS + 1]);
    frames[2 * i + RECEIVE_HEADER_WORDS] = to;
    return to;
  }

  /** Goes past the VLAN tags of a frame, if any, and sets its interface, or returns a verdict. */
  #untag(at: number, length: number, row: number): number {
    const view = this.#view;
    const { rows } = this.#arrivals;
    let ip = at + ETHERNET_BYTES;
    if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    for (let tags = 0; tags < MOST_TAGS; tags++) {
      const protocol = view.getUint16(ip - 2);
      if (protocol !== ETH_P_8021Q && protocol !== ETH_P_8021AD) return -DROP.rx_drop_not_ipv4;
      if (at + length < ip + TAG_BYTES + PACKET_HEADER_BYTES) return -DROP.rx_drop_too_short;
      const id = view.getUint16(ip) & 0xfff;
      const device = this.#devices.tagged(rows[row + Arrival.interface], protocol, id);
      if (device < 0) return -DROP.rx_drop_unknown_vlan;
      rows[row + Arrival.interface] = device;
      ip += TAG_BYTES;
      if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    }
    return -DROP.rx_drop_not_ipv4;
  }
}

/*
 * Which app answers on a port, and which ports an app may send from. Fixed when the tile starts.
 *
 * A served port is a *service*, a small number; 0 stands for none. Several apps may share one, which
 * then takes the datagrams of a flow always to the same of them.
 */

const NOT_SERVED = NET.index.rx_drop_no_app;
/** Instead of an app: there are several. */
const SHARED = -32768;

/** A kernel socket behind a served port, as main tells a net tile of it. */
export interface UdpSocketSetup {
  readonly fd: number;
  readonly port: number;
  /** Whether this tile receives on it; every tile may send on all. */
  readonly receive: boolean;
}

/** The ports of all apps. */
export class Dispatch {
  /** For each port what `app` says where that is one app, or none. */
  readonly #alone = new Int16Array(65_536).fill(-NOT_SERVED);
  /** Service of each port. */
  readonly #services = new Uint16Array(65_536);
  /** Where each service's apps begin in `#members`, and how many they are. */
  readonly #first: Int32Array;
  readonly #count: Int32Array;
  readonly #members: Int32Array;
  readonly #fds: Int32Array;
  readonly #served: Uint8Array;
  readonly #width: number;

  constructor(
    apps: readonly { readonly ports: readonly number[] }[],
    sockets: readonly UdpSocketSetup[],
  ) {
    const ports = [...new Set(apps.flatMap((app) => app.ports))];
    this.#width = ports.length + 1;
    this.#first = new Int32Array(this.#width);
    this.#count = new Int32Array(this.#width);
    this.#fds = new Int32Array(this.#width).fill(-1);
    this.#served = new Uint8Array(this.#width * apps.length);
    ports.forEach((port, i) => this.#services[port] = i + 1);
    for (const { fd, port } of sockets) this.#fds[this.#services[port]] = fd;
    apps.forEach((app, index) => {
      for (const port of app.ports) this.#served[index * this.#width + this.#services[port]] = 1;
    });
    const members: number[] = [];
    for (const port of ports) {
      const service = this.#services[port];
      this.#first[service] = members.length;
      for (let index = 0; index < apps.length; index++) {
        if (this.serves(index, port)) members.push(index);
      }
      this.#count[service] = members.length - this.#first[service];
      this.#alone[port] = this.#count[service] > 1 ? SHARED : members[this.#first[service]];
    }
    this.#members = Int32Array.from(members);
  }

  /**
   * Index of the app for a datagram from `source` with `ports`; the negated number of the counter to
   * move when the port is not served.
   */
  app(source: number, ports: number): number {
    const app = this.#alone[ports & 0xffff];
    return app === SHARED ? this.#pick(source, ports) : app;
  }

  #pick(source: number, ports: number): number {
    const service = this.#services[ports & 0xffff];
    const pick = (flowHash(source, 0, ports) >>> 1) % this.#count[service];
    return this.#members[this.#first[service] + pick];
  }

  /** Whether app `index` serves `port`, and so may send from it. */
  serves(index: number, port: number): boolean {
    return this.#served[index * this.#width + this.#services[port]] === 1;
  }

  /** The kernel socket of a served port, -1 when another program has it. */
  fd(port: number): number {
    return this.#fds[this.#services[port]];
  }
}
