// SPDX-License-Identifier: Apache-2.0
/**
 * Every table whose keys strangers choose: by the source of datagrams, by addresses that need a neighbour, by names in
 * payloads. Add each new table here. A test shows that each is keyed and bounded
 * (`tests/unit/netbase/stranger_tables_test.ts`), and `collide.ts` measures the cost of a use.
 *
 * Strangers add nothing to other tables: interfaces, routes, next hops and the XDP program's filter have the kernel's
 * configuration. Ports index an array (`rx.ts`), and the flow hash selects one of several next hops and stores nothing.
 */

import { Memory } from "../apps/dns/answer.ts";
import { RateLimit, Verdict } from "../apps/dns/dns.ts";
import { Names as Domains } from "../apps/dns/names.ts";
import { parseZoneFile, Zone } from "../apps/dns/zone.ts";
import { Names as Series } from "../apps/statsd.ts";
import { heapView } from "../ffi/region.ts";
import { hash, type HashKey, keyOf, Use } from "../netbase/hash.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NeighborReader, NUD_REACHABLE } from "../netbase/neighbors.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { Address } from "../tiles/app/address.ts";
import type { AppContext } from "../tiles/app/contract.ts";
import { RecentAnswers } from "../tiles/app/host.ts";
import { METRICS_BYTES, MetricsWriter } from "../tiles/app/regions.ts";
import { RECENT_PEERS_BYTES, RecentPeers } from "../tiles/net/app_link.ts";
import {
  ARP_QUEUE_LIMITS,
  ArpQueue,
  Rank,
  SOLICIT_LINK_BYTES,
  SolicitProducer,
  Solicits,
} from "../tiles/net/arp_queue.ts";
import { PACKET_WORDS } from "../tiles/net/rings.ts";
import { ROUTE_CACHE_BYTES, RouteCache } from "../tiles/net/route_cache.ts";
import { DemandCounter, NeighborMap, scramble } from "../tiles/netlink/neighbor_resolver.ts";
import { TILE_COUNTERS } from "../tiles/runtime/tile.ts";

/** A table in use. */
export interface OpenTable {
  /** Does what one datagram with this key triggers. The key is a 32-bit word, or a name made of one. */
  use(key: number): void;
  /** Whether the key is in it, or is counted as one in it. */
  has(key: number): boolean;
}

export interface StrangerTable {
  readonly name: string;
  /** The largest number of keys. */
  readonly most: number;
  /** The largest number of words read by one use, if it is made of typed arrays. */
  readonly mostReads: number;
  make(seed: number): OpenTable;
  /** The first slot of a key in a table with this seed; absent if it cannot be found by trial. */
  readonly place?: (seed: number) => (key: number) => number;
  /** The same for an attacker who knows everything but the seed. */
  readonly known: (key: number) => number;
}

const IFINDEX = 3;
const OUR_ADDRESS = 0xc6120001 | 0;
const SIZE_LOG2 = 16;
/** Small enough to find keys that collide in both rows. */
const SKETCH_LOG2 = 8;
const [PLACES, NAME_PLACES] = [0xffff, 0xfff];
const ZONE_NAMES = 5_000;

/** Murmur3's finaliser, as an example of a known mixer. */
function mixed(key: number): number {
  key = Math.imul(key ^ (key >>> 16), 0x85ebca6b);
  key = Math.imul(key ^ (key >>> 13), 0xc2b2ae35);
  return key ^ (key >>> 16);
}

function hashOf(a: number, { add, first, second }: HashKey): (key: number) => number {
  return (key) => hash(a, key, add, first, second);
}

/** The hash by which V8 finds a number in a `Map` (Thomas Wang's). */
export function hashOfMap(key: number): number {
  let word = ~key + (key << 15);
  word ^= word >>> 12;
  word = (word + (word << 2)) | 0;
  word = Math.imul(word ^ (word >>> 4), 2057);
  return word ^ (word >>> 16);
}

const encoder = new TextEncoder();

/** Writes a name made of a key into `bytes` at `at`. Returns its end. */
function writeName(key: number, bytes: Uint8Array, at: number): number {
  for (let rest = key; rest !== 0; rest >>>= 5) bytes[at++] = 0x5b + (rest & 31);
  return at;
}

const knownName = new Uint8Array(8);

/** FNV's hash of a name, which many tables of names use. */
function knownOfName(key: number): number {
  const end = writeName(key, knownName, 0);
  let hash = 0;
  for (let i = 0; i < end; i++) hash = Math.imul(hash ^ knownName[i], 0x01000193);
  return hash & NAME_PLACES;
}

