// SPDX-License-Identifier: Apache-2.0
/**
 * The RIB: every route of `local` and `main` as in the kernel, with all candidates of a prefix in the
 * kernel's order. Events are applied one by one; `FibBuilder` writes them to the FIB when the batch is
 * committed. It is only in the netlink tile's heap: a million routes are some 60 MiB of typed arrays.
 *
 *     Trie             prefixes; a node names the first candidate in `local` and in `main`
 *     CandidatePool    lists of candidates; a candidate names its attributes
 *     AttributeTable   what routes say beyond their key, and the next hop published for it
 */

import { NEXT_HOP_OVERFLOW, NextHopFlag, nextHopWords } from "./layout.ts";
import type { Change, ListenerSlot, NextHopWriter } from "./netbase_writer.ts";
import * as rt from "./route.ts";
import type { Hop, Route, RouteAttributes } from "./route.ts";

// As in `fib.ts`.
const { isRefusal, KIND_GROUP, KIND_UNSUPPORTED, NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE } = rt;
const { RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_LOCAL, RTN_THROW, RTN_UNICAST } = rt;
const { RTNH_DYNAMIC_FLAGS, RTNH_F_DEAD, RTNH_F_ONLINK } = rt;

/**
 * The kernel's lookup order. A namespace in which no rule was ever added or deleted has `local` and
 * `main` in one trie: the longest prefix of both wins, `local` first among equals, and a `throw` ends
 * the search (measured on 6.18; `fib_trie_unmerge` in fib_trie.c). Once a rule has changed they are
 * separate permanently: the whole of `local` comes first, and its `throw` falls through to `main`.
 */
export type LookupOrder = "merged" | "separate";

/** The place of a route in a list; 0 means none. */
interface Place {
  /** The last candidate before those of equal key. */
  before: number;
  /** The first and the last of equal key. */
  first: number;
  last: number;
  /** The one of them that is the same route. */
  match: number;
}

/** Routes by prefix, table and the kernel's order. A *list* is the index of its head in the trie's words. */
export class Rib {
  readonly trie = new Trie();
  readonly candidates = new CandidatePool();
  readonly attributes: AttributeTable;
  /** Takes effect with `commit()`. */
  lookupOrder: LookupOrder = "merged";
  /** Nodes whose candidates changed since the FIB builder took these; each has `TOUCHED` in its `best`. */
  touched: number[] = [];
  /** False while a successor fills its RIB and readers use its predecessor's FIB. */
  whole: boolean;
  /** The non-empty lists of `local`: a handful. */
  readonly #locals = new Set<number>();
  readonly #listeners: ListenerSlot;

  /** With `joined` the FIB is kept until the first `endSync`. */
  constructor(
    nextHops: NextHopWriter,
    { listeners, joined }: { listeners: ListenerSlot; joined: boolean },
  ) {
    this.attributes = new AttributeTable(nextHops);
    this.whole = !joined;
    this.#listeners = listeners;
  }

  get size(): number {
    return this.candidates.count;
  }

  /**
   * An RTM_NEWROUTE event. `nlmsgFlags` (NLM_F_*) determine its position among its equals, as in
   * `fib_table_insert`: replace takes the first's place, append goes last, else first; NLM_F_EXCL means
   * that the kernel has no equal. RangeError for tables other than `local` and `main`. Takes effect
   * with `commit()`.
   */
  add(route: Readonly<Route>, nlmsgFlags: number): void {
    checkTable(route);
    const node = this.trie.insert(route.destination, route.prefixLength);
    const list = listOf(node, route.table);
    const attributes = this.attributes.intern(route);
    const place = this.#seek(list, route);
    const target = place.match !== 0 ? place.match : place.first;
    if ((nlmsgFlags & NLM_F_EXCL) !== 0 && this.#dropEquals(list, place, target)) this.touch(node);
    const replaces = (nlmsgFlags & (NLM_F_REPLACE | NLM_F_EXCL)) !== 0;
    if (target !== 0 && (replaces || target === place.match)) {
      this.candidates.mark(target);
      if (this.#swap(list, target, attributes)) this.touch(node);
    } else {
      const append = (nlmsgFlags & NLM_F_APPEND) !== 0 && place.last !== 0;
      this.#insert(list, append ? place.last : place.before, route, attributes);
      this.touch(node);
    }
  }

  /** A route of a dump, in the kernel's order. Concurrent events must be applied after the dump. */
  addFromDump(route: Readonly<Route>): void {
    checkTable(route);
    const node = this.trie.insertNext(route.destination, route.prefixLength);
    const list = listOf(node, route.table);
    const attributes = this.attributes.intern(route);
    const place = this.#seek(list, route);
    const { match } = place;
    const before = this.#lastNamed(place);
    if (match === 0) {
      this.#insert(list, before, route, attributes);
      this.touch(node);
    } else {
      this.candidates.mark(match);
      const isNew = this.#swap(list, match, attributes);
      const moves = this.#isAhead(match, before);
      if (moves) {
        const { words } = this.trie;
        words[list] = this.candidates.unlink(words[list], match);
        words[list] = this.candidates.insertAfter(words[list], before, match);
        this.#notify("changed", list, match);
      }
      if (moves || isNew) this.touch(node);
    }
  }

  /** An RTM_DELROUTE event. False: there was no such route, so an event was missed. */
  remove(route: Readonly<Route>): boolean {
    const node = this.trie.find(route.destination, route.prefixLength);
    if (node === 0) return false;
    const list = listOf(node, route.table);
    const { match } = this.#seek(list, route);
    if (match === 0) return false;
    this.#drop(list, match);
    this.touch(node);
    return true;
  }

  /** Begins a mark and sweep; restarts it if the last one was abandoned. */
  beginSync(): void {
    this.candidates.beginSync();
  }

  /** Removes routes that no `add` or `addFromDump` has named since `beginSync()`, and returns how many. */
  endSync(): number {
    const count = this.candidates.allNamed ? 0 : this.#change((list, candidate) => {
      if (this.candidates.isNamed(candidate)) return false;
      this.#drop(list, candidate);
      return true;
    });
    this.whole = true;
    return count;
  }

