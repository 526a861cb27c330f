/**
 * A frame, and the description of the packet in it: where the fields of Ethernet, 802.1Q, IPv4 and
 * UDP headers stand, the arithmetic of their checksums, and the words that a net tile carries from
 * the receive ring to the answer.
 *
 * In every frame that is sent, the IPv4 header begins at the same place. The Ethernet header, with
 * as many tags as it needs, ends there:
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
 * Modules on the data path copy these names into constants of their own (`const { fold } = frame`).
 * V8 folds constants into the code, and inlines functions, if a module neither imports nor exports them;
 * all others it loads and checks at every use.
 */

/** Bytes of an Ethernet header without tags. */
export const ETHERNET_BYTES = 14;
/** Bytes of an 802.1Q or 802.1ad tag. */
export const TAG_BYTES = 4;
/** The most tags in a frame: 802.1ad with 802.1Q inside. */
export const MOST_TAGS = 2;
/** Bytes of an IPv4 header without options. Packets with options are left to the kernel. */
export const IPV4_BYTES = 20;
/** Bytes of a UDP header. */
export const UDP_BYTES = 8;
/** Bytes of IPv4 and UDP headers. */
export const PACKET_HEADER_BYTES = IPV4_BYTES + UDP_BYTES;
/** The largest UDP payload over IPv4: 65,535 bytes less both headers. */
export const LARGEST_PAYLOAD = 65_507;

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

/** First word of the IPv4 headers that we send: version 4, five words, no service class, no length yet. */
export const VERSION_WORD = 0x45;
/** Second word: identification 0 and "don't fragment" (an atomic datagram, RFC 6864 §4.1). */
export const FRAGMENT_WORD = 0x0040_0000;
/** Third word: time to live 64, protocol UDP, no checksum yet. */
export const PROTOCOL_WORD = 64 | (IPPROTO_UDP << 8);

/** The part of the IPv4 header's checksum that is the same in all packets that we send. */
export const IP_CONSTANT_SUM = VERSION_WORD + halves(FRAGMENT_WORD) + PROTOCOL_WORD;
/** The protocol in the UDP pseudo header (RFC 768), in the byte order in which words are summed. */
export const UDP_CONSTANT_SUM = swap16(IPPROTO_UDP);

/**
 * Byte offsets of the largest UMEM, all ones. Masking with it changes no offset, but tells V8 that none
 * overflows, which saves a check at every access.
 */
export const MOST_BYTES = 0x3fffffff;

/** Where the IPv4 header begins in a frame that is sent. */
export const IP_AT = 24;
/** Where the payload begins in a frame that is sent. */
export const PAYLOAD_AT = IP_AT + PACKET_HEADER_BYTES;

/** The most packets in a batch, received or sent; a power of two. */
export const BATCH = 64;
/** log2 of the words of a packet's description: that of packet `i` begins at word `i << PACKET_SHIFT`. */
export const PACKET_SHIFT = 4;
export const PACKET_WORDS = 1 << PACKET_SHIFT;

/**
 * Word offsets in the description of a packet. It is written once, as the packet arrives, and carried
 * to the answer: `peer` and `local` do not change places. Addresses are in host order, signed words.
 */
export const Packet = {
  /** Where the payload begins, and how long it is: bytes of the UMEM, or of an app's memory until copied. */
  offset: 0,
  length: 1,
  /** The other side's address, and ours. 0 for ours: the route chooses. */
  peer: 2,
  local: 3,
  /** peer's port << 16 | our port */
  ports: 4,
  /** The interface that it came in on: a VLAN device when it was tagged. */
  interface: 5,
  /** The app that it is for, or a negated counter: why it was dropped. */
  app: 6,
  /** Its route: the index of an entry of the route cache, or one of the values below. */
  route: 7,
  /** Received: its UDP checksum, below. To be sent: the sum of its payload. Neither is folded. */
  sum: 8,
  /** To be sent: its frame, payload at `PAYLOAD_AT`. -1: it has none. */
  frame: 9,
  /** To be sent, out of a link: when what it answers arrived, in ticks (`traffic.ts`); 0: it answers nothing. */
  arrival: 10,
} as const;

/** As a route: no cached route can be used. The packet takes the slow path. */
export const UNROUTED = -1;
/** As a route: not looked up yet. */
export const LOOK_UP = -2;
/** As a route: below this, `REFUSED` − counter says why the packet is dropped. */
export const REFUSED = -3;

/** As the sum of a received packet: the UDP checksum is valid as it is, none included. Else the headers' sum. */
export const CHECKSUM_VALID = -1;
/** As that: it covers the pseudo header alone, or that is not known. */
export const CHECKSUM_PARTIAL = -2;

/** Descriptions for one batch, and one more that is of no packet: all zeros but for its `app`, -1. */
export function makePackets(): Int32Array {
  const packets = new Int32Array((BATCH + 1) << PACKET_SHIFT);
  packets[(BATCH << PACKET_SHIFT) + Packet.app] = -1;
  return packets;
}

/**
 * Whether `address`, host order, can be a single host's other than this one: not of this network,
 * loopback, multicast, reserved, or 255.255.255.255 (RFC 1122 §3.2.1.3).
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

/** Sum of the two 16-bit halves of a word. */
export function halves(word: number): number {
  return (word & 0xffff) + (word >>> 16);
}

/**
 * One's complement sum, not folded, of `length` bytes from word `at` of `words`, an odd last byte
 * padded with zero. At most 65,535 bytes, so that the sum stays below 2³².
 */
export function sumWords(words: Int32Array, at: number, length: number): number {
  const end = at + (length >>> 2);
  let low = 0;
  let high = 0;
  for (; at < end; at++) {
    const word = words[at];
    low += word & 0xffff;
    high += word >>> 16;
  }
  const rest = length & 3;
  if (rest !== 0) {
    const word = words[at] & ((1 << (rest << 3)) - 1);
    low += word & 0xffff;
    high += word >>> 16;
  }
  return low + high;
}

/**
 * 32 well-mixed bits of a flow's addresses and ports, as a signed word (the finaliser of MurmurHash3
 * over their combination). It keeps a flow on one member of an ECMP route, and with one of several apps.
 */
export function flowHash(a: number, b: number, ports: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77) ^ Math.imul(ports, 0xc2b2ae3d);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
