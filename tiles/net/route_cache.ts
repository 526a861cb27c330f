// SPDX-License-Identifier: Apache-2.0
/**
 * The route cache maps an address to its egress, with all headers ready except for lengths, ports and
 * the payload's checksum. The resolver fills it from the route decision, the interface and the
 * neighbour, each read from netbase once per address and generation of netbase.
 *
 * An entry is valid for one generation. A new generation changes the epoch, which invalidates all entries at once.
 *
 * The cache is an open-addressed table of cache lines: an entry is within `PROBES` slots of its hash.
 * It is private to the tile and of fixed size, so made-up addresses can only evict other entries, which
 * then cost a route and a neighbour lookup again. The hash is keyed, so nobody can choose which
 * (`netbase/hash.ts`).
 */

import { i32, type View } from "../../ffi/region.ts";
import * as hashing from "../../netbase/hash.ts";
import { decide, emptyDecision, type NetbaseReader } from "../../netbase/netbase.ts";
import * as route from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import { Rank, type Solicits } from "./arp_queue.ts";
import * as frame from "./rings.ts";
import type { XdpSocketSetup } from "./rings.ts";

// Own constants, see rings.ts.
const { hash, keyOf, Use } = hashing;
const { ETH_P_8021AD, ETH_P_IP, ETHERNET_BYTES, MOST_TAGS, TAG_BYTES } = frame;
const { flowHash, fold, halves, isPeer, IP_CONSTANT_SUM, UDP_CONSTANT_SUM } = frame;
const { MOST_IN_FRAME, PACKET_HEADER_BYTES } = frame;
const COUNT = NET.index;

/** Words of an entry: one cache line. */
const ENTRY_WORDS = 16;
/**
 * A mask for word indices of the largest table. Masking changes no index, but shows V8 that none
 * overflows, which saves a check at every access.
 */
const MOST_WORDS = 0xffffff;

/** Word offsets in an entry. Addresses are in host order, signed words, unless noted otherwise. */
const Route = {
  /** Key: the destination address. */
  peer: 0,
  /** Key: the requested source; 0: any. */
  local: 1,
  /** Key: the next hop if it depends on the flow, else 0. */
  member: 2,
  epoch: 3,
  /** What happens to a packet, see `Outcome`. */
  outcome: 4,
  /** Sums, folded: of the IPv4 header << 16 | of the pseudo header, both without their lengths. */
  sums: 5,
  /** Six words for the Ethernet header. A shorter header is stored at the end of them. */
  link: 6,
  /** Both addresses in network order, as in the IPv4 header. */
  localBe: 12,
  peerBe: 13,
  /** Record of the neighbour, or NO_NEIGHBOR. */
  neighbor: 14,
  /** The tick at which it was last checked, and a bit for each app that could send here then. */
  checked: 15,
} as const;

/** For other modules. V8 does not fold constants that are exported individually, see rings.ts. */
export const layout = { MOST_WORDS, Route, isAdmitted } as const;

/** In the word `checked`: the low bits of the tick. */
export const TICK_BITS = 0xff;

/**
 * The bit in the word `checked` that all apps from the 23rd on share: within a tick, a peer that one of
 * them may send to is permitted to the others too.
 */
export const SHARED_BIT = 0x100 << 22;

/** The bit of app number `index` in the word `checked`. */
export function appBit(index: number): number {
  return index < 22 ? 0x100 << index : SHARED_BIT;
}

/** Room for the Ethernet header in an entry. A shorter header is stored at the end of it. */
export const LINK_BYTES = 24;

/**
 * Outcomes of an entry. Values from 0 on mean "by an AF_XDP socket": number of the socket << 24 |
 * `NO_PEER` or not | where in the frame the Ethernet header begins << 16 | largest payload.
 */
export const Outcome = {
  /** The next hop depends on the flow: look up again with its member. */
  group: -1,
  /** By the kernel socket of our port. */
  kernel: -2,
} as const;

/**
 * In an outcome: packets can be sent there, but none may come from there. The address is not a single
 * host's, or the route chose the source, so it may be an address of ours.
 */
export const NO_PEER = 0x80_0000;

/** In an outcome, shifted right by 16: where the Ethernet header begins. */
export const BEGIN_BITS = 0x1f;

/** Outcomes below this are drops: `DROPS_BELOW` − counter. */
const DROPS_BELOW = -16;

/** In an entry instead of a neighbour's record: there is no neighbour to keep reachable. */
const NO_NEIGHBOR = -2;