  /** Replaces the attributes of routes by the result of `change`; null removes them. Returns how many changed. */
  rewrite(change: (attributes: Readonly<RouteAttributes>) => RouteAttributes | null): number {
    const changes = new Map<number, number>();
    for (const set of this.attributes.all()) {
      const wanted = change(set);
      if (wanted === null) changes.set(set.id, 0);
      else if (!isEqual(wanted, set, 0)) changes.set(set.id, this.attributes.intern(wanted));
    }
    const count = changes.size === 0 ? 0 : this.#change((list, candidate) => {
      const wanted = changes.get(this.candidates.attributes(candidate));
      if (wanted === undefined) return false;
      if (wanted === 0) {
        this.#drop(list, candidate);
      } else {
        this.attributes.retain(wanted);
        this.#swap(list, candidate, wanted);
      }
      return true;
    });
    for (const id of changes.values()) if (id !== 0) this.attributes.release(id);
    return count;
  }

  /** Records that the candidates of `node` changed. */
  touch(node: number): void {
    if ((this.trie.words[node + Node.best] & TOUCHED) !== 0) return;
    this.trie.words[node + Node.best] |= TOUCHED;
    this.touched.push(node);
  }

  /** All routes in order, from a prefix (host order) on. The iteration ends with the next change. */
  *routes({ prefix, length } = { prefix: 0, length: 0 }): IterableIterator<Route> {
    let node = this.trie.seek(prefix, length);
    for (; node !== 0; node = this.trie.next(node)) yield* this.#routesAt(node);
  }

  /** The routes whose prefix covers an address, shorter ones first. */
  *routesCovering(address: number): IterableIterator<Route> {
    for (let node = ROOT; node !== 0; node = this.trie.step(node, address)) {
      if (!this.trie.covers(node, address)) return;
      yield* this.#routesAt(node);
    }
  }

  /** Compares `most` prefixes with another RIB; `differs` gets a route of each list. Returns the next; null: done. */
  compare(
    other: Rib,
    from: { prefix: number; length: number },
    { most, differs }: { most: number; differs(route: Route): void },
  ): { prefix: number; length: number } | null {
    let [own, its] = [this, other].map(({ trie }) => trie.seek(from.prefix, from.length));
    for (let count = 0; own !== 0 || its !== 0; count++) {
      const order = own === 0 ? 1 : its === 0 ? -1 : this.trie.compare(own, other.trie, its);
      if (count === most) return order <= 0 ? this.trie.prefix(own) : other.trie.prefix(its);
      for (let word: number = Node.local; word <= Node.main; word++) {
        const ownList = order <= 0 ? own + word : 0;
        const itsList = order >= 0 ? its + word : 0;
        const differing = this.#difference(ownList, other, itsList);
        if (differing !== null) differs(differing);
      }
      if (order <= 0) own = this.trie.next(own);
      if (order >= 0) its = other.trie.next(its);
    }
    return null;
  }

  /** A route by which a list (0: none) differs from one of another RIB; null: they are equal. */
  #difference(ownList: number, other: Rib, itsList: number): Route | null {
    let own = ownList === 0 ? 0 : this.trie.words[ownList];
    let its = itsList === 0 ? 0 : other.trie.words[itsList];
    for (; own !== 0 && its !== 0; own = this.candidates.next(own)) {
      const isSame = this.candidates.tos(own) === other.candidates.tos(its) &&
        this.candidates.priority(own) === other.candidates.priority(its) &&
        isEqual(
          this.attributes.get(this.candidates.attributes(own)),
          other.attributes.get(other.candidates.attributes(its)),
          0,
        );
      if (!isSame) break;
      its = other.candidates.next(its);
    }
    if (own !== 0) return this.#route(ownList, own);
    return its === 0 ? null : other.#route(itsList, its);
  }

  /** The route for an address; null: none. */
  bestFor(address: number, order = this.lookupOrder): Route | null {
    const { list, candidate } = this.#find(address >>> 0, order);
    return candidate === 0 ? null : this.#route(list, candidate);
  }

  /** An address, under a prefix of `local`, for which the two lookup orders differ; -1: none. */
  ambiguousAddress(): number {
    const { words } = this.trie;
    for (const list of this.#locals) {
      const node = list - Node.local;
      for (let below = node; below !== 0; below = this.trie.next(below)) {
        const first = words[below + Node.prefix];
        if (!this.trie.covers(node, first)) break;
        const end = (first | ~maskAddress(-1, words[below + Node.length])) + 1;
        // The set of covering prefixes changes only where one begins or ends.
        for (const address of [first, end >>> 0]) {
          // The kernel handles 0.0.0.0/8 without its routes.
          const inside = address >>> 24 === 0 ? 0x0100_0000 : address;
          if (this.trie.covers(node, inside) && this.#isAmbiguous(inside)) return inside;
        }
      }
    }
    return -1;
  }

  /** The first candidate of a list that the kernel would use for tos 0; 0: none. */
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

  /** The attributes of the default route `best` (0: none) and of its possible substitutes. */
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

  #seek(list: number, route: Readonly<Route>): Place {
    const place: Place = { before: 0, first: 0, last: 0, match: 0 };
    let candidate = this.trie.words[list];
    for (; candidate !== 0; candidate = this.candidates.next(candidate)) {
      const order = this.candidates.compare(candidate, route);
      if (order > 0) break;
      if (order < 0) {
        place.before = candidate;
        continue;
      }
      if (place.first === 0) place.first = candidate;
      place.last = candidate;
      const set = this.attributes.get(this.candidates.attributes(candidate));
      if (place.match === 0 && isSameRoute(set, route)) place.match = candidate;
    }
    return place;
  }

  /** The last candidate of equal key that the current sync has named, else the one before them all. */
  #lastNamed({ before, first, last }: Place): number {
    let named = before;
    let candidate = first;
    while (candidate !== 0) {
      if (this.candidates.isNamed(candidate)) named = candidate;
      candidate = candidate === last ? 0 : this.candidates.next(candidate);
    }
    return named;
  }

  #isAhead(candidate: number, other: number): boolean {
    let current = candidate;
    while (current !== 0 && current !== other) current = this.candidates.next(current);
    return current !== 0 && other !== candidate;
  }

  #insert(list: number, before: number, route: Readonly<Route>, attributes: number): void {
    const candidate = this.candidates.allocate(route, attributes);
    const words = this.trie.words;
    words[list] = this.candidates.insertAfter(words[list], before, candidate);
    if (route.table === RT_TABLE_LOCAL) this.#locals.add(list);
    this.#notify("added", list, candidate);
  }

  /** Gives a candidate a set of attributes, retained by the caller. Returns whether it changed. */
  #swap(list: number, candidate: number, attributes: number): boolean {
    const old = this.candidates.attributes(candidate);
    this.candidates.setAttributes(candidate, attributes);
    this.attributes.release(old);
    if (old === attributes) return false;
    this.#notify("changed", list, candidate);
    return true;
  }

  #drop(list: number, candidate: number): void {
    this.#notify("removed", list, candidate);
    const words = this.trie.words;
    words[list] = this.candidates.unlink(words[list], candidate);
    if (words[list] === 0) this.#locals.delete(list);
    this.attributes.release(this.candidates.attributes(candidate));
    this.candidates.release(candidate);
  }

  /** Removes the candidates of equal key except `kept`. Returns whether there were any. */
  #dropEquals(list: number, { first, last }: Place, kept: number): boolean {
    const before = this.size;
    let candidate = first;
    while (candidate !== 0) {
      const next = candidate === last ? 0 : this.candidates.next(candidate);
      if (candidate !== kept) this.#drop(list, candidate);
      candidate = next;
    }
    return this.size !== before;
  }

  /** Calls `change` with each list and candidate. Returns how often it returned true: those have changed. */
  #change(change: (list: number, candidate: number) => boolean): number {
    let count = 0;
    for (let node = ROOT; node !== 0; node = this.trie.next(node)) {
      for (let word: number = Node.local; word <= Node.main; word++) {
        const list = node + word;
        for (let candidate = this.trie.words[list], next = 0; candidate !== 0; candidate = next) {
          next = this.candidates.next(candidate);
          if (!change(list, candidate)) continue;
          this.touch(node);
          count++;
        }
      }
    }
    return count;
  }

  *#routesAt(node: number): IterableIterator<Route> {
    for (let list = node + Node.local; list <= node + Node.main; list++) {
      let candidate = this.trie.words[list];
      for (; candidate !== 0; candidate = this.candidates.next(candidate)) {
        yield this.#route(list, candidate);
      }
    }
  }

  /** Two refusals of one kind do not differ: the kernel's result is the same. */
  #isAmbiguous(address: number): boolean {
    const merged = this.#find(address, "merged").candidate;
    const separate = this.#find(address, "separate").candidate;
    if (merged === separate) return false;
    const refusal = this.#refusal(merged);
    return refusal === 0 || refusal !== this.#refusal(separate);
  }

  /** RTN_* of a candidate that refuses (`throw` for no route); 0: it does not refuse. */
  #refusal(candidate: number): number {
    if (candidate === 0) return RTN_THROW;
    const { type } = this.attributes.get(this.candidates.attributes(candidate));
    return isRefusal(type) ? type : 0;
  }

  /** The candidate for `address`, 0 for none, and its list. */
  #find(address: number, order: LookupOrder): { list: number; candidate: number } {
    let [local, main, localList, mainList] = [0, 0, 0, 0];
    for (let node = ROOT; node !== 0; node = this.trie.step(node, address)) {
      if (!this.trie.covers(node, address)) break;
      const ownLocal = this.firstUsable(node + Node.local);
      const ownMain = this.firstUsable(node + Node.main);
      if (ownLocal !== 0) [local, localList] = [ownLocal, node + Node.local];
      else if (ownMain !== 0 && order === "merged") local = 0;
      if (ownMain !== 0) [main, mainList] = [ownMain, node + Node.main];
    }
    const set = local === 0 ? null : this.attributes.get(this.candidates.attributes(local));
    if (order === "separate" && set?.type === RTN_THROW) local = 0;
    return local !== 0
      ? { list: localList, candidate: local }
      : { list: mainList, candidate: main };
  }

  #route(list: number, candidate: number): Route {
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

  #notify(change: Change, list: number, candidate: number): void {
    const { current } = this.#listeners;
    if (current !== null) current.route(change, this.#route(list, candidate));
  }
}

