/**
 * A map from neighbours, each an interface and an IPv4 address on it. Strangers choose the addresses,
 * and V8's `Map` hashes numbers with a known function: ten thousand addresses chosen to collide in one
 * of its chains cost 10 to 40 µs each. So the keys of this map are the addresses scrambled by a secret
 * key, which nobody can predict.
 */

import { type HashKey, keyOf, randomSeed, Use } from "../../netbase/hash.ts";

/** Maps `address` to another word, one to one: two rounds as in `hash`, each of them invertible. */
export function scramble(address: number, { add, first, second }: HashKey): number {
  const mixed = Math.imul(address + add, first);
  const again = Math.imul(mixed ^ (mixed >>> 16), second);
  return again ^ (again >>> 16);
}

/** The inverse of `scramble`. Takes the key with the inverses of its multipliers. */
function unscramble(word: number, { add, first, second }: HashKey): number {
  const mixed = Math.imul(word ^ (word >>> 16), second);
  return (Math.imul(mixed ^ (mixed >>> 16), first) - add) >>> 0;
}

/** The multiplicative inverse of an odd number modulo 2³², by Newton's method. */
function inverse(odd: number): number {
  let found = odd;
  for (let bits = 3; bits < 32; bits *= 2) found = Math.imul(found, 2 - Math.imul(odd, found));
  return found;
}

/**
 * Two maps deep: interface indices have up to 31 bits and addresses 32, which together are more
 * than a number holds exactly. Interfaces are the administrator's, and few.
 */
export class NeighborMap<Value> {
  readonly #interfaces = new Map<number, Map<number, Value>>();
  #size = 0;
  readonly #key: HashKey;
  /** With the inverses of its multipliers. */
  readonly #inverse: HashKey;

  constructor(seed = randomSeed()) {
    this.#key = keyOf(seed, Use.neighborMap);
    const { add, first, second } = this.#key;
    this.#inverse = { add, first: inverse(first), second: inverse(second) };
  }

  get size(): number {
    return this.#size;
  }

  get(ifindex: number, address: number): Value | undefined {
    return this.#interfaces.get(ifindex)?.get(scramble(address, this.#key));
  }

  has(ifindex: number, address: number): boolean {
    return this.#interfaces.get(ifindex)?.has(scramble(address, this.#key)) === true;
  }

  set(ifindex: number, address: number, value: Value): void {
    let addresses = this.#interfaces.get(ifindex);
    if (addresses === undefined) this.#interfaces.set(ifindex, addresses = new Map());
    const before = addresses.size;
    addresses.set(scramble(address, this.#key), value);
    this.#size += addresses.size - before;
  }

  delete(ifindex: number, address: number): boolean {
    const addresses = this.#interfaces.get(ifindex);
    if (addresses?.delete(scramble(address, this.#key)) !== true) return false;
    this.#size--;
    if (addresses.size === 0) this.#interfaces.delete(ifindex);
    return true;
  }

  /** `visit` may delete the one that it is given. */
  forEach(visit: (value: Value, ifindex: number, address: number) => void): void {
    for (const [ifindex, addresses] of this.#interfaces) {
      for (const [word, value] of addresses) visit(value, ifindex, unscramble(word, this.#inverse));
    }
  }

  clear(): void {
    this.#interfaces.clear();
    this.#size = 0;
  }
}
