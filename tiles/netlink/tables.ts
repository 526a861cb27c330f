// SPDX-License-Identifier: Apache-2.0
/**
 * The tables of the mirror: interfaces with their addresses, next-hop objects, routes, neighbours,
 * rules. Each applies the events of some message types to netbase. `mirror.ts` rereads a table by mark
 * and sweep, while net tiles use its content.
 *
 * The kernel withdraws routes without an RTM_DELROUTE when a link goes down, or when an address or a
 * next-hop object is removed. Tegula withdraws them at once too, so that no packet is sent to nowhere,
 * and then rereads the routes.
 */

import { EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH } from "../../ffi/library.ts";
import {
  IFF_LOWER_UP,
  IFF_RUNNING,
  IFF_UP,
  type InterfaceEntry,
  type InterfaceLink,
} from "../../netbase/interfaces.ts";
import { NUD_NOARP, NUD_NONE, NUD_VALID } from "../../netbase/neighbors.ts";
import type { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import type { Rib } from "../../netbase/rib.ts";
import * as rt from "../../netbase/route.ts";
import { withAddress, withoutAddress } from "../../netbase/tables_writer.ts";
import { once } from "../runtime/log.ts";
import { NeighborMap } from "./neighbor_resolver.ts";
import * as nl from "./rtnetlink.ts";
import type { DumpEnd, Dumper } from "./rtnetlink.ts";

/** The tables as bits of a set, in the order in which they are read: each needs those before it. */
export const TableBit = { interfaces: 1, rules: 2, nextHops: 4, routes: 8, neighbors: 16 } as const;

export const ALL_TABLES = 31;

/** The source of a message: an event, a dump, or the replay of an event after a dump, which may be newer. */
export type Source = "event" | "dump" | "replay";

export interface Table {
  readonly bit: number;
  /** The dumps that together contain it, in order. */
  readonly dumps: readonly nl.DumpKind[];
  /** The types of messages that concern it. */
  readonly types: readonly number[];
  /** Some kernels are built without it. If its dump is refused, the table counts as empty. */
  readonly optional?: boolean;
  /** The order of its events matters: those that arrive during a dump are applied after it, not at once. */
  readonly ordered?: boolean;
  /** Applies a message; returns the tables that are stale as a result of an event. */
  apply(message: nl.MessageCursor, source: Source): number;
  /** Begins mark and sweep, or restarts it. */
  beginSync(): void;
  /** Ends mark and sweep: removes entries that neither a dump nor an event has named since `beginSync`. */
  endSync(): void;
}

const MOST_NOTICES = 256;

/** Log lines that are written once each, and the count of unsupported things. */
export class Notices {
  /** Messages about unsupported things. */
  unsupported = 0;
  /** Logs a line unless it was logged before. */
  readonly once: (line: string) => void;

  constructor(log: (line: string) => void) {
    this.once = once(log, MOST_NOTICES);
  }

  /** Counts an unsupported thing, and logs it once. */
  unsupportedThing(line: string): void {
    this.unsupported++;
    this.once(`not supported: ${line}`);
  }
}

/** Commits to wait for room: about a millisecond. */
const MOST_COMMITS = 1000;

export class InterfacesTable implements Table {
  readonly bit = TableBit.interfaces;
  readonly dumps = ["links", "addresses", "settings"] as const;
  readonly types = [
    ...[nl.RTM_NEWLINK, nl.RTM_DELLINK, nl.RTM_NEWADDR, nl.RTM_DELADDR],
    ...[nl.RTM_NEWNETCONF, nl.RTM_DELNETCONF],
  ];
  readonly #netbase: NetbaseWriter;
  readonly #routes: RoutesTable;
  readonly #nextHops: NextHopsTable;
  readonly #notices: Notices;
  readonly #dumped = new Map<number, InterfaceEntry>();
  /** Indices, including NETCONFA_IFINDEX_ALL and _DEFAULT, with `ignore_routes_with_linkdown` set. */
  readonly #ignoringLinkdown = new Set<number>();

  /** `routes` and `nextHops` are notified of changes that withdraw routes. */
  constructor(netbase: NetbaseWriter, { routes, nextHops, notices }: {
    readonly routes: RoutesTable;
    readonly nextHops: NextHopsTable;
    readonly notices: Notices;
  }) {
    this.#netbase = netbase;
    this.#routes = routes;
    this.#nextHops = nextHops;
    this.#notices = notices;
  }

  apply(message: nl.MessageCursor, source: Source): number {
    const { type } = message;
    if (type >= nl.RTM_NEWNETCONF) return this.#applySettings(message);
    const subject = type < nl.RTM_NEWADDR ? nl.decodeLink(message) : nl.decodeAddress(message);
    // A bridge sends RTM_DELLINK in the same group when a port leaves it.
    if (subject === null) return 0;
    const { ifindex } = subject;
    if (source === "event") {
      const before = this.#netbase.interfaces.get(ifindex);
      return this.#changed(type, subject, { before, now: changedBy(type, subject, before) });
    }
    const now = changedBy(type, subject, this.#dumped.get(ifindex) ?? null);
    if (now === null) this.#dumped.delete(ifindex);
    else this.#dumped.set(ifindex, now);
    return 0;
  }

  beginSync(): void {
    this.#dumped.clear();
  }

  endSync(): void {
    const { interfaces } = this.#netbase;
    for (const { ifindex } of interfaces.all()) {
      if (!this.#dumped.has(ifindex)) interfaces.remove(ifindex);
    }
    for (const entry of this.#dumped.values()) this.#store(entry);
  }

  /** Stores an interface after an event has changed it, and withdraws routes. */
  #changed(
    type: number,
    subject: InterfaceLink | nl.AddressMessage,
    { before, now }: { before: InterfaceEntry | null; now: InterfaceEntry | null },
  ): number {
    if (type === nl.RTM_DELLINK) return this.#linkGone(subject.ifindex);
    // An address arrived for an unknown interface.
    if (now === null) return type === nl.RTM_NEWADDR ? TableBit.interfaces : 0;
    const isStored = this.#store(now);
    if (type === nl.RTM_NEWADDR && !isStored) return TableBit.interfaces;
    // The first end of a new veth pair is reported before it has its peer, and not again.
    if (before === null) return TableBit.interfaces;
    if ("name" in subject) return this.#linkChanged(before, now);
    if (type === nl.RTM_DELADDR) {
      const isGone = now.addresses.length < before.addresses.length;
      return isGone ? this.#addressGone(subject) : 0;
    }
    // The event may concern only the address's lifetime.
    const same = ["local", "address", "prefixLength", "secondary"] as const;
    const isKnown = before.addresses.some((other) =>
      same.every((key) => other[key] === subject[key])
    );
    return isKnown ? 0 : TableBit.routes;
  }

  #linkChanged(before: InterfaceLink, now: InterfaceLink): number {
    const { ifindex } = now;
    const ignoring = this.#ignoringLinkdown;
    const wentDown = hasLost(IFF_UP, before.flags, now.flags);
    const lostCarrier = hasLost(IFF_RUNNING | IFF_LOWER_UP, before.flags, now.flags);
    if (wentDown) this.#routes.deviceDown(ifindex, { force: false });
    if (wentDown || lostCarrier) this.#nextHops.deviceLost(ifindex);
    if (lostCarrier && (ignoring.has(ifindex) || ignoring.has(nl.NETCONFA_IFINDEX_ALL))) {
      this.#routes.carrierLost(ifindex);
    }
    const state = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
    if (((before.flags ^ now.flags) & state) !== 0) return TableBit.nextHops | TableBit.routes;
    // Joining or leaving a VRF moves the routes to another table; an MTU below 68 ends IPv4.
    return before.master !== now.master || before.mtu !== now.mtu ? TableBit.routes : 0;
  }

  /** Other hops may be usable now. A dump of the routes contains that, in the hops' flags. */
  #applySettings(message: nl.MessageCursor): number {
    const { ifindex, ignoreLinkdown } = nl.decodeSettings(message);
    const ignoring = this.#ignoringLinkdown;
    const ignores = message.type === nl.RTM_NEWNETCONF && ignoreLinkdown;
    if (ignores === null || ignores === ignoring.has(ifindex)) return 0;
    if (ignores) ignoring.add(ifindex);
    else ignoring.delete(ifindex);
    // A new default applies to interfaces without their own setting, for which there is no event.
    const isDefault = ifindex === nl.NETCONFA_IFINDEX_DEFAULT;
    return isDefault ? TableBit.interfaces | TableBit.routes : TableBit.routes;
  }

  #linkGone(ifindex: number): number {
    this.#netbase.interfaces.remove(ifindex);
    this.#netbase.neighbors.removeInterface(ifindex);
    this.#routes.deviceGone(ifindex);
    this.#nextHops.deviceLost(ifindex);
    return TableBit.nextHops | TableBit.routes;
  }

  /** A change copies all addresses; the old copy is freed after a commit, in microseconds. False: no room. */
  #store(entry: InterfaceEntry): boolean {
    for (let tries = 0; tries < MOST_COMMITS; tries++) {
      if (this.#netbase.interfaces.put(entry)) return true;
      this.#netbase.commit();
    }
    this.#notices.once("netbase has no room for more addresses");
    return false;
  }

  #addressGone({ ifindex, local }: nl.AddressMessage): number {
    const { interfaces } = this.#netbase;
    const left = interfaces.get(ifindex)?.addresses.length ?? 0;
    // Without an address IPv4 is off on the interface, and all routes through it are removed.
    if (left === 0) this.#routes.deviceDown(ifindex, { force: true });
    const elsewhere = interfaces.all().some(({ addresses }) =>
      addresses.some((other) => other.local === local)
    );
    if (!elsewhere) this.#routes.sourceGone(local);
    return TableBit.routes;
  }
}

