/**
 * The RIB as it is asked: which routes there are, and which one the kernel would take. The RIB itself
 * (`rib.ts`) changes what stands here, the painter (`painter.ts`) brings it into the FIB.
 */

import { AttributeTable } from "./attributes.ts";
import { CandidatePool } from "./candidates.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import { type Route, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_BLACKHOLE, RTN_THROW } from "./route.ts";
import { maskAddress, Node, NODE_WORDS, ROOT, TOUCHED, Trie } from "./trie.ts";

/**
 * How the kernel asks its tables. A namespace in which no rule was ever added or deleted has `local`
 * and `main` in one trie: the longest prefix of both wins, `local` first among equals, and a `throw`
 * ends the search (measured on 6.18; `fib_trie_unmerge` in fib_trie.c). Once a rule has been touched
 * they are apart for good: `local` is asked first as a whole, and its `throw` falls through to `main`.
 */
export type LookupOrder = "merged" | "separate";

/** A prefix, host order. */
export interface Prefix {
  readonly prefix: number;
  readonly length: number;
}

/** Word of a node that has a table's list. */
export function listWord(table: number): number {
  return table === RT_TABLE_LOCAL ? Node.local : Node.main;
}

/**
 * Looks and changes nothing. A node's lists, of `local` and of `main`, are neighbouring words.
 * Everything here allocates but `ambiguousAddress`.
 */
export class RibView {
  readonly trie = new Trie();
  readonly candidates = new CandidatePool();
  readonly attributes: AttributeTable;
  /** Shows with `commit()`. */
  lookupOrder: LookupOrder = "merged";
  /** Nodes whose candidates have changed since the painter took these; each has `TOUCHED` in its `best`. */
  touched: number[] = [];
  /** False while a successor fills its RIB and readers go by what its predecessor painted. */
  whole: boolean;
  /** The lists of `local` that are not empty, as indices into the trie's words: a handful. */
  protected readonly locals = new Set<number>();
  /** Where `#find` found it. */
  #foundList = 0;

  constructor(nextHops: NextHopWriter, joined: boolean) {
    this.attributes = new AttributeTable(nextHops);
    this.whole = !joined;
  }

  /** Notes that the candidates of `node` changed. */
  touch(node: number): void {
    const at = node * NODE_WORDS + Node.best;
    if ((this.trie.words[at] & TOUCHED) !== 0) return;
    this.trie.words[at] |= TOUCHED;
    this.touched.push(node);
  }

  /**
   * All routes by prefix, in the kernel's order within one; or those from a prefix on. Not to be gone on
   * with after a change.
   */
  *routes({ prefix, length }: Prefix = { prefix: 0, length: 0 }): IterableIterator<Route> {
    let node = this.trie.seek(prefix, length);
    for (; node !== 0; node = this.trie.next(node)) yield* this.#routesAt(node);
  }

  /** The routes whose prefix an address is in, shorter ones first. */
  *routesCovering(address: number): IterableIterator<Route> {
    for (let node = ROOT; node !== 0; node = this.trie.step(node, address)) {
      if (!this.trie.covers(node, address)) return;
      yield* this.#routesAt(node);
    }
  }

  /** What no `add`, `addFromDump` or `confirm` has named since `beginSync()`. */
  *unconfirmed(): IterableIterator<Route> {
    if (this.candidates.allNamed) return;
    const wanted = (candidate: number) => !this.candidates.isNamed(candidate);
    for (let node = ROOT; node !== 0; node = this.trie.next(node)) {
      yield* this.#routesAt(node, wanted);
    }
  }

