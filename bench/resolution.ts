/**
 * From an address to a finished header, in bursts, by what the net tile does it with: the header cache,
 * the resolver for what is not in it, and the headers' words written into frames.
 */

import { heapView } from "../ffi/view.ts";
import { Devices } from "../tiles/net/route_cache.ts";
import { ROUTE_CACHE_BYTES, RouteCache } from "../tiles/net/route_cache.ts";
import { writeHeaders } from "../tiles/net/tx.ts";
import { Resolver } from "../tiles/net/route_cache.ts";
import * as burst from "../tiles/net/tx.ts";
import { Solicits } from "../tiles/net/arp_queue.ts";
import { TILE_COUNTERS } from "../tiles/runtime/tile_region.ts";
import { SOLICIT_LINK_BYTES, SolicitProducer } from "../tiles/runtime/solicit_link.ts";
import { IFINDEX, type Lan, OUR_ADDRESS } from "./lan.ts";

// Own constants, see tiles/net/frame.ts.
const { BURST, makeRows, Row, ROW_SHIFT } = burst;

const FRAME_BYTES = 2048;
const PAYLOAD_BYTES = 18;
/** Source port 7, destination port 40,000. */
const PORTS = (7 << 16) | 40_000;

/** What a net tile has for it. */
export class Resolution {
  readonly #lan: Lan;
  readonly #cache = new RouteCache(heapView(ROUTE_CACHE_BYTES), 1);
  readonly #resolver: Resolver;
  readonly #rows = makeRows();
  readonly #frames = new Int32Array(BURST * FRAME_BYTES / 4);
  #generation = -1;

  constructor(lan: Lan) {
    this.#lan = lan;
    const { reader } = lan;
    const counters = new Float64Array(TILE_COUNTERS);
    this.#resolver = new Resolver({
      ...{ reader, devices: new Devices(reader, [{ ifindex: IFINDEX }]), cache: this.#cache },
      solicits: new Solicits(new SolicitProducer(heapView(SOLICIT_LINK_BYTES)), {
        counters,
        seed: 1,
      }),
      frameBytes: FRAME_BYTES,
    });
    for (let row = 0; row < BURST; row++) {
      this.#rows[(row << ROW_SHIFT) + Row.frame] = row * FRAME_BYTES;
      this.#rows[(row << ROW_SHIFT) + Row.length] = PAYLOAD_BYTES;
      this.#rows[(row << ROW_SHIFT) + Row.ports] = PORTS;
      this.#rows[(row << ROW_SHIFT) + Row.source] = OUR_ADDRESS | 0;
    }
  }

  /** Finishes headers to `count` addresses from the `from`-th on. Returns a word of the last. */
  burst(addresses: Int32Array, from: number, count: number): number {
    this.#lan.turn();
    const { generation } = this.#lan.reader;
    if (generation !== this.#generation) this.#cache.clear();
    this.#generation = generation;
    if (this.#find(addresses, from, count) > 0) this.#resolve(count);
    writeHeaders(this.#frames, this.#cache.words, this.#rows, count);
    return this.#frames[0];
  }

  /** Looks all up in the cache, and returns how many are not there. */
  #find(addresses: Int32Array, from: number, count: number): number {
    const rows = this.#rows;
    const cache = this.#cache;
    let missing = 0;
    for (let i = 0; i < count; i++) {
      const row = (i & (BURST - 1)) << ROW_SHIFT;
      const destination = addresses[from + i];
      const entry = cache.find(destination, rows[row + Row.source], 0);
      rows[row + Row.destination] = destination;
      rows[row + Row.entry] = entry;
      missing += entry >>> 31;
    }
    return missing;
  }

  #resolve(count: number): void {
    const rows = this.#rows;
    for (let i = 0; i < count; i++) {
      const row = i << ROW_SHIFT;
      if (rows[row + Row.entry] >= 0) continue;
      const destination = rows[row + Row.destination];
      const entry = this.#resolver.resolve(destination, rows[row + Row.source], PORTS);
      if (entry < 0) throw new Error("a neighbour of the benchmark was not found");
      rows[row + Row.entry] = entry;
    }
  }
}