function checkTable({ table }: Readonly<Route>): void {
  if (table === RT_TABLE_LOCAL || table === RT_TABLE_MAIN) return;
  throw new RangeError(`routing table ${table} is not mirrored`);
}

function listOf(node: number, table: number): number {
  return node + (table === RT_TABLE_LOCAL ? Node.local : Node.main);
}

/** Words of a node. A node is identified by the index of its first word; 0: none. */
const NODE_WORDS = 8;
export const Node = {
  /** host order, bits beyond the length zero */
  prefix: 0,
  /** 0 to 32 */
  length: 1,
  parent: 2,
  /** the child whose next bit is 0, and the one whose next bit is 1 */
  child0: 3,
  child1: 4,
  /** first candidate in table `local`, in table `main`; 0: none */
  local: 5,
  main: 6,
  /** what is in the FIB for it: next hop id of local << 16 | of main, 0: none; and {@linkcode TOUCHED} */
  best: 7,
} as const;
/** The node of 0.0.0.0/0, always present. */
export const ROOT = NODE_WORDS;
/** In a node's `best`, whose ids have 15 bits: it was touched since the last commit. */
export const TOUCHED = 0x8000;

/** Length of an unused node. */
const FREED = 0xff;
const FIRST_NODES = 1 << 10;

/** The prefix of `length` bits that covers `address`. */
function maskAddress(address: number, length: number): number {
  return length === 0 ? 0 : (address & (-1 << (32 - length))) >>> 0;
}

