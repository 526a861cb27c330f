// SPDX-License-Identifier: Apache-2.0
/**
 * Netbase: the mirror of the kernel's IPv4 network state in shared memory. The netlink tile has the
 * only writer, all others read. It does no I/O.
 *
 *     kernel events → NetbaseWriter ─ interfaces, neighbours: hash tables, published at once
 *                                   └ RIB → FIB builder → FIB cells and next hops, with commit()
 *     packets       → NetbaseReader ─ FIB → next hops → interfaces, neighbours
 *
 * The proofs that readers are right without locks are in `rcu.ts` for all, in `hash_table.ts` for
 * tables, and in `fib.ts` for routes.
 */

import { u32, type View } from "../ffi/region.ts";
import { FibReader, NextHopReader } from "./fib.ts";
import { InterfaceReader } from "./interfaces.ts";
import { Header, NextHopFlag } from "./layout.ts";
import { NeighborReader, NUD_VALID } from "./neighbors.ts";
import * as rt from "./route.ts";

// As in `fib.ts`.
const { isRefusal, KIND_GROUP, KIND_OVERFLOW, KIND_UNSUPPORTED, RT_SCOPE_HOST, RT_SCOPE_LINK } = rt;
const { RTN_BLACKHOLE, RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST, RTN_UNSPEC } = rt;

/** A reader's side, one per tile. */
export class NetbaseReader {
  readonly fib: FibReader;
  readonly nextHops: NextHopReader;
  readonly interfaces: InterfaceReader;
  readonly neighbors: NeighborReader;
  readonly #header: Uint32Array;
  #generation = 0;

  /** Joins at `view`, which may be set up later: until then lookups find nothing. */
  constructor(view: View) {
    this.#header = u32(view);
    this.fib = new FibReader(view);
    this.nextHops = new NextHopReader(view);
    this.interfaces = new InterfaceReader(view);
    this.neighbors = new NeighborReader(view);
    this.refresh();
  }

  /** Called once per burst, after the quiescent state and before any lookup: the ordered load separates the two. */
  refresh(): void {
    this.#generation = Atomics.load(this.#header, Header.generation);
  }

  /** As of `refresh()`. While it is unchanged, data derived from netbase is valid; records and ids are not. */
  get generation(): number {
    return this.#generation;
  }

