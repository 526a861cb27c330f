/**
 * Routes of the tables `local` and `main`, and what the kernel does to them without telling: a link
 * that goes down, an address or an object that goes, take routes along with no RTM_DELROUTE. The
 * same is done here at once, so that nothing is sent into nowhere, and then all routes are read
 * anew.
 */

import type { Rib } from "../../netbase/rib.ts";
import {
  emptyRoute,
  type Hop,
  type Route,
  type RouteAttributes,
  RT_SCOPE_HOST,
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
  RTN_THROW,
  RTNH_F_DEAD,
  RTNH_F_LINKDOWN,
  RTNH_F_ONLINK,
} from "../../netbase/route.ts";
import { formatPrefix } from "./addresses.ts";
import * as nl from "./codec.ts";
import { decodeRoute, type MessageCursor } from "./codec.ts";
import { NeighborMap } from "./neighbor_map.ts";
import type { NextHopsPart } from "./next_hops_part.ts";
import { type MirrorPart, type Notices, Part } from "./part.ts";

/** Gateways kept; whoever has more routers than that may have to wait for one a little. */
const MOST_GATEWAYS = 4096;
/** Prefixes of `local` to compare routes with; with as many as that any route may be inside one. */
const MOST_WIDE_LOCALS = 16;

/** Keeps the RIB. */
export class RoutesPart implements MirrorPart {
  readonly bit = Part.routes;
  readonly dumps = ["routes"] as const;
  readonly types = [nl.RTM_NEWROUTE, nl.RTM_DELROUTE];
  readonly ordered = true;
  /**
   * Gateways of routes since the last full read, whose addresses are asked for first; true for
   * those that are on-link by the route's word (RTNH_F_ONLINK), whatever prefixes say.
   */
  readonly gateways = new NeighborMap<boolean>();
  readonly #rib: Rib;
  readonly #nextHops: NextHopsPart;
  readonly #notices: Notices;
  readonly #route = emptyRoute();
  #lastGateway = 0;
  #lastIfindex = 0;
  /** Prefixes of `local` that hold more than one address: usually 127.0.0.0/8 alone. */
  readonly #wideLocals: { readonly destination: number; readonly mask: number }[] = [];
  /** Whether `local` has had a `throw`, which may lead on to any route of `main` around it. */
  #throws = false;
  /**
   * Whether, since this was last set to false, a route was told for which it may matter in which
   * order the kernel asks its tables.
   */
  orderMayMatter = false;

  constructor(rib: Rib, { nextHops, notices }: { nextHops: NextHopsPart; notices: Notices }) {
    this.#rib = rib;
    this.#nextHops = nextHops;
    this.#notices = notices;
  }

  event(message: MessageCursor, replayed: boolean): number {
    const route = this.read(message);
    if (route === null) return 0;
    if (message.type === nl.RTM_NEWROUTE) {
      this.#rib.add(route, message.flags);
      // Behind a dump that may have it already, what was put beside others may end in another
      // place.
      const beside = (message.flags & (nl.NLM_F_EXCL | nl.NLM_F_REPLACE)) === 0;
      return replayed && beside ? Part.routes : 0;
    }
    // Removing what is not there means that something was missed, or withdrawn here already.
    return this.#rib.remove(route) || replayed ? 0 : Part.routes;
  }

  beginSync(): void {
    this.gateways.clear();
    this.#lastIfindex = 0;
    this.#rib.beginSync();
  }

  dumped(message: MessageCursor): void {
    const route = this.read(message);
    if (route !== null) this.#rib.addFromDump(route);
  }

  endSync(): void {
    this.#rib.endSync();
  }