/** A path-compressed binary trie in one typed array: 32 bytes a prefix, no garbage, about a cache line per step. */
export class Trie {
  /** All nodes. Replaced when it grows, so reload it after an `insert`. */
  words = new Uint32Array(FIRST_NODES * NODE_WORDS);
  #next = ROOT + NODE_WORDS;
  /** Freed nodes, chained by their parent word. */
  #free = 0;
  #last = ROOT;

  /**
   * The node of a prefix; it is made if missing. `prefix` has no bits beyond `length`. The search
   * begins at `from`, which covers it.
   */
  insert(prefix: number, length: number, from = ROOT): number {
    let node = from;
    while (this.words[node + Node.length] !== length) {
      const words = this.words;
      const link = node + Node.child0 + bitAt(prefix, words[node + Node.length]);
      const child = words[link];
      if (child === 0) return this.#attach(node, prefix, length);
      const childLength = words[child + Node.length];
      const differ = Math.clz32(prefix ^ words[child + Node.prefix]);
      const common = Math.min(differ, length, childLength);
      if (common === childLength) node = child;
      else return this.#split(node, child, common, prefix, length);
    }
    return node;
  }

  /** The same, from the prefix of the last call on: for prefixes in order most are a few steps away. */
  insertNext(prefix: number, length: number): number {
    const { words } = this;
    let from = this.#last;
    while (words[from + Node.length] > length || !this.covers(from, prefix)) {
      from = words[from + Node.parent];
    }
    return this.#last = this.insert(prefix, length, from);
  }

  prefix(node: number): { prefix: number; length: number } {
    return { prefix: this.words[node + Node.prefix], length: this.words[node + Node.length] };
  }

  /** Order of a node and one of another trie: below 0, 0 for the same prefix, or above 0. */
  compare(own: number, other: Trie, its: number): number {
    return this.words[own + Node.prefix] - other.words[its + Node.prefix] ||
      this.words[own + Node.length] - other.words[its + Node.length];
  }

  /** The node of a prefix, or 0. */
  find(prefix: number, length: number): number {
    const words = this.words;
    let node = ROOT;
    while (node !== 0 && words[node + Node.length] < length) {
      node = this.step(node, prefix);
    }
    if (node === 0 || words[node + Node.length] !== length) return 0;
    return words[node + Node.prefix] === prefix >>> 0 ? node : 0;
  }

