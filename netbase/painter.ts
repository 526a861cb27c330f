/**
 * From RIB to FIB: for each prefix that changed, what its addresses go by now, painted into cells.
 *
 * Painting happens once per batch (`commit`), in three steps, so that each cell goes straight from what
 * was right before the batch to what is right after it: first the best candidates of all touched
 * prefixes are settled and their next hops written; then cells are stored; then what no cell names any
 * more is let go of. A route that is deleted and added again within a batch is never seen to be gone.
 *
 * A prefix is painted by going down its part of the trie, filling the gaps between more specific ones
 * and passing over those that the change cannot show through. The default route is not painted: cells
 * say 0, and one word says what that means.
 *
 * @module
 */

import type { AttributeTable } from "./attributes.ts";
import type { CandidatePool } from "./candidates.ts";
import type { FibWriter } from "./fib_writer.ts";
import { FIB_CELLS, FIB_GROUP_CELLS, NEXT_HOP_OVERFLOW } from "./layout.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import { RTN_THROW } from "./route.ts";
import { Node, NODE_WORDS, ROOT, type Trie } from "./trie.ts";

/**
 * How the kernel asks its tables. A namespace in which no rule was ever added or deleted has `local`
 * and `main` in one trie: the longest prefix of both wins, `local` first among equals, and a `throw`
 * ends the search (measured on 6.18; `fib_trie_unmerge` in fib_trie.c). Once a rule has been touched
 * they are apart for good: `local` is asked first as a whole, and its `throw` falls through to `main`.
 */
export type LookupOrder = "merged" | "separate";

/**
 * What a prefix goes by: next hop id of `local` << 16 | of `main`, 0 for none. In a node's `best` word
 * bit 15 says that the node has been touched since the last commit; ids have 15 bits.
 */
const LOCAL_MASK = 0x7fff0000;
const MAIN_MASK = 0x7fff;
const TOUCHED = 0x8000;

/** Which tables a change concerns; ALL: paint everything, whatever lies above. */
const LOCAL = 1;
const MAIN = 2;
const ALL = 4;

/** Prefixes that did not fit and are tried again in one commit, at most. */
const MOST_RETRIES = 4096;

/** What the painter works with. */
export interface PainterParts {
  readonly trie: Trie;
  readonly candidates: CandidatePool;
  readonly attributes: AttributeTable;
  readonly nextHops: NextHopWriter;
  readonly fib: FibWriter;
  /** Orders the next hops just written before the cells about to be stored. */
  readonly fence: () => void;
}

/** Keeps the FIB as the RIB says. */
export class Painter {
  readonly #parts: PainterParts;
  readonly #trie: Trie;
  readonly #fib: FibWriter;
  #order: LookupOrder = "merged";
  /** Nodes touched since the last commit. */
  #touched: number[] = [];
  #repaint = false;
  /** False while a successor fills its RIB and readers go by what its predecessor painted. */
  #painting: boolean;
  /** Separate tables, and `local` has a default route: it hides that of `main`. */
  #localDefault = false;
  /** The root's `best` at the last commit. */
  #default = 0;
  readonly #block = new Uint16Array(FIB_GROUP_CELLS);
  /** Nodes without a next hop id, and /24s without a group, for want of room. */
  readonly #homeless = new Set<number>();
  readonly #crowded = new Set<number>();
  #reclaimed = 0;

  /** With `joined`, nothing is painted before `start`. */
  constructor(parts: PainterParts, joined: boolean) {
    this.#parts = parts;
    this.#trie = parts.trie;
    this.#fib = parts.fib;
    this.#painting = !joined;
  }

  /** Prefixes and /24s that do not fit just now. */
  get overflow(): number {
    return this.#homeless.size + this.#crowded.size;
  }

  get order(): LookupOrder {
    return this.#order;
  }

