// SPDX-License-Identifier: Apache-2.0
/**
 * Tables of routes: prefixes in the mix of lengths of a full internet table, and addresses under them. They are the same
 * for the same number, so that runs can be compared.
 */

import { emptyRoute, type Route } from "../netbase/route.ts";

/** Shares of prefix lengths in the IPv4 table of the default-free zone, per thousand, by length. */
const MIX: readonly (readonly [length: number, share: number])[] = [
  [24, 600],
  [23, 105],
  [22, 115],
  [21, 52],
  [20, 46],
  [19, 26],
  [18, 14],
  [17, 9],
  [16, 14],
  [15, 3],
  [14, 3],
  [13, 2],
  [12, 1],
  [28, 4],
  [32, 6],
];

/** Gateways of the routes. */
const GATEWAYS = 200;

/** A small pseudo-random generator (xorshift), so that a table can be reproduced. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }

  /** 32 bits. */
  next(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  /** A random integer from 0 to `end` − 1. */
  below(end: number): number {
    return Math.floor(this.next() / 2 ** 32 * end);
  }
}

/** An address between 1.0.0.0 and 223.255.255.255. */
export function unicastAddress(random: Random): number {
  return 0x01000000 + random.below(0xdf000000);
}

/** Prefixes, as destination and length in turn: `count` different ones, in a random order. */
export function prefixes(count: number, seed = 1): Uint32Array {
  const random = new Random(seed);
  const lengths = MIX.flatMap(([length, share]) => new Array<number>(share).fill(length));
  const seen = new Set<number>();
  const out = new Uint32Array(count * 2);
  while (seen.size < count) {
    const length = lengths[random.below(lengths.length)];
    const destination = (unicastAddress(random) & (-1 << (32 - length))) >>> 0;
    const key = destination * 64 + length;
    if (seen.has(key)) continue;
    out[seen.size * 2] = destination;
    out[seen.size * 2 + 1] = length;
    seen.add(key);
  }
  return out;
}

/** Fills `route` with the `i`-th of `prefixes`, via one of the gateways on interface 2. */
export function fillRoute(route: Route, table: Uint32Array, i: number, shift = 0): Route {
  route.destination = table[i * 2];
  route.prefixLength = table[i * 2 + 1];
  route.gateway = 0xc6120001 + (Math.imul(i, 0x9e3779b1) >>> 8) % GATEWAYS + shift;
  route.ifindex = 2;
  return route;
}

export function defaultRoute(): Route {
  return { ...emptyRoute(), gateway: 0xc61200fe, ifindex: 2 };
}

/** `count` addresses, each under one of `table`'s prefixes. */
export function coveredAddresses(table: Uint32Array, count: number, seed = 2): Uint32Array {
  const random = new Random(seed);
  return Uint32Array.from({ length: count }, () => {
    const i = random.below(table.length / 2);
    return table[i * 2] + random.below(2 ** (32 - table[i * 2 + 1]));
  });
}

/** `count` addresses from the whole unicast space. */
export function randomAddresses(count: number, seed = 3): Uint32Array {
  const random = new Random(seed);
  return Uint32Array.from({ length: count }, () => unicastAddress(random));
}