  /** The child of `node` towards `address`, which it may not cover; 0: none. */
  step(node: number, address: number): number {
    const length = this.words[node + Node.length];
    return length === 32 ? 0 : this.words[node + Node.child0 + bitAt(address, length)];
  }

  covers(node: number, address: number): boolean {
    return maskAddress(address, this.words[node + Node.length]) === this.words[node + Node.prefix];
  }

  /** Removes `node`, and its parent likewise, unless it has candidates, is in the FIB, is a branch or is removed. */
  prune(node: number): void {
    const { words } = this;
    let current = node;
    while (current !== ROOT && current !== 0) {
      if (words[current + Node.length] === FREED) return;
      // It has candidates, or its best is not 0: it is in the FIB, or touched.
      if ((words[current + Node.local] | words[current + Node.main]) !== 0) return;
      if (words[current + Node.best] !== 0) return;
      const child0 = words[current + Node.child0];
      const child1 = words[current + Node.child1];
      if (child0 !== 0 && child1 !== 0) return;
      const child = child0 !== 0 ? child0 : child1;
      const parent = words[current + Node.parent];
      this.#replaceChild(parent, current, child);
      this.#release(current);
      current = child === 0 ? parent : 0;
    }
  }

  /** The node after `node` by prefix, shorter ones first; 0 after the last. */
  next(node: number): number {
    const words = this.words;
    if (words[node + Node.child0] !== 0) return words[node + Node.child0];
    if (words[node + Node.child1] !== 0) return words[node + Node.child1];
    return this.#nextBeside(node);
  }

  /** The first node, in the order of `next`, that is not before a prefix; 0: none. */
  seek(prefix: number, length: number): number {
    let node = ROOT;
    while (this.words[node + Node.length] < length) {
      const child = this.step(node, prefix);
      const side = bitAt(prefix, this.words[node + Node.length]);
      if (child === 0) {
        const other = side === 0 ? this.words[node + Node.child1] : 0;
        return other !== 0 ? other : this.#nextBeside(node);
      }
      if (this.words[child + Node.length] > length || !this.covers(child, prefix)) {
        // The child does not cover the prefix, so it and all nodes below it come before the prefix, or none does.
        return this.words[child + Node.prefix] < prefix ? this.#nextBeside(child) : child;
      }
      node = child;
    }
    return node;
  }

  /** The first node after `node` that is not below it; 0: none. */
  #nextBeside(node: number): number {
    const words = this.words;
    let current = node;
    while (current !== ROOT) {
      const parent = words[current + Node.parent];
      const sibling = words[parent + Node.child1];
      if (sibling !== 0 && sibling !== current) return sibling;
      current = parent;
    }
    return 0;
  }

  #attach(parent: number, prefix: number, length: number): number {
    const node = this.#allocate(prefix, length);
    this.#link(parent, node);
    return node;
  }

  /** Adds a node where `child` diverges from the prefix, and below it the prefix's own, unless both are the same. */
  #split(parent: number, child: number, common: number, prefix: number, length: number): number {
    const between = this.#allocate(maskAddress(prefix, common), common);
    this.#link(parent, between);
    this.#link(between, child);
    return common === length ? between : this.#attach(between, prefix, length);
  }

  /** Makes `node` a child of `parent`, on the side of its next bit. */
  #link(parent: number, node: number): void {
    const side = bitAt(this.words[node + Node.prefix], this.words[parent + Node.length]);
    this.words[parent + Node.child0 + side] = node;
    this.words[node + Node.parent] = parent;
  }

  #replaceChild(parent: number, node: number, child: number): void {
    const side = this.words[parent + Node.child0] === node ? 0 : 1;
    this.words[parent + Node.child0 + side] = child;
    if (child !== 0) this.words[child + Node.parent] = parent;
  }

  #allocate(prefix: number, length: number): number {
    let node = this.#free;
    if (node !== 0) {
      this.#free = this.words[node + Node.parent];
      this.words.fill(0, node, node + NODE_WORDS);
    } else {
      node = this.#next;
      this.#next += NODE_WORDS;
      if (node === this.words.length) this.words = grown(this.words);
    }
    this.words[node + Node.prefix] = prefix;
    this.words[node + Node.length] = length;
    return node;
  }

  #release(node: number): void {
    if (node === this.#last) this.#last = ROOT;
    this.words[node + Node.parent] = this.#free;
    this.words[node + Node.length] = FREED;
    this.#free = node;
  }
}

function grown(words: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(words.length * 2);
  larger.set(words);
  return larger;
}

/** Bit number `i` of an address, counted from the left. */
function bitAt(address: number, i: number): number {
  return (address >>> (31 - i)) & 1;
}

/** Words of a candidate. A candidate is identified by the index of its first word; 0: none. */
const CANDIDATE_WORDS = 4;
const Candidate = {
  next: 0,
  /** id of its set in the attribute table */
  attributes: 1,
  priority: 2,
  /** tos << 16 | the sync in which it was last named */
  tosSync: 3,
} as const;

