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
 */

import * as layout from "./entry.ts";
import * as frame from "./frame.ts";
import * as burst from "./rows.ts";

// Own constants, see frame.ts.
const { BEGIN_BITS, Entry, LINK_BYTES, MOST_WORDS } = layout;
const { BURST, Row, ROW_SHIFT } = burst;
const {
  ETHERNET_BYTES,
  fold,
  FRAGMENT_WORD,
  halves,
  MOST_BYTES,
  PACKET_HEADER_BYTES,
  PROTOCOL_WORD,
  sumWords,
  swap16,
  UDP_BYTES,
  VERSION_WORD,
  PAYLOAD_AT,
} = frame;

/** Where the Ethernet header begins when it has no tags. */
const UNTAGGED_BEGIN = LINK_BYTES - ETHERNET_BYTES;

/**
 * Copies the payload of each row that has a frame from `source` into it, and stores the one's
 * complement sum, not folded. What is summed is what was copied, even if the source changes meanwhile.
 */
export function copyPayloads(
  source: DataView,
  frames: Int32Array,
  rows: Int32Array,
  count: number,
): void {
  for (let i = 0; i < count; i++) {
    const row = (i & (BURST - 1)) << ROW_SHIFT;
    if (rows[row + Row.entry] < 0) continue;
    const length = rows[row + Row.length];
    let at = rows[row + Row.offset];
    let to = (rows[row + Row.frame] + PAYLOAD_AT) >>> 2;
    let low = 0;
    let high = 0;
    for (const end = to + (length >>> 2); to < end; to++) {
      const word = source.getInt32(at, true);
      frames[to] = word;
      low += word & 0xffff;
      high += word >>> 16;
      at += 4;
    }
    if ((length & 3) !== 0) {
      const word = lastBytes(source, at, length & 3);
      frames[to] = word;
      low += word & 0xffff;
      high += word >>> 16;
    }
    rows[row + Row.sum] = low + high;
  }
}

/** The same for payloads that stand in their frames already. */
export function sumPayloads(frames: Int32Array, rows: Int32Array, count: number): void {
  for (let i = 0; i < count; i++) {
    const row = (i & (BURST - 1)) << ROW_SHIFT;
    if (rows[row + Row.entry] < 0) continue;
    const at = ((rows[row + Row.frame] + PAYLOAD_AT) & MOST_BYTES) >>> 2;
    rows[row + Row.sum] = sumWords(frames, at, rows[row + Row.length]);
  }
}

/** One to three bytes at `at` as a word, padded with zeros. */
function lastBytes(source: DataView, at: number, count: number): number {
  if (count === 1) return source.getUint8(at);
  const word = source.getUint16(at, true);
  return count === 2 ? word : word | (source.getUint8(at + 2) << 16);
}

/**
 * Writes the headers of the frame of the row at word `row` of `rows`, payload in place, from its entry
 * of the header cache. Frames begin at multiples of four.
 */
export function writeHeaders(
  frames: Int32Array,
  entries: Int32Array,
  rows: Int32Array,
  row: number,
): void {
  const e = rows[row + Row.entry] & MOST_WORDS;
  const w = (rows[row + Row.frame] & MOST_BYTES) >>> 2;
  const ports = rows[row + Row.ports];
  const length = rows[row + Row.length] & 0xffff;
  writePacketHeader(frames, entries, w, e, length);

  // Bytes changed over within each port, then the ports with each other: network order.
  const swapped = ((ports & 0x00ff00ff) << 8) | ((ports >>> 8) & 0x00ff00ff);
  const udpLength = swap16(length + UDP_BYTES);
  // The length counts twice, in the pseudo header and in the UDP header itself.
  const sum = (entries[e + Entry.sums] & 0xffff) + 2 * udpLength + halves(swapped) +
    rows[row + Row.sum];
  const udpSum = ~fold(sum) & 0xffff;
  frames[w + 11] = (swapped << 16) | (swapped >>> 16);
  // A sum of 0 means "no checksum" and is sent as its other form (RFC 768).
  frames[w + 12] = udpLength | ((udpSum === 0 ? 0xffff : udpSum) << 16);
}

/**
 * Turns the headers of a received datagram round, whose payload of `length` bytes is in place in the
 * frame at byte `at` and whose sender's entry is at `e`. Addresses and ports only change places, which
 * no one's complement sum takes note of: its UDP checksum stays as it is (RFC 1071 §2).
 */
export function turnHeaders(
  frames: Int32Array,
  entries: Int32Array,
  at: number,
  e: number,
  length: number,
): void {
  const w = (at & MOST_BYTES) >>> 2;
  writePacketHeader(frames, entries, w, e & MOST_WORDS, length & 0xffff);
  const ports = frames[w + 11];
  frames[w + 11] = (ports << 16) | (ports >>> 16);
}

/** Writes what comes before the UDP header of the frame at word `w`. */
function writePacketHeader(
  frames: Int32Array,
  entries: Int32Array,
  w: number,
  e: number,
  length: number,
): void {
  if (((entries[e + Entry.outcome] >>> 16) & BEGIN_BITS) < UNTAGGED_BEGIN) {
    frames[w] = entries[e + Entry.link];
    frames[w + 1] = entries[e + Entry.link + 1];
  }
  frames[w + 2] = entries[e + Entry.link + 2];
  frames[w + 3] = entries[e + Entry.link + 3];
  frames[w + 4] = entries[e + Entry.link + 4];
  frames[w + 5] = entries[e + Entry.link + 5];

  const total = swap16(length + PACKET_HEADER_BYTES);
  frames[w + 6] = VERSION_WORD | (total << 16);
  frames[w + 7] = FRAGMENT_WORD;
  frames[w + 8] = PROTOCOL_WORD | (~fold((entries[e + Entry.sums] >>> 16) + total) << 16);
  frames[w + 9] = entries[e + Entry.sourceBe];
  frames[w + 10] = entries[e + Entry.destinationBe];
}