/** The interface after a message; null: there is none. */
function changedBy(
  type: number,
  subject: InterfaceLink | nl.AddressMessage,
  before: InterfaceEntry | null,
): InterfaceEntry | null {
  if (type === nl.RTM_DELLINK) return null;
  if ("name" in subject) return { ...subject, addresses: before?.addresses ?? [] };
  if (before === null) return null;
  const change = type === nl.RTM_NEWADDR ? withAddress : withoutAddress;
  return { ...before, addresses: change(before.addresses, subject) };
}

/** Whether one of `flags` was set and none of them is set any more. */
function hasLost(flags: number, before: number, now: number): boolean {
  return (before & flags) !== 0 && (now & flags) === 0;
}

/** The low byte of `rtm_flags` holds a next hop's RTNH_F_*. */
const RTNH_FLAGS = 0xff;

/**
 * Next-hop objects (`ip nexthop`) and groups of them. A route that names an object follows it: its
 * gateway, interface and hops are those of the object, from the first message on and whenever the
 * object changes. Removing an object removes every route that names it.
 */
export class NextHopsTable implements Table {
  readonly bit = TableBit.nextHops;
  readonly dumps = ["nextHops"] as const;
  readonly types = [nl.RTM_NEWNEXTHOP, nl.RTM_DELNEXTHOP];
  readonly optional = true;
  readonly #rib: Rib;
  readonly #objects = new Map<number, nl.NextHopMessage>();
  #seen = new Set<number>();

