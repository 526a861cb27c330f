/**
 * What a received frame must be to reach an app: the checks in the order of the headers, each failure
 * with its own counter. Frames come straight from the wire; nothing in them is believed.
 *
 * A burst goes through in passes of one kind of work each, loops small enough that V8 lifts out of
 * them what does not change, and that call nothing. While one frame is awaited from memory the next
 * ones are then asked for already.
 *
 * @module
 */

import * as xsk from "../../ffi/xsk.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import * as route from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import type { Arrivals } from "./arrivals.ts";
import type { Devices } from "./devices.ts";
import * as frame from "./frame.ts";

// Own constants, see frame.ts.
const { RECEIVE_HEADER_WORDS } = xsk;
const { RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST } = route;
const {
  ETH_P_8021AD,
  ETH_P_8021Q,
  ETH_P_IP,
  ETHERNET_BYTES,
  ETHERTYPE_AT,
  fold,
  halves,
  IP_DESTINATION,
  IP_SOURCE,
  IPPROTO_UDP,
  IPV4_BYTES,
  MOST_BYTES,
  MOST_TAGS,
  PACKET_HEADER_BYTES,
  sumWords,
  swap16,
  TAG_BYTES,
  UDP_BYTES,
  UDP_CONSTANT_SUM,
} = frame;
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
const IPV4_WORDS = IPV4_BYTES >>> 2;
/** Bytes of both addresses, which end the IPv4 header. */
const ADDRESSES_BYTES = IPV4_BYTES - IP_SOURCE;
/** Word offsets in the IPv4 header, and of the word with UDP's length and checksum. */
const SOURCE_WORD = IP_SOURCE >>> 2;
const DESTINATION_WORD = IP_DESTINATION >>> 2;
const UDP_LENGTH_WORD = 6;

/** The memory that frames are in, and who knows which addresses are ours. */
export interface ChecksParts {
  readonly view: DataView;
  readonly words: Int32Array;
  readonly reader: NetbaseReader;
  readonly devices: Devices;
  /** Where the burst at hand is, and what is found out of it. */
  readonly arrivals: Arrivals;
  /** Whether UDP checksums are left to the NIC. */
  readonly trustChecksums?: boolean;
}

/** The checks over the frames of one UMEM. */
export class Checks {
  readonly #arrivals: Arrivals;
  readonly #view: DataView;
  readonly #words: Int32Array;
  readonly #units: Uint16Array;
  readonly #reader: NetbaseReader;
  readonly #devices: Devices;
  readonly #trustChecksums: boolean;
  /** An address that was found to be ours in this generation of netbase; 0: none. */
  #own = 0;
  /** Whether the burst at hand came in by loopback, where our own addresses are right sources. */
  #isLoopback = false;
  #ifindex = -1;
  #generation = -1;

  constructor({ view, words, reader, devices, arrivals, trustChecksums = false }: ChecksParts) {
    this.#arrivals = arrivals;
    this.#view = view;
    this.#words = words;
    this.#units = new Uint16Array(words.buffer, words.byteOffset, words.length * 2);
    this.#reader = reader;
    this.#devices = devices;
    this.#trustChecksums = trustChecksums;
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
    this.#findHeaders(count, ifindex);
    this.#checkHeaders(count);
    this.#checkAddresses(count);
    this.#checkDatagrams(count, partialChecksums);
  }

