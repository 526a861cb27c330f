/**
 * The RIB: every route of `local` and `main` exactly as the kernel has it, with all candidates of a
 * prefix in the kernel's order. Events go in one by one; `Painter` brings what they come to into the
 * FIB when the batch is committed. Only in the netlink tile's heap: a million routes are some 60 MiB of
 * typed arrays.
 */

import { isEqual, isSameRoute } from "./attributes.ts";
import type { NextHopWriter } from "./next_hop_writer.ts";
import { listWord, RibView } from "./rib_view.ts";
import {
  NLM_F_APPEND,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  type Route,
  type RouteAttributes,
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
} from "./route.ts";
import { Node, NODE_WORDS, ROOT } from "./trie.ts";
import type { Change, Watch } from "./watcher.ts";

/** Routes by prefix, table and the kernel's order. */
export class Rib extends RibView {
  /**
   * What `#seek` found in a list: the last candidate before those of equal key, the first and the last
   * of equal key, and the one among them that is the same route; 0: none.
   */
  #before = 0;
  #first = 0;
  #last = 0;
  #match = 0;
  readonly #watch: Watch;

  /** With `joined` nothing is painted before the first `endSync`. */
  constructor(nextHops: NextHopWriter, { watch, joined }: { watch: Watch; joined: boolean }) {
    super(nextHops, joined);
    this.#watch = watch;
  }

  /** Routes held. */
  get size(): number {
    return this.candidates.count;
  }