  constructor(rib: Rib) {
    this.#rib = rib;
  }

  apply(message: nl.MessageCursor, source: Source): number {
    const object = nl.decodeNextHop(message);
    if (message.type === nl.RTM_NEWNEXTHOP) {
      this.#set(object);
      return 0;
    }
    const withdrawn = this.#remove(new Set([object.id]));
    // The kernel withdraws those routes silently, so a reread checks that they are the same ones.
    return withdrawn > 0 && source === "event" ? TableBit.routes : 0;
  }

  beginSync(): void {
    this.#seen = new Set();
  }

  endSync(): void {
    this.#remove(new Set([...this.#objects.keys()].filter((id) => !this.#seen.has(id))));
  }

  #set(object: nl.NextHopMessage): void {
    this.#seen.add(object.id);
    const known = this.#objects.get(object.id);
    this.#objects.set(object.id, object);
    if (known === undefined || JSON.stringify(known) !== JSON.stringify(object)) {
      this.#updateRoutes(new Set([object.id]));
    }
  }

  /** Removes objects, also from their groups; returns how many routes changed. */
  #remove(ids: Set<number>): number {
    if (ids.size === 0) return 0;
    const gone = new Set(ids);
    for (const id of ids) this.#objects.delete(id);
    for (const [id, object] of this.#objects) {
      if (!object.group?.some((member) => ids.has(member.id))) continue;
      const group = object.group.filter((member) => !ids.has(member.id));
      // A group is removed with its last member.
      if (group.length === 0) this.#objects.delete(id);
      else this.#objects.set(id, { ...object, group });
      gone.add(id);
    }
    return this.#updateRoutes(gone);
  }

  /** An interface was lost: the kernel silently removes its objects, and their routes (`nexthop_flush_dev`). */
  deviceLost(ifindex: number): void {
    const lost = [...this.#objects.values()].filter((object) =>
      object.group === null && object.ifindex === ifindex
    );
    this.#remove(new Set(lost.map(({ id }) => id)));
  }

  #updateRoutes(ids: ReadonlySet<number>): number {
    const concerned = new Set(ids);
    for (const [id, { group }] of this.#objects) {
      if (group?.some((member) => ids.has(member.id))) concerned.add(id);
    }
    return this.#rib.rewrite((attributes) => {
      if (!concerned.has(attributes.nextHopId)) return attributes;
      if (!this.#objects.has(attributes.nextHopId)) return null;
      const changed = { ...attributes };
      this.follow(changed);
      return changed;
    });
  }

  /** Makes a route follow its object. A route that names an unknown object is unchanged. */
  follow(route: rt.Route | rt.RouteAttributes): void {
    const object = this.#objects.get(route.nextHopId);
    if (object === undefined) return;
    const hops = object.group?.flatMap(({ id, weight }) => this.#hop(id, weight)) ?? [];
    const only = object.group === null ? object : hops.length === 1 ? hops[0] : null;
    const members = object.group?.map(({ id }) => this.#objects.get(id)) ?? [object];
    route.unsupported = members.some((member) => member?.unsupported === true);
    route.type = members.some((member) => member?.blackhole === true)
      ? rt.RTN_BLACKHOLE
      : rt.RTN_UNICAST;
    route.gateway = only?.gateway ?? 0;
    route.ifindex = only?.ifindex ?? 0;
    route.flags = (route.flags & ~RTNH_FLAGS) | (only?.flags ?? 0) & RTNH_FLAGS;
    route.hops = only === null ? hops : null;
  }

  #hop(id: number, weight: number): rt.Hop[] {
    const object = this.#objects.get(id);
    if (object === undefined) return [];
    const { gateway, ifindex, flags } = object;
    return [{ gateway, ifindex, weight, flags: flags & RTNH_FLAGS }];
  }
}