  /** Finds the IPv4 headers of ordinary frames, and leaves the others to `#findUnusual`. */
  #findHeaders(count: number, ifindex: number): void {
    const { frames, verdicts, interfaces } = this.#arrivals;
    const units = this.#units;
    let unusual = 0;
    for (let i = 0; i < count; i++) {
      const at = frames[2 * i + RECEIVE_HEADER_WORDS];
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      const isOrdinary = units[(at + ETHERTYPE_AT) >>> 1] === ETH_P_IP_LE && length >= SHORTEST &&
        (at & 3) === IP_ALIGNMENT;
      interfaces[i] = ifindex;
      verdicts[i] = isOrdinary ? at + ETHERNET_BYTES : 0;
      if (!isOrdinary) unusual++;
    }
    if (unusual > 0) this.#findUnusual(count);
  }

  #findUnusual(count: number): void {
    const { frames, verdicts } = this.#arrivals;
    for (let i = 0; i < count; i++) {
      if (verdicts[i] !== 0) continue;
      const length = frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      if (length < SHORTEST) verdicts[i] = -DROP.rx_drop_short;
      else verdicts[i] = this.#untag(this.#align(i), length, i);
    }
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

  #checkHeaders(count: number): void {
    const { frames, verdicts } = this.#arrivals;
    const words = this.#words;
    for (let i = 0; i < count; i++) {
      const ip = verdicts[i];
      if (ip < 0) continue;
      const end = frames[2 * i + RECEIVE_HEADER_WORDS] + frames[2 * i + RECEIVE_HEADER_WORDS + 1];
      const w = ip >>> 2;
      const first = words[w];
      const second = words[w + 1];
      const third = words[w + 2];
      const source = words[w + SOURCE_WORD];
      const destination = words[w + DESTINATION_WORD];
      const sum = halves(first) + halves(second) + halves(third) + halves(source) +
        halves(destination);
      const total = swap16(first >>> 16);
      if ((first & 0xf0) !== 0x40) verdicts[i] = -DROP.rx_drop_ip_version;
      else if ((first & 0x0f) !== IPV4_WORDS) verdicts[i] = -DROP.rx_drop_ip_header_length;
      else if (fold(sum) !== 0xffff) verdicts[i] = -DROP.rx_drop_ip_checksum;
      else if (total < IPV4_BYTES || total > end - ip) verdicts[i] = -DROP.rx_drop_ip_total_length;
      else if ((second & FRAGMENT_BITS) !== 0) verdicts[i] = -DROP.rx_drop_fragment;
      else if ((third & PROTOCOL_BITS) !== PROTOCOL_UDP) verdicts[i] = -DROP.rx_drop_protocol;
    }
  }

  #checkAddresses(count: number): void {
    const { verdicts } = this.#arrivals;
    const view = this.#view;
    const { fib, nextHops } = this.#reader;
    const isLoopback = this.#isLoopback;
    let own = this.#own;
    for (let i = 0; i < count; i++) {
      const ip = verdicts[i];
      if (ip < 0) continue;
      const source = view.getInt32((ip & MOST_BYTES) + IP_SOURCE);
      const destination = view.getInt32((ip & MOST_BYTES) + IP_DESTINATION);
      if (destination !== own) {
        if (nextHops.kind(fib.lookup(destination)) !== RTN_LOCAL) {
          verdicts[i] = -DROP.rx_drop_destination;
          continue;
        }
        own = destination;
      }
      const net = source >>> 24;
      const from = nextHops.kind(fib.lookup(source));
      // Above 223: multicast, reserved and 255.255.255.255 (RFC 1122 §3.2.1.3).
      if (
        net > 223 || net === 0 || from === RTN_BROADCAST || from === RTN_MULTICAST ||
        (!isLoopback && (net === 127 || from === RTN_LOCAL))
      ) verdicts[i] = -DROP.rx_drop_source;
    }
    this.#own = own;
  }

  #checkDatagrams(count: number, partialChecksums: boolean): void {
    const { verdicts } = this.#arrivals;
    const words = this.#words;
    for (let i = 0; i < count; i++) {
      const ip = verdicts[i];
      if (ip < 0) continue;
      const w = ip >>> 2;
      const udp = words[w + UDP_LENGTH_WORD];
      const length = swap16(udp & 0xffff);
      const checksum = udp >>> 16;
      if (length < UDP_BYTES || length > swap16(words[w] >>> 16) - IPV4_BYTES) {
        verdicts[i] = -DROP.rx_drop_udp_length;
        continue;
      }
      // 0: the sender made none (RFC 768).
      if (checksum === 0 || this.#trustChecksums) continue;
      const lengths = UDP_CONSTANT_SUM + (udp & 0xffff);
      if (partialChecksums) {
        const pseudo = halves(words[w + SOURCE_WORD]) + halves(words[w + DESTINATION_WORD]);
        if (fold(pseudo + lengths) === checksum) continue;
      }
      // The addresses of the pseudo header stand right before the datagram.
      const sum = sumWords(words, w + SOURCE_WORD, ADDRESSES_BYTES + length);
      if (fold(sum + lengths) !== 0xffff) verdicts[i] = -DROP.rx_drop_udp_checksum;
    }
  }

  /** Goes past the VLAN tags of the i-th frame, if any, and sets its interface, or returns a verdict. */
  #untag(at: number, length: number, i: number): number {
    const view = this.#view;
    const { interfaces } = this.#arrivals;
    let ip = at + ETHERNET_BYTES;
    if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    for (let tags = 0; tags < MOST_TAGS; tags++) {
      const protocol = view.getUint16(ip - 2);
      if (protocol !== ETH_P_8021Q && protocol !== ETH_P_8021AD) return -DROP.rx_drop_ethertype;
      if (at + length < ip + TAG_BYTES + PACKET_HEADER_BYTES) return -DROP.rx_drop_short;
      const id = view.getUint16(ip) & 0xfff;
      const device = this.#devices.tagged(interfaces[i], protocol, id);
      if (device < 0) return -DROP.rx_drop_vlan;
      interfaces[i] = device;
      ip += TAG_BYTES;
      if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    }
    return -DROP.rx_drop_ethertype;
  }
}