const FIRST_CANDIDATES = 1 << 10;

/** The sort key of a list. Routes of one prefix and table with equal keys compete. */
type CandidateKey = Readonly<Pick<Route, "tos" | "priority">>;

/**
 * The candidates of each prefix and table, in the kernel's order: by descending tos, ascending metric,
 * and among equals by insertion (appended, prepended, replaced). The first usable one wins. Linked
 * lists in one typed array, 16 bytes a route; a list is identified by its head, the first candidate.
 */
class CandidatePool {
  count = 0;
  #words = new Uint32Array(FIRST_CANDIDATES * CANDIDATE_WORDS);
  #next = CANDIDATE_WORDS;
  #free = 0;
  #sync = 1;
  /** Candidates that the current sync has named. */
  #named = 0;

  next(candidate: number): number {
    return this.#words[candidate + Candidate.next];
  }

  attributes(candidate: number): number {
    return this.#words[candidate + Candidate.attributes];
  }

  setAttributes(candidate: number, attributes: number): void {
    this.#words[candidate + Candidate.attributes] = attributes;
  }

  priority(candidate: number): number {
    return this.#words[candidate + Candidate.priority];
  }

  tos(candidate: number): number {
    return this.#words[candidate + Candidate.tosSync] >>> 16;
  }

  /** Begins a mark and sweep: from now on only candidates allocated or marked count as named. */
  beginSync(): void {
    this.#sync = (this.#sync + 1) & 0xffff;
    this.#named = 0;
  }

  /** Whether the current sync has named every candidate, so that there is nothing to sweep. */
  get allNamed(): boolean {
    return this.#named === this.count;
  }