function makeSolicits(seed: number): Solicits {
  const link = new SolicitProducer(heapView(SOLICIT_LINK_BYTES));
  const solicits = new Solicits(link, { counters: new Float64Array(TILE_COUNTERS), seed });
  solicits.clock(1_000);
  return solicits;
}

/** A key of the tables of apps. */
function threeWords(seed: number): Uint32Array<ArrayBuffer> {
  const { add, first, second } = keyOf(seed, 0);
  return Uint32Array.of(add, first, second);
}

function twoWords(seed: number): Uint32Array<ArrayBuffer> {
  const { add, first } = keyOf(seed, 0);
  return Uint32Array.of(add, first);
}

/** All of them. */
export const STRANGER_TABLES: readonly StrangerTable[] = [
  {
    name: "addresses that an app heard from",
    most: 65_536,
    mostReads: 3 * (64 + 4),
    make(seed) {
      const heard = new RecentPeers(heapView(RECENT_PEERS_BYTES), seed);
      return {
        use: (key) => void (heard.has(key) || heard.add(key)),
        has: (key) => heard.has(key),
      };
    },
    place(seed) {
      const at = hashOf(0, keyOf(seed, Use.recentPeers));
      return (key) => at(key) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "route cache",
    most: 65_536,
    mostReads: 48,
    make(seed) {
      const cache = new RouteCache(heapView(ROUTE_CACHE_BYTES), seed);
      return {
        use(key) {
          if (cache.find(key, OUR_ADDRESS, 0) < 0) cache.insert(key, OUR_ADDRESS, 0);
        },
        has: (key) => cache.find(key, OUR_ADDRESS, 0) >= 0,
      };
    },
    place(seed) {
      const at = hashOf(OUR_ADDRESS, keyOf(seed, Use.routeCache));
      return (key) => at(key) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "neighbours that are waited for",
    most: ARP_QUEUE_LIMITS.total,
    // A table that is full of neighbours of one bucket, and the cost of displacing one of them.
    mostReads: 4 * ARP_QUEUE_LIMITS.total,
    make(seed) {
      let random = seed | 0;
      const queue = new ArpQueue(ARP_QUEUE_LIMITS, {
        ...{ drop() {}, seed, solicits: { ask() {} } },
        random: () => (random = mixed(random + 1)) / 2 ** 32 + 0.5,
      });
      const packet = new Int32Array(PACKET_WORDS);
      const add = (neighbor: number) =>
        queue.add({ ifindex: IFINDEX, neighbor, rank: Rank.stranger }, packet, 1);
      return {
        use: (key) => void add(key),
        has: (key) => queue.find(IFINDEX, key) >= 0,
      };
    },
    place(seed) {
      const at = hashOf(IFINDEX, keyOf(seed, Use.arpQueue));
      return (key) => at(key) & (ARP_QUEUE_LIMITS.total - 1);
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "neighbours that were asked for",
    // Bits of two windows: the more keys are in it, the more false positives.
    most: Infinity,
    mostReads: 16,
    make(seed) {
      const solicits = makeSolicits(seed);
      return {
        use(key) {
          solicits.askedBefore(IFINDEX, key);
          solicits.ask(IFINDEX, key);
        },
        has: (key) => solicits.askedBefore(IFINDEX, key),
      };
    },
    place(seed) {
      const at = hashOf(IFINDEX, keyOf(seed, Use.solicits));
      return (key) => at(key) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "neighbours in netbase",
    most: 1 << 17,
    // If a key finds no slot the table is rebuilt with another seed.
    mostReads: 200_000,
    make(seed) {
      const view = heapView(NETBASE_BYTES);
      // At full size from the beginning, so that growth is not measured.
      const writer = new NetbaseWriter(view, { readers: [], seed, neighborSlots: 1 << SIZE_LOG2 });
      const reader = new NeighborReader(view);
      const entry = { state: NUD_REACHABLE, flags: 0, macHead: 2, macTail: 0 };
      return {
        use(key) {
          if (reader.lookup(IFINDEX, key >>> 0) >= 0) return;
          writer.neighbors.set({ ...entry, ifindex: IFINDEX, address: key >>> 0 });
        },
        has: (key) => reader.lookup(IFINDEX, key >>> 0) >= 0,
      };
    },
    place(seed) {
      const { first, second } = keyOf(seed, Use.netbase);
      const add = keyOf(seed, Use.neighbors).add & 0x1ffffff;
      const at = hashOf(IFINDEX, { add, first, second });
      return (key) => at(key) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "how often neighbours are asked for",
    most: Infinity,
    mostReads: 2,
    make(seed) {
      const asks = new DemandCounter({ sizeLog2: SKETCH_LOG2, seed });
      return {
        use: (key) => void asks.count(IFINDEX, key >>> 0),
        has: (key) => asks.count(IFINDEX, key >>> 0) > 1,
      };
    },
    place(seed) {
      const at = hashOf(IFINDEX, keyOf(seed, Use.demand));
      // One cell in each row.
      return (key) => at(key) >>> 24 << 8 | Math.imul(at(key), 0x27d4eb2f) >>> 24;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "maps by neighbour",
    // Its users bound it: the resolver's queue, and the neighbours in netbase. V8 walks a whole chain, so only
    // the seed keeps chains short.
    most: Infinity,
    mostReads: Infinity,
    make(seed) {
      const map = new NeighborMap<number>(seed);
      map.set(IFINDEX, 0, 0);
      return {
        use(key) {
          if (!map.has(IFINDEX, key >>> 0)) map.set(IFINDEX, key >>> 0, 1);
        },
        has: (key) => map.has(IFINDEX, key >>> 0),
      };
    },
    place(seed) {
      const secret = keyOf(seed, Use.neighborMap);
      return (key) => hashOfMap(scramble(key, secret)) & PLACES;
    },
    known: (key) => hashOfMap(key) & PLACES,
  },
  {
    name: "statsd's names",
    most: 4_096,
    mostReads: 64,
    make(seed) {
      const metrics = new MetricsWriter(heapView(METRICS_BYTES));
      const context = {
        metric: (name: string, kind: "counter" | "gauge") => metrics.metric(name, kind),
      } as AppContext;
      const names = new Series(context, twoWords(seed));
      const name = new Uint8Array(8);
      const line = { at: 0, nameEnd: 0, type: "c".charCodeAt(0) };
      const find = (key: number) => {
        line.nameEnd = writeName(key, name, 0);
        return names.find(name, line);
      };
      return { use: (key) => void find(key), has: (key) => find(key) !== null };
    },
    known: knownOfName,
  },
  {
    name: "the name server's names",
    most: ZONE_NAMES + 1,
    mostReads: 256,
    make(seed) {
      const memory = new Memory();
      const owners = Array.from({ length: ZONE_NAMES }, (_, i) => `h${i} A 192.0.2.1`);
      const text = `$ORIGIN test.\n$TTL 60\n@ SOA ns admin 1 2 3 4 5\n@ NS h0\n${
        owners.join("\n")
      }\n`;
      const names = new Domains(memory, [new Zone(parseZoneFile(text))], 1, twoWords(seed));
      const below = encoder.encode("\x04test\0");
      const bytes = new Uint8Array(32);
      const labels = new Uint16Array(2);
      const question = { bytes, offset: 0, labels, labelCount: 2, type: 1 };
      const find = (key: number) => {
        labels[1] = writeName(key, bytes, 1);
        bytes[0] = labels[1] - 1;
        bytes.set(below, labels[1]);
        return names.find(question);
      };
      const stranger = find(-1);
      return { use: (key) => void find(key), has: (key) => find(key) !== stranger };
    },
    known: knownOfName,
  },
  {
    name: "rates of the name server's answers",
    most: 1 << 18,
    mostReads: 24,
    make(seed) {
      const limit = new RateLimit({ ratelimit: 1, slip: 0 }, threeWords(seed));
      const address = new Address();
      const judge = (key: number) =>
        limit.judge(address.load([0, 0, 0xffff, key << 8]), key >>> 24, 1);
      return { use: (key) => void judge(key), has: (key) => judge(key) !== Verdict.send };
    },
    place(seed) {
      const { add, first, second } = keyOf(seed, 0);
      return (key) => hash(key >>> 24, key & 0xffffff, add, first, second) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
  {
    name: "answers that senders had this second",
    most: 1 << 16,
    mostReads: 24,
    make(seed) {
      const recent = new RecentAnswers(1, threeWords(seed));
      const sourceAddress = new Address();
      const request = { sourceAddress, sourcePort: 7, destinationPort: 7, receivedAt: 1e9 };
      const take = (key: number) => {
        sourceAddress.words[3] = key;
        return recent.take(request);
      };
      return { use: (key) => void take(key), has: (key) => !take(key) };
    },
    place(seed) {
      const at = hashOf(7 << 16 | 7, keyOf(seed, 0));
      return (key) => at(key) & PLACES;
    },
    known: (key) => mixed(key) & PLACES,
  },
];

/** `count` keys that collide by one function, found by trial. */
export function meetingKeys(place: (key: number) => number, count: number): Int32Array {
  const keys = new Int32Array(count);
  const there = place(0x1000);
  for (let key = 0x1000, found = 0; found < count; key++) {
    if (place(key) === there) keys[found++] = key;
  }
  return keys;
}
