/**
 * Keeps the XDP programs' filters as the interface table is: a frame is Tegula's only when it is
 * sent to the interface's MAC address and to an address of this host. As the kernel does, an
 * interface answers for every address of the host, whichever interface that is on; loopback's
 * excepted.
 */

import { Filter } from "../../ffi/filter.ts";
import type { View } from "../../ffi/view.ts";
import { IFF_UP } from "../../netbase/interfaces.ts";
import type { InterfaceWriter } from "../../netbase/tables_writer.ts";
import { formatAddress } from "./addresses.ts";

/** An attached interface's filter. */
export interface FilterPlace {
  readonly ifindex: number;
  /** The program's map, writable. */
  readonly view: View;
}

/** 127.0.0.0/8 */
const LOOPBACK_NET = 127;

/** What one filter holds. */
interface Held {
  readonly ifindex: number;
  readonly filter: Filter;
  /** It was said that there is no room for all addresses. */
  toldFull: boolean;
}

/** Writes the filters. */
export class Filters {
  readonly #interfaces: InterfaceWriter;
  readonly #held: readonly Held[];
  readonly #log: (line: string) => void;
  /** The interfaces' count of changes that the filters are up to. */
  #seen = -1;

  constructor(
    places: readonly FilterPlace[],
    { interfaces, ports, log }: {
      interfaces: InterfaceWriter;
      ports: readonly number[];
      log(line: string): void;
    },
  ) {
    this.#interfaces = interfaces;
    this.#log = log;
    this.#held = places.map(({ ifindex, view }) => {
      // What a predecessor wrote stays until it is known to be wrong.
      const filter = new Filter(view);
      filter.setPorts(ports);
      return { ifindex, filter, toldFull: false };
    });
  }

  /** Brings the filters up to date. True: something had changed. */
  turn(): boolean {
    if (this.#seen === this.#interfaces.changes) return false;
    this.#seen = this.#interfaces.changes;
    if (this.#held.length === 0) return true;
    const addresses = this.#localAddresses();
    for (const held of this.#held) this.#update(held, addresses);
    return true;
  }

  #localAddresses(): Set<number> {
    const all = this.#interfaces.all().flatMap(({ addresses }) => addresses);
    const locals = all.map(({ local }) => local);
    return new Set(locals.filter((address) => address >>> 24 !== LOOPBACK_NET && address !== 0));
  }

  #update(held: Held, addresses: ReadonlySet<number>): void {
    const link = this.#interfaces.get(held.ifindex);
    if (link === null) return;
    held.filter.setMac([
      ...[0, 8, 16, 24].map((shift) => link.macHead >>> shift & 255),
      ...[link.macTail & 255, link.macTail >>> 8 & 255],
    ]);
    // 0 is no VLAN but a priority: the frame is the interface's own.
    held.filter.setVlans([0, ...this.#vlansOn(held.ifindex)]);
    this.#updateAddresses(held, addresses);
  }

  /** Ids of the VLAN devices on an interface that are up. */
  #vlansOn(ifindex: number): number[] {
    return this.#interfaces.all()
      .filter(({ link, flags }) => link === ifindex && (flags & IFF_UP) !== 0)
      .filter(({ vlanProtocol }) => vlanProtocol !== 0)
      .map(({ vlanId }) => vlanId);
  }

  #updateAddresses(held: Held, addresses: ReadonlySet<number>): void {
    for (const address of held.filter.addresses()) {
      if (!addresses.has(address)) held.filter.remove(address);
    }
    const left = [...addresses].filter((address) => !held.filter.add(address));
    if (left.length === 0 || held.toldFull) return;
    held.toldFull = true;
    this.#log(
      `${left.length} addresses, ${formatAddress(left[0])} among them, do not fit the XDP ` +
        "filter: what is sent to them comes in by the kernel's sockets",
    );
  }
}
