/**
 * The writer's side of netbase (`netbase.ts`). Apart from the readers', so that only the netlink tile loads
 * it: with all that it needs it takes some 260 KiB of a tile's heap.
 */

import { u32, type View } from "../ffi/region.ts";
import { FibBuilder, NextHopWriter } from "./fib.ts";
import { keyOf, Use } from "./hash_table.ts";
import { type InterfaceEntry, InterfaceWriter } from "./interfaces.ts";
import { Header, LAYOUT_VERSION, NETBASE_MAGIC } from "./layout.ts";
import { type NeighborEntry, NeighborWriter } from "./neighbors.ts";
import { checkRegion } from "./netbase.ts";
import { DeferredFree, fence, Grace, type Reader } from "./rcu.ts";
import { Rib } from "./rib.ts";
import type { Route } from "./route.ts";

/** What was done to an entry; "aged": only a neighbour's state has changed. */
export type Change = "added" | "changed" | "removed" | "aged";

/** Is notified of changes before they are committed. Entries are as they are now, or were last. */
export interface ChangeListener {
  /** The interface or its addresses. */
  interface(change: Change, entry: InterfaceEntry): void;
  route(change: Change, route: Route): void;
  /** `neighbor` is valid only during the call. */
  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void;
}

/** The one listener; null: none, which costs nothing. The writers of a netbase share it. */
export interface ListenerSlot {
  current: ChangeListener | null;
}

/** What a writer is given. */
interface WriterOptions {
  /** All readers of the region; memory is reused a grace period after it was let go of. */
  readonly readers: readonly Reader[];
  /** Slots of the neighbour table at start, four per neighbour expected; grows when needed. */
  readonly neighborSlots?: number;
  /** Seed of the hash tables, random (`randomSeed`). */
  readonly seed: number;
  /**
   * Lets about a millisecond pass, for a writer that takes over and waits for the readers: one in the
   * middle of a burst may hold what its predecessor had just let go of.
   */
  readonly wait?: () => void;
}

/** Unless the options say otherwise: room for the kernel's usual gc_thresh3. */
const NEIGHBOR_SLOTS = 4096;
/** The longest that a reader may be in one burst before a successor gives up joining. */
const MOST_WAITS = 1000;

/**
 * The one writer. On a region that a predecessor has left it goes on with the tables of interfaces and
 * neighbours, and leaves the FIB as it is until its first complete copy of the routes, that is until the
 * RIB's `endSync()`.
 */
export class NetbaseWriter {
  readonly rib: Rib;
  readonly interfaces: InterfaceWriter;
  readonly neighbors: NeighborWriter;
  /** Where to set a listener. */
  readonly listeners: ListenerSlot = { current: null };
  readonly #header: Uint32Array;
  readonly #deferred: DeferredFree;
  readonly #fib: FibBuilder;
  /** Counts of all changes that a packet can see, at the last commit. */
  #changes = 0;

  /**
   * Sets up a fresh region, or joins the one that a predecessor left, once every reader has passed a
   * quiescent state. RangeError: not a netbase. Error: a reader does not pass one.
   */
  constructor(view: View, options: WriterOptions) {
    checkRegion(view);
    this.#header = u32(view);
    const joined = this.#header[Header.magic] === NETBASE_MAGIC;
    if (joined) waitForReaders(options);
    const { readers, seed, neighborSlots: slots = NEIGHBOR_SLOTS } = options;
    const { listeners } = this;
    const deferred = this.#deferred = new DeferredFree(readers);
    const nextHops = new NextHopWriter(view, deferred, joined);
    this.rib = new Rib(nextHops, { listeners, joined });
    this.#fib = new FibBuilder(view, { rib: this.rib, nextHops, deferred, readers });
    // The multipliers of the tables' hash are written once, before there is a table, the first last.
    if (this.#header[Header.hash] === 0) {
      const { first, second } = keyOf(seed, Use.netbase);
      this.#header[Header.hash + 1] = second;
      Atomics.store(this.#header, Header.hash, first);
    }
    const common = { deferred, listeners };
    const seedOf = (use: number) => keyOf(seed, use).add;
    this.interfaces = new InterfaceWriter(view, { ...common, seed: seedOf(Use.interfaces) });
    this.neighbors = new NeighborWriter(view, { ...common, slots, seed: seedOf(Use.neighbors) });
    this.#header[Header.version] = LAYOUT_VERSION;
    Atomics.store(this.#header, Header.magic, NETBASE_MAGIC);
  }

  get generation(): number {
    return this.#header[Header.generation];
  }

  /** Number of items that wait for the end of a grace period. */
  get waiting(): number {
    return this.#deferred.size;
  }

  /**
   * Whether the last `commit()` had to leave something, for a reader that had not ended its burst (a
   * default route that moves together with others, room for what does not fit) or for want of time:
   * commit again soon, even without new changes.
   */
  get pending(): boolean {
    return this.#fib.pending || (this.overflow > 0 && this.waiting > 0);
  }

  /** Prefixes and /24s that do not fit just now; their packets are dropped, never sent wrong. */
  get overflow(): number {
    return this.#fib.overflow;
  }

  /** Records in use of the tables that the FIB is made of. */
  get used(): { readonly nextHops: number; readonly tbl8s: number } {
    return this.#fib.used;
  }

  /**
   * Ends a batch: brings the routes that changed into the FIB, moves `generation` when a packet can see
   * a difference, and reuses what no reader holds any more. True when generation moved.
   */
  commit(): boolean {
    this.#fib.commit();
    const changes = this.interfaces.changes + this.neighbors.changes + this.#fib.stores;
    const changed = changes !== this.#changes;
    this.#changes = changes;
    if (changed) Atomics.store(this.#header, Header.generation, this.generation + 1);
    fence(this.#header, Header.fence);
    this.#deferred.reclaim();
    return changed;
  }

  /** Publishes one of `Sync` (layout.ts) and when it was entered. */
  setSync(state: number, nowMillis: number): void {
    this.#header[Header.syncTimeLow] = nowMillis % 2 ** 32;
    this.#header[Header.syncTimeHigh] = Math.floor(nowMillis / 2 ** 32);
    Atomics.store(this.#header, Header.syncState, state);
  }
}

function waitForReaders({ readers, wait }: WriterOptions): void {
  const grace = new Grace(readers);
  for (let waited = 0; !grace.over; waited++) {
    if (waited === MOST_WAITS || wait === undefined) {
      throw new Error("netbase's new writer must wait until readers have let go of the old one's");
    }
    wait();
  }
}
