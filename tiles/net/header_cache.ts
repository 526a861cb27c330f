/**
 * The header cache: where a destination is sent, with all headers finished but for lengths, ports and
 * the payload's checksum. An entry is good for one generation of netbase; when that moves, all are
 * void at once by moving the epoch, and are made anew when they are next asked for.
 *
 * A table of cache lines, open addressed: an entry lies within `PROBES` places of its hash. It is
 * private to the tile and of fixed size, so addresses made up by strangers can only push others out,
 * which then cost a route and a neighbour lookup again; the hash is keyed, so that nobody can choose
 * whom (`netbase/hash_table.ts`).
 */

import { i32, type View } from "../../ffi/view.ts";
import * as hashing from "../../netbase/hash_table.ts";
import * as layout from "./entry.ts";
import * as frame from "./frame.ts";

// Own constants, see frame.ts.
const { Entry, ENTRY_WORDS, MOST_WORDS } = layout;
const { hash, keyOf, Use } = hashing;
const { fold, halves, IP_CONSTANT_SUM, UDP_CONSTANT_SUM } = frame;

/**
 * Bytes of a net tile's cache, which are taken as it is used: 65,536 entries. Of ten thousand peers
 * none then pushes another out; of a table a quarter as large one lookup in thirty misses.
 */
export const HEADER_CACHE_BYTES = 4 * ENTRY_WORDS << 16;
/** Places that an entry can be in. */
const PROBES = 4;

/** The private cache of one net tile. */
export class HeaderCache {
  /** All entries, `Entry` words each. */
  readonly words: Int32Array;
  /** The same memory, for what has a byte order. */
  readonly view: DataView;
  /**
   * Moves now and then: entries that saw another one go the long way, so that their neighbour is
   * looked after, and that it is asked anew whether the app may send there.
   */
  tick = 1;
  /** Moves with every entry that is made or made void: what was found before is there until then. */
  changes = 0;
  readonly #mask: number;
  /** The hash's key. */
  readonly #add: number;
  readonly #first: number;
  readonly #second: number;
  #epoch = 1;
  #victim = 0;

  /**
   * Takes `memory`, zeroed, of a power of two of entries. It is to begin where a cache line does, as
   * regions do: what V8 allocates begins anywhere, and then each entry is in two of them. `seed`,
   * random, keys its hash.
   */
  constructor(memory: View, seed: number) {
    this.words = i32(memory);
    this.view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
    this.#mask = this.words.length / ENTRY_WORDS - 1;
    const { add, first, second } = keyOf(seed, Use.headers);
    this.#add = add;
    this.#first = first;
    this.#second = second;
  }

  /** Makes every entry void. */
  clear(): void {
    this.changes = (this.changes + 1) | 0;
    this.#epoch = (this.#epoch + 1) | 0;
    if (this.#epoch !== 0) return;
    this.words.fill(0);
    this.#epoch = 1;
  }

  /** To be called some times a second, and when an app's table of whom it heard from forgets some. */
  moveOn(): void {
    this.tick = (this.tick + 1) | 0;
  }

  /** Word index of the entry for this key, -1 when there is none. Addresses as signed words. */
  find(destination: number, source: number, member: number): number {
    return this.findFrom(this.place(destination, source, member), destination, source, member);
  }

  /** Where the entry for this key is, if it is where most are: the word index of its first place. */
  place(destination: number, source: number, member: number): number {
    // The mask bounds the index in V8's eyes too.
    return this.#at(this.#hash(destination, source, member));
  }

  /** The same as `find`, by what `place` said. */
  findFrom(place: number, destination: number, source: number, member: number): number {
    const e = place & MOST_WORDS;
    if (this.#is(e, destination, source, member)) return e;
    return this.#findBeyond(e, destination, source, member);
  }

  /** The same at the places after the first. Apart, so that V8 inlines the usual way. */
  #findBeyond(first: number, destination: number, source: number, member: number): number {
    for (let probe = 1; probe < PROBES; probe++) {
      const e = this.#at((first / ENTRY_WORDS | 0) + probe);
      if (this.#is(e, destination, source, member)) return e;
    }
    return -1;
  }

  /**
   * Whether `length` bytes can leave at once by the entry at `e`, which was found for this key earlier:
   * others may have taken its place. Negative: it was not found.
   */
  leads(e: number, destination: number, source: number, length: number): boolean {
    return e >= 0 && this.#is(e & MOST_WORDS, destination, source, 0) && this.admits(e, length);
  }

  /** Whether `length` bytes can leave at once by the entry at `e`, if there is one. */
  admits(e: number, length: number): boolean {
    if (e < 0) return false;
    // One that is negative has no largest payload: only those of the wire pass here.
    const outcome = this.words[(e & MOST_WORDS) + Entry.outcome];
    return (outcome | ((outcome & 0xffff) - length)) >= 0;
  }

  #is(e: number, destination: number, source: number, member: number): boolean {
    const { words } = this;
    return words[e + Entry.destination] === destination && words[e + Entry.source] === source &&
      words[e + Entry.epoch] === this.#epoch && words[e + Entry.member] === member;
  }

  /** Word index of the entry at a place. */
  #at(place: number): number {
    return ((place & this.#mask) * ENTRY_WORDS) & MOST_WORDS;
  }

  /**
   * Makes room for this key, which `find` did not find, and returns the word index of its entry. Its
   * outcome, largest payload and link words are for the caller to write.
   */
  insert(destination: number, source: number, member: number): number {
    const { words } = this;
    const place = this.#hash(destination, source, member);
    let e = this.#at(place + (this.#victim++ & (PROBES - 1)));
    for (let probe = 0; probe < PROBES; probe++) {
      const free = this.#at(place + probe);
      if (words[free + Entry.epoch] === this.#epoch) continue;
      e = free;
      break;
    }
    words[e + Entry.destination] = destination;
    words[e + Entry.source] = source;
    words[e + Entry.member] = member;
    words[e + Entry.epoch] = this.#epoch;
    words[e + Entry.checked] = 0;
    this.changes = (this.changes + 1) | 0;
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
    const way = source + Math.imul(member, 0x9e3779b1);
    return hash(way, destination, this.#add, this.#first, this.#second);
  }
}