  *#routesAt(node: number, wanted?: (candidate: number) => boolean): IterableIterator<Route> {
    for (let list = node * NODE_WORDS + Node.local; list <= node * NODE_WORDS + Node.main; list++) {
      let candidate = this.trie.words[list];
      for (; candidate !== 0; candidate = this.candidates.next(candidate)) {
        if (wanted?.(candidate) !== false) yield this.route(list, candidate);
      }
    }
  }

  /** The route that an address takes, null for none. */
  bestFor(address: number, order = this.lookupOrder): Route | null {
    const candidate = this.#find(address >>> 0, order);
    return candidate === 0 ? null : this.route(this.#foundList, candidate);
  }

  /**
   * An address for which the two lookup orders differ in what comes of it, or -1: what to ask the kernel
   * about, once no rule is there that would say. Goes through what lies under prefixes of `local`.
   */
  ambiguousAddress(): number {
    const { words } = this.trie;
    for (const list of this.locals) {
      const node = (list - Node.local) / NODE_WORDS;
      for (let below = node; below !== 0; below = this.trie.next(below)) {
        const first = words[below * NODE_WORDS + Node.prefix];
        if (!this.trie.covers(node, first)) break;
        const last = (first | ~maskAddress(-1, words[below * NODE_WORDS + Node.length])) >>> 0;
        // What is in 0.0.0.0/8 the kernel answers without a look at its routes.
        const inside = first >>> 24 === 0 ? 0x0100_0000 : first;
        if (this.trie.covers(below, inside) && this.#isAmbiguous(inside)) return inside;
        if (last >>> 24 !== 0 && this.#isAmbiguous(last)) return last;
      }
    }
    return -1;
  }

  /** Two refusals of one kind differ in nothing that the kernel says. */
  #isAmbiguous(address: number): boolean {
    const [merged, separate] = [this.#find(address, "merged"), this.#find(address, "separate")];
    if (merged === separate) return false;
    const refusal = this.#refusal(merged);
    return refusal === 0 || refusal !== this.#refusal(separate);
  }

  /** RTN_* by which a candidate refuses, that of no route being `throw`; 0: it leads somewhere. */
  #refusal(candidate: number): number {
    if (candidate === 0) return RTN_THROW;
    const { type } = this.attributes.get(this.candidates.attributes(candidate));
    return type >= RTN_BLACKHOLE && type <= RTN_THROW ? type : 0;
  }

  /** The candidate that `address` takes, 0 for none; in which list it is, in `#foundList`. */
  #find(address: number, order: LookupOrder): number {
    let [local, main, localList, mainList] = [0, 0, 0, 0];
    for (let node = ROOT; node !== 0; node = this.trie.step(node, address)) {
      if (!this.trie.covers(node, address)) break;
      const at = node * NODE_WORDS;
      const ownLocal = this.firstUsable(at + Node.local);
      const ownMain = this.firstUsable(at + Node.main);
      if (ownLocal !== 0) [local, localList] = [ownLocal, at + Node.local];
      else if (ownMain !== 0 && order === "merged") local = 0;
      if (ownMain !== 0) [main, mainList] = [ownMain, at + Node.main];
    }
    const set = local === 0 ? null : this.attributes.get(this.candidates.attributes(local));
    if (order === "separate" && set?.type === RTN_THROW) local = 0;
    this.#foundList = local !== 0 ? localList : mainList;
    return local !== 0 ? local : main;
  }

  /** The first candidate of a list that the kernel would take for tos 0; 0: none. */
  firstUsable(list: number): number {
    const { candidates, attributes } = this;
    let candidate = this.trie.words[list];
    while (candidate !== 0) {
      if (candidates.tos(candidate) === 0) {
        if (attributes.get(candidates.attributes(candidate)).usable) return candidate;
      }
      candidate = candidates.next(candidate);
    }
    return 0;
  }

  /**
   * The attributes of the default route `best` (0: none) and of those that the kernel may take in its
   * place for the state of their gateways: of equal metric and scope, and by a gateway like itself.
   */
  equalDefaults(best: number): number[] {
    if (best === 0) return [];
    const { candidates, attributes } = this;
    const ids = [candidates.attributes(best)];
    const { hops, scope } = attributes.get(ids[0]);
    if (hops !== null || !attributes.standsIn(ids[0])) return ids;
    let candidate = candidates.next(best);
    for (; candidate !== 0; candidate = candidates.next(candidate)) {
      if (candidates.priority(candidate) !== candidates.priority(best)) break;
      const id = candidates.attributes(candidate);
      if (attributes.standsIn(id) && attributes.get(id).scope === scope) ids.push(id);
    }
    return ids;
  }

  /** The route that a candidate in a list (an index into the trie's words) is. */
  protected route(list: number, candidate: number): Route {
    const word = list % NODE_WORDS;
    const node = list - word;
    const shared = this.attributes.get(this.candidates.attributes(candidate));
    const { id: _id, hash: _hash, usable: _usable, count: _count, nextHops: _ids, ...set } = shared;
    return {
      table: word === Node.local ? RT_TABLE_LOCAL : RT_TABLE_MAIN,
      destination: this.trie.words[node + Node.prefix],
      prefixLength: this.trie.words[node + Node.length],
      tos: this.candidates.tos(candidate),
      priority: this.candidates.priority(candidate),
      ...set,
    };
  }
}
