/**
 * The interface table's writer. It writes a fresh record, with a fresh run of addresses, whenever
 * something about an interface has changed.
 */

import type { View } from "../ffi/view.ts";
import {
  type InterfaceAddress,
  type InterfaceEntry,
  type InterfaceLink,
  InterfaceReader,
} from "./interfaces.ts";
import {
  Address,
  ADDRESS_WORDS,
  ADDRESSES,
  Interface,
  INTERFACE_TABLE,
  NAME_BYTES,
} from "./layout.ts";
import type { Limbo } from "./rcu.ts";
import { RecordTableWriter } from "./record_table_writer.ts";
import { RunPool } from "./pools.ts";
import type { Watch } from "./watcher.ts";

/** Slots of the table at start. */
const SLOTS = 64;

/** The writer's side. All changes show with the next store, and in `generation` with `commit()`. */
export class InterfaceWriter extends InterfaceReader {
  /** Moves with every change that a packet can see. */
  changes = 0;
  readonly #table: RecordTableWriter;
  readonly #runs = new RunPool(ADDRESSES);
  readonly #limbo: Limbo;
  readonly #watch: Watch;

  /** Goes on with what a predecessor left. */
  constructor(
    view: View,
    { limbo, seed, watch }: { limbo: Limbo; seed: number; watch: Watch },
  ) {
    super(view);
    this.#limbo = limbo;
    this.#watch = watch;
    this.#table = new RecordTableWriter(view, INTERFACE_TABLE, { limbo, slots: SLOTS, seed });
    for (const record of this.records()) {
      const count = this.addressCount(record);
      if (count > 0) this.#runs.reserve(this.words[record + Interface.addresses], count);
    }
  }

  /** How many there are. */
  get size(): number {
    return this.#table.size;
  }

  /** Adds or changes an interface, whose addresses stay. False: no room. */
  set(link: InterfaceLink): boolean {
    return this.put({ ...link, addresses: this.get(link.ifindex)?.addresses ?? [] });
  }

  /**
   * Adds or changes an address, put where the kernel puts it among the interface's. False: no such
   * interface, or no room.
   */
  setAddress(ifindex: number, address: InterfaceAddress): boolean {
    const entry = this.get(ifindex);
    return entry !== null &&
      this.put({ ...entry, addresses: withAddress(entry.addresses, address) });
  }

  /** Removes an address. False: it is not there. */
  removeAddress(ifindex: number, address: InterfaceAddress): boolean {
    const entry = this.get(ifindex);
    const addresses = entry === null ? [] : withoutAddress(entry.addresses, address);
    if (entry === null || addresses.length === entry.addresses.length) return false;
    return this.put({ ...entry, addresses });
  }

  /** Adds an interface with its addresses, or brings it to that state. False: no room. */
  put(entry: InterfaceEntry): boolean {
    const packed = pack(entry);
    const old = this.find(entry.ifindex);
    if (old >= 0 && this.#says(old, packed)) return true;
    const count = entry.addresses.length;
    const run = count === 0 ? 0 : this.#runs.allocate(count);
    const record = run < 0 ? -1 : this.#table.allocate();
    if (record >= 0) {
      this.addressWords.set(packed.addresses, run * ADDRESS_WORDS);
      this.words.set(packed.record, record);
      this.words[record + Interface.addresses] = run;
    }
    if (record < 0 || !this.#table.put(record)) {
      if (run >= 0 && count > 0) this.#runs.reclaim(run);
      return false;
    }
    if (old >= 0) this.#retireRun(old);
    this.changes++;
    this.#watch.watcher?.interface(old >= 0 ? "changed" : "added", entry);
    return true;
  }

  /** Removes an interface with its addresses. */
  remove(ifindex: number): boolean {
    const entry = this.get(ifindex);
    if (entry === null) return false;
    this.#watch.watcher?.interface("removed", entry);
    const record = this.find(ifindex);
    this.#table.remove(ifindex, 0);
    this.#retireRun(record);
    this.changes++;
    return true;
  }

  /** Whether an interface is in the table in just that state. */
  has(entry: InterfaceEntry): boolean {
    const record = this.find(entry.ifindex);
    return record >= 0 && this.#says(record, pack(entry));
  }

  #says(record: number, packed: Packed): boolean {
    const run = this.words[record + Interface.addresses] * ADDRESS_WORDS;
    return packed.record.every((word, i) =>
      i === Interface.addresses || word === this.words[record + i]
    ) && packed.addresses.every((word, i) => word === this.addressWords[run + i]);
  }