/** Instead of the index of an entry: there is none, because the neighbour is unknown. */
export const UNRESOLVED = -1;

/** Whether an entry with this outcome can send `length` bytes at once. */
function isAdmitted(outcome: number, length: number): boolean {
  // A negative outcome has no largest payload. Only outcomes by an AF_XDP socket pass here.
  return (outcome | ((outcome & 0xffff) - length)) >= 0;
}

export function dropCounter(outcome: number): number {
  return DROPS_BELOW - outcome;
}

function dropOutcome(counter: number): number {
  return DROPS_BELOW - counter;
}

/**
 * Bytes of a net tile's cache: 65,536 entries, allocated on use. Ten thousand peers do not evict each
 * other; in a table of a quarter of the size one lookup in thirty misses.
 */
export const ROUTE_CACHE_BYTES = 4 * ENTRY_WORDS << 16;
/** Slots in which an entry can be. */
const PROBES = 4;

/** The private cache of one net tile. */
export class RouteCache {
  /** All entries, `Route` words each. */
  readonly words: Int32Array;
  /** The same memory, for fields that have a byte order. */
  readonly view: DataView;
  /**
   * Changes some times a second. Packets of an entry that was checked at another tick take the slow
   * path, which keeps the neighbour reachable and checks again whether the app may send there.
   */
  tick = 1;
  /**
   * Changes with every entry that is made or invalidated. While it is unchanged, every entry that was
   * found is still there.
   */
  changes = 0;
  readonly #mask: number;
  /** The hash's key. */
  readonly #add: number;
  readonly #first: number;
  readonly #second: number;
  #epoch = 1;
  #victim = 0;

  /**
   * Uses `memory`, zeroed, of a power of two of entries. It should begin at a cache line, as regions
   * do: memory that V8 allocates begins anywhere, so that each entry would span two lines. `seed`,
   * random, keys the hash.
   */
  constructor(memory: View, seed: number) {
    this.words = i32(memory);
    this.view = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
    this.#mask = this.words.length / ENTRY_WORDS - 1;
    const { add, first, second } = keyOf(seed, Use.routeCache);
    this.#add = add;
    this.#first = first;
    this.#second = second;
  }

