/**
 * The interface table's writer. It keeps a copy of each interface in its heap, from which it writes
 * a fresh record, with a fresh run of addresses, whenever something about it has changed.
 */

import { slice, u32, type View } from "../ffi/view.ts";
import { type InterfaceAddress, type InterfaceLink, packName } from "./interfaces.ts";
import {
  Address,
  ADDRESS_WORDS,
  ADDRESSES,
  ADDRESSES_AT,
  Interface,
  INTERFACE_TABLE,
} from "./layout.ts";
import type { Limbo } from "./rcu.ts";
import { RecordTableReader } from "./record_table.ts";
import { RecordTableWriter } from "./record_table_writer.ts";
import { RunPool } from "./run_pool.ts";
import type { Change, Watch } from "./watcher.ts";

/** Slots of the table at start. */
const SLOTS = 64;

/** The writer's copy of an interface. */
interface Entry {
  readonly link: InterfaceLink;
  addresses: MarkedAddress[];
  sync: number;
}

/** An address and the sync in which it was last named. */
interface MarkedAddress extends InterfaceAddress {
  sync: number;
}

/** The writer's side. All changes show with the next store, and in `generation` with `commit()`. */
export class InterfaceWriter {
  readonly #table: RecordTableWriter;
  readonly #addressWords: Uint32Array;
  readonly #runs = new RunPool(ADDRESSES);
  readonly #limbo: Limbo;
  readonly #entries = new Map<number, Entry>();
  readonly #changed: () => void;
  readonly #watch: Watch;
  /** Runs that a predecessor's records name. */
  readonly #inherited: number[] = [];
  #sync = 0;

