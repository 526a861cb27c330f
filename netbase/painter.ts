/**
 * From RIB to FIB: for each prefix that changed, what its addresses go by now, painted into cells.
 *
 * Painting happens once per batch (`commit`), in three steps, so that each cell goes straight from what
 * was right before the batch to what is right after it: first the best candidates of all touched
 * prefixes are settled and their next hops written; then cells are stored; then what no cell names any
 * more is let go of. A route that is deleted and added again within a batch is never seen to be gone.
 *
 * The default route is not painted: cells say 0, and one word says what that means. When that word
 * moves, first the cells are painted that will need it no more, then it is moved, then those that are to
 * say 0 from then on; with a grace period after each, so that no reader takes an old cell for a new
 * default or the reverse (`fib.ts`).
 */

import type { FibWriter } from "./fib_writer.ts";
import { NEXT_HOP_OVERFLOW } from "./layout.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import {
  CHANGED_LOCAL,
  CHANGED_MAIN,
  LOCAL_MASK,
  MAIN_MASK,
  PrefixPainter,
} from "./prefix_painter.ts";
import { Grace, type Reader } from "./rcu.ts";
import type { RibView } from "./rib_view.ts";
import { Node, NODE_WORDS, ROOT, TOUCHED } from "./trie.ts";

/** Looks at the readers before a commit leaves the rest to the next one; some tens of microseconds. */
const MOST_LOOKS = 1000;

/** Prefixes that did not fit and are tried again in one commit, at most. */
const MOST_RETRIES = 4096;

/** What the painter works with. */
export interface PainterParts {
  readonly rib: RibView;
  readonly nextHops: NextHopWriter;
  readonly fib: FibWriter;
  /** Orders all stores made before ahead of all made after. */
  readonly fence: () => void;
  readonly readers: readonly Reader[];
}

/** How far the painting of a batch has come. */
type Stage = "idle" | "covering" | "uncovering";

/** Keeps the FIB as the RIB says. */
export class Painter {
  readonly #parts: PainterParts;
  readonly #rib: RibView;
  readonly #fib: FibWriter;
  readonly #prefixes: PrefixPainter;
  #stage: Stage = "idle";
  /** The nodes of the batch that is being painted, and which tables changed for each. */
  #nodes: number[] = [];
  #changed: number[] = [];
  /** Since cells were painted last, and since the default was moved last. */
  #sincePaint: Grace;
  #sinceMove: Grace;
  /** What the default is to be. */
  #fallback = 0;
  /** Everything is to be painted, and: what did not fit is tried again. */
  #repaint: boolean;
  #retrying = false;
  /** The root's `best` at the last commit. */
  #default = 0;
  /** Nodes that found no next hop id for want of room. */
  readonly #homeless = new Set<number>();
  /** How often room had come free by the last retry, and how many of each kind have yet to be tried. */
  #reclaimed = 0;
  #untried = 0;

  constructor(parts: PainterParts) {
    this.#parts = parts;
    this.#rib = parts.rib;
    this.#fib = parts.fib;
    this.#prefixes = new PrefixPainter(parts.rib.trie, parts.fib, parts.nextHops);
    // What a predecessor has left is painted over.
    this.#repaint = !parts.rib.whole;
    this.#sincePaint = this.#sinceMove = new Grace([]);
  }