  /** One of `Sync` (layout.ts). */
  get syncState(): number {
    return Atomics.load(this.#header, Header.syncState);
  }

  /** When that state was entered, milliseconds since the epoch. */
  get syncTimeMillis(): number {
    return this.#header[Header.syncTimeHigh] * 2 ** 32 + this.#header[Header.syncTimeLow];
  }
}

/*
 * The route decision: how the kernel would route a packet to an address. Net tiles (for each header
 * they build) and `tegula route get` use the same function. It follows `ip_route_output_key_hash_rcu`
 * and `__mkroute_output` in net/ipv4/route.c, and for the source `inet_select_addr` in devinet.c.
 */

/** The loopback device has this index in every namespace (LOOPBACK_IFINDEX). */
const LOOPBACK_IFINDEX = 1;
const INADDR_LOOPBACK = 0x7f000001;
const INADDR_BROADCAST = 0xffffffff;

/** The outcome of a route decision. Made once, filled by {@linkcode decide}. */
export type Decision = ReturnType<typeof emptyDecision>;

export function emptyDecision() {
  return {
    /**
     * RTN_* or KIND_UNSUPPORTED, KIND_OVERFLOW; RTN_UNSPEC: no route. For a group it is the member's.
     * RTN_BLACKHOLE also represents other packets that the kernel refuses with EINVAL.
     */
    kind: RTN_UNSPEC,
    /** Next hop id (of the member, for a group); 0: none. */
    nextHop: 0,
    /** Next hop id of the group from which the member was chosen; 0: none. */
    group: 0,
    /** The gateway, host order; 0: the destination itself is on-link. */
    gateway: 0,
    /** Outgoing interface; for `local` the loopback device. 0: none. */
    ifindex: 0,
    /** Source address to use, host order; 0: none could be chosen. */
    source: 0,
    /** The route's MTU, else the interface's; 0: neither is known. */
    mtu: 0,
    /** Record of the interface, or -1. Valid until the reader's next quiescent state. */
    interfaceRecord: -1,
  };
}

/**
 * Decides how a packet to `destination` from `source` (0: choose one), both in host order, is routed.
 * `flowHash`: 32 well-mixed bits, which select the member of a group. Returns `out.kind`; if that is a
 * refusal, only `kind` and `nextHop` of `out` are set.
 */
export function decide(
  reader: NetbaseReader,
  destination: number,
  source: number,
  flowHash: number,
  out: Decision,
): number {
  clear(out);
  const to = destination >>> 0;
  const from = source >>> 0;
  const everyone = isMulticast(to) || to === INADDR_BROADCAST;
  if (from !== 0) {
    // The source must be our own. A broadcast packet leaves by the interface that has the source.
    const own = reader.fib.lookup(from);
    if (own === 0 || reader.nextHops.kind(own) !== RTN_LOCAL) return RTN_UNSPEC;
    out.source = from;
    if (everyone) out.ifindex = reader.nextHops.ifindex(own);
  }
  if (to === 0) return decideSelf(reader, out);
  if (from === 0 || !everyone) {
    if (!follow(reader, to, flowHash, out)) return out.kind;
  }
  return finish(reader, to, out);
}

function clear(out: Decision): void {
  out.kind = RTN_UNSPEC;
  out.nextHop = 0;
  out.group = 0;
  out.gateway = 0;
  out.ifindex = 0;
  out.source = 0;
  out.mtu = 0;
  out.interfaceRecord = -1;
}

/** 0.0.0.0 means this host. */
function decideSelf(reader: NetbaseReader, out: Decision): number {
  if (out.source === 0) out.source = INADDR_LOOPBACK;
  out.kind = RTN_LOCAL;
  out.ifindex = LOOPBACK_IFINDEX;
  return finish(reader, out.source, out);
}

/** Takes the route, and the member if there are several. False: the route refuses. */
function follow(reader: NetbaseReader, to: number, flowHash: number, out: Decision): boolean {
  const hops = reader.nextHops;
  let id = reader.fib.lookup(to);
  if (id !== 0 && hops.kind(id) === KIND_GROUP) {
    if ((hops.flags(id) & NextHopFlag.ordered) !== 0) id = chooseDefault(reader, id, flowHash);
    else {
      out.group = id;
      id = chooseMember(reader, id, flowHash, out.source);
    }
  }
  out.nextHop = id;
  out.kind = id === 0 ? RTN_UNSPEC : hops.kind(id);
  if (refuses(out.kind)) return false;
  out.gateway = hops.gateway(id);
  out.mtu = hops.mtu(id);
  if (out.source === 0) out.source = hops.source(id);
  if (out.kind === RTN_LOCAL) {
    out.ifindex = LOOPBACK_IFINDEX;
    if (out.source === 0) out.source = to;
    return true;
  }
  out.ifindex = hops.ifindex(id);
  if (out.source === 0) out.source = ownSource(reader, id);
  return true;
}

/** Applies rules that follow from the address itself, independent of the route. */
function finish(reader: NetbaseReader, to: number, out: Decision): number {
  const record = reader.interfaces.find(out.ifindex);
  out.interfaceRecord = record;
  const onLoopback = record >= 0 && reader.interfaces.isLoopback(record);
  // The kernel returns EINVAL, as for a blackhole.
  if (out.source >>> 24 === 127 && !onLoopback) return out.kind = RTN_BLACKHOLE;
  if (to === INADDR_BROADCAST) {
    out.kind = RTN_BROADCAST;
    out.gateway = 0;
    out.mtu = 0;
  } else if (isMulticast(to)) {
    out.kind = RTN_MULTICAST;
    // Multicast under a default route goes to its link, but not to its gateway.
    if (out.nextHop === 0 || (reader.nextHops.flags(out.nextHop) & NextHopFlag.short) !== 0) {
      out.gateway = 0;
      out.mtu = 0;
    }
  }
  if (out.mtu === 0 && record >= 0) out.mtu = reader.interfaces.mtu(record);
  return out.kind;
}

function refuses(kind: number): boolean {
  return kind === RTN_UNSPEC || isRefusal(kind) || kind === KIND_UNSUPPORTED ||
    kind === KIND_OVERFLOW;
}

function isMulticast(address: number): boolean {
  return address >>> 28 === 0xe;
}

/**
 * The member of a group for a flow. With a given source, members that would choose it themselves come
 * first, so that each uplink carries its own addresses (`fib_select_multipath` since Linux 6.16).
 * Next-hop objects have no such preference, but skip members whose gateway is dead
 * (`nexthop_select_path_hthr`).
 */
function chooseMember(
  reader: NetbaseReader,
  group: number,
  flowHash: number,
  source: number,
): number {
  const hops = reader.nextHops;
  const chosen = hops.member(group, flowHash);
  if (suits(reader, group, chosen, source)) return chosen;
  const count = hops.memberCount(group);
  const first = (flowHash >>> 0) % count;
  for (let i = 0; i < count; i++) {
    const member = hops.memberId(group, (first + i) % count);
    if (suits(reader, group, member, source)) return member;
  }
  return chosen;
}

/** Whether a member would choose `source` itself, and is therefore preferred. */
function suits(reader: NetbaseReader, group: number, member: number, source: number): boolean {
  const isObject = (reader.nextHops.flags(group) & NextHopFlag.object) !== 0;
  if (isObject) return !isDead(reader, member);
  return source === 0 || ownSource(reader, member) === source;
}

/**
 * The first default route of equal metric whose gateway is not known to be dead, as
 * `fib_select_default` chooses. If all are dead the kernel tries another gateway each time; here flows
 * are spread over them, so that a returning gateway is noticed.
 */
function chooseDefault(reader: NetbaseReader, group: number, flowHash: number): number {
  const hops = reader.nextHops;
  const count = hops.memberCount(group);
  for (let i = 0; i < count; i++) {
    const member = hops.memberId(group, i);
    if (!isDead(reader, member)) return member;
  }
  return hops.memberId(group, (flowHash >>> 0) % count);
}

/** Whether the gateway of a next hop is known to be unresponsive (`ipv4_good_nh`). */
function isDead({ nextHops, neighbors }: NetbaseReader, id: number): boolean {
  const gateway = nextHops.gateway(id);
  const record = gateway === 0 ? -1 : neighbors.find(nextHops.ifindex(id), gateway);
  return record >= 0 && (neighbors.state(record) & NUD_VALID) === 0;
}

/** The source of a next hop without a preferred one (`inet_select_addr`); 0: none. */
function ownSource(reader: NetbaseReader, id: number): number {
  const interfaces = reader.interfaces;
  const scope = reader.nextHops.scope(id);
  const record = interfaces.find(reader.nextHops.ifindex(id));
  const found = record < 0
    ? 0
    : selectAddress(interfaces, record, reader.nextHops.gateway(id), scope);
  return found !== 0 ? found : anyAddress(interfaces, scope);
}

/** Of the primary addresses with a wide enough scope, the one whose prefix covers `gateway`, else the first; 0: none. */
function selectAddress(
  interfaces: InterfaceReader,
  record: number,
  gateway: number,
  scope: number,
): number {
  let first = 0;
  const count = interfaces.addressCount(record);
  for (let i = 0; i < count; i++) {
    if (interfaces.isSecondary(record, i)) continue;
    if (Math.min(interfaces.scope(record, i), RT_SCOPE_HOST) > scope) continue;
    const local = interfaces.local(record, i);
    if (gateway === 0 || isInPrefix(interfaces, record, i, gateway)) return local;
    if (first === 0) first = local;
  }
  return first;
}

/** Whether the prefix of a record's `i`-th address covers `address`. */
function isInPrefix(
  interfaces: InterfaceReader,
  record: number,
  i: number,
  address: number,
): boolean {
  const length = interfaces.prefixLength(record, i);
  return length === 0 || ((address ^ interfaces.address(record, i)) >>> (32 - length)) === 0;
}

/** For an interface without one: the first of any interface, by index, nearly the kernel's order. Rare; allocates. */
function anyAddress(interfaces: InterfaceReader, scope: number): number {
  for (const record of interfaces.records()) {
    const count = interfaces.addressCount(record);
    for (let i = 0; i < count; i++) {
      const own = interfaces.scope(record, i);
      if (interfaces.isSecondary(record, i) || own === RT_SCOPE_LINK || own > scope) continue;
      return interfaces.local(record, i);
    }
  }
  return 0;
}
