/**
 * Outgoing frames: the payload is copied once, its checksum taken on the way, and finished headers
 * are put before it from the header cache. In every frame that leaves, the IPv4 header stands at the
 * same place and the Ethernet header, with as many tags as it needs, ends there:
 *
 *     0        10          24            44         52
 *     │  (free) │ Ethernet │ IPv4 header │ UDP header │ payload …
 *
 * so that everything but the Ethernet header is aligned to words, and a frame can be held while its
 * headers are not known yet. Byte order: headers are written as words of a little-endian machine.
 *
 * @module
 */

import {
  fold,
  FRAGMENT_WORD,
  halves,
  PACKET_HEADER_BYTES,
  PROTOCOL_WORD,
  swap16,
  UDP_BYTES,
  VERSION_WORD,
} from "./frame.ts";
import { Entry } from "./header_cache.ts";

/** Where the IPv4 header begins in an outgoing frame. */
export const IP_AT = 24;
/** Where the payload begins in an outgoing frame. */
export const PAYLOAD_AT = IP_AT + PACKET_HEADER_BYTES;

/**
 * Copies `length` bytes from `at` of `source` to the payload of the frame at `frame` of `words`, and
 * returns their one's complement sum, not folded. What is summed is what was copied, even if the
 * source changes meanwhile.
 */
export function copyPayload(
  source: DataView,
  at: number,
  words: Int32Array,
  frame: number,
  length: number,
): number {
  const end = at + (length & ~3);
  let to = (frame + PAYLOAD_AT) >>> 2;
  let low = 0;
  let high = 0;
  for (; at < end; at += 4) {
    const word = source.getInt32(at, true);
    words[to++] = word;
    low += word & 0xffff;
    high += word >>> 16;
  }
  if ((length & 3) !== 0) {
    let word = 0;
    let shift = 0;
    if ((length & 2) !== 0) {
      word = source.getUint16(at, true);
      at += 2;
      shift = 16;
    }
    if ((length & 1) !== 0) word |= source.getUint8(at) << shift;
    words[to] = word;
    low += word & 0xffff;
    high += word >>> 16;
  }
  return low + high;
}

/**
 * Writes the headers of the frame at `frame` (a multiple of four) of `words`, whose payload of
 * `length` bytes with the sum `payloadSum` is in place, from the entry at `e` of `entries`. `ports`
 * is source port << 16 | destination port.
 */
export function writeHeaders(
  words: Int32Array,
  frame: number,
  entries: Int32Array,
  e: number,
  ports: number,
  length: number,
  payloadSum: number,
): void {
  const w = frame >>> 2;
  words[w] = entries[e + Entry.link];
  words[w + 1] = entries[e + Entry.link + 1];
  words[w + 2] = entries[e + Entry.link + 2];
  words[w + 3] = entries[e + Entry.link + 3];
  words[w + 4] = entries[e + Entry.link + 4];
  words[w + 5] = entries[e + Entry.link + 5];

  const total = swap16(length + PACKET_HEADER_BYTES);
  const sums = entries[e + Entry.sums];
  const ipSum = fold((sums >>> 16) + total);
  words[w + 6] = VERSION_WORD | (total << 16);
  words[w + 7] = FRAGMENT_WORD;
  words[w + 8] = PROTOCOL_WORD | (~ipSum << 16);
  words[w + 9] = entries[e + Entry.sourceBe];
  words[w + 10] = entries[e + Entry.destinationBe];

  // Bytes changed over within each port, then the ports with each other: network order.
  const swapped = ((ports & 0x00ff00ff) << 8) | ((ports >>> 8) & 0x00ff00ff);
  const udpLength = swap16(length + UDP_BYTES);
  // The length counts twice, in the pseudo header and in the UDP header itself.
  const udpSum = ~fold((sums & 0xffff) + 2 * udpLength + halves(swapped) + payloadSum) & 0xffff;
  words[w + 11] = (swapped << 16) | (swapped >>> 16);
  // A sum of 0 means "no checksum" and is sent as its other form (RFC 768).
  words[w + 12] = udpLength | ((udpSum === 0 ? 0xffff : udpSum) << 16);
}
