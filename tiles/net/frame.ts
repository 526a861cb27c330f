/**
 * What a frame looks like: where the fields of Ethernet, 802.1Q, IPv4 and UDP headers stand, and the
 * arithmetic of their checksums. Used on the way in (`rx.ts`) and on the way out (`tx.ts`).
 *
 * Sums are taken in the machine's own byte order (little-endian): a one's complement sum of 16-bit
 * words does not care, as long as the result is stored as it was summed (RFC 1071 §1.2 B).
 *
 * Modules on the data path take these names over into constants of their own (`const { fold } =
 * frame`): V8 folds a module's own constants into the code, and inlines its own functions, but loads
 * and checks an imported binding at every use.
 */

/** Bytes of an Ethernet header without tags. */
export const ETHERNET_BYTES = 14;
/** Bytes of an 802.1Q or 802.1ad tag. */
export const TAG_BYTES = 4;
/** Tags that we read and write at most: 802.1ad with 802.1Q inside. */
export const MOST_TAGS = 2;
/** Bytes of an IPv4 header without options, the only kind there is here. */
export const IPV4_BYTES = 20;
/** Bytes of a UDP header. */
export const UDP_BYTES = 8;
/** Bytes of IPv4 and UDP headers. */
export const PACKET_HEADER_BYTES = IPV4_BYTES + UDP_BYTES;
/** Largest UDP payload over IPv4: 65,535 bytes less both headers. */
export const LARGEST_PAYLOAD = 65_507;

/** EtherTypes (linux/if_ether.h). */
export const ETH_P_IP = 0x0800;
export const ETH_P_8021Q = 0x8100;
export const ETH_P_8021AD = 0x88a8;

/** Byte offsets in an IPv4 header (RFC 791 §3.1). */
export const IP_PROTOCOL = 9;
export const IP_SOURCE = 12;
export const IP_DESTINATION = 16;

/** Byte offsets from the start of the IPv4 header of what UDP adds (RFC 768). */
export const UDP_PORTS = 20;
export const PAYLOAD = 28;

export const IPPROTO_UDP = 17;

/**
 * Whether `address`, host order, can be a single host's other than this one: not of this network, of
 * loopback, multicast, reserved or 255.255.255.255 (RFC 1122 §3.2.1.3).
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

/** The two bytes of a 16-bit word changed over. */
export function swap16(word: number): number {
  return ((word & 0xff) << 8) | (word >>> 8);
}

/** Sum of the two 16-bit halves of a word. */
export function halves(word: number): number {
  return (word & 0xffff) + (word >>> 16);
}

/**
 * One's complement sum, not folded, of `length` bytes from word `at` of `words` on, an odd last byte
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

/** First word of the IPv4 headers that we send: version 4, five words, no service class; length to be filled in. */
export const VERSION_WORD = 0x45;
/** Second word: identification 0 and "don't fragment" (an atomic datagram, RFC 6864 §4.1). */
export const FRAGMENT_WORD = 0x0040_0000;
/** Third word: time to live 64, protocol UDP; checksum to be filled in. */
export const PROTOCOL_WORD = 64 | (IPPROTO_UDP << 8);

/** The part of their checksum that is the same in all of them. */
export const IP_CONSTANT_SUM = VERSION_WORD + halves(FRAGMENT_WORD) + PROTOCOL_WORD;
/** Likewise of the UDP pseudo header (RFC 768): the protocol, in the order that words are summed. */
export const UDP_CONSTANT_SUM = swap16(IPPROTO_UDP);

/**
 * Byte offsets of the largest UMEM, all ones. Masking with it changes no offset, but tells V8 that none
 * overflows, which saves a check at every access.
 */
export const MOST_BYTES = 0x3fffffff;

/** Where the IPv4 header begins in an outgoing frame (`tx.ts`). */
export const IP_AT = 24;
/** Where the payload begins in an outgoing frame. */
export const PAYLOAD_AT = IP_AT + PACKET_HEADER_BYTES;
