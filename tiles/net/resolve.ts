/**
 * Where a datagram goes: route decision, interface, neighbour, and from them a finished header in the
 * cache. Everything here is asked once per destination and generation of netbase; `transmit.ts` finds
 * the entry and does what its outcome says.
 */

import { decide, emptyDecision } from "../../netbase/route_decision.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import * as route from "../../netbase/route.ts";
import { NET } from "../runtime/counters.ts";
import type { Devices, Egress } from "./devices.ts";
import {
  dropOutcome,
  Entry,
  LINK_BYTES,
  NO_NEIGHBOR,
  NO_PEER,
  Outcome,
  UNRESOLVED,
} from "./entry.ts";
import { flowHash } from "./flow.ts";
import {
  ETH_P_IP,
  ETHERNET_BYTES,
  isPeer,
  PACKET_HEADER_BYTES,
  PAYLOAD_AT,
  TAG_BYTES,
} from "./frame.ts";
import type { HeaderCache } from "./header_cache.ts";
import { Rank } from "./hold.ts";
import type { Solicits } from "./solicits.ts";

/** What becomes of a datagram by its route's kind, where it goes nowhere. */
const DROPS = new Map<number, number>([
  [route.RTN_UNSPEC, NET.index.tx_drop_no_route],
  [route.RTN_BLACKHOLE, NET.index.tx_drop_blackhole],
  [route.RTN_UNREACHABLE, NET.index.tx_drop_unreachable],
  [route.RTN_PROHIBIT, NET.index.tx_drop_prohibit],
  [route.RTN_THROW, NET.index.tx_drop_throw],
  [route.KIND_OVERFLOW, NET.index.tx_drop_overflow],
]);

/** What a resolver works with. */
export interface ResolverParts {
  readonly reader: NetbaseReader;
  readonly devices: Devices;
  readonly cache: HeaderCache;
  readonly solicits: Solicits;
  readonly frameBytes: number;
}

/** Makes entries of the header cache. */
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
  readonly #cache: HeaderCache;
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
    ) return dropOutcome(DROPS.get(kind) ?? NET.index.tx_drop_unsupported);
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