  /** The route that a message is about, as it is to be kept; null: none of ours. Good until the next. */
  read(message: MessageCursor): Readonly<Route> | null {
    const route = this.#route;
    if (!decodeRoute(message, route)) return null;
    // An entry of the route cache says nothing about the tables.
    if ((route.flags & nl.RTM_F_CLONED) !== 0) return null;
    if (route.table !== RT_TABLE_MAIN && route.table !== RT_TABLE_LOCAL) {
      this.#notices.unsupportedThing(
        `routes in table ${route.table}; lookups go to local, then main`,
      );
      return null;
    }
    if (route.nextHopId !== 0) this.#nextHops.follow(route);
    if (route.unsupported || route.tos !== 0) this.#tellUnsupported();
    this.#noteGateways();
    if (!this.orderMayMatter) this.orderMayMatter = this.#isOrderSensitive();
    return route;
  }

  /**
   * A route of `main` inside a prefix of `local`, or a route of `local` that can have such inside.
   */
  #isOrderSensitive(): boolean {
    const { table, type, destination, prefixLength } = this.#route;
    if (table === RT_TABLE_LOCAL) {
      if (type === RTN_THROW) this.#throws = true;
      if (prefixLength === 32) return type === RTN_THROW;
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

  #tellUnsupported(): void {
    const { tos, destination, prefixLength } = this.#route;
    const prefix = formatPrefix(destination, prefixLength);
    this.#notices.unsupportedThing(
      tos !== 0
        ? `routes for one type of service only, such as ${prefix} tos ${tos}; they are never taken`
        : `next hops by IPv6 or by a tunnel, such as that of ${prefix}; it counts as unreachable`,
    );
  }

  #noteGateways(): void {
    const { hops } = this.#route;
    if (hops !== null) hops.forEach((hop) => this.#noteGateway(hop));
    else this.#noteGateway(this.#route);
  }

  #noteGateway(
    { ifindex, gateway, flags }: { ifindex: number; gateway: number; flags: number },
  ): void {
    // A full table has a handful of gateways: most often it is the same one again.
    if (gateway === this.#lastGateway && ifindex === this.#lastIfindex) return;
    this.#lastGateway = gateway;
    this.#lastIfindex = ifindex;
    if (gateway === 0 || this.gateways.size >= MOST_GATEWAYS) return;
    const onlink = (flags & RTNH_F_ONLINK) !== 0 || this.gateways.get(ifindex, gateway) === true;
    this.gateways.set(ifindex, gateway, onlink);
  }

  /**
   * An interface went down (`fib_sync_down_dev`): routes out of it go, a multipath route when its
   * last hop is dead. What is of host scope, which is the addresses themselves, stays unless
   * `force`.
   */
  deviceDown(ifindex: number, { force }: { force: boolean }): void {
    this.#rib.rewrite((attributes) => withoutDevice(attributes, { ifindex, force }));
  }

  /**
   * An interface lost its carrier, and routes by it are not to count then: another route or hop takes
   * over at once. Its own addresses stay (`fib_sync_down_dev`, `fib_nexthop_info`).
   */
  carrierLost(ifindex: number): void {
    this.#rib.rewrite((attributes) => withoutCarrier(attributes, ifindex));
  }

  /** An interface is gone: a multipath route with only one hop there goes as a whole. */
  deviceGone(ifindex: number): void {
    this.#rib.rewrite((attributes) =>
      attributes.hops?.some((hop) => hop.ifindex === ifindex)
        ? null
        : withoutDevice(attributes, { ifindex, force: true })
    );
  }

  /** An address is no longer ours: routes that prefer it as a source go (`fib_sync_down_addr`). */
  sourceGone(address: number): void {
    this.#rib.rewrite((attributes) => attributes.source === address ? null : attributes);
  }
}

function withoutDevice(
  attributes: Readonly<RouteAttributes>,
  { ifindex, force }: { ifindex: number; force: boolean },
): RouteAttributes | null {
  // What follows an object goes with the object.
  if (attributes.nextHopId !== 0) return attributes;
  if (attributes.hops === null) {
    const stays = attributes.ifindex !== ifindex || attributes.scope === RT_SCOPE_HOST && !force;
    return stays ? attributes : null;
  }
  if (!attributes.hops.some((hop) => hop.ifindex === ifindex)) return attributes;
  const hops = attributes.hops.map((hop) => hop.ifindex === ifindex ? dead(hop) : hop);
  return hops.every(({ flags }) => (flags & RTNH_F_DEAD) !== 0) ? null : { ...attributes, hops };
}

function withoutCarrier(attributes: Readonly<RouteAttributes>, ifindex: number): RouteAttributes {
  if (attributes.nextHopId !== 0 || attributes.scope === RT_SCOPE_HOST) return attributes;
  const after = <Way extends { ifindex: number; flags: number }>(way: Way): Way =>
    way.ifindex === ifindex ? { ...way, flags: way.flags | RTNH_F_LINKDOWN | RTNH_F_DEAD } : way;
  return attributes.hops === null
    ? after(attributes)
    : { ...attributes, hops: attributes.hops.map(after) };
}

function dead(hop: Hop): Hop {
  return { ...hop, flags: hop.flags | RTNH_F_DEAD };
}
