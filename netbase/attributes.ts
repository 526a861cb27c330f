/**
 * Route attributes, shared: a million routes of a full table have a few hundred different sets of them,
 * so each is kept once and counted, and a route holds a number. Also what a set comes to as a next hop,
 * published on first need. Only in the writer's heap.
 */

import { NEXT_HOP_OVERFLOW, NextHopFlag } from "./layout.ts";
import type { NextHopFields, NextHopWriter } from "./next_hop_writer.ts";
import {
  type Hop,
  KIND_GROUP,
  KIND_UNSUPPORTED,
  type RouteAttributes,
  RTN_BLACKHOLE,
  RTN_LOCAL,
  RTN_THROW,
  RTN_UNICAST,
  RTNH_DYNAMIC_FLAGS,
  RTNH_F_DEAD,
  RTNH_F_ONLINK,
} from "./route.ts";

/** A set of attributes in use. */
export interface AttributeSet extends Readonly<RouteAttributes> {
  readonly id: number;
  readonly hash: number;
  /** False: the kernel passes over such a candidate (RTNH_F_DEAD). */
  readonly usable: boolean;
  /** How many candidates have it. */
  count: number;
  /** Next hop ids once published, for prefixes shorter than /4 and for all others; 0: not yet. */
  readonly nextHops: [number, number];
}

/** All sets in use, by number and by content. */
export class AttributeTable {
  readonly #sets: (AttributeSet | undefined)[] = [undefined];
  readonly #free: number[] = [];
  readonly #byHash = new Map<number, AttributeSet[]>();
  readonly #nextHops: NextHopWriter;
  /** Sets that lost their last candidate, and may still be painted. */
  readonly #dying = new Set<AttributeSet>();
  #last: AttributeSet | undefined;
  /** The group of default routes that is wanted, of which sets, and those before it, which may still be painted. */
  #defaults = 0;
  #defaultsOf = "";
  readonly #formerDefaults: number[] = [];

  constructor(nextHops: NextHopWriter) {
    this.#nextHops = nextHops;
  }

  /** The set with number `id`, which is in use. */
  get(id: number): AttributeSet {
    return this.#sets[id]!;
  }

  /** All sets in use. */
  all(): AttributeSet[] {
    return this.#sets.filter((set) => set !== undefined);
  }