  set order(order: LookupOrder) {
    if (order !== this.#order && this.#fib.stores > 0) this.#repaint = true;
    this.#order = order;
  }

  /** Begins to paint, with everything, on what a predecessor left. */
  start(): void {
    if (!this.#painting) this.#repaint = true;
    this.#painting = true;
  }

  /** Notes that the candidates of `node` changed. */
  touch(node: number): void {
    const at = node * NODE_WORDS + Node.best;
    if ((this.#trie.words[at] & TOUCHED) !== 0) return;
    this.#trie.words[at] |= TOUCHED;
    this.#touched.push(node);
  }

  /** Paints all that was touched. */
  commit(): void {
    if (!this.#painting) return;
    const roomier = this.#touchHomeless();
    if (this.#touched.length > 0 || this.#repaint) this.#paint();
    if (roomier) this.#repaintCrowded();
    this.#parts.attributes.sweep();
    this.#parts.nextHops.disinherit();
  }

  #paint(): void {
    const touched = this.#touched;
    this.#touched = [];
    const changed = touched.map((node) => this.#settle(node));
    const fallback = this.#settleDefault();
    this.#parts.fence();
    if (fallback !== this.#fib.defaultRoute) {
      // First cover what the default will no longer, and only then uncover what it will from now on.
      this.#fib.keepCovered = true;
      this.#paintChanged(touched, changed);
      this.#fib.keepCovered = false;
      this.#fib.defaultRoute = fallback;
    }
    this.#paintChanged(touched, changed);
    this.#repaint = false;
    for (const node of touched) this.#prune(node);
  }

  /** Touches some of what did not fit, when room has come free since; whether it has. */
  #touchHomeless(): boolean {
    const reclaimed = this.#parts.nextHops.reclaimed + this.#fib.reclaimed;
    if (reclaimed === this.#reclaimed) return false;
    this.#reclaimed = reclaimed;
    for (const node of take(this.#homeless, MOST_RETRIES)) this.touch(node);
    return true;
  }

  #repaintCrowded(): void {
    for (const cell of take(this.#crowded, MOST_RETRIES)) this.#paintCell(cell);
  }

  /** Writes what `node` goes by now, and returns for which tables that is something new. */
  #settle(node: number): number {
    const at = node * NODE_WORDS;
    const before = this.#trie.words[at + Node.best] & ~TOUCHED;
    const local = this.#bestOf(node, Node.local, before >>> 16);
    const main = this.#bestOf(node, Node.main, before & MAIN_MASK);
    const best = (local << 16) | main;
    this.#trie.words[at + Node.best] = best;
    if (local === NEXT_HOP_OVERFLOW || main === NEXT_HOP_OVERFLOW) this.#homeless.add(node);
    else this.#homeless.delete(node);
    const differ = before ^ best;
    return ((differ & LOCAL_MASK) !== 0 ? LOCAL : 0) | ((differ & MAIN_MASK) !== 0 ? MAIN : 0);
  }

  /** Next hop id of the first usable candidate of a node's list; 0: none. */
  #bestOf(node: number, list: number, earlier: number): number {
    const { candidates, attributes } = this.#parts;
    const at = node * NODE_WORDS;
    const best = firstUsable(candidates, attributes, this.#trie.words[at + list]);
    if (best === 0) return 0;
    const length = this.#trie.words[at + Node.length];
    return attributes.nextHop(candidates.attributes(best), length, earlier);
  }

  /** What cell 0 is to mean. */
  #settleDefault(): number {
    const best = this.#trie.words[ROOT * NODE_WORDS + Node.best];
    const local = best >>> 16;
    const main = best & MAIN_MASK;
    const wins = local !== 0 && (this.#order === "merged" || !this.#isThrow(local));
    const hides = wins && this.#order === "separate";
    // Where it hides `main`, cells that say 0 may have to say something else, and the reverse.
    if (best !== this.#default && (hides || this.#localDefault)) this.#repaint = true;
    this.#default = best;
    this.#localDefault = hides;
    return wins ? local : main;
  }

  #paintChanged(nodes: readonly number[], changed: readonly number[]): void {
    if (this.#repaint) {
      this.#paintNode(ROOT, 0, ALL);
      return;
    }
    let lastCell = -1;
    for (let i = 0; i < nodes.length; i++) {
      if (changed[i] === 0 || nodes[i] === ROOT) continue;
      const at = nodes[i] * NODE_WORDS;
      const cell = this.#trie.words[at + Node.prefix] >>> 8;
      if (this.#trie.words[at + Node.length] < 24) {
        const pair = this.#below(this.#inherited(nodes[i]), this.#trie.words[at + Node.best]);
        this.#paintNode(nodes[i], pair, changed[i]);
      } else if (cell !== lastCell) {
        this.#paintCell(cell);
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
  #paintCell(cell: number): void {
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
    this.#block.fill(this.#effective(pair));
    if (node !== 0) this.#overlay(node, pair);
    if (this.#fib.paintBlock(cell, this.#block)) this.#crowded.delete(cell);
    else this.#crowded.add(cell);
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
    if (this.#order === "merged") return (best & ~TOUCHED) !== 0 ? best & ~TOUCHED : pair;
    const local = best & LOCAL_MASK;
    const main = best & MAIN_MASK;
    return (local !== 0 ? local : pair & LOCAL_MASK) | (main !== 0 ? main : pair & MAIN_MASK);
  }

  /** The tables that a prefix with `best` of its own hides from what lies above it. */
  #hides(best: number): number {
    const own = ((best & LOCAL_MASK) !== 0 ? LOCAL : 0) | ((best & MAIN_MASK) !== 0 ? MAIN : 0);
    return this.#order === "merged" && own !== 0 ? LOCAL | MAIN : own;
  }

  /** The next hop id that a cell says for `pair`. */
  #effective(pair: number): number {
    const local = pair >>> 16;
    const main = pair & MAIN_MASK;
    if (local !== 0 && (this.#order === "merged" || !this.#isThrow(local))) return local;
    if (!this.#localDefault) return main;
    // The default of `local` hides `main`, unless a `throw` of `local` leads past it.
    if (local === 0) return 0;
    return main !== 0 ? main : this.#trie.words[ROOT * NODE_WORDS + Node.best] & MAIN_MASK;
  }

  #isThrow(id: number): boolean {
    return this.#parts.nextHops.kind(id) === RTN_THROW;
  }

  #prune(node: number): void {
    const at = node * NODE_WORDS;
    const words = this.#trie.words;
    if (words[at + Node.local] === 0 && words[at + Node.main] === 0) {
      this.#homeless.delete(node);
      this.#trie.prune(node);
    }
  }
}

/** Takes at most `most` out of a set. */
function take(set: Set<number>, most: number): number[] {
  const taken: number[] = [];
  for (const one of set) {
    if (taken.length === most) break;
    taken.push(one);
  }
  for (const one of taken) set.delete(one);
  return taken;
}

/** The first candidate of a list that the kernel would take for tos 0; 0: none. */
export function firstUsable(
  candidates: CandidatePool,
  attributes: AttributeTable,
  head: number,
): number {
  let candidate = head;
  while (candidate !== 0) {
    if (candidates.tos(candidate) === 0) {
      if (attributes.get(candidates.attributes(candidate)).usable) return candidate;
    }
    candidate = candidates.next(candidate);
  }
  return 0;
}