  /**
   * An RTM_NEWROUTE event. `nlmsgFlags` (NLM_F_*) says where among its equals it goes, as
   * `fib_table_insert` tells them: replace takes the first's place, append goes last, else first;
   * NLM_F_EXCL means that the kernel has no equal. RangeError for tables other than `local` and `main`.
   * Shows with `commit()`.
   */
  add(route: Readonly<Route>, nlmsgFlags: number): void {
    const node = this.#nodeOf(route);
    const list = node * NODE_WORDS + listWord(route.table);
    const attributes = this.attributes.intern(route);
    this.#seek(list, route);
    const place = this.#match !== 0 ? this.#match : this.#first;
    if ((nlmsgFlags & NLM_F_EXCL) !== 0 && this.#dropEquals(list, place)) this.touch(node);
    const replaces = (nlmsgFlags & (NLM_F_REPLACE | NLM_F_EXCL)) !== 0;
    if (place !== 0 && (replaces || place === this.#match)) {
      this.candidates.mark(place);
      if (this.#swap(list, place, attributes)) this.touch(node);
    } else {
      const append = (nlmsgFlags & NLM_F_APPEND) !== 0 && this.#last !== 0;
      this.#insert(list, append ? this.#last : this.#before, route, attributes);
      this.touch(node);
    }
  }

  /**
   * A route of a dump, after `beginSync()`; routes of one prefix come in the kernel's order. Events that
   * arrived meanwhile are to be applied after the dump.
   */
  addFromDump(route: Readonly<Route>): void {
    const node = this.#nodeOf(route);
    const list = node * NODE_WORDS + listWord(route.table);
    const attributes = this.attributes.intern(route);
    this.#seek(list, route);
    const before = this.#lastNamed();
    if (this.#match === 0) {
      this.#insert(list, before, route, attributes);
      this.touch(node);
    } else {
      this.candidates.mark(this.#match);
      const news = this.#swap(list, this.#match, attributes);
      if (this.#moveAfter(list, before) || news) this.touch(node);
    }
  }

  /**
   * Whether a route of a dump, after `beginSync()`, is here and in its place, which it then is confirmed
   * to be. Changes nothing that anyone sees.
   */
  confirm(route: Readonly<Route>): boolean {
    const node = this.trie.find(route.destination, route.prefixLength);
    if (node === 0) return false;
    this.#seek(node * NODE_WORDS + listWord(route.table), route);
    if (this.#match === 0) return false;
    const inPlace = !this.#isAhead(this.#lastNamed());
    this.candidates.mark(this.#match);
    return inPlace &&
      isEqual(this.attributes.get(this.candidates.attributes(this.#match)), route, 0);
  }

  /** An RTM_DELROUTE event. False: there was no such route, so something was missed. */
  remove(route: Readonly<Route>): boolean {
    const node = this.trie.find(route.destination, route.prefixLength);
    if (node === 0) return false;
    const list = node * NODE_WORDS + listWord(route.table);
    this.#seek(list, route);
    if (this.#match === 0) return false;
    this.#drop(list, this.#match);
    this.touch(node);
    return true;
  }

  /** Begins a mark and sweep; begins it anew when the last was given up. */
  beginSync(): void {
    this.candidates.beginSync();
  }

  /** Takes away what no `add` or `addFromDump` has named since `beginSync()`; how many. */
  endSync(): number {
    const count = this.candidates.allNamed ? 0 : this.#change((list, candidate) => {
      if (this.candidates.isNamed(candidate)) return false;
      this.#drop(list, candidate);
      return true;
    });
    this.whole = true;
    return count;
  }

  /**
   * Calls `change` once per distinct set of attributes; what it returns takes its place on every
   * route that has it; null removes those routes. Returns how many routes changed. Goes through the
   * whole RIB when any set changes.
   */
  rewrite(change: (attributes: Readonly<RouteAttributes>) => RouteAttributes | null): number {
    const changes = new Map<number, number>();
    for (const set of this.attributes.all()) {
      const wanted = change(set);
      if (wanted === null) changes.set(set.id, 0);
      else if (!isEqual(wanted, set, 0)) changes.set(set.id, this.attributes.intern(wanted));
    }
    const count = changes.size === 0 ? 0 : this.#rewriteRoutes(changes);
    for (const id of changes.values()) if (id !== 0) this.attributes.release(id);
    return count;
  }

  /** The node of a route's prefix, made when it is not there. */
  #nodeOf(route: Readonly<Route>): number {
    if (route.table !== RT_TABLE_LOCAL && route.table !== RT_TABLE_MAIN) {
      throw new RangeError(`routing table ${route.table} is not mirrored`);
    }
    return this.trie.insert(route.destination, route.prefixLength);
  }

  /** Finds a route's place in a list, see `#before` and its fellows. */
  #seek(list: number, route: Readonly<Route>): void {
    this.#before = this.#first = 0;
    this.#last = this.#match = 0;
    let candidate = this.trie.words[list];
    for (; candidate !== 0; candidate = this.candidates.next(candidate)) {
      const order = this.candidates.compare(candidate, route);
      if (order > 0) return;
      if (order < 0) {
        this.#before = candidate;
        continue;
      }
      if (this.#first === 0) this.#first = candidate;
      this.#last = candidate;
      const set = this.attributes.get(this.candidates.attributes(candidate));
      if (this.#match === 0 && isSameRoute(set, route)) this.#match = candidate;
    }
  }

  /** The last candidate of equal key that the running sync has named, else the one before them all. */
  #lastNamed(): number {
    let named = this.#before;
    let candidate = this.#first;
    while (candidate !== 0) {
      if (this.candidates.isNamed(candidate)) named = candidate;
      candidate = candidate === this.#last ? 0 : this.candidates.next(candidate);
    }
    return named;
  }

  /** Moves the match to behind `before` where it stands in front of it; whether it did. */
  #moveAfter(list: number, before: number): boolean {
    if (!this.#isAhead(before)) return false;
    const words = this.trie.words;
    words[list] = this.candidates.unlink(words[list], this.#match);
    words[list] = this.candidates.insertAfter(words[list], before, this.#match);
    this.#tell("changed", list, this.#match);
    return true;
  }

  /** Whether the match stands in front of `before`. */
  #isAhead(before: number): boolean {
    let candidate = this.#match;
    while (candidate !== 0 && candidate !== before) candidate = this.candidates.next(candidate);
    return candidate !== 0 && before !== this.#match;
  }

  #insert(list: number, before: number, route: Readonly<Route>, attributes: number): void {
    const candidate = this.candidates.allocate(route, attributes);
    const words = this.trie.words;
    words[list] = this.candidates.insertAfter(words[list], before, candidate);
    if (route.table === RT_TABLE_LOCAL) this.locals.add(list);
    this.#tell("added", list, candidate);
  }

  /** Gives a candidate a set of attributes, held by the caller; whether that changes it. */
  #swap(list: number, candidate: number, attributes: number): boolean {
    const old = this.candidates.attributes(candidate);
    this.candidates.setAttributes(candidate, attributes);
    this.attributes.release(old);
    if (old === attributes) return false;
    this.#tell("changed", list, candidate);
    return true;
  }

  #drop(list: number, candidate: number): void {
    this.#tell("removed", list, candidate);
    const words = this.trie.words;
    words[list] = this.candidates.unlink(words[list], candidate);
    if (words[list] === 0) this.locals.delete(list);
    this.attributes.release(this.candidates.attributes(candidate));
    this.candidates.release(candidate);
  }

  /** Drops all of equal key but `kept`; whether there were any. */
  #dropEquals(list: number, kept: number): boolean {
    const before = this.size;
    const last = this.#last;
    let candidate = this.#first;
    while (candidate !== 0) {
      const next = candidate === last ? 0 : this.candidates.next(candidate);
      if (candidate !== kept) this.#drop(list, candidate);
      candidate = next;
    }
    this.#last = kept;
    return this.size !== before;
  }

  /** Offers each candidate and its list to `change`, which says whether it did. How many it did. */
  #change(change: (list: number, candidate: number) => boolean): number {
    let count = 0;
    for (let node = ROOT; node !== 0; node = this.trie.next(node)) {
      for (let word: number = Node.local; word <= Node.main; word++) {
        const list = node * NODE_WORDS + word;
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

  /** Gives routes other attributes (0: removes them), by what they have. */
  #rewriteRoutes(changes: ReadonlyMap<number, number>): number {
    return this.#change((list, candidate) => {
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
  }

  #tell(change: Change, list: number, candidate: number): void {
    const { watcher } = this.#watch;
    if (watcher !== null) watcher.route(change, this.route(list, candidate));
  }
}