  clear(): void {
    this.changes = (this.changes + 1) | 0;
    this.#epoch = (this.#epoch + 1) | 0;
    if (this.#epoch !== 0) return;
    this.words.fill(0);
    this.#epoch = 1;
  }

  /** Called some times a second, and when an app's table of recent peers forgets some. */
  nextTick(): void {
    this.tick = (this.tick + 1) | 0;
  }

  /** Index (of its first word) of the entry for this key; -1: there is none. */
  find(peer: number, local: number, member: number): number {
    return this.findFrom(this.slot(peer, local, member), peer, local, member);
  }

  /** The first slot of this key, where most entries are. */
  slot(peer: number, local: number, member: number): number {
    // The mask also bounds the index for V8.
    return this.#at(this.#hash(peer, local, member));
  }

  /** The same as `find`, with the result of `slot`. */
  findFrom(slot: number, peer: number, local: number, member: number): number {
    const r = slot & MOST_WORDS;
    if (this.#is(r, peer, local, member)) return r;
    return this.#findBeyond(r, peer, local, member);
  }

  /** Searches the slots after the first. A separate function, so that V8 inlines the usual case. */
  #findBeyond(first: number, peer: number, local: number, member: number): number {
    for (let probe = 1; probe < PROBES; probe++) {
      const r = this.#at((first / ENTRY_WORDS | 0) + probe);
      if (this.#is(r, peer, local, member)) return r;
    }
    return -1;
  }

  /**
   * Whether entry `r`, found earlier for this key, can send `length` bytes at once. It may have been
   * evicted since. A negative `r` is no entry.
   */
  leads(r: number, peer: number, local: number, length: number): boolean {
    return r >= 0 && this.isOf(r, peer, local) &&
      isAdmitted(this.words[(r & MOST_WORDS) + Route.outcome], length);
  }

  /** Whether entry `r`, found earlier for this key, is still there. */
  isOf(r: number, peer: number, local: number): boolean {
    return this.#is(r & MOST_WORDS, peer, local, 0);
  }

  #is(r: number, peer: number, local: number, member: number): boolean {
    const { words } = this;
    return words[r + Route.peer] === peer && words[r + Route.local] === local &&
      words[r + Route.epoch] === this.#epoch && words[r + Route.member] === member;
  }

  #at(slot: number): number {
    return ((slot & this.#mask) * ENTRY_WORDS) & MOST_WORDS;
  }

  /**
   * Makes an entry for this key, which `find` did not find, and returns its index. The caller writes
   * its outcome and all other fields.
   */
  insert(peer: number, local: number, member: number): number {
    const { words } = this;
    const slot = this.#hash(peer, local, member);
    let r = this.#at(slot + (this.#victim++ & (PROBES - 1)));
    for (let probe = 0; probe < PROBES; probe++) {
      const free = this.#at(slot + probe);
      if (words[free + Route.epoch] === this.#epoch) continue;
      r = free;
      break;
    }
    words[r + Route.peer] = peer;
    words[r + Route.local] = local;
    words[r + Route.member] = member;
    words[r + Route.epoch] = this.#epoch;
    words[r + Route.checked] = 0;
    this.changes = (this.changes + 1) | 0;
    return r;
  }

  /** Writes the addresses of entry `r`, host order, and the sums that depend on them. */
  setAddresses(r: number, local: number, peer: number): void {
    const { words } = this;
    this.view.setInt32((r + Route.localBe) << 2, local, false);
    this.view.setInt32((r + Route.peerBe) << 2, peer, false);
    const sum = halves(words[r + Route.localBe]) + halves(words[r + Route.peerBe]);
    words[r + Route.sums] = (fold(sum + IP_CONSTANT_SUM) << 16) | fold(sum + UDP_CONSTANT_SUM);
  }

  #hash(peer: number, local: number, member: number): number {
    const way = local + Math.imul(member, 0x9e3779b1);
    return hash(way, peer, this.#add, this.#first, this.#second);
  }
}

/** How frames leave by an interface; computed again for each generation. */
interface Egress {
  /** Indices of the sockets on the device below: one for each queue of this tile that can send. */
  readonly ports: readonly number[];
  /** VLAN protocol << 16 | id of each tag, the outermost first. */
  readonly tags: readonly number[];
}

/**
 * Interfaces as seen on the wire: the attached device by which a frame leaves and its VLAN tags, and
 * the VLAN device on which a tagged frame arrived. Lookups are kept for one generation of netbase.
 */
export class Devices {
  readonly #reader: NetbaseReader;
  readonly #ports = new Map<number, number[]>();
  readonly #egress = new Map<number, Egress | null>();
  /** By device, then by VLAN id with a bit for the protocol. */
  readonly #tagged = new Map<number, Map<number, number>>();
  #generation = -1;

  /** `sockets` are the AF_XDP sockets, by index. */
  constructor(
    reader: NetbaseReader,
    sockets: readonly Pick<XdpSocketSetup, "ifindex" | "receivesOnly">[],
  ) {
    this.#reader = reader;
    sockets.forEach(({ ifindex, receivesOnly = false }, port) => {
      if (!receivesOnly) this.#ports.getOrInsert(ifindex, []).push(port);
    });
  }

  /** How frames leave by `ifindex`; null: not through a socket of this tile. */
  egress(ifindex: number): Egress | null {
    this.#refresh();
    return this.#egress.getOrInsertComputed(ifindex, () => this.#walk(ifindex));
  }

  /**
   * Index of the VLAN device above `ifindex` that takes frames with the tag `protocol`, `id`; -1: none
   * is up. Id 0 is not a VLAN but a priority tag, and belongs to the device itself.
   */
  tagged(ifindex: number, protocol: number, id: number): number {
    if (id === 0) return ifindex;
    this.#refresh();
    let above = this.#tagged.get(ifindex);
    if (above === undefined) this.#tagged.set(ifindex, above = new Map());
    // A small integer, so that the lookup allocates nothing.
    const key = protocol === ETH_P_8021AD ? id | 0x1000 : id;
    let found = above.get(key);
    if (found === undefined) {
      found = this.#findTagged(ifindex, protocol * 0x10000 + id);
      above.set(key, found);
    }
    return found;
  }

  #findTagged(ifindex: number, vlan: number): number {
    const { interfaces } = this.#reader;
    const record = interfaces.records().find((record) =>
      interfaces.vlan(record) === vlan && interfaces.link(record) === ifindex &&
      interfaces.isUp(record)
    );
    return record === undefined ? -1 : interfaces.ifindex(record);
  }

  /** Walks from an interface down to a device with a socket, and collects tags. */
  #walk(ifindex: number): Egress | null {
    const { interfaces } = this.#reader;
    const tags: number[] = [];
    for (let device = ifindex;;) {
      const ports = this.#ports.get(device);
      if (ports !== undefined) return { ports, tags };
      const record = interfaces.find(device);
      const vlan = record < 0 ? 0 : interfaces.vlan(record);
      if (vlan === 0 || tags.length === MOST_TAGS) return null;
      tags.unshift(vlan);
      device = interfaces.link(record);
    }
  }

  #refresh(): void {
    if (this.#generation === this.#reader.generation) return;
    this.#generation = this.#reader.generation;
    this.#egress.clear();
    this.#tagged.clear();
  }
}

/** The drop counters by the types of routes that lead nowhere. */
const DROPS = new Map<number, number>([
  [route.RTN_UNSPEC, COUNT.tx_drop_no_route],
  [route.RTN_BLACKHOLE, COUNT.tx_drop_blackhole],
  [route.RTN_UNREACHABLE, COUNT.tx_drop_unreachable],
  [route.RTN_PROHIBIT, COUNT.tx_drop_prohibit],
  [route.RTN_THROW, COUNT.tx_drop_throw],
  [route.KIND_OVERFLOW, COUNT.tx_drop_fib_overflow],
]);

/** The result of the resolver. */
export type Resolution = ReturnType<Resolver["resolve"]>;

/** Makes entries of the route cache. */
export class Resolver {
  readonly #reader: NetbaseReader;
  readonly #devices: Devices;
  readonly #cache: RouteCache;
  readonly #solicits: Solicits;
  readonly #decision = emptyDecision();
  readonly #found = {
    /** Index of the entry, whose outcome is never `group`; or UNRESOLVED. */
    route: UNRESOLVED,
    /** Whether the entry is new, and uses a neighbour. */
    isNew: false,
    /**
     * If the entry is new, or there is none: the neighbour, how likely it is to be real, and the
     * largest payload.
     */
    ifindex: 0,
    neighbor: 0,
    rank: 0,
    mostPayload: 0,
  };
  #macHead = 0;
  #macTail = 0;

