/**
 * The writer's side of netbase (`netbase.ts`), apart from the readers' so that only the netlink tile
 * loads it: it is three times theirs.
 */

import { u32, type View } from "../ffi/view.ts";
import { FibWriter } from "./fib_writer.ts";
import { keyOf, Use } from "./hash.ts";
import { InterfaceWriter } from "./interface_writer.ts";
import { Header, LAYOUT_VERSION, NETBASE_MAGIC } from "./layout.ts";
import { NeighborWriter } from "./neighbor_writer.ts";
import { checkRegion } from "./netbase.ts";
import { NextHopWriter } from "./next_hop_writer.ts";
import { Painter } from "./painter.ts";
import { fence, Grace, Limbo, type Reader } from "./rcu.ts";
import { Rib } from "./rib.ts";
import type { Watch } from "./watcher.ts";

/** What a writer is given. */
export interface WriterOptions {
  /** Everyone who reads the region; what is let go of is reused when each has moved on. */
  readonly readers: readonly Reader[];
  /** Slots of the neighbour table at start, four per neighbour expected; grows when needed. */
  readonly neighborSlots?: number;
  /** Seed of the hash tables, random (`hash.ts`). */
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
 * neighbours, and paints routes from its first whole copy of them on, when the RIB's `endSync()` comes.
 */
export class NetbaseWriter {
  readonly rib: Rib;
  readonly interfaces: InterfaceWriter;
  readonly neighbors: NeighborWriter;
  /** Who hears of every change. */
  readonly watch: Watch = { watcher: null };
  readonly #header: Uint32Array;
  readonly #limbo: Limbo;
  readonly #fib: FibWriter;
  readonly #painter: Painter;
  /** Counts of all changes that a packet can see, at the last commit. */
  #changes = 0;

  /**
   * Sets up a fresh region, or joins the one that a predecessor left, once every reader has moved on
   * since. RangeError: not a netbase. Error: a reader does not move on.
   */
  constructor(view: View, options: WriterOptions) {
    checkRegion(view);
    this.#header = u32(view);
    const joined = this.#header[Header.magic] === NETBASE_MAGIC;
    if (joined) waitForReaders(options);
    const limbo = new Limbo(options.readers);
    const nextHops = new NextHopWriter(view, limbo, joined);
    const { seed, neighborSlots: slots = NEIGHBOR_SLOTS } = options;
    this.#limbo = limbo;
    this.#fib = new FibWriter(view, limbo, joined);
    const { watch } = this;
    this.rib = new Rib(nextHops, { watch, joined });
    this.#painter = new Painter({
      ...{ rib: this.rib, nextHops, fib: this.#fib, readers: options.readers },
      fence: () => fence(this.#header, Header.fence),
    });
    setHash(this.#header, seed);
    const [ofInterfaces, ofNeighbors] = [Use.interfaces, Use.neighbors].map((use) =>
      keyOf(seed, use).add
    );
    this.interfaces = new InterfaceWriter(view, { limbo, seed: ofInterfaces, watch });
    this.neighbors = new NeighborWriter(view, { limbo, slots, seed: ofNeighbors, watch });
    this.#header[Header.version] = LAYOUT_VERSION;
    Atomics.store(this.#header, Header.magic, NETBASE_MAGIC);
  }

  get generation(): number {
    return this.#header[Header.generation];
  }

  /** How many things let go of still wait for a reader to move on. */
  get waiting(): number {
    return this.#limbo.size;
  }

  /**
   * Whether the last `commit()` had to leave something for a reader that was not through its burst (a
   * default route that moves together with others, room for what does not fit), or for want of time:
   * commit again soon, there need be no new changes.
   */
  get pending(): boolean {
    return this.#painter.pending || (this.overflow > 0 && this.waiting > 0);
  }

  /** Prefixes and /24s that do not fit just now; they are dropped, never sent wrong. */
  get overflow(): number {
    return this.#painter.overflow;
  }

  /**
   * Ends a batch: paints the routes that changed, moves `generation` when a packet can see a
   * difference, and reuses what all readers have let go of. True when generation moved.
   */
  commit(): boolean {
    this.#painter.commit();
    const changes = this.interfaces.changes + this.neighbors.changes + this.#fib.stores;
    const changed = changes !== this.#changes;
    this.#changes = changes;
    if (changed) Atomics.store(this.#header, Header.generation, this.generation + 1);
    fence(this.#header, Header.fence);
    this.#limbo.reclaim();
    return changed;
  }

  /** Publishes one of `Sync` (layout.ts) and when it was entered. */
  setSync(state: number, nowMillis: number): void {
    this.#header[Header.syncTimeLow] = nowMillis % 2 ** 32;
    this.#header[Header.syncTimeHigh] = Math.floor(nowMillis / 2 ** 32);
    Atomics.store(this.#header, Header.syncState, state);
  }
}

/** Writes the multipliers of the record tables' hash: once, before there is a table, the first last. */
function setHash(header: Uint32Array, seed: number): void {
  if (header[Header.hash] !== 0) return;
  const { first, second } = keyOf(seed, Use.netbase);
  header[Header.hash + 1] = second;
  Atomics.store(header, Header.hash, first);
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
