// SPDX-License-Identifier: Apache-2.0
/**
 * From an address to a finished header, in bursts, as in the net tile: the route cache, the resolver
 * for misses, and the headers' words written into frames.
 */

import { heapView } from "../ffi/region.ts";
import { SOLICIT_LINK_BYTES, SolicitProducer, Solicits } from "../tiles/net/arp_queue.ts";
import * as frame from "../tiles/net/rings.ts";
import { Devices, Resolver, ROUTE_CACHE_BYTES, RouteCache } from "../tiles/net/route_cache.ts";
import { headers } from "../tiles/net/tx.ts";
import { TILE_COUNTERS } from "../tiles/runtime/tile.ts";
import { IFINDEX, type Lan, OUR_ADDRESS } from "./lan.ts";

// Own constants, see tiles/net/rings.ts.
const { BATCH, Packet, PACKET_SHIFT } = frame;
const { writeHeaders } = headers;

const FRAME_BYTES = 2048;
const PAYLOAD_BYTES = 18;
/** The peer's port is 40,000, ours 7. */
const PORTS = (40_000 << 16) | 7;

/** The net tile's part of it. */
export class Resolution {
  readonly #lan: Lan;
  readonly #cache = new RouteCache(heapView(ROUTE_CACHE_BYTES), 1);
  readonly #resolver: Resolver;
  readonly #packets = frame.makePackets();
  readonly #frames = new Int32Array(BATCH * FRAME_BYTES / 4);
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
    });
    for (let row = 0; row < BATCH; row++) {
      this.#packets[(row << PACKET_SHIFT) + Packet.frame] = row * FRAME_BYTES;
      this.#packets[(row << PACKET_SHIFT) + Packet.length] = PAYLOAD_BYTES;
      this.#packets[(row << PACKET_SHIFT) + Packet.ports] = PORTS;
      this.#packets[(row << PACKET_SHIFT) + Packet.local] = OUR_ADDRESS | 0;
    }
  }

  /** Writes headers to `count` addresses from the `from`-th on. Returns a word of the last. */
  burst(addresses: Int32Array, from: number, count: number): number {
    this.#lan.turn();
    const { generation } = this.#lan.reader;
    if (generation !== this.#generation) this.#cache.clear();
    this.#generation = generation;
    if (this.#find(addresses, from, count) > 0) this.#resolve(count);
    for (let i = 0; i < count; i++) {
      writeHeaders(this.#frames, this.#cache.words, this.#packets, i << PACKET_SHIFT);
    }
    return this.#frames[0];
  }

  /** Looks up all addresses in the cache, and returns the number of misses. */
  #find(addresses: Int32Array, from: number, count: number): number {
    const packets = this.#packets;
    const cache = this.#cache;
    let missing = 0;
    for (let i = 0; i < count; i++) {
      const p = (i & (BATCH - 1)) << PACKET_SHIFT;
      const destination = addresses[from + i];
      const entry = cache.find(destination, packets[p + Packet.local], 0);
      packets[p + Packet.peer] = destination;
      packets[p + Packet.route] = entry;
      missing += entry >>> 31;
    }
    return missing;
  }

  #resolve(count: number): void {
    const packets = this.#packets;
    for (let i = 0; i < count; i++) {
      const p = i << PACKET_SHIFT;
      if (packets[p + Packet.route] >= 0) continue;
      const destination = packets[p + Packet.peer];
      const entry = this.#resolver.resolve(destination, packets[p + Packet.local], PORTS).route;
      if (entry < 0) throw new Error("a neighbour of the benchmark was not found");
      packets[p + Packet.route] = entry;
    }
  }
}
