/**
 * Who wants to hear of every change of the mirror as it is made: `tegula monitor`. While nobody does it
 * costs nothing.
 */

import type { InterfaceEntry } from "./interfaces.ts";
import type { NeighborEntry } from "./neighbors.ts";
import type { Route } from "./route.ts";

/** What was done to a thing; "aged": a neighbour's state alone has changed. */
export type Change = "added" | "changed" | "removed" | "aged";

/** Is told of changes before they are committed. What it is given is as it is now, or was last. */
export interface Watcher {
  /** The interface or its addresses. */
  interface(change: Change, entry: InterfaceEntry): void;
  route(change: Change, route: Route): void;
  /** `neighbor` is good only during the call. */
  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void;
}

/** The one who watches; null: nobody. The writers of a netbase share it. */
export interface Watch {
  watcher: Watcher | null;
}