/** The most gateways that are remembered. If there are more, some may be resolved a little later. */
const MOST_GATEWAYS = 4096;

/** Routes of the tables `local` and `main`. */
export class RoutesTable implements Table {
  readonly bit = TableBit.routes;
  readonly dumps = ["routes"] as const;
  readonly types = [nl.RTM_NEWROUTE, nl.RTM_DELROUTE];
  readonly ordered = true;
  /** Gateways of routes since the last full read. True: a route declares it on-link (RTNH_F_ONLINK). */
  readonly gateways = new NeighborMap<boolean>();
  readonly #rib: Rib;
  readonly #nextHops: NextHopsTable;
  readonly #notices: Notices;
  readonly #note: ((route: Readonly<rt.Route>) => void) | undefined;
  readonly #route = rt.emptyRoute();

  /** `note` is called with each route of a message; it is valid only during the call. */
  constructor(rib: Rib, { nextHops, notices, note }: {
    readonly nextHops: NextHopsTable;
    readonly notices: Notices;
    readonly note?: (route: Readonly<rt.Route>) => void;
  }) {
    this.#rib = rib;
    this.#nextHops = nextHops;
    this.#notices = notices;
    this.#note = note;
  }

  apply(message: nl.MessageCursor, source: Source): number {
    const route = this.#read(message);
    if (route === null) return 0;
    if (source === "dump") {
      this.#rib.addFromDump(route);
      return 0;
    }
    const replayed = source === "replay";
    if (message.type === nl.RTM_NEWROUTE) {
      this.#rib.add(route, message.flags);
      // If the dump already had this route, it may now be at another position among its equals.
      const beside = (message.flags & (rt.NLM_F_EXCL | rt.NLM_F_REPLACE)) === 0;
      return replayed && beside ? TableBit.routes : 0;
    }
    // A route that is missing here was missed, or is already withdrawn.
    return this.#rib.remove(route) || replayed ? 0 : TableBit.routes;
  }

