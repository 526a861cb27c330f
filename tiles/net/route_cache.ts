/**
 * The route cache: where a destination is sent, with all headers finished but for lengths, ports and
 * the payload's checksum. An entry is good for one generation of netbase; when that moves, all are
 * void at once by moving the epoch, and are made anew when they are next asked for.
 *
 * A table of cache lines, open addressed: an entry lies within `PROBES` places of its hash. It is
 * private to the tile and of fixed size, so addresses made up by strangers can only push others out,
 * which then cost a route and a neighbour lookup again; the hash is keyed, so that nobody can choose
 * whom (`netbase/hash.ts`).
 */

import { i32, type View } from "../../ffi/view.ts";
import { decide, emptyDecision } from "../../netbase/route_decision.ts";
import * as hash_ from "../../netbase/hash.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import * as route from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import type { Solicits } from "./arp_queue.ts";
import * as frame_ from "./frame.ts";
import {
  ETH_P_8021AD,
  ETH_P_IP,
  ETHERNET_BYTES,
  isPeer,
  MOST_TAGS,
  PACKET_HEADER_BYTES,
  PAYLOAD_AT,
  TAG_BYTES,
} from "./frame.ts";
import type { XdpSocketSetup } from "./rings.ts";

// Own constants, see frame.ts.
const { Use, hash, keyOf } = hash_;
const { IP_CONSTANT_SUM, UDP_CONSTANT_SUM, fold, halves } = frame_;
/*
 * An entry of the route cache, word by word, and what its outcome can be. Made by `resolve.ts`, kept
 * by `header_cache.ts`, followed by `transmit.ts`, `holding.ts` and `wire.ts`.
 */

/** Words of an entry: one cache line. */
export const ENTRY_WORDS = 16;
/**
 * Word indices of the largest table, all ones. Masking with it changes no index, but tells V8 that
 * none overflows, which saves a check at every access.
 */
export const MOST_WORDS = 0xffffff;
/** Word offsets in an entry. */
export const Entry = {
  /** Key: destination, host order. */
  destination: 0,
  /** Key: the source that was asked for, host order; 0: any. */
  source: 1,
  /** Key: the next hop when that depends on the flow, else 0. */
  member: 2,
  epoch: 3,
  /** What becomes of the datagram: see `resolve.ts`. */
  outcome: 4,
  /** Sums, folded: of the IPv4 header << 16 | of the pseudo header, both without their lengths. */
  sums: 5,
  /** Six words: what stands before the IPv4 header, ending there. */
  link: 6,
  sourceBe: 12,
  destinationBe: 13,
  /** Record of the neighbour. */
  neighbor: 14,
  /** When that was last looked at for its wish to be refreshed, and which apps may send here by then. */
  checked: 15,
} as const;

/** In the word `checked`: the low bits of the tick at which it was, and a bit for each app. */
export const TICK_BITS = 0xff;

/**
 * The bit in the word `checked` that apps from the 23rd on have together: what one of them may send
 * to, the others may for the length of a tick.
 */
export const SHARED_BIT = 0x100 << 22;

/** The bit of app number `index` in the word `checked`. */
export function appBit(index: number): number {
  return index < 22 ? 0x100 << index : SHARED_BIT;
}

/** Bytes that an entry holds for the Ethernet header, which ends at their end. */
export const LINK_BYTES = 24;

/**
 * Outcomes of an entry. One that is not negative says "by an AF_XDP socket": port number << 24 |
 * `NO_PEER` or not | where in the frame the Ethernet header begins << 16 | largest payload.
 */
export const Outcome = {
  /** The next hop depends on the flow: ask again with its member. */
  group: -1,
  /** By the kernel's socket of the source port. */
  kernel: -2,
} as const;

/**
 * In an outcome: that there is a way there does not say that a request may come from there, since it
 * is no single host's address, or that the source is an address of ours, since none was asked for.
 */
export const NO_PEER = 0x80_0000;

/** In an outcome, shifted right by 16: where the Ethernet header begins. */
export const BEGIN_BITS = 0x1f;

/** Outcomes below this are drops: `DROPS_BELOW` − number of the counter. */
const DROPS_BELOW = -16;