  /** The number of the set that equals `attributes`, counted once more. */
  intern(attributes: Readonly<RouteAttributes>): number {
    // Neighbouring routes of a full table mostly have the same.
    if (this.#last !== undefined && isEqual(this.#last, attributes, 0)) {
      return this.#hold(this.#last);
    }
    const hash = hashOf(attributes);
    const alike = this.#byHash.get(hash);
    const known = alike?.find((set) => isEqual(set, attributes, 0));
    if (known !== undefined) return this.#hold(known);
    const set = makeSet(attributes, this.#free.pop() ?? this.#sets.length, hash);
    this.#sets[set.id] = set;
    if (alike === undefined) this.#byHash.set(hash, [set]);
    else alike.push(set);
    return this.#hold(set);
  }

  /** One more candidate has set `id`. */
  retain(id: number): void {
    this.get(id).count++;
  }

  /** A candidate with set `id` is gone. */
  release(id: number): void {
    const set = this.get(id);
    if (--set.count === 0) this.#dying.add(set);
  }

  /** Forgets the sets that nobody has any more. To be called when nothing painted names them. */
  sweep(): void {
    for (const set of this.#dying) {
      if (set.count > 0) continue;
      for (const id of set.nextHops) if (id !== 0) this.#nextHops.release(id);
      this.#sets[set.id] = undefined;
      this.#free.push(set.id);
      const alike = this.#byHash.get(set.hash)!.filter((other) => other !== set);
      if (alike.length === 0) this.#byHash.delete(set.hash);
      else this.#byHash.set(set.hash, alike);
      if (this.#last === set) this.#last = undefined;
    }
    this.#dying.clear();
    for (const id of this.#formerDefaults.splice(0)) this.#nextHops.release(id);
  }

  /**
   * The next hop id to paint for set `id` under a prefix of `length` bits, NEXT_HOP_OVERFLOW when it
   * does not fit. Flows stay as they were with the next hop `earlier`, where both are groups.
   */
  nextHop(id: number, length: number, earlier: number): number {
    const set = this.get(id);
    const short = length < 4 ? 0 : 1;
    if (set.nextHops[short] !== 0) return set.nextHops[short];
    const flags = short === 0 ? NextHopFlag.short : 0;
    const nextHop = publish(this.#nextHops, set, flags, earlier);
    // What did not fit is asked for again when there may be room.
    if (nextHop !== NEXT_HOP_OVERFLOW) set.nextHops[short] = nextHop;
    return nextHop;
  }

  /**
   * The next hop id to paint for default routes of equal metric, given as the numbers of their sets in
   * the kernel's order: of the only one, or of a group of them in that order; 0 for none,
   * NEXT_HOP_OVERFLOW when it does not fit.
   */
  defaultNextHop(ids: readonly number[], earlier: number): number {
    if (this.#defaults !== 0 && this.#defaultsOf === ids.join()) return this.#defaults;
    if (this.#defaults !== 0) this.#formerDefaults.push(this.#defaults);
    this.#defaults = 0;
    if (ids.length < 2) return ids.length === 0 ? 0 : this.nextHop(ids[0], 0, earlier);
    const flags = NextHopFlag.short;
    const members = ids.map((id) => this.get(id)).map((set) => {
      // Of a multipath route in another's place the kernel takes the first hop alone.
      return { fields: fieldsOf(set, flags, set.hops?.[0] ?? set), weight: 1 };
    });
    const whole = { ...refusal(KIND_GROUP), flags: flags | NextHopFlag.ordered };
    const id = this.#nextHops.publishGroup(whole, members, 0);
    if (id !== NEXT_HOP_OVERFLOW) [this.#defaults, this.#defaultsOf] = [id, ids.join()];
    return id;
  }

  /**
   * Whether the kernel may take a default route with set `id` in place of another of equal metric whose
   * gateway is dead, and the reverse (`fib_select_default`).
   */
  standsIn(id: number): boolean {
    const { type, gateway, hops, unsupported, usable } = this.get(id);
    return type === RTN_UNICAST && usable && (unsupported || (hops?.[0].gateway ?? gateway) !== 0);
  }

  #hold(set: AttributeSet): number {
    set.count++;
    this.#last = set;
    return set.id;
  }
}

/** Whether two sets are equal, `ignored` flags aside. */
export function isEqual(
  a: Readonly<RouteAttributes>,
  b: Readonly<RouteAttributes>,
  ignored: number,
): boolean {
  return a.gateway === b.gateway && a.ifindex === b.ifindex && a.source === b.source &&
    a.type === b.type && a.scope === b.scope && a.protocol === b.protocol && a.mtu === b.mtu &&
    ((a.flags ^ b.flags) & ~ignored) === 0 && a.nextHopId === b.nextHopId &&
    a.unsupported === b.unsupported && hasEqualHops(a, b, ignored);
}

/**
 * Whether two sets are of the same route, in whatever state the kernel says it is. A route by a
 * next-hop object stays the same when the object changes.
 */
export function isSameRoute(a: Readonly<RouteAttributes>, b: Readonly<RouteAttributes>): boolean {
  if (a.nextHopId === 0 || a.nextHopId !== b.nextHopId) return isEqual(a, b, RTNH_DYNAMIC_FLAGS);
  return a.source === b.source && a.mtu === b.mtu && a.scope === b.scope &&
    a.protocol === b.protocol;
}

function hasEqualHops(
  a: Readonly<RouteAttributes>,
  b: Readonly<RouteAttributes>,
  ignored: number,
): boolean {
  if (a.hops === null || b.hops === null) return a.hops === b.hops;
  if (a.hops.length !== b.hops.length) return false;
  for (let i = 0; i < a.hops.length; i++) {
    const [one, other] = [a.hops[i], b.hops[i]];
    if (one.gateway !== other.gateway || one.ifindex !== other.ifindex) return false;
    if (one.weight !== other.weight || ((one.flags ^ other.flags) & ~ignored) !== 0) return false;
  }
  return true;
}

function hashOf(attributes: Readonly<RouteAttributes>): number {
  let h = Math.imul(attributes.gateway ^ Math.imul(attributes.ifindex, 0x9e3779b1), 0x85ebca6b);
  h = Math.imul((h ^ (h >>> 15)) + attributes.source, 0xc2b2ae35);
  h = Math.imul((h ^ (h >>> 13)) + attributes.mtu + (attributes.nextHopId << 8), 0x9e3779b1);
  const small = attributes.type | (attributes.scope << 8) | (attributes.protocol << 16);
  h = Math.imul((h ^ (h >>> 16)) + small + (attributes.flags << 24), 0x85ebca6b);
  for (const hop of attributes.hops ?? []) {
    h = Math.imul((h ^ (h >>> 15)) + hop.gateway + hop.ifindex + (hop.flags << 20), 0xc2b2ae35);
  }
  return h ^ (h >>> 16);
}

function makeSet(attributes: Readonly<RouteAttributes>, id: number, hash: number): AttributeSet {
  const { type, scope, protocol, flags, source, gateway, ifindex, mtu, nextHopId } = attributes;
  const hops = attributes.hops?.map((hop) => ({ ...hop })) ?? null;
  return {
    ...{ type, scope, protocol, flags, source, gateway, ifindex, mtu, nextHopId, hops },
    unsupported: attributes.unsupported,
    id,
    hash,
    usable: isUsable(attributes),
    count: 0,
    nextHops: [0, 0],
  };
}

/** As `fib_table_lookup`: kinds that refuse always count, what leads somewhere unless it is dead. */
function isUsable(attributes: Readonly<RouteAttributes>): boolean {
  if (refuses(attributes.type)) return true;
  if ((attributes.flags & RTNH_F_DEAD) !== 0) return false;
  return attributes.hops === null || attributes.hops.some((hop) => isAlive(hop));
}

function refuses(type: number): boolean {
  return type >= RTN_BLACKHOLE && type <= RTN_THROW;
}

function isAlive(hop: Hop): boolean {
  return (hop.flags & RTNH_F_DEAD) === 0;
}

/** Publishes a set as a next hop or a group of its live hops. */
function publish(
  nextHops: NextHopWriter,
  set: AttributeSet,
  flags: number,
  earlier: number,
): number {
  if (set.unsupported) return nextHops.publish(refusal(KIND_UNSUPPORTED));
  if (refuses(set.type)) return nextHops.publish(refusal(set.type));
  const alive = set.hops?.filter(isAlive) ?? [set];
  const members = alive.map((hop) => ({
    fields: fieldsOf(set, flags, hop),
    weight: "weight" in hop ? hop.weight : 1,
  }));
  if (members.length === 1) return nextHops.publish(members[0].fields);
  const groupFlags = flags | (set.nextHopId !== 0 ? NextHopFlag.object : 0);
  const { scope, source, mtu } = set;
  const whole = { kind: KIND_GROUP, scope, flags: groupFlags, source, mtu, gateway: 0, ifindex: 0 };
  return nextHops.publishGroup(whole, members, earlier);
}

/** One way of a route. Without an interface there is none that Tegula could follow. */
function fieldsOf(
  set: AttributeSet,
  flags: number,
  way: { gateway: number; ifindex: number; flags: number },
): NextHopFields {
  if (set.unsupported) return refusal(KIND_UNSUPPORTED);
  if (way.ifindex === 0 && set.type !== RTN_LOCAL) return refusal(KIND_UNSUPPORTED);
  return {
    kind: set.type,
    scope: set.scope,
    flags: flags | ((way.flags & RTNH_F_ONLINK) !== 0 ? NextHopFlag.onlink : 0),
    gateway: way.gateway,
    ifindex: way.ifindex,
    source: set.source,
    mtu: set.mtu,
  };
}

function refusal(kind: number): NextHopFields {
  return { kind, scope: 0, flags: 0, gateway: 0, ifindex: 0, source: 0, mtu: 0 };
}
