// SPDX-License-Identifier: Apache-2.0
/**
 * Addresses and prefixes for apps: opaque values of four words, as IPv6 will need.
 */

import { formatAddress, parseAddress } from "../../netbase/route.ts";
import type * as contract from "./contract.ts";

const WORDS = 4;
/** The third word of an IPv4-mapped address (RFC 4291 §2.5.5.2). The first two are 0. */
const MAPPED = 0xffff;
/** Bits before the IPv4 address in an IPv4-mapped one. */
const MAPPED_BITS = 96;

export class Address implements contract.Address {
  // `Uint32Array.of` is slower.
  readonly words = new Uint32Array(WORDS);

  /** `ipv4`: an IPv4 address in host order. */
  constructor(ipv4 = 0) {
    this.words[2] = MAPPED;
    this.words[3] = ipv4;
  }

  /** Parses `text`; null if it is not an address. */
  static parse(text: string): Address | null {
    const word = parseAddress(text);
    return word < 0 ? null : new Address(word);
  }

  get isIPv4(): boolean {
    const { words } = this;
    return (words[0] | words[1] | (words[2] ^ MAPPED)) === 0;
  }

  /** The IPv4 address as a word in host order. Throws RangeError for other addresses. */
  get ipv4(): number {
    if (!this.isIPv4) throw new RangeError(`${[...this.words]}: only IPv4 addresses are supported`);
    return this.words[3];
  }

  equals({ words: others }: contract.Address): boolean {
    const { words } = this;
    return words[3] === others[3] && words[2] === others[2] && words[1] === others[1] &&
      words[0] === others[0];
  }

  compare({ words: others }: contract.Address): number {
    const { words } = this;
    for (let i = 0; i < WORDS; i++) {
      if (words[i] !== others[i]) return words[i] < others[i] ? -1 : 1;
    }
    return 0;
  }

  isIn(prefix: contract.Prefix): boolean {
    const { words } = this;
    const others = prefix.address.words;
    let bits = prefix.length + (prefix.address.isIPv4 ? MAPPED_BITS : 0);
    for (let i = 0; bits > 0; i++, bits -= 32) {
      if (bits < 32) return (words[i] ^ others[i]) >>> (32 - bits) === 0;
      if (words[i] !== others[i]) return false;
    }
    return true;
  }

  /** As `hash` of netbase/hash.ts: each word is multiplied by secret numbers and folded, the last one twice. */
  hash(key: number): number {
    const { words } = this;
    const first = key | 1;
    const second = Math.imul(key ^ (key >>> 16), 0x85ebca6b) | 1;
    let mixed = Math.imul(words[0] + key, first);
    mixed = Math.imul((mixed ^ (mixed >>> 15)) + words[1], first);
    mixed = Math.imul((mixed ^ (mixed >>> 15)) + words[2], first);
    mixed = Math.imul((mixed ^ (mixed >>> 15)) + words[3], first);
    mixed = Math.imul(mixed ^ (mixed >>> 15), second);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  }

  load(words: ArrayLike<number>, at = 0): this {
    for (let i = 0; i < WORDS; i++) this.words[i] = words[at + i];
    return this;
  }

  store(words: Uint32Array, at = 0): void {
    for (let i = 0; i < WORDS; i++) words[at + i] = this.words[i];
  }

  copy(): Address {
    return new Address().load(this.words);
  }

  toString(): string {
    return formatAddress(this.ipv4);
  }

  toJSON(): string {
    return `${this}`;
  }

  /** The text for `console`. */
  [Symbol.for("Deno.customInspect")](): string {
    return `${this}`;
  }
}

/** The word of an IPv4 address in host order. Throws TypeError or RangeError if it is not one. */
export function toIPv4(address: contract.Address): number {
  const { ipv4 } = address as Partial<Address>;
  if (ipv4 !== undefined) return ipv4;
  throw new TypeError(`'${address}' is not an address: context.parseAddress() makes one of a text`);
}

/** A prefix: the addresses whose first `length` bits are those of `address`. */
export class Prefix implements contract.Prefix {
  readonly address: Address;
  readonly length: number;

  private constructor(address: Address, length: number) {
    this.address = address;
    this.length = length;
  }

  /** Parses `198.51.100.0/24`, or a bare address; null if it is neither. Host bits are ignored. */
  static parse(text: string): Prefix | null {
    const [first, length = "32", ...more] = text.split("/");
    const address = Address.parse(first);
    const isRight = /^\d{1,2}$/.test(length) && Number(length) <= 32 && more.length === 0;
    return isRight && address !== null ? new Prefix(address, Number(length)) : null;
  }

  toString(): string {
    return `${this.address}/${this.length}`;
  }

  toJSON(): string {
    return `${this}`;
  }

  /** The text for `console`. */
  [Symbol.for("Deno.customInspect")](): string {
    return `${this}`;
  }
}