  beginSync(): void {
    this.gateways.clear();
    this.#rib.beginSync();
  }

  endSync(): void {
    this.#rib.endSync();
  }

  /** The route of a message as it is stored, valid until the next; null: not one that Tegula follows. */
  #read(message: nl.MessageCursor): Readonly<rt.Route> | null {
    const route = this.#route;
    if (!nl.decodeRoute(message, route)) return null;
    // An entry of the route cache is not part of the tables.
    if ((route.flags & nl.RTM_F_CLONED) !== 0) return null;
    if (route.table !== rt.RT_TABLE_MAIN && route.table !== rt.RT_TABLE_LOCAL) {
      if (route.protocol === nl.RTPROT_TEGULA) return null; // a marker
      this.#notices.unsupportedThing(
        `routes in table ${route.table}; lookups go to local, then main`,
      );
      return null;
    }
    if (route.nextHopId !== 0) this.#nextHops.follow(route);
    if (route.unsupported || route.tos !== 0) this.#noticeUnsupported();
    if (route.hops === null) this.#noteGateway(route);
    else route.hops.forEach((hop) => this.#noteGateway(hop));
    this.#note?.(route);
    return route;
  }

  #noticeUnsupported(): void {
    const { tos, destination, prefixLength } = this.#route;
    const prefix = rt.formatPrefix(destination, prefixLength);
    this.#notices.unsupportedThing(
      tos !== 0
        ? `routes for a single type of service, such as ${prefix} tos ${tos}; they are never used`
        : `next hops by IPv6 or by a tunnel, such as for ${prefix}; they are unreachable`,
    );
  }

  #noteGateway({ ifindex, gateway, flags }: Readonly<rt.Hop | rt.Route>): void {
    if (gateway === 0) return;
    const isOnLink = (flags & rt.RTNH_F_ONLINK) !== 0;
    const known = this.gateways.get(ifindex, gateway);
    // A full table has few gateways: usually it is one that is already known.
    if (known === undefined ? this.gateways.size < MOST_GATEWAYS : isOnLink && !known) {
      this.gateways.set(ifindex, gateway, isOnLink);
    }
  }

  /** An interface went down (`fib_sync_down_dev`). Its addresses' routes, of host scope, stay unless `force`. */
  deviceDown(ifindex: number, { force }: { force: boolean }): void {
    this.#rib.rewrite((attributes) => withoutDevice(attributes, { ifindex, force }));
  }

  /** An interface that ignores linkdown routes lost its carrier: others replace them (`fib_sync_down_dev`). */
  carrierLost(ifindex: number): void {
    this.#rib.rewrite((attributes) => withoutCarrier(attributes, ifindex));
  }

  /** An interface was removed: a multipath route with a hop there is removed as a whole. */
  deviceGone(ifindex: number): void {
    this.#rib.rewrite((attributes) =>
      attributes.hops?.some((hop) => hop.ifindex === ifindex)
        ? null
        : withoutDevice(attributes, { ifindex, force: true })
    );
  }

  /** An address was removed: routes with it as preferred source are removed (`fib_sync_down_addr`). */
  sourceGone(address: number): void {
    this.#rib.rewrite((attributes) => attributes.source === address ? null : attributes);
  }
}

