/**
 * The interface table: what a packet or a person may need to know of an interface, and its IPv4
 * addresses in the kernel's own order, since the choice of a source address depends on it. A hash table
 * (`hash_table.ts`); a record names a run of addresses, which is as immutable as the record, so that a
 * changed address means a new run and a new record.
 */

import { slice, u32, type View } from "../ffi/region.ts";
import { HashTableReader, HashTableWriter } from "./hash_table.ts";
import {
  Address,
  ADDRESS_WORDS,
  ADDRESSES,
  ADDRESSES_AT,
  Interface,
  INTERFACE_TABLE,
  NAME_BYTES,
} from "./layout.ts";
import type { ListenerSlot } from "./netbase_writer.ts";
import { type DeferredFree, RunPool } from "./rcu.ts";

/** Interface flags (`ifi_flags`, linux/if.h). */
export const IFF_UP = 0x1;
export const IFF_BROADCAST = 0x2;
export const IFF_LOOPBACK = 0x8;
export const IFF_RUNNING = 0x40;
export const IFF_NOARP = 0x80;
export const IFF_LOWER_UP = 0x10000;

/** An interface as in RTM_NEWLINK. */
export interface InterfaceLink {
  readonly ifindex: number;
  readonly name: string;
  /** IFF_* */
  readonly flags: number;
  readonly mtu: number;
  readonly operstate: number;
  /** MAC: bytes 0–3 as one little-endian word, and bytes 4–5 likewise. */
  readonly macHead: number;
  readonly macTail: number;
  /** The broadcast MAC likewise, where there is one. */
  readonly broadcastHead?: number;
  readonly broadcastTail?: number;
  readonly link: number;
  readonly master: number;
  readonly vlanId: number;
  /** 0x8100 or 0x88a8; 0: not a VLAN device */
  readonly vlanProtocol: number;
}

/** An interface's IPv4 address as in RTM_NEWADDR, all in host order. */
export interface InterfaceAddress {
  /** IFA_LOCAL */
  readonly local: number;
  /** IFA_ADDRESS: the peer on a point-to-point link, else as `local` */
  readonly address: number;
  readonly prefixLength: number;
  /** IFA_BROADCAST; 0: none */
  readonly broadcast: number;
  readonly scope: number;
  /** IFA_F_SECONDARY */
  readonly secondary: boolean;
  /** IFA_LABEL, if there is one. */
  readonly label?: string;
}

/** An interface and its addresses, in the kernel's order. */
export interface InterfaceEntry extends InterfaceLink {
  readonly addresses: readonly InterfaceAddress[];
}

/** The readers' side. A *record* is what `find` found; it is valid until the next quiescent state. */
export class InterfaceReader {
  protected readonly words: Uint32Array;
  protected readonly addressWords: Uint32Array;
  readonly #table: HashTableReader;

  constructor(view: View) {
    this.#table = new HashTableReader(view, INTERFACE_TABLE);
    this.words = this.#table.words;
    this.addressWords = u32(slice(view, ADDRESSES_AT, ADDRESSES * ADDRESS_WORDS * 4));
  }

  /** Record of `ifindex`, or -1. */
  find(ifindex: number): number {
    return this.#table.find(ifindex, 0);
  }

  ifindex(record: number): number {
    return this.words[record + Interface.ifindex];
  }

  /** IFF_* */
  flags(record: number): number {
    return this.words[record + Interface.flags];
  }

  /** Administratively up and with carrier. */
  isUp(record: number): boolean {
    const both = IFF_UP | IFF_LOWER_UP;
    return (this.words[record + Interface.flags] & both) === both;
  }

  isLoopback(record: number): boolean {
    return (this.words[record + Interface.flags] & IFF_LOOPBACK) !== 0;
  }

  mtu(record: number): number {
    return this.words[record + Interface.mtu];
  }

  /** MAC bytes 0–3 as they lie in memory (a little-endian word). */
  macHead(record: number): number {
    return this.words[record + Interface.macHead];
  }

