/**
 * Netbase: the mirror of the kernel's IPv4 network state in shared memory. The netlink tile has the
 * one writer, all others read. No I/O here.
 *
 *     kernel events → NetbaseWriter ─ interfaces, neighbours: hash tables, published at once
 *                                   └ RIB → FIB builder → FIB cells and next hops, with commit()
 *     packets       → NetbaseReader ─ FIB → next hops → interfaces, neighbours  (route_decision.ts)
 *
 * Why readers are right without locks is argued in `rcu.ts` for all, in `hash_table.ts` for tables, in
 * `fib.ts` for routes.
 */

import { u32, type View } from "../ffi/view.ts";
import { FibReader, NextHopReader } from "./fib.ts";
import { InterfaceReader } from "./interfaces.ts";
import { Header, LAYOUT_VERSION, NETBASE_BYTES, NETBASE_MAGIC } from "./layout.ts";
import { NeighborReader } from "./neighbors.ts";

/** A reader's side, one per tile. */
export class NetbaseReader {
  readonly fib: FibReader;
  readonly nextHops: NextHopReader;
  readonly interfaces: InterfaceReader;
  readonly neighbors: NeighborReader;
  readonly #header: Uint32Array;
  #generation = 0;

  /** Joins at `view`, which may be set up later: until then nothing is found. RangeError: too small. */
  constructor(view: View) {
    checkRegion(view);
    this.#header = u32(view);
    this.fib = new FibReader(view);
    this.nextHops = new NextHopReader(view);
    this.interfaces = new InterfaceReader(view);
    this.neighbors = new NeighborReader(view);
    this.refresh();
  }

  /**
   * To be called once per burst, after the tile's quiescent state and before any lookup. The
   * sequentially consistent load keeps the burst's plain loads behind the tile's announcement
   * (`rcu.ts`).
   */
  refresh(): void {
    this.#generation = Atomics.load(this.#header, Header.generation);
  }

  /**
   * As of `refresh()`. What was derived from netbase is valid for as long as this stays the same (and
   * records, ids and the like only until the next quiescent state).
   */
  get generation(): number {
    return this.#generation;
  }

  /** One of `Sync` (layout.ts). */
  get syncState(): number {
    return Atomics.load(this.#header, Header.syncState);
  }

  /** Since when, milliseconds since the epoch. */
  get syncTimeMillis(): number {
    return this.#header[Header.syncTimeHigh] * 2 ** 32 + this.#header[Header.syncTimeLow];
  }
}

/** Throws RangeError unless `view` is, or may become, a netbase of this version. */
export function checkRegion(view: View): void {
  if (view.byteLength < NETBASE_BYTES) {
    throw new RangeError(`a netbase takes ${NETBASE_BYTES} bytes, not ${view.byteLength}`);
  }
  const [magic, version] = [u32(view)[Header.magic], u32(view)[Header.version]];
  if (magic !== 0 && (magic !== NETBASE_MAGIC || version !== LAYOUT_VERSION)) {
    throw new RangeError("the region holds no netbase of this version");
  }
}
