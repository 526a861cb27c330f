/**
 * Next-hop objects (`ip nexthop`) and groups of them. A route that names one follows it: what the
 * object says takes the place of the route's own gateway, interface and hops, when the route is
 * told and whenever the object changes. Withdrawing an object withdraws every route that names it.
 */

import type { Rib } from "../../netbase/rib.ts";
import {
  type Hop,
  type Route,
  type RouteAttributes,
  RTN_BLACKHOLE,
  RTN_UNICAST,
} from "../../netbase/route.ts";
import * as nl from "./codec.ts";
import { decodeNextHop, type MessageCursor, type NextHopMessage } from "./codec.ts";
import { type MirrorPart, Part } from "./part.ts";

/** `rtm_flags` has a next hop's RTNH_F_* in its low byte. */
const RTNH_FLAGS = 0xff;

/** The objects that there are, and the routes' view of them. */
export class NextHopsPart implements MirrorPart {
  readonly bit = Part.nextHops;
  readonly dumps = ["nextHops"] as const;
  readonly types = [nl.RTM_NEWNEXTHOP, nl.RTM_DELNEXTHOP];
  readonly optional = true;
  readonly #rib: Rib;
  readonly #objects = new Map<number, NextHopMessage>();
  #seen = new Set<number>();

  constructor(rib: Rib) {
    this.#rib = rib;
  }

  event(message: MessageCursor, replayed: boolean): number {
    const object = decodeNextHop(message);
    if (message.type === nl.RTM_NEWNEXTHOP) {
      this.#set(object);
      return 0;
    }
    const withdrawn = this.#remove(new Set([object.id]));
    // The kernel has let go of those routes without a word: see whether it is the same ones.
    return withdrawn > 0 && !replayed ? Part.routes : 0;
  }

  beginSync(): void {
    this.#seen = new Set();
  }

  dumped(message: MessageCursor): void {
    this.#set(decodeNextHop(message));
  }

  endSync(): void {
    this.#remove(new Set([...this.#objects.keys()].filter((id) => !this.#seen.has(id))));
  }

  #set(object: NextHopMessage): void {
    this.#seen.add(object.id);
    const known = this.#objects.get(object.id);
    this.#objects.set(object.id, object);
    if (known === undefined || JSON.stringify(known) !== JSON.stringify(object)) {
      this.#refreshRoutes(new Set([object.id]));
    }
  }

  /** Takes objects away, out of their groups too; returns how many routes changed. */
  #remove(ids: Set<number>): number {
    if (ids.size === 0) return 0;
    const gone = new Set(ids);
    for (const id of ids) this.#objects.delete(id);
    for (const [id, object] of this.#objects) {
      if (!object.group?.some((member) => ids.has(member.id))) continue;
      const group = object.group.filter((member) => !ids.has(member.id));
      // A group without members goes with its last one.
      if (group.length === 0) this.#objects.delete(id);
      else this.#objects.set(id, { ...object, group });
      gone.add(id);
    }
    return this.#refreshRoutes(gone);
  }

  /**
   * An interface went down, lost its carrier or is gone: the kernel drops its objects, and the
   * routes with them, without telling (`nexthop_flush_dev`).
   */
  deviceLost(ifindex: number): void {
    const lost = [...this.#objects.values()].filter((object) =>
      object.group === null && object.ifindex === ifindex
    );
    this.#remove(new Set(lost.map(({ id }) => id)));
  }

  #refreshRoutes(ids: ReadonlySet<number>): number {
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

  /**
   * Lets a route that names an object follow it. One that names an unknown object stays as told.
   */
  follow(route: Route | RouteAttributes): void {
    const object = this.#objects.get(route.nextHopId);
    if (object === undefined) return;
    const hops = object.group?.flatMap(({ id, weight }) => this.#hop(id, weight)) ?? [];
    const only = object.group === null ? object : hops.length === 1 ? hops[0] : null;
    const members = object.group?.map(({ id }) => this.#objects.get(id)) ?? [object];
    route.unsupported = members.some((member) => member?.unsupported === true);
    route.type = members.some((member) => member?.blackhole === true) ? RTN_BLACKHOLE : RTN_UNICAST;
    route.gateway = only?.gateway ?? 0;
    route.ifindex = only?.ifindex ?? 0;
    route.flags = (route.flags & ~RTNH_FLAGS) | (only?.flags ?? 0) & RTNH_FLAGS;
    route.hops = only === null ? hops : null;
  }

  #hop(id: number, weight: number): Hop[] {
    const object = this.#objects.get(id);
    if (object === undefined) return [];
    const { gateway, ifindex, flags } = object;
    return [{ gateway, ifindex, weight, flags: flags & RTNH_FLAGS }];
  }
}
