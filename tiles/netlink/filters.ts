/**
 * Keeps the XDP programs' filters equal to the interface table: a program takes a frame only when
 * it is sent to the interface's MAC address and to an address of this host. As in the kernel, an
 * interface answers for the addresses of every interface, but for loopback's.
 */

import { Filter } from "../../ffi/filter.ts";
import type { View } from "../../ffi/view.ts";
import { IFF_UP } from "../../netbase/interfaces.ts";
import type { InterfaceWriter } from "../../netbase/tables_writer.ts";
import { formatAddress } from "./addresses.ts";

/** The filter of an attached interface. */
export interface InterfaceFilter {
  readonly ifindex: number;
  /** The XDP program's map, writable. */
  readonly view: View;
}

/** 127.0.0.0/8 */
const LOOPBACK_NET = 127;

/** A filter that is written. */
interface Written {
  readonly ifindex: number;
  readonly filter: Filter;
  /** The log says that there is no room for all addresses. */
  isFullLogged: boolean;
}

/** Writes the filters. */
export class Filters {
  readonly #interfaces: InterfaceWriter;
  readonly #filters: readonly Written[];
  readonly #log: (line: string) => void;
  /** The interface table's count of changes that the filters include. */
  #seen = -1;

  constructor(
    filters: readonly InterfaceFilter[],
    { interfaces, ports, log }: {
      interfaces: InterfaceWriter;
      ports: readonly number[];
      log(line: string): void;
    },
  ) {
    this.#interfaces = interfaces;
    this.#log = log;
    this.#filters = filters.map(({ ifindex, view }) => {
      // Entries of a predecessor stay until they are known to be wrong.
      const filter = new Filter(view);
      filter.setPorts(ports);
      return { ifindex, filter, isFullLogged: false };
    });
  }

  /** Brings the filters up to date. True: the interface table had changed. */
  turn(): boolean {
    if (this.#seen === this.#interfaces.changes) return false;
    this.#seen = this.#interfaces.changes;
    if (this.#filters.length === 0) return true;
    const addresses = this.#localAddresses();
    for (const each of this.#filters) this.#update(each, addresses);
    return true;
  }

  #localAddresses(): Set<number> {
    const all = this.#interfaces.all().flatMap(({ addresses }) => addresses);
    const locals = all.map(({ local }) => local);
    return new Set(locals.filter((address) => address >>> 24 !== LOOPBACK_NET && address !== 0));
  }

  #update(written: Written, addresses: ReadonlySet<number>): void {
    const link = this.#interfaces.get(written.ifindex);
    if (link === null) return;
    written.filter.setMac([
      ...[0, 8, 16, 24].map((shift) => link.macHead >>> shift & 255),
      ...[link.macTail & 255, link.macTail >>> 8 & 255],
    ]);
    // Id 0 is a priority tag without a VLAN: the frame is the interface's own.
    written.filter.setVlans([0, ...this.#vlansOn(written.ifindex)]);
    this.#updateAddresses(written, addresses);
  }

  /** Ids of the VLAN devices on an interface that are up. */
  #vlansOn(ifindex: number): number[] {
    return this.#interfaces.all()
      .filter(({ link, flags }) => link === ifindex && (flags & IFF_UP) !== 0)
      .filter(({ vlanProtocol }) => vlanProtocol !== 0)
      .map(({ vlanId }) => vlanId);
  }

  #updateAddresses(written: Written, addresses: ReadonlySet<number>): void {
    for (const address of written.filter.addresses()) {
      if (!addresses.has(address)) written.filter.remove(address);
    }
    const left = [...addresses].filter((address) => !written.filter.add(address));
    if (left.length === 0 || written.isFullLogged) return;
    written.isFullLogged = true;
    this.#log(
      `${left.length} addresses, ${formatAddress(left[0])} among them, do not fit the XDP ` +
        "filter: what is sent to them comes in by the kernel's sockets",
    );
  }
}
