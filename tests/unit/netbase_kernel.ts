// SPDX-License-Identifier: Apache-2.0
/**
 * A slow, simple model of the kernel to compare netbase with: routes in one plain list, changed as by
 * `fib_table_insert` and `fib_table_delete`, and looked up by a scan of all of them. It returns what
 * netlink would report of each change.
 */

import {
  emptyRoute,
  NLM_F_APPEND,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  type Route,
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
  RTN_BLACKHOLE,
  RTN_THROW,
  RTNH_DYNAMIC_FLAGS,
  RTNH_F_DEAD,
} from "../../netbase/route.ts";

/** How `ip route` inserts a route into a table. */
export type Verb = "add" | "append" | "prepend" | "replace";

/** An IPv4 address as a number, host order. */
export function ip(text: string): number {
  return text.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

/** A route to `to` ("198.18.0.0/24"), with the fields that differ from an empty one. */
export function routeTo(to: string, rest: Partial<Route> = {}): Route {
  const [address, length] = to.split("/");
  return { ...emptyRoute(), destination: ip(address), prefixLength: Number(length), ...rest };
}

/** Whether `address` falls under the route's prefix. */
export function isCovered(route: Route, address: number): boolean {
  const span = 2 ** (32 - route.prefixLength);
  return address >= route.destination && address < route.destination + span;
}

/** Routing tables `local` and `main`. */
export class Kernel {
  /** In order within each key; keys themselves in no order. */
  readonly routes: Route[] = [];

  /** Executes `ip route VERB`. Returns the event's nlmsg_flags, or -1 for EEXIST. */
  put(route: Route, verb: Verb): number {
    const equals = this.routes.filter((other) => isSameKey(other, route));
    const same = equals.find((other) => isSame(other, route));
    if (verb === "add" && equals.length > 0) return -1;
    if (same !== undefined) return -1;
    const copy = structuredClone(route);
    if (equals.length === 0) {
      this.routes.push(copy);
      return NLM_F_CREATE | NLM_F_EXCL;
    }
    if (verb === "replace") {
      this.routes[this.routes.indexOf(equals[0])] = copy;
      return NLM_F_REPLACE;
    }
    const at = this.routes.indexOf(verb === "append" ? equals.at(-1)! : equals[0]);
    this.routes.splice(verb === "append" ? at + 1 : at, 0, copy);
    return NLM_F_CREATE | (verb === "append" ? NLM_F_APPEND : 0);
  }

  /** Executes `ip route del`. False: ESRCH. */
  delete(route: Route): boolean {
    const at = this.routes.findIndex((other) => isSameKey(other, route) && isSame(other, route));
    if (at < 0) return false;
    this.routes.splice(at, 1);
    return true;
  }

  /** The route for `address`; null: none. */
  lookup(address: number, order: "merged" | "separate"): Route | null {
    const covering = this.routes.filter((route) => isCovered(route, address) && isUsable(route));
    if (order === "merged") return first(covering);
    const local = first(covering.filter((route) => route.table === RT_TABLE_LOCAL));
    if (local !== null && local.type !== RTN_THROW) return local;
    return first(covering.filter((route) => route.table === RT_TABLE_MAIN));
  }

  /** All routes in the order of a dump: by prefix, then in the order of the list. */
  dump(): Route[] {
    const compare = (a: Route, b: Route) =>
      a.destination - b.destination || b.prefixLength - a.prefixLength || isBetter(a, b);
    return [...this.routes].sort(compare);
  }
}

/** The best of some routes that all cover an address. Sorting is stable: the list's order decides. */
function first(routes: Route[]): Route | null {
  return [...routes].sort((a, b) => b.prefixLength - a.prefixLength || isBetter(a, b))[0] ?? null;
}

function isBetter(a: Route, b: Route): number {
  return b.table - a.table || b.tos - a.tos || a.priority - b.priority;
}

function isSameKey(a: Route, b: Route): boolean {
  return a.table === b.table && a.destination === b.destination &&
    a.prefixLength === b.prefixLength && a.tos === b.tos && a.priority === b.priority;
}

/** Whether they are equal except for what the kernel changes itself. */
function isSame(a: Route, b: Route): boolean {
  return JSON.stringify(strip(a)) === JSON.stringify(strip(b));
}

function strip(route: Route): Route {
  const hops = route.hops?.map((hop) => ({ ...hop, flags: hop.flags & ~RTNH_DYNAMIC_FLAGS }));
  return { ...route, flags: route.flags & ~RTNH_DYNAMIC_FLAGS, hops: hops ?? null };
}

/** A flow of tos 0 uses no other tos, and no dead route; refusals are never dead. */
function isUsable(route: Route): boolean {
  if (route.tos !== 0) return false;
  if (route.type >= RTN_BLACKHOLE && route.type <= RTN_THROW) return true;
  if ((route.flags & RTNH_F_DEAD) !== 0) return false;
  return route.hops === null || route.hops.some((hop) => (hop.flags & RTNH_F_DEAD) === 0);
}