  /** `changed` is called for every change that a packet can see. */
  constructor(
    view: View,
    options: { limbo: Limbo; seed: number; changed: () => void; watch: Watch },
  ) {
    this.#addressWords = u32(slice(view, ADDRESSES_AT, ADDRESSES * ADDRESS_WORDS * 4));
    this.#limbo = options.limbo;
    this.#changed = options.changed;
    this.#watch = options.watch;
    this.#inherit(view);
    this.#table = new RecordTableWriter(view, INTERFACE_TABLE, {
      limbo: options.limbo,
      slots: SLOTS,
      seed: options.seed,
    });
  }

  /** How many there are. */
  get size(): number {
    return this.#entries.size;
  }

  /** Adds or changes an interface. False: no room. */
  set(link: Readonly<InterfaceLink>): boolean {
    const before = this.#entries.get(link.ifindex);
    if (before !== undefined && isSameLink(before.link, link)) {
      before.sync = this.#sync;
      this.#table.mark(this.#table.find(link.ifindex, 0));
      return true;
    }
    const entry = { link: { ...link }, addresses: before?.addresses ?? [], sync: this.#sync };
    if (!this.#put(entry)) return false;
    this.#entries.set(link.ifindex, entry);
    return true;
  }

  /** Removes an interface with its addresses. */
  remove(ifindex: number): boolean {
    const entry = this.#entries.get(ifindex);
    if (entry === undefined) return false;
    this.#entries.delete(ifindex);
    this.#tell("removed", entry);
    const record = this.#table.find(ifindex, 0);
    if (record >= 0) {
      this.#table.remove(ifindex, 0);
      this.#retireRun(record);
    }
    this.#changed();
    return true;
  }

  /**
   * Adds or changes an address, put where the kernel puts it among the interface's (`insertAddress`).
   * False: no such interface, or no room.
   */
  setAddress(ifindex: number, address: Readonly<InterfaceAddress>): boolean {
    const entry = this.#entries.get(ifindex);
    if (entry === undefined) return false;
    const at = entry.addresses.findIndex((other) => isSameAddress(other, address));
    if (at >= 0 && isSameState(entry.addresses[at], address) && this.#isInOrder(entry, at)) {
      entry.addresses[at].sync = this.#sync;
      return true;
    }
    const addresses = entry.addresses.filter((_, i) => i !== at);
    insertAddress(addresses, { ...address, sync: this.#sync });
    return this.#putAddresses(entry, addresses);
  }

  /** Removes an address; identified by local address, prefix length and peer. */
  removeAddress(ifindex: number, address: Readonly<InterfaceAddress>): boolean {
    const entry = this.#entries.get(ifindex);
    const addresses = entry?.addresses.filter((other) => !isSameAddress(other, address));
    if (entry === undefined || addresses?.length === entry.addresses.length) return false;
    return this.#putAddresses(entry, addresses ?? []);
  }

  /** Begins a mark and sweep: a dump of links, then one of addresses, follow. */
  beginSync(): void {
    this.#sync++;
    this.#table.beginSync();
  }

  /** Takes away the interfaces and addresses that were not named since `beginSync`. */
  endSync(): void {
    for (const [ifindex, entry] of this.#entries) {
      if (entry.sync !== this.#sync) this.remove(ifindex);
      else if (entry.addresses.some((address) => address.sync !== this.#sync)) {
        this.#putAddresses(entry, entry.addresses.filter((one) => one.sync === this.#sync));
      }
    }
    this.#table.endSync();
    for (const run of this.#inherited.splice(0)) this.#limbo.retire(this.#runs, run);
  }

  /** Of interface `ifindex`, null when there is none. Allocates. */
  get(ifindex: number): (InterfaceLink & { addresses: InterfaceAddress[] }) | null {
    const entry = this.#entries.get(ifindex);
    if (entry === undefined) return null;
    const addresses = entry.addresses.map(({ sync: _, ...address }) => address);
    return { ...entry.link, addresses };
  }

  /** All interface indices, ascending. */
  indices(): number[] {
    return [...this.#entries.keys()].sort((a, b) => a - b);
  }

  /** A dump names addresses in order: none that comes after this one was named before it. */
  #isInOrder(entry: Entry, at: number): boolean {
    if (entry.addresses[at].sync === this.#sync) return true;
    return !entry.addresses.some((other, i) => i > at && other.sync === this.#sync);
  }

  #putAddresses(entry: Entry, addresses: MarkedAddress[]): boolean {
    const before = entry.addresses;
    entry.addresses = addresses;
    if (this.#put(entry)) return true;
    entry.addresses = before;
    return false;
  }

  /** Writes an interface as a record with a run of addresses, and publishes it. */
  #put(entry: Entry): boolean {
    const count = entry.addresses.length;
    const run = count === 0 ? 0 : this.#runs.allocate(count);
    const record = run < 0 ? -1 : this.#table.allocate();
    if (record < 0) {
      if (run >= 0 && count > 0) this.#runs.reclaim(run);
      return false;
    }
    const old = this.#table.find(entry.link.ifindex, 0);
    entry.addresses.forEach((address, i) => this.#writeAddress(run + i, address));
    writeRecord(this.#table.words, record, entry.link);
    this.#table.words[record + Interface.addresses] = run;
    this.#table.words[record + Interface.addressCount] = count;
    if (!this.#table.put(record)) {
      if (count > 0) this.#runs.reclaim(run);
      return false;
    }
    if (old >= 0) this.#retireRun(old);
    this.#changed();
    this.#tell(old >= 0 ? "changed" : "added", entry);
    return true;
  }

  #tell(change: Change, { link }: Entry): void {
    this.#watch.watcher?.interface(change, link);
  }

  #writeAddress(index: number, address: InterfaceAddress): void {
    const at = index * ADDRESS_WORDS;
    const secondary = address.secondary ? 1 << 16 : 0;
    this.#addressWords[at + Address.local] = address.local;
    this.#addressWords[at + Address.address] = address.address;
    this.#addressWords[at + Address.broadcast] = address.broadcast;
    this.#addressWords[at + Address.meta] = address.prefixLength | (address.scope << 8) | secondary;
  }

  /** The run of a record that is no longer published. */
  #retireRun(record: number): void {
    const words = this.#table.words;
    if (words[record + Interface.addressCount] === 0) return;
    this.#limbo.retire(this.#runs, words[record + Interface.addresses]);
  }

  /** Keeps hands off the runs that a predecessor's records name until those are let go of. */
  #inherit(view: View): void {
    const table = new RecordTableReader(view, INTERFACE_TABLE);
    table.forEachRecord((record) => {
      const count = table.words[record + Interface.addressCount];
      const run = table.words[record + Interface.addresses];
      if (count > 0 && this.#runs.reserve(run, count)) this.#inherited.push(run);
    });
  }
}

/** IFA_LOCAL, prefix length and IFA_ADDRESS identify an address on its interface. */
function isSameAddress(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.local === b.local && a.prefixLength === b.prefixLength && a.address === b.address;
}

/** Whether an address is told anew without a change. */
function isSameState(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.broadcast === b.broadcast && a.scope === b.scope && a.secondary === b.secondary;
}

/** Whether an interface is told anew without a change. */
function isSameLink(a: InterfaceLink, b: InterfaceLink): boolean {
  return (Object.keys(a) as (keyof InterfaceLink)[]).every((key) => a[key] === b[key]);
}

/**
 * Puts an address where `inet_insert_ifa` puts it: a secondary goes last, a primary after the last
 * primary whose scope is as narrow or narrower. An event does not tell the place.
 */
function insertAddress(list: MarkedAddress[], address: MarkedAddress): void {
  let at = address.secondary ? list.length : 0;
  if (!address.secondary) {
    list.forEach((other, i) => {
      if (!other.secondary && address.scope <= other.scope) at = i + 1;
    });
  }
  list.splice(at, 0, address);
}

/** Writes all of an interface's record but its addresses. */
function writeRecord(words: Uint32Array, record: number, link: InterfaceLink): void {
  words[record + Interface.ifindex] = link.ifindex;
  words[record + Interface.unused] = 0;
  words[record + Interface.flags] = link.flags;
  words[record + Interface.mtu] = link.mtu;
  words[record + Interface.macHead] = link.macHead;
  words[record + Interface.macTail] = link.macTail;
  words[record + Interface.link] = link.link;
  words[record + Interface.master] = link.master;
  words[record + Interface.vlan] = (link.vlanProtocol << 16) | link.vlanId;
  words[record + Interface.operstate] = link.operstate;
  packName(words, record + Interface.name, link.name);
}
