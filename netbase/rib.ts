/** Signatures first; the implementation follows. @module */

import type { Route, RouteAttributes } from "./route.ts";

/**
 * How the kernel asks its tables. A namespace in which no rule was ever added or deleted has `local`
 * and `main` in one trie: the longest prefix of both wins, `local` first among equals, and a `throw`
 * ends the search (measured on 6.18; fib_trie.c, `fib_trie_unmerge`). Once a rule has been touched
 * they are apart for good: `local` is asked first as a whole, and its `throw` falls through to `main`.
 */
export type LookupOrder = "merged" | "separate";

/** Every route of `local` and `main` exactly as the kernel has it. */
export declare class Rib {
  /**
   * An RTM_NEWROUTE event. `nlmsgFlags` (NLM_F_*) says where among its equals it goes. Other tables
   * are not accepted (RangeError). Shows with `commit()`.
   */
  add(route: Readonly<Route>, nlmsgFlags: number): void;
  /** A route of a dump, after `beginSync()`; routes of one prefix come in the kernel's order. */
  addFromDump(route: Readonly<Route>): void;
  /** An RTM_DELROUTE event. False: there was no such route, so something was missed. */
  remove(route: Readonly<Route>): boolean;
  /** Begins a mark and sweep; begins it anew when the last was given up. */
  beginSync(): void;
  /** Takes away what no `add` or `addFromDump` has named since `beginSync()`; how many. */
  endSync(): number;
  /**
   * Calls `change` once per distinct set of attributes; what it returns takes its place on every
   * route that has it; null removes those routes. How many routes changed.
   */
  rewrite(change: (attributes: Readonly<RouteAttributes>) => RouteAttributes | null): number;
  lookupOrder: LookupOrder;
  /** An address for which the two lookup orders differ, or -1: what to ask the kernel about. */
  ambiguousAddress(): number;
  /** All routes, by prefix, in the kernel's order within one. Allocates. */
  routes(): IterableIterator<Route>;
  /** The route that an address takes, null for none. Allocates. */
  bestFor(address: number): Route | null;
  /** Routes held. */
  readonly size: number;
  /** Prefixes that do not fit netbase just now. */
  readonly overflow: number;
}