function withoutDevice(
  attributes: Readonly<rt.RouteAttributes>,
  { ifindex, force }: { ifindex: number; force: boolean },
): rt.RouteAttributes | null {
  // A route that follows an object is removed with the object.
  if (attributes.nextHopId !== 0) return attributes;
  if (attributes.hops === null) {
    const stays = attributes.ifindex !== ifindex || attributes.scope === rt.RT_SCOPE_HOST && !force;
    return stays ? attributes : null;
  }
  if (!attributes.hops.some((hop) => hop.ifindex === ifindex)) return attributes;
  const hops = attributes.hops.map((hop) =>
    hop.ifindex === ifindex ? { ...hop, flags: hop.flags | rt.RTNH_F_DEAD } : hop
  );
  return hops.every(({ flags }) => (flags & rt.RTNH_F_DEAD) !== 0) ? null : { ...attributes, hops };
}

function withoutCarrier(
  attributes: Readonly<rt.RouteAttributes>,
  ifindex: number,
): rt.RouteAttributes {
  if (attributes.nextHopId !== 0 || attributes.scope === rt.RT_SCOPE_HOST) return attributes;
  const after = <Way extends { ifindex: number; flags: number }>(way: Way): Way =>
    way.ifindex === ifindex
      ? { ...way, flags: way.flags | rt.RTNH_F_LINKDOWN | rt.RTNH_F_DEAD }
      : way;
  return attributes.hops === null
    ? after(attributes)
    : { ...attributes, hops: attributes.hops.map(after) };
}

/**
 * Called with the kernel's current state of a neighbour, from an event or a dump; NUD_NONE: it was
 * removed. `neighbor` is valid only during the call.
 */
export type NeighborListener = (neighbor: nl.NeighborMessage) => void;

/** Neighbours of the interfaces by which packets leave. The group also reports others, proxies and IPv6. */
export class NeighborsTable implements Table {
  readonly bit = TableBit.neighbors;
  readonly dumps = ["neighbors"] as const;
  readonly types = [nl.RTM_NEWNEIGH, nl.RTM_DELNEIGH];
  /** Interfaces whose neighbours are stored; null: all. */
  interfaces: ReadonlySet<number> | null;
  readonly #netbase: NetbaseWriter;
  readonly #notices: Notices;
  readonly #listener: NeighborListener | undefined;
  readonly #neighbor = nl.emptyNeighborMessage();

  constructor(netbase: NetbaseWriter, { interfaces, notices, listener }: {
    readonly interfaces: ReadonlySet<number> | null;
    readonly notices: Notices;
    readonly listener?: NeighborListener;
  }) {
    this.#netbase = netbase;
    this.interfaces = interfaces;
    this.#notices = notices;
    this.#listener = listener;
  }

