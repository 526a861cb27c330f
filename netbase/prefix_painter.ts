/**
 * Paints prefixes of the RIB's trie into FIB cells: down its part of the trie, filling the gaps between
 * more specific prefixes and passing over those that the change cannot show through. When and in which
 * order, `painter.ts` says.
 */

import type { FibWriter } from "./fib_writer.ts";
import { FIB_CELLS, FIB_GROUP_CELLS } from "./layout.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import { RTN_THROW } from "./route.ts";
import type { LookupOrder } from "./rib_view.ts";
import { Node, NODE_WORDS, ROOT, TOUCHED, type Trie } from "./trie.ts";

/** What a prefix goes by: next hop id of `local` << 16 | of `main`, 0 for none. */
export const LOCAL_MASK = 0x7fff0000;
export const MAIN_MASK = 0x7fff;

/** Which tables a change concerns. */
export const CHANGED_LOCAL = 1;
export const CHANGED_MAIN = 2;
const EVERYTHING = CHANGED_LOCAL | CHANGED_MAIN;
/** Paint everything, whatever lies above. */
const ALL = 4;

/** Knows what to paint where. */
export class PrefixPainter {
  readonly #trie: Trie;
  readonly #fib: FibWriter;
  readonly #nextHops: NextHopWriter;
  readonly #block = new Uint16Array(FIB_GROUP_CELLS);
  /** /24s that found no group for want of room. */
  readonly crowded = new Set<number>();
  order: LookupOrder = "merged";
  /** Separate tables, and `local` has a default route: it hides that of `main`. */
  localDefault = false;

  constructor(trie: Trie, fib: FibWriter, nextHops: NextHopWriter) {
    this.#trie = trie;
    this.#fib = fib;
    this.#nextHops = nextHops;
  }

  /** Paints every cell. */
  paintAll(): void {
    this.#paintNode(ROOT, 0, ALL);
  }

