/**
 * Interfaces and their IPv4 addresses. Of all parts this one knows first when the kernel is about
 * to withdraw routes without telling, and says so to those who keep them.
 */

import {
  IFF_LOWER_UP,
  IFF_RUNNING,
  IFF_UP,
  type InterfaceAddress,
  type InterfaceLink,
} from "../../netbase/interfaces.ts";
import type { NetbaseWriter } from "../../netbase/netbase.ts";
import * as nl from "./constants.ts";
import { type AddressMessage, decodeAddress, decodeLink, decodeSettings } from "./decode_link.ts";
import type { MessageCursor } from "./message.ts";
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
  /** Something about interfaces or addresses has changed, whatever it is. */
  changed(): void;
}

/** Keeps the interface table. */
export class InterfacesPart implements MirrorPart {
  readonly dumps = ["links", "addresses", "settings"] as const;
  readonly types = [
    ...[nl.RTM_NEWLINK, nl.RTM_DELLINK, nl.RTM_NEWADDR, nl.RTM_DELADDR],
    ...[nl.RTM_NEWNETCONF, nl.RTM_DELNETCONF],
  ];
  readonly #netbase: NetbaseWriter;
  readonly #listeners: InterfaceListeners;
  /** Interfaces, and NETCONFA_IFINDEX_ALL or _DEFAULT, for which `ignore_routes_with_linkdown` is set. */
  readonly #ignoringLinkdown = new Set<number>();

  constructor(netbase: NetbaseWriter, listeners: InterfaceListeners) {
    this.#netbase = netbase;
    this.#listeners = listeners;
  }

  event(message: MessageCursor, replayed: boolean): number {
    const stale = this.#apply(message, replayed);
    this.#listeners.changed();
    return stale;
  }

  beginSync(): void {
    this.#netbase.interfaces.beginSync();
  }

  dumped(message: MessageCursor): void {
    this.#apply(message, true);
  }

  endSync(): void {
    this.#netbase.interfaces.endSync();
    this.#listeners.changed();
  }

  #apply(message: MessageCursor, silently: boolean): number {
    if (message.type === nl.RTM_NEWADDR || message.type === nl.RTM_DELADDR) {
      return this.#applyAddress(message, silently);
    }
    if (message.type >= nl.RTM_NEWNETCONF) return this.#applySettings(message);
    const link = decodeLink(message);
    // A bridge tells of its ports in the same group, RTM_DELLINK when one leaves it.
    if (link === null) return 0;
    return message.type === nl.RTM_NEWLINK
      ? this.#linkTold(link, silently)
      : this.#linkGone(link.ifindex, silently);
  }

  #linkTold(link: InterfaceLink, silently: boolean): number {
    const { interfaces } = this.#netbase;
    const before = silently ? null : interfaces.get(link.ifindex);
    interfaces.set(link);
    if (silently) return 0;
    // The first end of a new veth pair is told before it has the other, and not again.
    return before === null ? Part.interfaces : this.#linkChanged(before, link);
  }

  #linkChanged(before: InterfaceLink, now: InterfaceLink): number {
    const { routes, nextHops } = this.#listeners;
    const { ifindex } = now;
    const wentDown = hasLost(IFF_UP, before.flags, now.flags);
    if (wentDown) routes.deviceDown(ifindex, { force: false });
    if (wentDown || hasLost(IFF_RUNNING | IFF_LOWER_UP, before.flags, now.flags)) {
      nextHops.deviceLost(ifindex);
    }
    if (this.#losesRoutes(before, now)) routes.carrierLost(ifindex);
    const state = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
    if (((before.flags ^ now.flags) & state) !== 0) return Part.nextHops | Part.routes;
    // Joining or leaving a VRF moves its routes to another table; an MTU below 68 ends IPv4.
    return before.master !== now.master || before.mtu !== now.mtu ? Part.routes : 0;
  }

  #losesRoutes(before: InterfaceLink, now: InterfaceLink): boolean {
    const ignoring = this.#ignoringLinkdown;
    return hasLost(IFF_RUNNING | IFF_LOWER_UP, before.flags, now.flags) &&
      (ignoring.has(now.ifindex) || ignoring.has(nl.NETCONFA_IFINDEX_ALL));
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

  #linkGone(ifindex: number, silently: boolean): number {
    this.#netbase.interfaces.remove(ifindex);
    this.#netbase.neighbors.removeInterface(ifindex);
    if (silently) return 0;
    this.#listeners.routes.deviceGone(ifindex);
    this.#listeners.nextHops.deviceLost(ifindex);
    return Part.nextHops | Part.routes;
  }

  #applyAddress(message: MessageCursor, silently: boolean): number {
    const { interfaces } = this.#netbase;
    const address = decodeAddress(message);
    if (address === null) return 0;
    if (message.type === nl.RTM_DELADDR) {
      const gone = interfaces.removeAddress(address.ifindex, address);
      return gone && !silently ? this.#addressGone(address) : 0;
    }
    const known = silently || this.#has(address);
    if (interfaces.setAddress(address.ifindex, address) || this.#makeRoomFor(address)) {
      return known ? 0 : Part.routes;
    }
    return silently ? 0 : Part.interfaces;
  }

  /**
   * Each change takes a new copy of all of an interface's addresses; the old one comes free when
   * net tiles have passed a commit, which takes them microseconds. False: no such interface, or no
   * room.
   */
  #makeRoomFor(address: AddressMessage): boolean {
    const { interfaces } = this.#netbase;
    if (interfaces.get(address.ifindex) === null) return false;
    for (let tries = 0; tries < MOST_COMMITS; tries++) {
      this.#netbase.commit();
      if (interfaces.setAddress(address.ifindex, address)) return true;
    }
    this.#listeners.notices.once("there are more addresses than netbase holds");
    return false;
  }

  /** Whether this is only news about an address's lifetime. */
  #has(address: AddressMessage): boolean {
    const known = this.#netbase.interfaces.get(address.ifindex)?.addresses ?? [];
    const same: (keyof InterfaceAddress)[] = ["local", "address", "prefixLength", "secondary"];
    return known.some((other) => same.every((key) => other[key] === address[key]));
  }

  #addressGone({ ifindex, local }: AddressMessage): number {
    const { interfaces } = this.#netbase;
    const left = interfaces.get(ifindex)?.addresses.length ?? 0;
    // With the last address IPv4 ends on this interface, and every route out of it.
    if (left === 0) this.#listeners.routes.deviceDown(ifindex, { force: true });
    const elsewhere = interfaces.indices().some((index) =>
      interfaces.get(index)?.addresses.some((other) => other.local === local)
    );
    if (!elsewhere) this.#listeners.routes.sourceGone(local);
    return Part.routes;
  }
}

/** Whether one of `flags` was set and none of them is any more. */
function hasLost(flags: number, before: number, now: number): boolean {
  return (before & flags) !== 0 && (now & flags) === 0;
}