/** Returned instead of an entry when the neighbour is not known: see the resolver's fields. */
export const UNRESOLVED = -1;

/** In an entry instead of a neighbour's record: there is none to keep fresh. */
export const NO_NEIGHBOR = -2;

/** The outcome that is a drop and moves `counter`. */
export function dropOutcome(counter: number): number {
  return DROPS_BELOW - counter;
}

/** The counter that an outcome says to move. Only for outcomes that are drops. */
export function dropCounter(outcome: number): number {
  return DROPS_BELOW - outcome;
}

/**
 * Bytes of a net tile's cache, which are taken as it is used: 65,536 entries. Of ten thousand peers
 * none then pushes another out; of a table a quarter as large one lookup in thirty misses.
 */
export const ROUTE_CACHE_BYTES = 4 * ENTRY_WORDS << 16;
/** Places that an entry can be in. */
const PROBES = 4;

/** The private cache of one net tile. */
export class RouteCache {
  /** All entries, `Entry` words each. */
  readonly words: Int32Array;
  /** The same memory, for what has a byte order. */
  readonly view: DataView;
  /**
   * Moves now and then: entries that saw another one go the long way, so that their neighbour is
   * looked after, and that it is asked anew whether the app may send there.
   */
  tick = 1;
  /** Moves with every entry that is made or made void: what was found before is there until then. */
  changes = 0;
  readonly #mask: number;
  /** The hash's key. */
  readonly #add: number;
  readonly #first: number;
  readonly #second: number;
  #epoch = 1;
  #victim = 0;

