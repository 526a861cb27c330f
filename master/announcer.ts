// SPDX-License-Identifier: Apache-2.0
/**
 * Markers: while Tegula is ready, a separate routing table has a blackhole route for each announced
 * prefix. BIRD or FRR announces that table to routers (docs/operating/anycast.md). Markers route no
 * packets: no rule refers to the table, and the address itself is on `lo`. Tegula changes nothing
 * else in the kernel's configuration.
 */

import { EEXIST, ENOENT, ESRCH, SystemError } from "../ffi/library.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { emptyRoute, formatAddress, parseAddress, RTN_BLACKHOLE } from "../netbase/route.ts";
import {
  decodeRoute,
  type DumpEnd,
  Dumper,
  type Marker,
  type MessageCursor,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLM_F_DUMP,
  RTM_DELROUTE,
  RTM_GETROUTE,
  RTM_NEWROUTE,
  RTPROT_TEGULA,
  writeMarker,
} from "../tiles/netlink/rtnetlink.ts";
import type { Announce } from "../cli/config.ts";
import { messageOf } from "../cli/command.ts";
import { load } from "./confinement.ts";
import { log } from "./log.ts";

type Prefix = Announce["addresses"][number];

/** `203.0.113.53/32`. */
export function prefixText({ address, length }: Prefix): string {
  return `${formatAddress(address)}/${length}`;
}

/** `203.0.113.53/32 in table 5353`. */
export function markerText(marker: Marker): string {
  return `${prefixText(marker)} in table ${marker.table}`;
}

/** The prefixes in which the host has no address. */
export function missingAddresses<T extends Prefix>(prefixes: readonly T[]): T[] {
  const own = Deno.networkInterfaces().filter(({ family }) => family === "IPv4")
    .map(({ address }) => parseAddress(address));
  return prefixes.filter(({ address, length }) =>
    !own.some((each) => ((each ^ address) >>> (32 - length)) === 0)
  );
}

/** The command that adds an address in `prefix`. */
export function addressFix(prefix: Prefix): string {
  return `ip address add ${prefix.length === 32 ? prefixText(prefix) : "ADDRESS/32"} dev lo`;
}

/** The markers in the kernel. Throws SystemError if the kernel refuses one. */
export class Markers {
  readonly #kernel: Dumper;

  constructor(library = load(openNetlink)) {
    this.#kernel = new Dumper(library);
  }

  /** Adds a marker. Returns false if it exists. */
  add(marker: Marker): boolean {
    const flags = NLM_F_ACK | NLM_F_CREATE;
    return this.#request(`announce ${markerText(marker)}`, marker, {
      ...{ type: RTM_NEWROUTE, flags, unless: EEXIST },
    });
  }

  /** Removes a marker. Returns false if it does not exist. */
  remove(marker: Marker): boolean {
    return this.#request(`withdraw ${markerText(marker)}`, marker, {
      ...{ type: RTM_DELROUTE, flags: NLM_F_ACK, unless: ESRCH },
    });
  }

  /** Removes all markers in a table, also of other programs, and returns them. */
  clear(table: number): Marker[] {
    const found: Marker[] = [];
    this.#request(`read routing table ${table}`, { table, address: 0, length: 0 }, {
      ...{ type: RTM_GETROUTE, flags: NLM_F_DUMP, unless: ENOENT },
      reply(message) {
        const route = emptyRoute();
        if (!decodeRoute(message, route)) return;
        const { protocol, type, destination: address, prefixLength: length } = route;
        const isOurs = protocol === RTPROT_TEGULA && type === RTN_BLACKHOLE;
        // Kernels before 4.20 dump all routes.
        if (isOurs && route.table === table) found.push({ table, address, length });
      },
    });
    return found.filter((marker) => this.remove(marker));
  }

  /**
   * Sends a request and reads the replies, which are available at once. Returns false if the reply
   * is the error `unless`.
   */
  #request(
    tried: string,
    marker: Marker,
    { type, flags, unless, reply = () => {} }: {
      type: number;
      flags: number;
      unless: number;
      reply?(message: MessageCursor): void;
    },
  ): boolean {
    let [end, error] = ["damaged" as DumpEnd, 0];
    do {
      this.#kernel.request(
        (writer, sequence) => writeMarker(writer, marker, { type, flags, sequence }),
        { reply, done: (...how) => [end, error] = how },
      );
      while (this.#kernel.busy) this.#kernel.turn();
    } while (end === "interrupted");
    if (end === "damaged") throw new Error(`cannot ${tried}: the kernel did not answer`);
    if (error !== 0 && error !== unless) throw new SystemError(tried, error);
    return error === 0;
  }
}

/** Keeps the markers in line with the configuration and the state of the service. */
export function announcer() {
  let kernel: Markers | undefined;
  let isReady = false;
  let configured: readonly Marker[] = [];
  /** Markers of earlier configurations that are still to be removed. */
  let stale: readonly Marker[] = [];
  /** The announced markers, and the obstacles of the others, as last logged. */
  let announced: readonly string[] = [];
  let complaints: readonly string[] = [];

  /**
   * Makes the markers match the configuration, also if other programs changed them. Does not announce a
   * prefix in which the host has no address, since its packets would be lost here. Called periodically.
   */
  function update(): void {
    if (configured.length + stale.length === 0) return;
    const missing = missingAddresses(configured);
    const lines = missing.map((prefix) =>
      `${prefixText(prefix)} is not announced until this host has an address in it: ${
        addressFix(prefix)
      }`
    );
    const attempt = (work: (kernel: Markers) => unknown) => {
      try {
        work(kernel ??= new Markers());
        return true;
      } catch (error) {
        lines.push(messageOf(error));
        return false;
      }
    };
    const isWanted = (marker: Marker) => isReady && !missing.includes(marker);
    const present = configured.filter(isWanted).filter((marker) =>
      attempt((kernel) => {
        const text = markerText(marker);
        if (!kernel.add(marker) || !announced.includes(text)) return;
        log(`announce: another program removed the route ${text}; it was added again`);
      })
    ).map(markerText);
    for (const marker of configured) {
      if (!isWanted(marker)) attempt((kernel) => kernel.remove(marker));
    }
    stale = stale.filter((marker) => !attempt((kernel) => kernel.remove(marker)));
    for (const line of lines) if (!complaints.includes(line)) log(`announce: ${line}`);
    if (`${present}` !== `${announced}`) {
      log(`announce: ${present.length === 0 ? "withdrawn" : present.join(", ")}`);
    }
    [complaints, announced] = [lines, present];
  }

  return {
    update,
    /** Removes markers of an earlier run. Throws SystemError. */
    start(announce: Announce | undefined): void {
      if (announce === undefined) return;
      const left = (kernel ??= new Markers()).clear(announce.table).map(markerText);
      if (left.length > 0) {
        log(`announce: removed markers of an earlier run: ${left.join(", ")}`);
      }
    },
    /** Switches to another configuration. Prefixes that both have stay announced throughout. */
    configure(announce: Announce | undefined): void {
      const next = announce?.addresses.map((prefix) => ({ table: announce.table, ...prefix })) ??
        [];
      const names = next.map(markerText);
      stale = [...stale, ...configured].filter((each) => !names.includes(markerText(each)));
      configured = next;
      update();
    },
    set(ready: boolean): void {
      isReady = ready;
      update();
    },
  };
}
