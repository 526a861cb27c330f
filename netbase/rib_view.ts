/**
 * The RIB as it is asked: which routes there are, and which one the kernel would take. The RIB itself
 * (`rib.ts`) changes what stands here.
 */

import { AttributeTable } from "./attributes.ts";
import { CandidatePool } from "./candidates.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import { firstUsable } from "./painter.ts";
import type { LookupOrder } from "./prefix_painter.ts";
import { type Route, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_BLACKHOLE, RTN_THROW } from "./route.ts";
import { maskAddress, Node, NODE_WORDS, ROOT, Trie } from "./trie.ts";

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
export abstract class RibView {
  protected readonly trie = new Trie();
  protected readonly candidates = new CandidatePool();
  protected readonly attributes: AttributeTable;
  /** The lists of `local` that are not empty, as indices into the trie's words: a handful. */
  protected readonly locals = new Set<number>();
  /** Where `#find` found it. */
  #foundList = 0;

  constructor(nextHops: NextHopWriter) {
    this.attributes = new AttributeTable(nextHops);
  }

  /** How the kernel asks its tables. */
  abstract get lookupOrder(): LookupOrder;

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
      const ownLocal = this.#firstOf(at + Node.local);
      const ownMain = this.#firstOf(at + Node.main);
      if (ownLocal !== 0) [local, localList] = [ownLocal, at + Node.local];
      else if (ownMain !== 0 && order === "merged") local = 0;
      if (ownMain !== 0) [main, mainList] = [ownMain, at + Node.main];
    }
    const set = local === 0 ? null : this.attributes.get(this.candidates.attributes(local));
    if (order === "separate" && set?.type === RTN_THROW) local = 0;
    this.#foundList = local !== 0 ? localList : mainList;
    return local !== 0 ? local : main;
  }

  #firstOf(list: number): number {
    return firstUsable(this.candidates, this.attributes, this.trie.words[list]);
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