  /**
   * Takes `memory`, zeroed, of a power of two of entries. It is to begin where a cache line does, as
   * regions do: what V8 allocates begins anywhere, and then each entry is in two of them. `seed`,
   * random, keys its hash.
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

  /** Makes every entry void. */
  clear(): void {
    this.changes = (this.changes + 1) | 0;
    this.#epoch = (this.#epoch + 1) | 0;
    if (this.#epoch !== 0) return;
    this.words.fill(0);
    this.#epoch = 1;
  }

  /** To be called some times a second, and when an app's table of whom it heard from forgets some. */
  moveOn(): void {
    this.tick = (this.tick + 1) | 0;
  }

  /** Word index of the entry for this key, -1 when there is none. Addresses as signed words. */
  find(destination: number, source: number, member: number): number {
    return this.findFrom(this.place(destination, source, member), destination, source, member);
  }

  /** Where the entry for this key is, if it is where most are: the word index of its first place. */
  place(destination: number, source: number, member: number): number {
    // The mask bounds the index in V8's eyes too.
    return this.#at(this.#hash(destination, source, member));
  }

  /** The same as `find`, by what `place` said. */
  findFrom(place: number, destination: number, source: number, member: number): number {
    const e = place & MOST_WORDS;
    if (this.#is(e, destination, source, member)) return e;
    return this.#findBeyond(e, destination, source, member);
  }

  /** The same at the places after the first. Apart, so that V8 inlines the usual way. */
  #findBeyond(first: number, destination: number, source: number, member: number): number {
    for (let probe = 1; probe < PROBES; probe++) {
      const e = this.#at((first / ENTRY_WORDS | 0) + probe);
      if (this.#is(e, destination, source, member)) return e;
    }
    return -1;
  }

  /**
   * Whether `length` bytes can leave at once by the entry at `e`, which was found for this key earlier:
   * others may have taken its place. Negative: it was not found.
   */
  leads(e: number, destination: number, source: number, length: number): boolean {
    return e >= 0 && this.#is(e & MOST_WORDS, destination, source, 0) && this.admits(e, length);
  }

  /** Whether `length` bytes can leave at once by the entry at `e`, if there is one. */
  admits(e: number, length: number): boolean {
    if (e < 0) return false;
    // One that is negative has no largest payload: only those of the wire pass here.
    const outcome = this.words[(e & MOST_WORDS) + Entry.outcome];
    return (outcome | ((outcome & 0xffff) - length)) >= 0;
  }

  #is(e: number, destination: number, source: number, member: number): boolean {
    const { words } = this;
    return words[e + Entry.destination] === destination && words[e + Entry.source] === source &&
      words[e + Entry.epoch] === this.#epoch && words[e + Entry.member] === member;
  }

  /** Word index of the entry at a place. */
  #at(place: number): number {
    return ((place & this.#mask) * ENTRY_WORDS) & MOST_WORDS;
  }

  /**
   * Makes room for this key, which `find` did not find, and returns the word index of its entry. Its
   * outcome, largest payload and link words are for the caller to write.
   */
  insert(destination: number, source: number, member: number): number {
    const { words } = this;
    const place = this.#hash(destination, source, member);
    let e = this.#at(place + (this.#victim++ & (PROBES - 1)));
    for (let probe = 0; probe < PROBES; probe++) {
      const free = this.#at(place + probe);
      if (words[free + Entry.epoch] === this.#epoch) continue;
      e = free;
      break;
    }
    words[e + Entry.destination] = destination;
    words[e + Entry.source] = source;
    words[e + Entry.member] = member;
    words[e + Entry.epoch] = this.#epoch;
    words[e + Entry.checked] = 0;
    this.changes = (this.changes + 1) | 0;
    return e;
  }

  /** Writes the addresses of the entry at `e`, host order, and the sums that follow from them. */
  setAddresses(e: number, source: number, destination: number): void {
    const { words } = this;
    this.view.setInt32((e + Entry.sourceBe) << 2, source, false);
    this.view.setInt32((e + Entry.destinationBe) << 2, destination, false);
    const sum = halves(words[e + Entry.sourceBe]) + halves(words[e + Entry.destinationBe]);
    words[e + Entry.sums] = (fold(sum + IP_CONSTANT_SUM) << 16) | fold(sum + UDP_CONSTANT_SUM);
  }

  #hash(destination: number, source: number, member: number): number {
    const way = source + Math.imul(member, 0x9e3779b1);
    return hash(way, destination, this.#add, this.#first, this.#second);
  }
}

/*
 * The flow hash: by it a flow keeps to one member of an ECMP route and to one of several apps.
 */

/**
 * 32 well-mixed bits of a flow's addresses and ports, as a signed word (the finaliser of MurmurHash3
 * over their combination). The same flow always gets the same.
 */
export function flowHash(a: number, b: number, ports: number): number {
  let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77) ^ Math.imul(ports, 0xc2b2ae3d);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/*
 * Where a datagram goes: route decision, interface, neighbour, and from them a finished header in the
 * cache. Everything here is asked once per destination and generation of netbase; `transmit.ts` finds
 * the entry and does what its outcome says.
 */

/** What becomes of a datagram by its route's kind, where it goes nowhere. */
const DROPS = new Map<number, number>([
  [route.RTN_UNSPEC, NET.index.tx_drop_no_route],
  [route.RTN_BLACKHOLE, NET.index.tx_drop_blackhole],
  [route.RTN_UNREACHABLE, NET.index.tx_drop_unreachable],
  [route.RTN_PROHIBIT, NET.index.tx_drop_prohibit],
  [route.RTN_THROW, NET.index.tx_drop_throw],
  [route.KIND_OVERFLOW, NET.index.tx_drop_fib_overflow],
]);

/** How likely a neighbour is to be real, lowest first. */
export const Rank = { stranger: 0, acquainted: 1, gateway: 2 } as const;

/** What a resolver works with. */
export interface ResolverParts {
  readonly reader: NetbaseReader;
  readonly devices: Devices;
  readonly cache: RouteCache;
  readonly solicits: Solicits;
  readonly frameBytes: number;
}

/** Makes entries of the route cache. */
export class Resolver {
  /** After `resolve` made or missed an entry by way of a neighbour: which, and how much it is worth. */
  ifindex = 0;
  neighbor = 0;
  rank: number = Rank.stranger;
  /** Largest payload on that way. */
  mostPayload = 0;
  /** Whether `resolve` made a new entry by way of a neighbour. */
  fresh = false;

  readonly #reader: NetbaseReader;
  readonly #devices: Devices;
  readonly #cache: RouteCache;
  readonly #solicits: Solicits;
  readonly #frameBytes: number;
  readonly #decision = emptyDecision();
  #macHead = 0;
  #macTail = 0;

  constructor({ reader, devices, cache, solicits, frameBytes }: ResolverParts) {
    this.#reader = reader;
    this.#devices = devices;
    this.#cache = cache;
    this.#solicits = solicits;
    this.#frameBytes = frameBytes;
  }

  /**
   * The cache entry for a datagram: its word index, or UNRESOLVED. Its outcome is never "group".
   * Addresses are host order as signed words; `source` 0 lets the route choose.
   */
  resolve(destination: number, source: number, ports: number): number {
    this.fresh = false;
    const { words } = this.#cache;
    const known = this.#cache.find(destination, source, 0);
    if (known >= 0 && words[known + Entry.outcome] !== Outcome.group) return known;

    const hash = flowHash(destination, source, ports);
    const decision = this.#decision;
    decide(this.#reader, destination >>> 0, source >>> 0, hash >>> 0, decision);
    const member = decision.group === 0 ? 0 : decision.nextHop;
    if (member !== 0) {
      const found = this.#cache.find(destination, source, member);
      if (found >= 0) return found;
      if (known < 0) {
        words[this.#cache.insert(destination, source, 0) + Entry.outcome] = Outcome.group;
      }
    }
    return this.#make(destination, source, member);
  }

  /** Asks for the neighbour with this record if the netlink tile wants to hear that it is used. */
  refresh(record: number): void {
    if (record === NO_NEIGHBOR) return;
    const { neighbors } = this.#reader;
    if (!neighbors.refreshWanted(record)) return;
    this.#solicits.ask(neighbors.ifindex(record), neighbors.address(record) | 0);
  }

  /** Makes the entry for what was decided. */
  #make(destination: number, source: number, member: number): number {
    const egress = this.#egress(source);
    if (typeof egress === "number") {
      const e = this.#cache.insert(destination, source, member);
      this.#cache.words[e + Entry.outcome] = egress;
      return e;
    }
    this.mostPayload = Math.min(
      this.#decision.mtu - PACKET_HEADER_BYTES,
      this.#frameBytes - PAYLOAD_AT,
    );
    const record = this.#address(destination);
    if (record === UNRESOLVED) return UNRESOLVED;

    const e = this.#cache.insert(destination, source, member);
    const { words } = this.#cache;
    const begin = this.#writeLink(e, egress.tags);
    const port = egress.ports[(flowHash(destination, 0, 0) >>> 1) % egress.ports.length];
    const isAsking = this.#decision.kind === route.RTN_UNICAST && isPeer(destination) &&
      source !== 0;
    const peer = isAsking ? 0 : NO_PEER;
    words[e + Entry.outcome] = (port << 24) | peer | (begin << 16) | Math.max(0, this.mostPayload);
    words[e + Entry.neighbor] = record;
    this.#cache.setAddresses(e, this.#decision.source | 0, destination);
    return e;
  }

  /** By which device the datagram leaves, or the outcome that needs none. */
  #egress(source: number): Egress | number {
    const { kind, ifindex, interfaceRecord } = this.#decision;
    const { fib, nextHops, interfaces } = this.#reader;
    if (source !== 0 && nextHops.kind(fib.lookup(source)) !== route.RTN_LOCAL) {
      return dropOutcome(NET.index.tx_drop_no_source);
    }
    if (kind === route.RTN_LOCAL) return Outcome.kernel;
    if (
      kind !== route.RTN_UNICAST && kind !== route.RTN_BROADCAST && kind !== route.RTN_MULTICAST
    ) return dropOutcome(DROPS.get(kind) ?? NET.index.tx_drop_unsupported_route);
    if (interfaceRecord < 0 || !interfaces.isUp(interfaceRecord)) {
      return dropOutcome(NET.index.tx_drop_link_down);
    }
    const egress = this.#devices.egress(ifindex);
    if (egress === null) return Outcome.kernel;
    if (this.#decision.source === 0) return dropOutcome(NET.index.tx_drop_no_source);
    return egress;
  }

  /**
   * Finds the Ethernet address that the datagram goes to. Returns the neighbour's record,
   * NO_NEIGHBOR (broadcast, multicast), or UNRESOLVED.
   */
  #address(destination: number): number {
    const { kind, gateway, ifindex } = this.#decision;
    if (kind === route.RTN_BROADCAST) {
      this.#macHead = 0xffffffff | 0;
      this.#macTail = 0xffff;
      return NO_NEIGHBOR;
    }
    if (kind === route.RTN_MULTICAST) {
      // 01:00:5e and the low 23 bits of the address (RFC 1112 §6.4).
      this.#macHead = 0x5e0001 | ((destination & 0x7f0000) << 8);
      this.#macTail = ((destination >>> 8) & 0xff) | ((destination & 0xff) << 8);
      return NO_NEIGHBOR;
    }
    const { neighbors } = this.#reader;
    this.ifindex = ifindex;
    this.neighbor = gateway === 0 ? destination : gateway | 0;
    const record = neighbors.lookup(ifindex, this.neighbor >>> 0);
    if (record >= 0) {
      this.fresh = true;
      this.#macHead = neighbors.macHead(record) | 0;
      this.#macTail = neighbors.macTail(record);
      return record;
    }
    if (gateway !== 0) this.rank = Rank.gateway;
    else {
      this.rank = neighbors.find(ifindex, this.neighbor >>> 0) >= 0 ||
          this.#solicits.askedBefore(ifindex, this.neighbor)
        ? Rank.acquainted
        : Rank.stranger;
    }
    return UNRESOLVED;
  }

  /** Writes the Ethernet header into the entry at `e` and returns where in a frame it begins. */
  #writeLink(e: number, tags: readonly number[]): number {
    const { interfaces } = this.#reader;
    const { interfaceRecord } = this.#decision;
    const begin = LINK_BYTES - ETHERNET_BYTES - tags.length * TAG_BYTES;
    const { view } = this.#cache;
    let at = ((e + Entry.link) << 2) + begin;
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

/*
 * Interfaces as the wire sees them: which attached device a frame leaves by and with which VLAN tags,
 * and which VLAN device a tagged frame came in on. Follows the interface table; what was looked up
 * is kept for one generation of netbase.
 */

/** Where frames of an interface go: made anew for each generation. */
export interface Egress {
  /** Indices of the ports on the device below, one for each of its queues that is ours and can send. */
  readonly ports: readonly number[];
  /** VLAN protocol << 16 | id of each tag, the outermost first. */
  readonly tags: readonly number[];
}

/** What the interface table says of the devices that this tile has sockets on. */
export class Devices {
  readonly #reader: NetbaseReader;
  readonly #ports = new Map<number, number[]>();
  readonly #egress = new Map<number, Egress | null>();
  /** By device, then by VLAN id with a bit for the protocol. */
  readonly #tagged = new Map<number, Map<number, number>>();
  #generation = -1;

  /** `sockets` are those of the ports, by index. */
  constructor(
    reader: NetbaseReader,
    sockets: readonly Pick<XdpSocketSetup, "ifindex" | "receivesOnly">[],
  ) {
    this.#reader = reader;
    sockets.forEach(({ ifindex, receivesOnly = false }, port) => {
      if (receivesOnly) return;
      const others = this.#ports.get(ifindex);
      if (others === undefined) this.#ports.set(ifindex, [port]);
      else others.push(port);
    });
  }

  /** How frames leave by `ifindex`, null when not through a socket of this tile. */
  egress(ifindex: number): Egress | null {
    this.#refresh();
    let found = this.#egress.get(ifindex);
    if (found === undefined) {
      found = this.#walk(ifindex);
      this.#egress.set(ifindex, found);
    }
    return found;
  }

  /**
   * Index of the VLAN device above `ifindex` that takes frames with the tag `protocol`, `id`; -1 when
   * there is none that is up. Id 0 is no VLAN, only a priority, and belongs to the device itself.
   */
  tagged(ifindex: number, protocol: number, id: number): number {
    if (id === 0) return ifindex;
    this.#refresh();
    let above = this.#tagged.get(ifindex);
    if (above === undefined) this.#tagged.set(ifindex, above = new Map());
    // A small integer, so that nothing is allocated to look it up.
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

  /** From an interface down to a device with a socket, gathering tags on the way. */
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