  /** MAC bytes 4–5 likewise. */
  macTail(record: number): number {
    return this.words[record + Interface.macTail];
  }

  link(record: number): number {
    return this.words[record + Interface.link];
  }

  /** VLAN protocol << 16 | id; 0: not a VLAN device */
  vlan(record: number): number {
    return this.words[record + Interface.vlan];
  }

  /** Allocates. */
  name(record: number): string {
    return textAt(this.words, record + Interface.name);
  }

  addressCount(record: number): number {
    return this.words[record + Interface.addressCount];
  }

  /** IFA_LOCAL of the `i`-th address, in the kernel's order, host order. */
  local(record: number, i: number): number {
    return this.addressWords[this.#addressAt(record, i) + Address.local];
  }

  /** IFA_ADDRESS of the `i`-th. */
  address(record: number, i: number): number {
    return this.addressWords[this.#addressAt(record, i) + Address.address];
  }

  prefixLength(record: number, i: number): number {
    return this.addressWords[this.#addressAt(record, i) + Address.meta] & 0xff;
  }

  scope(record: number, i: number): number {
    return (this.addressWords[this.#addressAt(record, i) + Address.meta] >>> 8) & 0xff;
  }

  isSecondary(record: number, i: number): boolean {
    return this.addressWords[this.#addressAt(record, i) + Address.meta] >>> 16 === 1;
  }

  /** Records of all interfaces by ascending index. Allocates. */
  records(): number[] {
    const records: number[] = [];
    this.#table.forEachRecord((record) => records.push(record));
    return records.sort((a, b) => this.ifindex(a) - this.ifindex(b));
  }

  /** An interface with its addresses; null: there is none. Allocates. */
  get(ifindex: number): InterfaceEntry | null {
    const record = this.find(ifindex);
    return record < 0 ? null : this.#entry(record);
  }

  /** All interfaces by ascending index. Allocates. */
  all(): InterfaceEntry[] {
    return this.records().map((record) => this.#entry(record));
  }

  #entry(record: number): InterfaceEntry {
    const [words, vlan] = [this.words, this.vlan(record)];
    const broadcastHead = words[record + Interface.broadcastHead];
    const broadcastTail = words[record + Interface.broadcastTail];
    return {
      ifindex: this.ifindex(record),
      name: this.name(record),
      flags: this.flags(record),
      mtu: this.mtu(record),
      operstate: words[record + Interface.operstate],
      macHead: this.macHead(record),
      macTail: this.macTail(record),
      link: this.link(record),
      master: words[record + Interface.master],
      vlanId: vlan & 0xffff,
      vlanProtocol: vlan >>> 16,
      ...((broadcastHead !== 0 || broadcastTail !== 0) && { broadcastHead, broadcastTail }),
      addresses: Array.from(
        { length: this.addressCount(record) },
        (_, i) => this.#addressEntry(record, i),
      ),
    };
  }

  #addressEntry(record: number, i: number): InterfaceAddress {
    const at = this.#addressAt(record, i);
    const label = textAt(this.addressWords, at + Address.label);
    return {
      local: this.local(record, i),
      address: this.address(record, i),
      prefixLength: this.prefixLength(record, i),
      broadcast: this.addressWords[at + Address.broadcast],
      scope: this.scope(record, i),
      secondary: this.isSecondary(record, i),
      ...(label !== "" && { label }),
    };
  }

  #addressAt(record: number, i: number): number {
    return (this.words[record + Interface.addresses] + i) * ADDRESS_WORDS;
  }
}

/** The name at word `at`. Any change to an interface reads all its labels, so ASCII skips the decoder. */
function textAt(words: Uint32Array, at: number): string {
  let text = "";
  for (let i = 0; i < NAME_BYTES; i++) {
    const byte = words[at + (i >> 2)] >>> (i & 3) * 8 & 0xff;
    if (byte === 0) break;
    if (byte > 0x7f) return decode(words.slice(at, at + NAME_BYTES / 4));
    text += String.fromCharCode(byte);
  }
  return text;
}

function decode(words: Uint32Array<ArrayBuffer>): string {
  const bytes = new Uint8Array(words.buffer);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

/**
 * The one writer of interfaces. Every change writes a new record, with a new run of addresses, and shows at
 * once; in `generation` it shows with `commit()`.
 */
export class InterfaceWriter extends InterfaceReader {
  /** Counts changes that a packet can see. */
  changes = 0;
  readonly #table: HashTableWriter;
  readonly #runs = new RunPool(ADDRESSES);
  readonly #deferred: DeferredFree;
  readonly #listeners: ListenerSlot;

  /** Goes on with the table that a predecessor left. */
  constructor(
    view: View,
    { deferred, seed, listeners }: {
      deferred: DeferredFree;
      seed: number;
      listeners: ListenerSlot;
    },
  ) {
    super(view);
    this.#deferred = deferred;
    this.#listeners = listeners;
    this.#table = new HashTableWriter(view, INTERFACE_TABLE, { deferred, slots: 64, seed });
    for (const record of this.records()) {
      const count = this.addressCount(record);
      if (count > 0) this.#runs.reserve(this.words[record + Interface.addresses], count);
    }
  }

  /** Number of interfaces. */
  get size(): number {
    return this.#table.size;
  }

  /** Adds or changes an interface and keeps its addresses. False: no room. */
  set(link: InterfaceLink): boolean {
    return this.put({ ...link, addresses: this.get(link.ifindex)?.addresses ?? [] });
  }

  /**
   * Adds or changes an address, at the place among the interface's where the kernel puts it. False: no
   * such interface, or no room.
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

  /** Adds an interface, or brings it with its addresses to this state. False: no room. */
  put(entry: InterfaceEntry): boolean {
    const packed = pack(entry);
    const old = this.find(entry.ifindex);
    if (old >= 0 && this.#equals(old, packed)) return true;
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
    this.#listeners.current?.interface(old >= 0 ? "changed" : "added", entry);
    return true;
  }

  /** Removes an interface with its addresses. */
  remove(ifindex: number): boolean {
    const entry = this.get(ifindex);
    if (entry === null) return false;
    this.#listeners.current?.interface("removed", entry);
    const record = this.find(ifindex);
    this.#table.remove(ifindex, 0);
    this.#retireRun(record);
    this.changes++;
    return true;
  }

  /** Whether the table has the interface in exactly this state. */
  has(entry: InterfaceEntry): boolean {
    const record = this.find(entry.ifindex);
    return record >= 0 && this.#equals(record, pack(entry));
  }

  #equals(record: number, packed: Packed): boolean {
    const run = this.words[record + Interface.addresses] * ADDRESS_WORDS;
    return packed.record.every((word, i) =>
      i === Interface.addresses || word === this.words[record + i]
    ) && packed.addresses.every((word, i) => word === this.addressWords[run + i]);
  }

  /** Frees the run of a record that is no longer published. */
  #retireRun(record: number): void {
    if (this.addressCount(record) === 0) return;
    this.#deferred.retire(this.#runs, this.words[record + Interface.addresses]);
  }
}

/** A list with an address added where `inet_insert_ifa` puts it; RTM_NEWADDR does not say where. */
export function withAddress(
  addresses: readonly InterfaceAddress[],
  address: InterfaceAddress,
): readonly InterfaceAddress[] {
  const { broadcast, scope, secondary } = address;
  const known = addresses.find((other) => isSameAddress(other, address));
  const isMoved = known?.broadcast !== broadcast || known.scope !== scope ||
    known.secondary !== secondary;
  // A label follows the interface's name without moving the address.
  if (!isMoved) return addresses.with(addresses.indexOf(known), address);
  const others = addresses.filter((other) => other !== known);
  // A secondary goes last, a primary behind the last primary of the same or a narrower scope.
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

/** Words of a record that equal the entry's fields of the same name. */
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

/** The words of an interface's record, without the number of its run, and of that run. */
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

/** Puts a name at word `at` of `words`, which are 0. ASCII skips the encoder. */
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
