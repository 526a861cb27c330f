/**
 * The header cache: where a destination is sent, with all headers finished but for lengths, ports and
 * the payload's checksum. An entry is good for one generation of netbase; when that moves, all are
 * void at once by moving the epoch, and are made anew when they are next asked for.
 *
 * A table of cache lines, open addressed: an entry lies within `PROBES` places of its hash. It is
 * private to the tile and of fixed size, so addresses made up by strangers can only push others out,
 * which then cost a route and a neighbour lookup again.
 *
 * @module
 */

import { fold, halves, IP_CONSTANT_SUM, UDP_CONSTANT_SUM } from "./frame.ts";

/** Words of an entry: one cache line. */
const ENTRY_WORDS = 16;
const ENTRY_SHIFT = 4;
/** Places that an entry can be in. */
const PROBES = 4;

/** Word offsets in an entry. */
export const Entry = {
  /** Key: destination, host order. */
  destination: 0,
  /** Key: the source that was asked for, host order; 0: any. */
  source: 1,
  /** Key: the next hop when that depends on the flow, else 0. */
  member: 2,
  epoch: 3,
  /** What becomes of the datagram: see `resolve.ts`. */
  outcome: 4,
  /** Sums, folded: of the IPv4 header << 16 | of the pseudo header, both without their lengths. */
  sums: 5,
  /** Six words: what stands before the IPv4 header, ending there. */
  link: 6,
  sourceBe: 12,
  destinationBe: 13,
  /** Record of the neighbour, and when it was last looked at for its wish to be refreshed. */
  neighbor: 14,
  refreshed: 15,
} as const;

/** Bytes that an entry holds for the Ethernet header, which ends at their end. */
export const LINK_BYTES = 24;

/** The private cache of one net tile. */
export class HeaderCache {
  /** All entries, `Entry` words each. */
  readonly words: Int32Array;
  /** The same memory, for what has a byte order. */
  readonly view: DataView;
  readonly #mask: number;
  #epoch = 1;
  #victim = 0;

  /** Holds `entries` entries, a power of two. */
  constructor(entries: number) {
    this.words = new Int32Array(entries * ENTRY_WORDS);
    this.view = new DataView(this.words.buffer);
    this.#mask = entries - 1;
  }

  /** Makes every entry void. */
  clear(): void {
    this.#epoch = (this.#epoch + 1) | 0;
    if (this.#epoch !== 0) return;
    this.words.fill(0);
    this.#epoch = 1;
  }

  /** Word index of the entry for this key, -1 when there is none. Addresses as signed words. */
  find(destination: number, source: number, member: number): number {
    const { words } = this;
    let place = this.#hash(destination, source, member);
    for (let probe = 0; probe < PROBES; probe++) {
      const e = (place & this.#mask) << ENTRY_SHIFT;
      if (words[e + Entry.epoch] !== this.#epoch) return -1;
      if (
        words[e + Entry.destination] === destination && words[e + Entry.source] === source &&
        words[e + Entry.member] === member
      ) return e;
      place++;
    }
    return -1;
  }

  /**
   * Makes room for this key, which `find` did not find, and returns the word index of its entry. Its
   * outcome, largest payload and link words are for the caller to write.
   */
  insert(destination: number, source: number, member: number): number {
    const { words } = this;
    const place = this.#hash(destination, source, member);
    let e = ((place + (this.#victim++ & (PROBES - 1))) & this.#mask) << ENTRY_SHIFT;
    for (let probe = 0; probe < PROBES; probe++) {
      const free = ((place + probe) & this.#mask) << ENTRY_SHIFT;
      if (words[free + Entry.epoch] === this.#epoch) continue;
      e = free;
      break;
    }
    words[e + Entry.destination] = destination;
    words[e + Entry.source] = source;
    words[e + Entry.member] = member;
    words[e + Entry.epoch] = this.#epoch;
    return e;
  }

  /** Writes the addresses of the entry at `e`, host order, and the sums that follow from them. */
  setAddresses(e: number, source: number, destination: number): void {
    const { words } = this;
    this.view.setInt32((e + Entry.sourceBe) << 2, source, false);
    this.view.setInt32((e + Entry.destinationBe) << 2, destination, false);
    const sum = halves(words[e + Entry.sourceBe]) + halves(words[e + Entry.destinationBe]);
    words[e + Entry.sums] = (fold(sum + IP_CONSTANT_SUM) << 16) | fold(sum + UDP_CONSTANT_SUM);
  }

  #hash(destination: number, source: number, member: number): number {
    const mixed = Math.imul(
      destination ^ Math.imul(source ^ (member << 16), 0x85ebca6b),
      0x9e3779b1,
    );
    return mixed ^ (mixed >>> 15);
  }
}
