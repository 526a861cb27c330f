/**
 * Interfaces and their IPv4 addresses. Of all parts this one knows first when the kernel is about
 * to withdraw routes without telling, and says so to those who keep them.
 */

import {
  IFF_LOWER_UP,
  IFF_RUNNING,
  IFF_UP,
  type InterfaceEntry,
  type InterfaceLink,
  withAddress,
  withoutAddress,
} from "../../netbase/interfaces.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import * as nl from "./codec.ts";
import {
  type AddressMessage,
  decodeAddress,
  decodeLink,
  decodeSettings,
  type MessageCursor,
} from "./codec.ts";
import type { NextHopsPart } from "./next_hops_part.ts";
import { type MirrorPart, type Notices, Part } from "./part.ts";
import type { RoutesPart } from "./routes_part.ts";

/** Commits to wait for room: about a millisecond. */
const MOST_COMMITS = 1000;

/** Who is told of what happens to interfaces. */
export interface InterfaceListeners {
  readonly routes: RoutesPart;
  readonly nextHops: NextHopsPart;
  readonly notices: Notices;
}

/** Keeps the interface table. */
export class InterfacesPart implements MirrorPart {
  readonly bit = Part.interfaces;
  readonly dumps = ["links", "addresses", "settings"] as const;
  readonly types = [
    ...[nl.RTM_NEWLINK, nl.RTM_DELLINK, nl.RTM_NEWADDR, nl.RTM_DELADDR],
    ...[nl.RTM_NEWNETCONF, nl.RTM_DELNETCONF],
  ];
  readonly #netbase: NetbaseWriter;
  readonly #listeners: InterfaceListeners;
  /** What the running dump has told. */
  readonly #dumped = new Map<number, InterfaceEntry>();
  /** Interfaces, and NETCONFA_IFINDEX_ALL or _DEFAULT, for which `ignore_routes_with_linkdown` is set. */
  readonly #ignoringLinkdown = new Set<number>();

  constructor(netbase: NetbaseWriter, listeners: InterfaceListeners) {
    this.#netbase = netbase;
    this.#listeners = listeners;
  }

  event(message: MessageCursor, replayed: boolean): number {
    if (message.type >= nl.RTM_NEWNETCONF) return this.#applySettings(message);
    if (replayed) {
      enterInterface(message, this.#dumped);
      return 0;
    }
    return message.type < nl.RTM_NEWADDR ? this.#applyLink(message) : this.#applyAddress(message);
  }

  beginSync(): void {
    this.#dumped.clear();
  }

  dumped(message: MessageCursor): void {
    if (message.type >= nl.RTM_NEWNETCONF) this.#applySettings(message);
    else enterInterface(message, this.#dumped);
  }

  endSync(): void {
    const { interfaces } = this.#netbase;
    for (const { ifindex } of interfaces.all()) {
      if (!this.#dumped.has(ifindex)) interfaces.remove(ifindex);
    }
    for (const entry of this.#dumped.values()) this.#store(() => interfaces.put(entry));
  }

  #applyLink(message: MessageCursor): number {
    const { interfaces } = this.#netbase;
    const link = decodeLink(message);
    // A bridge tells of its ports in the same group, RTM_DELLINK when one leaves it.
    if (link === null) return 0;
    if (message.type === nl.RTM_DELLINK) return this.#linkGone(link.ifindex);
    const before = interfaces.get(link.ifindex);
    this.#store(() => interfaces.set(link));
    // The first end of a new veth pair is told before it has the other, and not again.
    return before === null ? Part.interfaces : this.#linkChanged(before, link);
  }

  #linkChanged(before: InterfaceLink, now: InterfaceLink): number {
    const { routes, nextHops } = this.#listeners;
    const { ifindex } = now;
    const ignoring = this.#ignoringLinkdown;
    const wentDown = hasLost(IFF_UP, before.flags, now.flags);
    const lostCarrier = hasLost(IFF_RUNNING | IFF_LOWER_UP, before.flags, now.flags);
    if (wentDown) routes.deviceDown(ifindex, { force: false });
    if (wentDown || lostCarrier) nextHops.deviceLost(ifindex);
    if (lostCarrier && (ignoring.has(ifindex) || ignoring.has(nl.NETCONFA_IFINDEX_ALL))) {
      routes.carrierLost(ifindex);
    }
    const state = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
    if (((before.flags ^ now.flags) & state) !== 0) return Part.nextHops | Part.routes;
    // Joining or leaving a VRF moves its routes to another table; an MTU below 68 ends IPv4.
    return before.master !== now.master || before.mtu !== now.mtu ? Part.routes : 0;
  }

  /** Which hops count may have changed; a dump of the routes tells, in the hops' flags. */
  #applySettings(message: MessageCursor): number {
    const { ifindex, ignoreLinkdown } = decodeSettings(message);
    const ignoring = this.#ignoringLinkdown;
    const wanted = message.type === nl.RTM_NEWNETCONF && ignoreLinkdown;
    if (wanted === null || wanted === ignoring.has(ifindex)) return 0;
    if (wanted) ignoring.add(ifindex);
    else ignoring.delete(ifindex);
    // A new default goes to whichever interface has nothing of its own, and nothing tells which.
    return ifindex === nl.NETCONFA_IFINDEX_DEFAULT ? Part.interfaces | Part.routes : Part.routes;
  }

  #linkGone(ifindex: number): number {
    this.#netbase.interfaces.remove(ifindex);
    this.#netbase.neighbors.removeInterface(ifindex);
    this.#listeners.routes.deviceGone(ifindex);
    this.#listeners.nextHops.deviceLost(ifindex);
    return Part.nextHops | Part.routes;
  }