  apply(message: nl.MessageCursor): number {
    const neighbor = this.#neighbor;
    if (!nl.decodeNeighbor(message, neighbor)) return 0;
    const { ifindex, address, type, state, hasMac } = neighbor;
    if (this.interfaces?.has(ifindex) === false) return 0;
    // The kernel's own entries for broadcast and multicast have MACs that follow from the address, and
    // no event reports them. Entries that an administrator made for them have other states.
    if ((type === rt.RTN_MULTICAST || type === rt.RTN_BROADCAST) && state === NUD_NOARP) return 0;
    if (message.type === nl.RTM_DELNEIGH) {
      this.#netbase.neighbors.remove(ifindex, address);
      neighbor.state = NUD_NONE;
      this.#listener?.(neighbor);
      return 0;
    }
    // Without a MAC a valid state is useless: a tunnel's peer, or a broadcast address.
    if ((state & NUD_VALID) !== 0 && !hasMac) return 0;
    if (!this.#netbase.neighbors.set(neighbor)) {
      this.#notices.once("netbase has no room for more neighbours; the others are not resolved");
    }
    this.#listener?.(neighbor);
    return 0;
  }

  beginSync(): void {
    this.#netbase.neighbors.beginSync();
  }

  endSync(): void {
    this.#netbase.neighbors.endSync();
  }
}

/*
 * Policy rules (`ip rule`) and the order in which the kernel looks up its tables.
 *
 * As long as no rule of a namespace was ever changed, `local` and `main` are one trie, in which the
 * longest prefix wins. After the first change, permanently, all of `local` is looked up first. No
 * message reports this. So Tegula looks up a route for which the two orders differ, once there is one.
 *
 * Tegula supports the three initial rules of a namespace: `local`, `main`, `default`. It logs every
 * other rule once and ignores it.
 */

/** Priority and table of the initial rules of every namespace (fib_default_rules_init). */
const DEFAULT_RULES: { readonly [priority: number]: number } = {
  0: 255,
  32766: 254,
  32767: 253,
};

/** Prefixes of `local` to compare routes with. If there are more, every route counts as inside one. */
const MOST_WIDE_LOCALS = 16;

/** Checks that only the default rules exist, and determines the kernel's lookup order for the RIB. */
export class RulesTable implements Table {
  readonly bit = TableBit.rules;
  readonly dumps = ["rules"] as const;
  readonly types = [nl.RTM_NEWRULE, nl.RTM_DELRULE];
  readonly optional = true;
  /** The number of rules that are not default ones, and of missing default ones. */
  custom = 0;
  readonly #rib: Rib;
  readonly #dumper: Dumper;
  readonly #notices: Notices;
  #found = 0;
  #defaults = 0;
  readonly #reply = rt.emptyRoute();
  /** The order is final. */
  #known = false;
  /** Whether a route that depends on the order was seen since the last commit, and since the lookup before it. */
  #noted = false;
  #changed = true;
  #requested = false;
  /** The address of the last lookup, so that it is not repeated without a change. */
  #address = -1;
  /** Prefixes of `local` longer than one address: usually only 127.0.0.0/8. */
  readonly #wideLocals: { readonly destination: number; readonly mask: number }[] = [];
  /** Whether `local` has had a `throw`, by which the lookup may reach any route of `main` around it. */
  #throws = false;

  constructor(rib: Rib, dumper: Dumper, notices: Notices) {
    this.#rib = rib;
    this.#dumper = dumper;
    this.#notices = notices;
  }

  apply(message: nl.MessageCursor, source: Source): number {
    const rule = nl.decodeRule(message);
    if (rule === null) return 0;
    if (source === "dump") this.#enter(rule);
    if (source !== "event") return 0;
    this.#rulesChanged();
    return TableBit.rules;
  }

  beginSync(): void {
    this.#found = this.#defaults = 0;
  }