  /** Paints the prefixes of `nodes`, for each of which `changed` says what tables it concerns. */
  paintNodes(nodes: readonly number[], changed: readonly number[]): void {
    const words = this.#trie.words;
    let lastCell = -1;
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i];
      if (changed[i] === 0 || node === ROOT) continue;
      const at = node * NODE_WORDS;
      const cell = words[at + Node.prefix] >>> 8;
      const best = words[at + Node.best];
      const length = words[at + Node.length];
      // Most prefixes hide all that lies above: no need to go down to them and look at it.
      const hides = this.#hides(best) === EVERYTHING;
      if (length < 24) {
        const pair = this.#below(hides ? 0 : this.#inherited(node), best);
        this.#paintNode(node, pair, changed[i]);
      } else if (cell !== lastCell) {
        if (length === 24 && hides) this.#paintBlock(cell, 0, node);
        else this.paintCell(cell);
        lastCell = cell;
      }
    }
  }

  /** What the prefixes above `node` say, the default aside. */
  #inherited(node: number): number {
    const words = this.#trie.words;
    const prefix = words[node * NODE_WORDS + Node.prefix];
    let pair = 0;
    let current = this.#trie.step(ROOT, prefix);
    while (current !== node) {
      pair = this.#below(pair, words[current * NODE_WORDS + Node.best]);
      current = this.#trie.step(current, prefix);
    }
    return pair;
  }

  /** Paints a prefix shorter than /24 that goes by `pair`, as far as a change of `tables` shows. */
  #paintNode(node: number, pair: number, tables: number): void {
    const words = this.#trie.words;
    const at = node * NODE_WORDS;
    const id = this.#effective(pair);
    let cell = words[at + Node.prefix] >>> 8;
    const end = cell + (FIB_CELLS >>> words[at + Node.length]);
    for (let side = 0; side < 2; side++) {
      const child = words[at + Node.child0 + side];
      if (child === 0) continue;
      this.#fib.fill(cell, words[child * NODE_WORDS + Node.prefix] >>> 8, id);
      cell = this.#paintChild(child, pair, tables);
    }
    this.#fib.fill(cell, end, id);
  }

  /** Paints `child` of a prefix that goes by `pair`, and returns the cell after it. */
  #paintChild(child: number, pair: number, tables: number): number {
    const at = child * NODE_WORDS;
    const best = this.#trie.words[at + Node.best];
    const length = this.#trie.words[at + Node.length];
    const cell = this.#trie.words[at + Node.prefix] >>> 8;
    const shows = tables & ~this.#hides(best);
    if (length > 24 || (length === 24 && shows !== 0)) this.#paintBlock(cell, pair, child);
    else if (shows !== 0) this.#paintNode(child, this.#below(pair, best), shows);
    return length >= 24 ? cell + 1 : cell + (FIB_CELLS >>> length);
  }

  /** Paints one /24, whatever is in it. */
  paintCell(cell: number): void {
    const words = this.#trie.words;
    const address = (cell << 8) >>> 0;
    let pair = 0;
    let node = this.#trie.step(ROOT, address);
    while (node !== 0 && words[node * NODE_WORDS + Node.length] < 24) {
      if (!this.#trie.covers(node, address)) node = 0;
      else {
        pair = this.#below(pair, words[node * NODE_WORDS + Node.best]);
        node = this.#trie.step(node, address);
      }
    }
    const inside = node !== 0 && words[node * NODE_WORDS + Node.prefix] >>> 8 === cell;
    this.#paintBlock(cell, pair, inside ? node : 0);
  }

  /** Paints one /24 of which all goes by `pair` but what `node` (/24 or longer; 0: none) covers. */
  #paintBlock(cell: number, pair: number, node: number): void {
    if (this.#isUniform(node)) {
      const best = node === 0 ? 0 : this.#trie.words[node * NODE_WORDS + Node.best];
      this.#fib.fill(cell, cell + 1, this.#effective(this.#below(pair, best)));
      this.crowded.delete(cell);
      return;
    }
    this.#block.fill(this.#effective(pair));
    if (node !== 0) this.#overlay(node, pair);
    if (this.#fib.paintBlock(cell, this.#block)) this.crowded.delete(cell);
    else this.crowded.add(cell);
  }

  /** Whether all of a /24 goes by the same: the topmost prefix in it is that /24, with nothing below. */
  #isUniform(topmost: number): boolean {
    const words = this.#trie.words;
    const at = topmost * NODE_WORDS;
    if (topmost === 0) return true;
    return words[at + Node.length] === 24 &&
      (words[at + Node.child0] | words[at + Node.child1]) === 0;
  }

  #overlay(node: number, inherited: number): void {
    const words = this.#trie.words;
    const at = node * NODE_WORDS;
    const pair = this.#below(inherited, words[at + Node.best]);
    const first = words[at + Node.prefix] & 0xff;
    this.#block.fill(this.#effective(pair), first, first + 2 ** (32 - words[at + Node.length]));
    const [child0, child1] = [words[at + Node.child0], words[at + Node.child1]];
    if (child0 !== 0) this.#overlay(child0, pair);
    if (child1 !== 0) this.#overlay(child1, pair);
  }

  /** What a prefix goes by that has `best` of its own and lies below one that goes by `pair`. */
  #below(pair: number, best: number): number {
    if (this.order === "merged") return (best & ~TOUCHED) !== 0 ? best & ~TOUCHED : pair;
    const local = best & LOCAL_MASK;
    const main = best & MAIN_MASK;
    return (local !== 0 ? local : pair & LOCAL_MASK) | (main !== 0 ? main : pair & MAIN_MASK);
  }

  /** The tables that a prefix with `best` of its own hides from what lies above it. */
  #hides(best: number): number {
    const own = ((best & LOCAL_MASK) !== 0 ? CHANGED_LOCAL : 0) |
      ((best & MAIN_MASK) !== 0 ? CHANGED_MAIN : 0);
    return this.order === "merged" && own !== 0 ? EVERYTHING : own;
  }

  /** The next hop id that a cell says for `pair`. */
  #effective(pair: number): number {
    const local = pair >>> 16;
    const main = pair & MAIN_MASK;
    if (local !== 0 && (this.order === "merged" || !this.isThrow(local))) return local;
    if (!this.localDefault) return main;
    // The default of `local` hides `main`, unless a `throw` of `local` leads past it; to what `main`
    // has, or to nothing, which the `throw` says as well.
    if (local === 0) return 0;
    return main || (this.#trie.words[ROOT * NODE_WORDS + Node.best] & MAIN_MASK) || local;
  }

  /** Whether a next hop is a `throw`. */
  isThrow(id: number): boolean {
    return this.#nextHops.kind(id) === RTN_THROW;
  }
}