  #applyAddress(message: MessageCursor): number {
    const { interfaces } = this.#netbase;
    const address = decodeAddress(message);
    if (address === null) return 0;
    if (message.type === nl.RTM_DELADDR) {
      return interfaces.removeAddress(address.ifindex, address) ? this.#addressGone(address) : 0;
    }
    const { ifindex } = address;
    const before = interfaces.get(ifindex)?.addresses;
    if (before === undefined) return Part.interfaces;
    if (!this.#store(() => interfaces.setAddress(ifindex, address))) return Part.interfaces;
    // It may only be news about an address's lifetime.
    const same = ["local", "address", "prefixLength", "secondary"] as const;
    const isKnown = before.some((other) => same.every((key) => other[key] === address[key]));
    return isKnown ? 0 : Part.routes;
  }

  /**
   * Each change takes a new copy of all of an interface's addresses; the old one comes free when
   * net tiles have passed a commit, which takes them microseconds. False: no room.
   */
  #store(write: () => boolean): boolean {
    for (let tries = 0; tries < MOST_COMMITS; tries++) {
      if (write()) return true;
      this.#netbase.commit();
    }
    this.#listeners.notices.once("there are more addresses than netbase holds");
    return false;
  }

  #addressGone({ ifindex, local }: AddressMessage): number {
    const { interfaces } = this.#netbase;
    const left = interfaces.get(ifindex)?.addresses.length ?? 0;
    // With the last address IPv4 ends on this interface, and every route out of it.
    if (left === 0) this.#listeners.routes.deviceDown(ifindex, { force: true });
    const elsewhere = interfaces.all().some(({ addresses }) =>
      addresses.some((other) => other.local === local)
    );
    if (!elsewhere) this.#listeners.routes.sourceGone(local);
    return Part.routes;
  }
}

/** Enters what a dump of links and one of addresses tell, and events behind those. */
export function enterInterface(message: MessageCursor, into: Map<number, InterfaceEntry>): void {
  const { type } = message;
  const told = type < nl.RTM_NEWADDR ? decodeLink(message) : decodeAddress(message);
  if (told === null) return;
  const known = into.get(told.ifindex);
  if (type === nl.RTM_DELLINK) {
    into.delete(told.ifindex);
  } else if ("name" in told) {
    into.set(told.ifindex, { ...told, addresses: known?.addresses ?? [] });
  } else if (known !== undefined) {
    const change = type === nl.RTM_NEWADDR ? withAddress : withoutAddress;
    into.set(told.ifindex, { ...known, addresses: change(known.addresses, told) });
  }
}

/** Whether one of `flags` was set and none of them is any more. */
function hasLost(flags: number, before: number, now: number): boolean {
  return (before & flags) !== 0 && (now & flags) === 0;
}
