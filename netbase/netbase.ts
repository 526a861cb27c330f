/**
 * Netbase: the mirror of the kernel's IPv4 network state in shared memory. The netlink tile holds the
 * one writer, all others read. No I/O here.
 *
 * @module
 */

import type { View } from "../ffi/view.ts";
import type { FibReader } from "./fib.ts";
import type { InterfaceReader, InterfaceWriter } from "./interfaces.ts";
import type { NeighborReader, NeighborWriter } from "./neighbors.ts";
import type { NextHopReader } from "./next_hops.ts";
import type { Reader } from "./rcu.ts";
import type { Rib } from "./rib.ts";

/** What a writer is given. */
export interface WriterOptions {
  /** Everyone who reads the region; a record is reused when each has moved on. */
  readonly readers: readonly Reader[];
  /** Neighbours to make room for at start; grows when needed. */
  readonly neighborSlots?: number;
  /** Seed of the hash tables, random. */
  readonly seed: number;
}

/**
 * The one writer. On a region that a predecessor has left it builds anew while readers go on with
 * what is there, and publishes each part when that part's first `endSync()` comes.
 */
export declare class NetbaseWriter {
  constructor(view: View, options: WriterOptions);
  readonly interfaces: InterfaceWriter;
  readonly rib: Rib;
  readonly neighbors: NeighborWriter;
  readonly generation: number;
  /**
   * Ends a batch: paints the routes that changed, moves `generation` when a packet can see a
   * difference, and reuses what all readers have let go of. True when generation moved.
   */
  commit(): boolean;
  /** Publishes one of `Sync` (layout.ts) and when it was entered. */
  setSync(state: number, nowMillis: number): void;
}

/** A reader's side, one per tile. */
export declare class NetbaseReader {
  constructor(view: View);
  /** To be called once per burst, after the tile's quiescent state and before any lookup. */
  refresh(): void;
  /** As of `refresh()`. */
  readonly generation: number;
  readonly fib: FibReader;
  readonly nextHops: NextHopReader;
  readonly interfaces: InterfaceReader;
  readonly neighbors: NeighborReader;
  /** One of `Sync`, and since when, milliseconds since the epoch. */
  readonly syncState: number;
  readonly syncTimeMillis: number;
}
