// SPDX-License-Identifier: Apache-2.0
/**
 * The interface table: the properties of an interface, and its IPv4 addresses in the kernel's order,
 * since the choice of a source address depends on it. It is a hash table (`hash_table.ts`). A record
 * names a run of addresses, which is as immutable as the record, so a changed address means a new run
 * and a new record. The writer is in `tables_writer.ts`.
 */

import { slice, u32, type View } from "../ffi/region.ts";
import { HashTableReader } from "./hash_table.ts";
import {
  Address,
  ADDRESS_WORDS,
  ADDRESSES,
  ADDRESSES_AT,
  Interface,
  INTERFACE_TABLE,
  NAME_BYTES,
} from "./layout.ts";

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
  /** The broadcast MAC likewise; 0: none. */
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

/** Words of a record that equal the entry's fields of the same name. */
export const PLAIN_WORDS = [
  ...["ifindex", "flags", "mtu", "operstate", "link", "master"] as const,
  ...["macHead", "macTail", "broadcastHead", "broadcastTail"] as const,
] as const;

/** The readers' side. A *record* is a result of `find`; it is valid until the next quiescent state. */
export class InterfaceReader {
  protected readonly words: Uint32Array;
  protected readonly addressWords: Uint32Array;
  readonly #table: HashTableReader;

  constructor(view: View, table = new HashTableReader(view, INTERFACE_TABLE)) {
    this.#table = table;
    this.words = table.words;
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
    const plain = PLAIN_WORDS.map((word) => [word, this.words[record + Interface[word]]]);
    const length = this.addressCount(record);
    const vlan = this.vlan(record);
    return {
      ...Object.fromEntries(plain) as Pick<InterfaceEntry, typeof PLAIN_WORDS[number]>,
      name: this.name(record),
      vlanId: vlan & 0xffff,
      vlanProtocol: vlan >>> 16,
      addresses: Array.from({ length }, (_, i) => this.#addressEntry(record, i)),
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