  /** The run of a record that is no longer published. */
  #retireRun(record: number): void {
    if (this.addressCount(record) === 0) return;
    this.#limbo.retire(this.#runs, this.words[record + Interface.addresses]);
  }
}

/** A list with an address that is told, where `inet_insert_ifa` puts it; an event does not tell the place. */
export function withAddress(
  addresses: readonly InterfaceAddress[],
  address: InterfaceAddress,
): readonly InterfaceAddress[] {
  const { broadcast, scope, secondary } = address;
  const known = addresses.find((other) => isSameAddress(other, address));
  const isMoved = known?.broadcast !== broadcast || known.scope !== scope ||
    known.secondary !== secondary;
  // Labels follow the interface's name, and nothing moves for that.
  if (!isMoved) return addresses.with(addresses.indexOf(known), address);
  const others = addresses.filter((other) => other !== known);
  // A secondary goes last, a primary after the last primary whose scope is as narrow or narrower.
  const before = secondary
    ? others.length - 1
    : others.findLastIndex((other) => !other.secondary && scope <= other.scope);
  return others.toSpliced(before + 1, 0, address);
}

/** A list without an address. */
export function withoutAddress(
  addresses: readonly InterfaceAddress[],
  address: InterfaceAddress,
): readonly InterfaceAddress[] {
  return addresses.filter((other) => !isSameAddress(other, address));
}

/** IFA_LOCAL, prefix length and IFA_ADDRESS identify an address on its interface. */
function isSameAddress(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.local === b.local && a.prefixLength === b.prefixLength && a.address === b.address;
}

/** Words of a record that are what the entry's fields of the same name are. */
const PLAIN_WORDS = [
  "ifindex",
  "flags",
  "mtu",
  "macHead",
  "macTail",
  "broadcastHead",
  "broadcastTail",
  "link",
  "master",
  "operstate",
] as const;

/** An interface as the words of its record, without the number of its run, and of that run. */
interface Packed {
  readonly record: Uint32Array;
  readonly addresses: Uint32Array;
}

function pack(entry: InterfaceEntry): Packed {
  const record = new Uint32Array(Interface.broadcastTail + 1);
  for (const word of PLAIN_WORDS) record[Interface[word]] = entry[word] ?? 0;
  record[Interface.vlan] = entry.vlanProtocol << 16 | entry.vlanId;
  record[Interface.addressCount] = entry.addresses.length;
  putText(entry.name, record, Interface.name);
  const run = new Uint32Array(entry.addresses.length * ADDRESS_WORDS);
  entry.addresses.forEach((each, i) => {
    const at = i * ADDRESS_WORDS;
    run[at + Address.local] = each.local;
    run[at + Address.address] = each.address;
    run[at + Address.broadcast] = each.broadcast;
    run[at + Address.meta] = each.prefixLength | each.scope << 8 | (each.secondary ? 1 << 16 : 0);
    putText(each.label ?? "", run, at + Address.label);
  });
  return { record, addresses: run };
}

/** Puts a name at word `at` of `words`, which are 0. ASCII goes without an encoder, as it is read. */
function putText(text: string, words: Uint32Array<ArrayBuffer>, at: number): void {
  for (let i = 0; i < Math.min(text.length, NAME_BYTES - 1); i++) {
    const code = text.charCodeAt(i);
    if (code > 0x7f) {
      new TextEncoder().encodeInto(text, new Uint8Array(words.buffer, at * 4, NAME_BYTES - 1));
      return;
    }
    words[at + (i >> 2)] |= code << (i & 3) * 8;
  }
}
