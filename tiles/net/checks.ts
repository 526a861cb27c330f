/**
 * What a received frame must be to reach an app: the checks in the order of the headers, each failure
 * with its own counter. Frames come straight from the wire; nothing in them is believed.
 *
 * @module
 */

import type { NetbaseReader } from "../../netbase/netbase.ts";
import { RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST } from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import type { Devices } from "./devices.ts";
import {
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
  MOST_TAGS,
  PACKET_HEADER_BYTES,
  sumBytes,
  swap16,
  TAG_BYTES,
  UDP_BYTES,
  UDP_CONSTANT_SUM,
  UDP_LENGTH,
  UDP_PORTS,
} from "./frame.ts";

const DROP = NET.index;

/** More fragments, and the fragment offset: bits of the second header word, read little-endian. */
const FRAGMENT_BITS = 0xff3f0000 | 0;

/** The checks over the frames of one UMEM. */
export class Checks {
  /** After a good frame: the interface that it came in on, a VLAN device when it was tagged. */
  ifindex = 0;
  readonly #view: DataView;
  readonly #reader: NetbaseReader;
  readonly #devices: Devices;

  constructor(view: DataView, { reader, devices }: { reader: NetbaseReader; devices: Devices }) {
    this.#view = view;
    this.#reader = reader;
    this.#devices = devices;
  }

  /**
   * Checks the frame of `length` bytes at `at` that came in on `ifindex`. Returns where its IPv4
   * header begins, or the number of the counter to move, negated. `partialChecksums`: the bare sum of
   * the pseudo header is a right UDP checksum too, since the sender left it to hardware that there
   * is not.
   */
  check(at: number, length: number, ifindex: number, partialChecksums: boolean): number {
    const view = this.#view;
    this.ifindex = ifindex;
    if (length < ETHERNET_BYTES + PACKET_HEADER_BYTES) return -DROP.rx_drop_short;
    let ip = at + ETHERNET_BYTES;
    if (view.getUint16(at + ETHERTYPE_AT) !== ETH_P_IP) {
      ip = this.#untag(at, length);
      if (ip < 0) return ip;
    }
    const room = at + length - ip;

    const first = view.getInt32(ip, true);
    if ((first & 0xf0) !== 0x40) return -DROP.rx_drop_ip_version;
    if ((first & 0x0f) !== IPV4_BYTES >>> 2) return -DROP.rx_drop_ip_header_length;
    const second = view.getInt32(ip + 4, true);
    const third = view.getInt32(ip + 8, true);
    const source = view.getInt32(ip + IP_SOURCE, true);
    const destination = view.getInt32(ip + IP_DESTINATION, true);
    const addresses = halves(source) + halves(destination);
    if (fold(halves(first) + halves(second) + halves(third) + addresses) !== 0xffff) {
      return -DROP.rx_drop_ip_checksum;
    }
    const total = swap16(first >>> 16);
    if (total < IPV4_BYTES || total > room) return -DROP.rx_drop_ip_total_length;
    if ((second & FRAGMENT_BITS) !== 0) return -DROP.rx_drop_fragment;
    if (((third >>> 8) & 0xff) !== IPPROTO_UDP) return -DROP.rx_drop_protocol;

    const kind = this.#kind(view.getInt32(ip + IP_DESTINATION));
    if (kind !== RTN_LOCAL) return -DROP.rx_drop_destination;
    if (!this.#isPeer(view.getInt32(ip + IP_SOURCE))) return -DROP.rx_drop_source;

    const udp = view.getInt32(ip + UDP_LENGTH, true);
    const udpLength = swap16(udp & 0xffff);
    if (udpLength < UDP_BYTES || udpLength > total - IPV4_BYTES) return -DROP.rx_drop_udp_length;
    const checksum = udp >>> 16;
    if (checksum === 0) return ip; // the sender made none (RFC 768)
    const pseudo = addresses + UDP_CONSTANT_SUM + (udp & 0xffff);
    if (partialChecksums && fold(pseudo) === checksum) return ip;
    if (fold(pseudo + sumBytes(view, ip + UDP_PORTS, udpLength)) === 0xffff) return ip;
    return -DROP.rx_drop_udp_checksum;
  }

  /** Whether `source` (host order, signed) can be a peer's address on the wire (RFC 1122 §3.2.1.3). */
  #isPeer(source: number): boolean {
    const net = source >>> 24;
    // Above 223: multicast, reserved and 255.255.255.255.
    if (net > 223 || net === 127 || net === 0) return false;
    const kind = this.#kind(source);
    return kind !== RTN_BROADCAST && kind !== RTN_MULTICAST && kind !== RTN_LOCAL;
  }

  /** What the routing table makes of `address`: RTN_*, 0 when there is no route. */
  #kind(address: number): number {
    return this.#reader.nextHops.kind(this.#reader.fib.lookup(address));
  }

  /** Goes past the VLAN tags of the frame, and sets `ifindex`, or returns a negated counter. */
  #untag(at: number, length: number): number {
    const view = this.#view;
    let ip = at + ETHERNET_BYTES;
    for (let tags = 0; tags < MOST_TAGS; tags++) {
      const protocol = view.getUint16(ip - 2);
      if (protocol !== ETH_P_8021Q && protocol !== ETH_P_8021AD) return -DROP.rx_drop_ethertype;
      if (at + length < ip + TAG_BYTES + PACKET_HEADER_BYTES) return -DROP.rx_drop_short;
      this.ifindex = this.#devices.tagged(this.ifindex, protocol, view.getUint16(ip) & 0xfff);
      if (this.ifindex < 0) return -DROP.rx_drop_vlan;
      ip += TAG_BYTES;
      if (view.getUint16(ip - 2) === ETH_P_IP) return ip;
    }
    return -DROP.rx_drop_ethertype;
  }
}