  constructor(parts: {
    reader: NetbaseReader;
    devices: Devices;
    cache: RouteCache;
    solicits: Solicits;
  }) {
    this.#reader = parts.reader;
    this.#devices = parts.devices;
    this.#cache = parts.cache;
    this.#solicits = parts.solicits;
  }

  /**
   * Finds or makes the entry for a packet to `peer` from `local` (0: the route chooses), host order as
   * signed words; `ports` as in `Packet`. Returns the same object each time.
   */
  resolve(peer: number, local: number, ports: number) {
    const found = this.#found;
    found.isNew = false;
    const { words } = this.#cache;
    const known = this.#cache.find(peer, local, 0);
    found.route = known;
    if (known >= 0 && words[known + Route.outcome] !== Outcome.group) return found;

    // The order of our packets: source port << 16 | destination port.
    const hash = flowHash(peer, local, (ports << 16) | (ports >>> 16));
    const decision = this.#decision;
    decide(this.#reader, peer >>> 0, local >>> 0, hash >>> 0, decision);
    const member = decision.group === 0 ? 0 : decision.nextHop;
    if (member !== 0) {
      found.route = this.#cache.find(peer, local, member);
      if (found.route >= 0) return found;
      if (known < 0) words[this.#cache.insert(peer, local, 0) + Route.outcome] = Outcome.group;
    }
    found.route = this.#make(peer, local, member);
    return found;
  }

  /** Sends a solicit for the neighbour of entry `r` if the netlink tile needs to know that it is in use. */
  confirm(r: number): void {
    const record = this.#cache.words[r + Route.neighbor];
    if (record === NO_NEIGHBOR) return;
    const { neighbors } = this.#reader;
    if (!neighbors.refreshWanted(record)) return;
    this.#solicits.ask(neighbors.ifindex(record), neighbors.address(record) | 0);
  }

  #make(peer: number, local: number, member: number): number {
    const egress = this.#egress(local);
    const { words } = this.#cache;
    if (typeof egress === "number") {
      const r = this.#cache.insert(peer, local, member);
      words[r + Route.outcome] = egress;
      return r;
    }
    const mostPayload = Math.min(this.#decision.mtu - PACKET_HEADER_BYTES, MOST_IN_FRAME);
    this.#found.mostPayload = mostPayload;
    const record = this.#address(peer);
    if (record === UNRESOLVED) return UNRESOLVED;

    const r = this.#cache.insert(peer, local, member);
    const begin = this.#writeLink(r, egress.tags);
    const port = egress.ports[(flowHash(peer, 0, 0) >>> 1) % egress.ports.length];
    const { kind, source } = this.#decision;
    const canAsk = kind === route.RTN_UNICAST && isPeer(peer) && local !== 0 ? 0 : NO_PEER;
    words[r + Route.outcome] = (port << 24) | canAsk | (begin << 16) | Math.max(0, mostPayload);
    words[r + Route.neighbor] = record;
    this.#cache.setAddresses(r, source | 0, peer);
    return r;
  }

  /** The device by which the packet leaves, or an outcome that needs none. */
  #egress(local: number): Egress | number {
    const { kind, ifindex, interfaceRecord, source } = this.#decision;
    const { fib, nextHops, interfaces } = this.#reader;
    if (local !== 0 && nextHops.kind(fib.lookup(local)) !== route.RTN_LOCAL) {
      return dropOutcome(COUNT.tx_drop_source_not_local);
    }
    if (kind === route.RTN_BLACKHOLE && source >>> 24 === 127) {
      return dropOutcome(COUNT.tx_drop_source_loopback);
    }
    if (kind === route.RTN_LOCAL) return Outcome.kernel;
    if (
      kind !== route.RTN_UNICAST && kind !== route.RTN_BROADCAST && kind !== route.RTN_MULTICAST
    ) return dropOutcome(DROPS.get(kind) ?? COUNT.tx_drop_unsupported_route);
    if (interfaceRecord < 0 || !interfaces.isUp(interfaceRecord)) {
      return dropOutcome(COUNT.tx_drop_link_down);
    }
    const egress = this.#devices.egress(ifindex);
    if (egress === null) return Outcome.kernel;
    if (source === 0) return dropOutcome(COUNT.tx_drop_no_source);
    return egress;
  }

  /**
   * Finds the destination Ethernet address. Returns the neighbour's record, NO_NEIGHBOR (broadcast,
   * multicast), or UNRESOLVED.
   */
  #address(peer: number): number {
    const { kind, gateway, ifindex } = this.#decision;
    if (kind === route.RTN_BROADCAST) {
      this.#macHead = 0xffffffff | 0;
      this.#macTail = 0xffff;
      return NO_NEIGHBOR;
    }
    if (kind === route.RTN_MULTICAST) {
      // 01:00:5e and the low 23 bits of the address (RFC 1112 §6.4).
      this.#macHead = 0x5e0001 | ((peer & 0x7f0000) << 8);
      this.#macTail = ((peer >>> 8) & 0xff) | ((peer & 0xff) << 8);
      return NO_NEIGHBOR;
    }
    const { neighbors } = this.#reader;
    const found = this.#found;
    const neighbor = gateway === 0 ? peer : gateway | 0;
    found.ifindex = ifindex;
    found.neighbor = neighbor;
    const record = neighbors.lookup(ifindex, neighbor >>> 0);
    if (record >= 0) {
      found.isNew = true;
      this.#macHead = neighbors.macHead(record) | 0;
      this.#macTail = neighbors.macTail(record);
      return record;
    }
    if (gateway !== 0) found.rank = Rank.gateway;
    else {
      found.rank = neighbors.find(ifindex, neighbor >>> 0) >= 0 ||
          this.#solicits.askedBefore(ifindex, neighbor)
        ? Rank.acquainted
        : Rank.stranger;
    }
    return UNRESOLVED;
  }

  /** Writes the Ethernet header into entry `r` and returns where in a frame it begins. */
  #writeLink(r: number, tags: readonly number[]): number {
    const { interfaces } = this.#reader;
    const { interfaceRecord } = this.#decision;
    const begin = LINK_BYTES - ETHERNET_BYTES - tags.length * TAG_BYTES;
    const { view } = this.#cache;
    let at = ((r + Route.link) << 2) + begin;
    view.setInt32(at, this.#macHead, true);
    view.setUint16(at + 4, this.#macTail, true);
    view.setInt32(at + 6, interfaces.macHead(interfaceRecord), true);
    view.setUint16(at + 10, interfaces.macTail(interfaceRecord), true);
    at += 12;
    for (const tag of tags) {
      view.setUint32(at, tag);
      at += TAG_BYTES;
    }
    view.setUint16(at, ETH_P_IP);
    return begin;
  }
}