  /**
   * Whether something touched is not painted yet, for a reader that is not through its burst, or
   * something that did not fit is to be tried again.
   */
  get pending(): boolean {
    return this.#rib.whole &&
      (this.#stage !== "idle" || this.#rib.touched.length > 0 || this.#retries > 0);
  }

  /** Prefixes and /24s that do not fit just now. */
  get overflow(): number {
    return this.#homeless.size + this.#prefixes.crowded.size;
  }

  /** Paints all that was touched, or goes on with what an earlier call had to leave: see `pending`. */
  commit(): void {
    if (!this.#rib.whole || (this.#stage !== "idle" && !this.#goOn())) return;
    if (this.#begin()) this.#goOn();
  }

  /** Takes up a batch and paints what must be before the default moves. False: there is none. */
  #begin(): boolean {
    this.#retrying = this.#touchHomeless();
    const { lookupOrder, touched } = this.#rib;
    if (lookupOrder !== this.#prefixes.order && this.#fib.stores > 0) this.#repaint = true;
    this.#prefixes.order = lookupOrder;
    if (touched.length === 0 && !this.#repaint && !this.#retrying) return false;
    this.#nodes = touched;
    this.#rib.touched = [];
    this.#changed = this.#nodes.map((node) => this.#settle(node));
    this.#fallback = this.#settleDefault();
    this.#parts.fence();
    this.#stage = "uncovering";
    if (this.#fallback !== this.#fib.defaultRoute) {
      this.#stage = "covering";
      this.#fib.keepCovered = true;
      this.#paint();
      this.#fib.keepCovered = false;
    }
    return true;
  }

  /** Goes on with a batch as far as the readers let it. False: they do not let it to the end. */
  #goOn(): boolean {
    if (this.#stage === "covering") {
      if (!isOver(this.#sincePaint)) return false;
      this.#fib.defaultRoute = this.#fallback;
      this.#sinceMove = new Grace(this.#parts.readers);
      this.#stage = "uncovering";
    }
    const cells = this.#repaint || this.#retrying || this.#nodes.some((node) => node !== ROOT);
    if (cells && !isOver(this.#sinceMove)) return false;
    this.#paint();
    this.#stage = "idle";
    this.#repaint = false;
    for (const node of this.#nodes) this.#rib.trie.prune(node);
    // What was touched since may have lost a next hop that is still painted.
    if (this.#rib.touched.length === 0) this.#rib.attributes.sweep();
    this.#parts.nextHops.disinherit();
    return true;
  }

  /** Paints the batch's cells. */
  #paint(): void {
    const stores = this.#fib.stores;
    if (this.#repaint) this.#prefixes.paintAll();
    else this.#prefixes.paintNodes(this.#nodes, this.#changed);
    const retries = this.#retrying ? take(this.#prefixes.crowded, MOST_RETRIES) : [];
    for (const cell of retries) this.#prefixes.paintCell(cell);
    if (this.#fib.stores === stores) return;
    this.#parts.fence();
    this.#sincePaint = new Grace(this.#parts.readers);
  }

  /** How often room has come free. */
  get #reclaims(): number {
    return this.#parts.nextHops.reclaimed + this.#fib.reclaimed;
  }

  /** How many nodes, or /24s if they are more, are to be tried again: all, once room has come free. */
  get #retries(): number {
    const most = Math.max(this.#homeless.size, this.#prefixes.crowded.size);
    return this.#reclaims === this.#reclaimed ? Math.min(this.#untried, most) : most;
  }

  /** Touches some of what did not fit, where it is to be tried again; whether it is. */
  #touchHomeless(): boolean {
    const retries = this.#retries;
    this.#reclaimed = this.#reclaims;
    this.#untried = Math.max(0, retries - MOST_RETRIES);
    if (retries === 0) return false;
    for (const node of take(this.#homeless, MOST_RETRIES)) this.#rib.touch(node);
    return true;
  }

  /** Writes what `node` goes by now, and returns for which tables that is something new. */
  #settle(node: number): number {
    const at = node * NODE_WORDS;
    const before = this.#rib.trie.words[at + Node.best] & ~TOUCHED;
    const local = this.#bestOf(node, Node.local, before >>> 16);
    const main = this.#bestOf(node, Node.main, before & MAIN_MASK);
    const best = (local << 16) | main;
    this.#rib.trie.words[at + Node.best] = best;
    if (local === NEXT_HOP_OVERFLOW || main === NEXT_HOP_OVERFLOW) this.#homeless.add(node);
    else this.#homeless.delete(node);
    const differ = before ^ best;
    return ((differ & LOCAL_MASK) !== 0 ? CHANGED_LOCAL : 0) |
      ((differ & MAIN_MASK) !== 0 ? CHANGED_MAIN : 0);
  }

  /** Next hop id of the first usable candidate of a node's list; 0: none. */
  #bestOf(node: number, list: number, earlier: number): number {
    const { trie, candidates, attributes } = this.#rib;
    const at = node * NODE_WORDS;
    const best = this.#rib.firstUsable(at + list);
    if (node === ROOT && list === Node.main) {
      return attributes.defaultNextHop(this.#rib.equalDefaults(best), earlier);
    }
    if (best === 0) return 0;
    // Flows that a predecessor has spread stay as they were, too.
    const before = earlier === 0 && this.#repaint
      ? this.#fib.lookup(trie.words[at + Node.prefix])
      : earlier;
    const length = trie.words[at + Node.length];
    return attributes.nextHop(candidates.attributes(best), length, before);
  }

  /** What cell 0 is to mean. */
  #settleDefault(): number {
    const best = this.#rib.trie.words[ROOT * NODE_WORDS + Node.best];
    const local = best >>> 16;
    const main = best & MAIN_MASK;
    const apart = this.#prefixes.order === "separate";
    const wins = local !== 0 && !(apart && this.#prefixes.isThrow(local));
    const hides = wins && apart;
    // Where it hides `main`, cells that say 0 may have to say something else, and the reverse.
    if (best !== this.#default && (hides || this.#prefixes.localDefault)) this.#repaint = true;
    this.#default = best;
    this.#prefixes.localDefault = hides;
    return wins ? local : main;
  }
}

/** Whether a grace period is over, having looked for a little while. */
function isOver(grace: Grace): boolean {
  for (let look = 0; look < MOST_LOOKS; look++) if (grace.over) return true;
  return false;
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