  #enter(rule: NonNullable<ReturnType<typeof nl.decodeRule>>): void {
    const { priority, table, action, selective } = rule;
    const looksUp = action === nl.FR_ACT_TO_TBL;
    if (!selective && looksUp && DEFAULT_RULES[priority] === table) {
      this.#defaults++;
      return;
    }
    this.#found++;
    const what = looksUp ? `looks up table ${table}` : `has action ${action}`;
    this.#notices.unsupportedThing(`policy rule ${priority}, which ${what}: Tegula ignores it`);
  }

  endSync(): void {
    const missing = Object.keys(DEFAULT_RULES).length - this.#defaults;
    // A kernel without policy routing has no rules at all, and one lookup order.
    this.custom = this.#found + (this.#defaults === 0 ? 0 : missing);
    if (this.custom > 0) this.#rulesChanged();
  }

  /** Whether the order is known, or does not matter. */
  get settled(): boolean {
    return this.#known || !this.#changed && !this.#requested;
  }

  /** Called after a rule changed: from now on `local` is looked up first. */
  #rulesChanged(): void {
    this.#known = true;
    this.#rib.lookupOrder = "separate";
  }

  note(route: Readonly<rt.Route>): void {
    if (!this.#noted) this.#noted = this.#matters(route);
  }

  committed(): void {
    if (this.#noted) this.#changed = true;
    this.#noted = false;
  }

  /** Whether `route` is in `main` and inside a prefix of `local`, or in `local` and can contain one. */
  #matters({ table, type, destination, prefixLength }: Readonly<rt.Route>): boolean {
    if (table === rt.RT_TABLE_LOCAL) {
      if (type === rt.RTN_THROW) this.#throws = true;
      if (prefixLength === 32) return type === rt.RTN_THROW;
      const mask = prefixLength === 0 ? 0 : -1 << (32 - prefixLength);
      const isKnown = this.#wideLocals.some((wide) =>
        wide.destination === destination && wide.mask === mask
      );
      if (!isKnown && this.#wideLocals.length < MOST_WIDE_LOCALS) {
        this.#wideLocals.push({ destination, mask });
      }
      return true;
    }
    if (this.#throws || this.#wideLocals.length === MOST_WIDE_LOCALS) return true;
    for (const wide of this.#wideLocals) {
      if ((destination & wide.mask) >>> 0 === wide.destination) return true;
    }
    return false;
  }

  /** Makes the lookup if there is an address to look up. Returns how much was done. */
  turn(): number {
    if (this.#known || !this.#changed || this.#dumper.busy) return 0;
    this.#changed = false;
    const address = this.#rib.ambiguousAddress();
    if (address < 0 || address === this.#address) return 0;
    this.#address = address;
    this.#reply.table = 0;
    const write = (writer: nl.MessageWriter, sequence: number) =>
      nl.writeGetRoute(writer, address, sequence);
    this.#requested = this.#dumper.request(write, {
      reply: (message) => nl.decodeRoute(message, this.#reply),
      done: (end, errno) => this.#done(end, errno),
    });
    return 1;
  }

  #done(end: DumpEnd, errno: number): void {
    this.#requested = false;
    const isAnswer = end === "done" || end === "refused";
    if (!isAnswer || this.#known) return;
    const answer = end === "done" ? this.#reply.table : -errno;
    const orders = ["merged", "separate"] as const;
    const matching = orders.filter((order) =>
      answerOf(this.#rib.bestFor(this.#address, order)) === answer
    );
    // If neither matches, the routes have changed meanwhile.
    this.#known = matching.length === 1;
    if (this.#known) this.#rib.lookupOrder = matching[0];
    else this.#address = -1;
  }
}

/** The kernel's answer for a route: its table, or -errno. */
function answerOf(route: rt.Route | null): number {
  switch (route?.type ?? rt.RTN_UNSPEC) {
    case rt.RTN_BLACKHOLE:
      return -EINVAL;
    case rt.RTN_UNREACHABLE:
      return -EHOSTUNREACH;
    case rt.RTN_PROHIBIT:
      return -EACCES;
    case rt.RTN_THROW:
    case rt.RTN_UNSPEC:
      return -ENETUNREACH;
    default:
      return route!.table;
  }
}
