// SPDX-License-Identifier: Apache-2.0
/**
 * Keeps the XDP programs' filters equal to the interface table. A program takes a frame only if it is
 * sent to the interface's MAC address and to an address of this host. As in the kernel, an interface
 * accepts the addresses of all interfaces, except loopback's.
 */

import type { View } from "../../ffi/region.ts";
import {
  FILTER_BYTES,
  FILTER_MULTIPLIER,
  FILTER_PROBES,
  FILTER_SLOT_BITS,
  FilterAt,
} from "../../ffi/shared.ts";
import { IFF_UP, type InterfaceEntry } from "../../netbase/interfaces.ts";
import { formatAddress } from "../../netbase/route.ts";
import type { InterfaceWriter } from "../../netbase/tables_writer.ts";

const ADDRESS_SLOTS = 1 << FILTER_SLOT_BITS;

/** Gives a new filter's hash a random seed, before anyone reads or writes it. */
export function seedFilter({ buffer, byteOffset }: View): void {
  // getRandomValues refuses shared memory.
  const [seed] = crypto.getRandomValues(new Uint32Array(1));
  new DataView(buffer, byteOffset).setUint32(FilterAt.seed, seed, true);
}

/**
 * The XDP program's filter: which frames it takes. It is a memory-mapped BPF array of one element
 * (`struct filter` in `xdp_filter.bpf.c`). The program reads it for every frame, so every change is a
 * single store and takes effect at once.
 *
 * Writes the filter; one writer at a time. A second writer that joins finds the first one's content.
 */
export class Filter {
  readonly #bytes: DataView;
  readonly #vlans: Uint32Array;
  readonly #ports: Uint32Array;
  readonly #addresses: Uint32Array;
  /** Chosen by `seedFilter`, so that nobody can choose addresses that collide. */
  readonly #seed: number;

  constructor(view: View) {
    const { buffer, byteOffset } = view;
    this.#bytes = new DataView(buffer, byteOffset, FILTER_BYTES);
    this.#vlans = new Uint32Array(buffer, byteOffset + FilterAt.vlans, 128);
    this.#ports = new Uint32Array(buffer, byteOffset + FilterAt.ports, 2048);
    this.#addresses = new Uint32Array(buffer, byteOffset + FilterAt.addresses, ADDRESS_SLOTS);
    this.#seed = this.#bytes.getUint32(FilterAt.seed, true);
  }

  /** Takes only frames to this MAC address (6 bytes). */
  setMac(mac: ArrayLike<number>): void {
    // Two stores: in between a frame can only fail to match, and goes to the kernel.
    this.#bytes.setUint32(FilterAt.mac, mac[0] | mac[1] << 8 | mac[2] << 16 | mac[3] << 24, true);
    this.#bytes.setUint16(FilterAt.mac + 4, mac[4] | mac[5] << 8, true);
  }

  /** Takes datagrams to these UDP ports, and no others. */
  setPorts(ports: Iterable<number>): void {
    setBits(this.#ports, ports);
  }

  /** Sets whether each frame that is taken gets a timestamp. */
  setTimes(wanted: boolean): void {
    this.#bytes.setUint16(FilterAt.times, wanted ? 1 : 0, true);
  }

  /** Takes frames tagged with these VLAN ids, and no others. */
  setVlans(ids: Iterable<number>): void {
    setBits(this.#vlans, ids);
  }

  /** Takes packets to an address (host order, not 0). False: there is no room; the kernel's socket gets them. */
  add(address: number): boolean {
    if (this.#find(address) >= 0) return true;
    const free = this.#probe(address, 0);
    if (free < 0) return false;
    this.#addresses[free] = address;
    return true;
  }

  /** Stops taking packets to IPv4 address `address`. */
  remove(address: number): void {
    const at = this.#find(address);
    if (at >= 0) this.#addresses[at] = 0;
  }

  /** The addresses in it, in no order: for a writer that takes over from another. */
  addresses(): number[] {
    return Array.from(this.#addresses).filter((address) => address !== 0);
  }

  #find(address: number): number {
    return this.#probe(address, address >>> 0);
  }

  /** The first slot for `address` that contains `wanted`, or -1. */
  #probe(address: number, wanted: number): number {
    const first = (Math.imul(address, FILTER_MULTIPLIER) ^ this.#seed) >>> (32 - FILTER_SLOT_BITS);
    for (let i = 0; i < FILTER_PROBES; i++) {
      const slot = (first + i) & (ADDRESS_SLOTS - 1);
      if (this.#addresses[slot] === wanted) return slot;
    }
    return -1;
  }
}

/** Sets these bits and clears the others. An unchanged word is stored as it was. */
function setBits(words: Uint32Array, bits: Iterable<number>): void {
  const wanted = new Uint32Array(words.length);
  for (const bit of bits) wanted[bit >>> 5] |= 1 << (bit & 31);
  for (let i = 0; i < words.length; i++) words[i] = wanted[i];
}

/** 127.0.0.0/8 */
const LOOPBACK_NET = 127;

/**
 * Returns a function that updates the filters of interfaces, each an XDP program's writable map, and
 * returns whether any interface changed. Until its first call a predecessor's addresses stay.
 */
export function filterUpdater(
  filters: readonly { readonly ifindex: number; readonly view: View }[],
  { interfaces, ports, packetTimes, log }: {
    interfaces: InterfaceWriter;
    ports: readonly number[];
    packetTimes: boolean;
    log(line: string): void;
  },
): () => boolean {
  const written = filters.map(({ ifindex, view }) => ({ ifindex, filter: new Filter(view) }));
  for (const { filter } of written) {
    filter.setPorts(ports);
    filter.setTimes(packetTimes);
  }
  /** Interfaces for which the log has reported that there is no room for all addresses. */
  const full = new Set<number>();
  /** The interface table's count of changes that the filters include. */
  let seen = -1;
  return () => {
    if (seen === interfaces.changes) return false;
    seen = interfaces.changes;
    if (written.length === 0) return true;
    const all = interfaces.all();
    const locals = all.flatMap(({ addresses }) => addresses).map(({ local }) => local);
    const addresses = new Set(locals.filter((one) => one >>> 24 !== LOOPBACK_NET && one !== 0));
    for (const { ifindex, filter } of written) {
      const link = all.find((each) => each.ifindex === ifindex);
      if (link === undefined) continue;
      filter.setMac(new Uint8Array(Uint32Array.of(link.macHead, link.macTail).buffer));
      // Id 0 is a priority tag without a VLAN: the frame is the interface's own.
      filter.setVlans([0, ...vlansOn(ifindex, all)]);
      for (const address of filter.addresses()) {
        if (!addresses.has(address)) filter.remove(address);
      }
      const left = [...addresses].filter((address) => !filter.add(address));
      if (left.length === 0 || full.has(ifindex)) continue;
      full.add(ifindex);
      log(
        `${left.length} addresses, ${formatAddress(left[0])} among them, do not fit the XDP ` +
          "filter: the kernel's sockets receive their datagrams",
      );
    }
    return true;
  };
}

/** Ids of the VLAN devices on an interface that are up. */
function vlansOn(ifindex: number, all: readonly InterfaceEntry[]): number[] {
  return all.filter(({ link, flags }) => link === ifindex && (flags & IFF_UP) !== 0)
    .filter(({ vlanProtocol }) => vlanProtocol !== 0)
    .map(({ vlanId }) => vlanId);
}