  /** Whether the current sync has named it. */
  isNamed(candidate: number): boolean {
    return (this.#words[candidate + Candidate.tosSync] & 0xffff) === this.#sync;
  }

  /** Records that the current sync has named it. */
  mark(candidate: number): void {
    if (this.isNamed(candidate)) return;
    const at = candidate + Candidate.tosSync;
    this.#words[at] = (this.#words[at] & 0xffff0000) | this.#sync;
    this.#named++;
  }

  /** Orders `candidate` and `key` in a list: below 0 before, 0 equal, above 0 after. */
  compare(candidate: number, key: CandidateKey): number {
    const tos = this.tos(candidate);
    return tos !== key.tos ? key.tos - tos : this.priority(candidate) - key.priority;
  }

  /** A new candidate, in no list, and named. */
  allocate(key: CandidateKey, attributes: number): number {
    let candidate = this.#free;
    if (candidate !== 0) {
      this.#free = this.next(candidate);
    } else {
      candidate = this.#next;
      this.#next += CANDIDATE_WORDS;
      if (candidate === this.#words.length) this.#words = grown(this.#words);
    }
    this.#words[candidate + Candidate.attributes] = attributes;
    this.#words[candidate + Candidate.priority] = key.priority;
    this.#words[candidate + Candidate.tosSync] = (key.tos << 16) | this.#sync;
    this.count++;
    this.#named++;
    return candidate;
  }

  /** Inserts `candidate` after `before` (0: first) into the list `head`, and returns the new head. */
  insertAfter(head: number, before: number, candidate: number): number {
    const after = before === 0 ? head : this.next(before);
    this.#words[candidate + Candidate.next] = after;
    if (before === 0) return candidate;
    this.#words[before + Candidate.next] = candidate;
    return head;
  }

  /** Removes `candidate` from the list `head` without freeing it, and returns the new head. */
  unlink(head: number, candidate: number): number {
    const after = this.next(candidate);
    if (head === candidate) return after;
    let before = head;
    while (this.next(before) !== candidate) before = this.next(before);
    this.#words[before + Candidate.next] = after;
    return head;
  }

  /** Frees a candidate that is in no list. */
  release(candidate: number): void {
    if (this.isNamed(candidate)) this.#named--;
    this.#words[candidate + Candidate.next] = this.#free;
    this.#free = candidate;
    this.count--;
  }
}

interface AttributeSet extends Readonly<RouteAttributes> {
  readonly id: number;
  readonly hash: number;
  /** False: the kernel skips such a candidate (RTNH_F_DEAD). */
  readonly usable: boolean;
  count: number;
  /** Next hop ids once published, for prefixes shorter than /4 and for all others; 0: not yet. */
  readonly nextHops: [number, number];
}

/**
 * Shared route attributes. The million routes of a full table have a few hundred different sets of
 * attributes, so each set is stored once with a reference count, and a route has the id of its set. The
 * table also has the next hop of each set, which is published on first use.
 */
class AttributeTable {
  readonly #sets: (AttributeSet | undefined)[] = [undefined];
  readonly #free: number[] = [];
  readonly #byHash = new Map<number, AttributeSet[]>();
  readonly #nextHops: NextHopWriter;
  /** Sets that lost their last candidate, whose next hops may still be in the FIB. */
  readonly #dying = new Set<AttributeSet>();
  /** Recently interned sets, by their gateways. */
  readonly #recent: (AttributeSet | undefined)[] = Array(RECENT).fill(undefined);
  /** The group of default routes, the sets in it, and earlier groups, which may still be in the FIB. */
  #defaults = 0;
  #defaultsOf = "";
  readonly #formerDefaults: number[] = [];

  constructor(nextHops: NextHopWriter) {
    this.#nextHops = nextHops;
  }

  get(id: number): AttributeSet {
    return this.#sets[id]!;
  }

  all(): AttributeSet[] {
    return this.#sets.filter((set) => set !== undefined);
  }

  /** The id of the set that equals `attributes`, retained. */
  intern(attributes: Readonly<RouteAttributes>): number {
    // Most routes of a full table differ only in the gateway, which needs neither hash nor lookup.
    const recent = this.#recent[recentOf(attributes)];
    if (recent !== undefined && isEqual(recent, attributes, 0)) return this.#hold(recent);
    const hash = hashOf(attributes);
    const alike = this.#byHash.get(hash);
    const known = alike?.find((set) => isEqual(set, attributes, 0));
    if (known !== undefined) return this.#hold(known);
    const set = makeSet(attributes, this.#free.pop() ?? this.#sets.length, hash);
    this.#sets[set.id] = set;
    if (alike === undefined) this.#byHash.set(hash, [set]);
    else alike.push(set);
    return this.#hold(set);
  }

  /** Adds a candidate to set `id`. */
  retain(id: number): void {
    this.get(id).count++;
  }

  /** Removes a candidate from set `id`. */
  release(id: number): void {
    const set = this.get(id);
    if (--set.count === 0) this.#dying.add(set);
  }

  /** Frees the sets without candidates. The FIB must no longer name their next hops. */
  sweep(): void {
    for (const set of this.#dying) {
      if (set.count > 0) continue;
      for (const id of set.nextHops) if (id !== 0) this.#nextHops.release(id);
      this.#sets[set.id] = undefined;
      this.#free.push(set.id);
      const alike = this.#byHash.get(set.hash)!.filter((other) => other !== set);
      if (alike.length === 0) this.#byHash.delete(set.hash);
      else this.#byHash.set(set.hash, alike);
      if (this.#recent[recentOf(set)] === set) this.#recent[recentOf(set)] = undefined;
    }
    this.#dying.clear();
    for (const id of this.#formerDefaults.splice(0)) this.#nextHops.release(id);
  }

  /** The next hop of a set under a prefix of `length` bits, or NEXT_HOP_OVERFLOW. Flows keep members of `earlier`. */
  nextHop(id: number, length: number, earlier: number): number {
    const set = this.get(id);
    const short = length < 4 ? 0 : 1;
    if (set.nextHops[short] !== 0) return set.nextHops[short];
    const flags = short === 0 ? NextHopFlag.short : 0;
    const nextHop = publish(this.#nextHops, set, flags, earlier);
    // Next hops that did not fit are retried when there may be room.
    if (nextHop !== NEXT_HOP_OVERFLOW) set.nextHops[short] = nextHop;
    return nextHop;
  }

  /** The next hop of default routes of equal metric, a group if there are several; 0: none, or NEXT_HOP_OVERFLOW. */
  defaultNextHop(ids: readonly number[], earlier: number): number {
    if (this.#defaults !== 0 && this.#defaultsOf === ids.join()) return this.#defaults;
    if (this.#defaults !== 0) this.#formerDefaults.push(this.#defaults);
    this.#defaults = 0;
    if (ids.length < 2) return ids.length === 0 ? 0 : this.nextHop(ids[0], 0, earlier);
    const flags = NextHopFlag.short;
    // As a substitute for another route the kernel uses only the first hop of a multipath route.
    const members = ids.map((id) => this.get(id))
      .map((set) => ({ words: wordsOf(set, flags, set.hops?.[0] ?? set), weight: 1 }));
    const whole = nextHopWords(KIND_GROUP, { flags: flags | NextHopFlag.ordered });
    const id = this.#nextHops.publishGroup(whole, members, 0);
    if (id !== NEXT_HOP_OVERFLOW) [this.#defaults, this.#defaultsOf] = [id, ids.join()];
    return id;
  }

  /** Whether a default route may replace one of equal metric with a dead gateway (`fib_select_default`). */
  standsIn(id: number): boolean {
    const { type, gateway, hops, unsupported, usable } = this.get(id);
    return type === RTN_UNICAST && usable && (unsupported || (hops?.[0].gateway ?? gateway) !== 0);
  }

  #hold(set: AttributeSet): number {
    set.count++;
    this.#recent[recentOf(set)] = set;
    return set.id;
  }
}

/** Sets that are remembered as recent: as many as a byte of a hash distinguishes. */
const RECENT = 256;

/** The index of a set among the recent ones. */
function recentOf({ gateway }: Readonly<RouteAttributes>): number {
  return Math.imul(gateway, 0x9e3779b1) >>> 24;
}

/** Whether two sets are equal, apart from `ignored` flags. */
function isEqual(
  a: Readonly<RouteAttributes>,
  b: Readonly<RouteAttributes>,
  ignored: number,
): boolean {
  return a.gateway === b.gateway && a.ifindex === b.ifindex && a.source === b.source &&
    a.type === b.type && a.scope === b.scope && a.protocol === b.protocol && a.mtu === b.mtu &&
    ((a.flags ^ b.flags) & ~ignored) === 0 && a.nextHopId === b.nextHopId &&
    a.unsupported === b.unsupported && hasEqualHops(a, b, ignored);
}

/** Whether two sets are of one route, in any state; independent of changes to its next-hop object. */
function isSameRoute(a: Readonly<RouteAttributes>, b: Readonly<RouteAttributes>): boolean {
  if (a.nextHopId === 0 || a.nextHopId !== b.nextHopId) return isEqual(a, b, RTNH_DYNAMIC_FLAGS);
  return a.source === b.source && a.mtu === b.mtu && a.scope === b.scope &&
    a.protocol === b.protocol;
}

function hasEqualHops(
  a: Readonly<RouteAttributes>,
  b: Readonly<RouteAttributes>,
  ignored: number,
): boolean {
  if (a.hops === null || b.hops === null) return a.hops === b.hops;
  if (a.hops.length !== b.hops.length) return false;
  for (let i = 0; i < a.hops.length; i++) {
    const [one, other] = [a.hops[i], b.hops[i]];
    if (one.gateway !== other.gateway || one.ifindex !== other.ifindex) return false;
    if (one.weight !== other.weight || ((one.flags ^ other.flags) & ~ignored) !== 0) return false;
  }
  return true;
}

function hashOf(attributes: Readonly<RouteAttributes>): number {
  let h = Math.imul(attributes.gateway ^ Math.imul(attributes.ifindex, 0x9e3779b1), 0x85ebca6b);
  h = Math.imul((h ^ (h >>> 15)) + attributes.source, 0xc2b2ae35);
  h = Math.imul((h ^ (h >>> 13)) + attributes.mtu + (attributes.nextHopId << 8), 0x9e3779b1);
  const small = attributes.type | (attributes.scope << 8) | (attributes.protocol << 16);
  h = Math.imul((h ^ (h >>> 16)) + small + (attributes.flags << 24), 0x85ebca6b);
  for (const hop of attributes.hops ?? []) {
    h = Math.imul((h ^ (h >>> 15)) + hop.gateway + hop.ifindex + (hop.flags << 20), 0xc2b2ae35);
  }
  return h ^ (h >>> 16);
}

function makeSet(attributes: Readonly<RouteAttributes>, id: number, hash: number): AttributeSet {
  const { type, scope, protocol, flags, source, gateway, ifindex, mtu, nextHopId } = attributes;
  const hops = attributes.hops?.map((hop) => ({ ...hop })) ?? null;
  return {
    ...{ type, scope, protocol, flags, source, gateway, ifindex, mtu, nextHopId, hops },
    unsupported: attributes.unsupported,
    id,
    hash,
    usable: isUsable(attributes),
    count: 0,
    nextHops: [0, 0],
  };
}

/** As `fib_table_lookup`: routes that refuse are always usable, others unless they are dead. */
function isUsable(attributes: Readonly<RouteAttributes>): boolean {
  if (isRefusal(attributes.type)) return true;
  if ((attributes.flags & RTNH_F_DEAD) !== 0) return false;
  return attributes.hops === null || attributes.hops.some((hop) => isAlive(hop));
}

function isAlive(hop: Hop): boolean {
  return (hop.flags & RTNH_F_DEAD) === 0;
}

/** Publishes a set as a next hop or a group of its live hops. */
function publish(
  nextHops: NextHopWriter,
  set: AttributeSet,
  flags: number,
  earlier: number,
): number {
  if (set.unsupported) return nextHops.publish(nextHopWords(KIND_UNSUPPORTED));
  if (isRefusal(set.type)) return nextHops.publish(nextHopWords(set.type));
  const alive = set.hops?.filter(isAlive) ?? [set];
  const members = alive.map((hop) => ({
    words: wordsOf(set, flags, hop),
    weight: "weight" in hop ? hop.weight : 1,
  }));
  if (members.length === 1) return nextHops.publish(members[0].words);
  const groupFlags = flags | (set.nextHopId !== 0 ? NextHopFlag.object : 0);
  const { scope, source, mtu } = set;
  const whole = nextHopWords(KIND_GROUP, { scope, flags: groupFlags, source, mtu });
  return nextHops.publishGroup(whole, members, earlier);
}

/** One path of a route. Tegula cannot use a path without an interface. */
function wordsOf(
  set: AttributeSet,
  flags: number,
  way: { gateway: number; ifindex: number; flags: number },
) {
  const { type, scope, source, mtu, unsupported } = set;
  const { gateway, ifindex } = way;
  if (unsupported || (ifindex === 0 && type !== RTN_LOCAL)) return nextHopWords(KIND_UNSUPPORTED);
  const isOnLink = (way.flags & RTNH_F_ONLINK) !== 0;
  const all = flags | (isOnLink ? NextHopFlag.onlink : 0);
  return nextHopWords(type, { scope, flags: all, gateway, ifindex, source, mtu });
}
