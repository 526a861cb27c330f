// SPDX-License-Identifier: Apache-2.0
/**
 * The keyed hash of every table whose keys strangers choose, and the keys' seeds. In its own file,
 * because an app's process and the master need it, but nothing else of netbase.
 */

/** A hash key that only this process knows, so nobody can choose colliding keys. Multipliers are odd. */
export interface HashKey {
  readonly add: number;
  readonly first: number;
  readonly second: number;
}

/** A random seed: a whole number below 2⁵³. */
export function randomSeed(): number {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return (high >>> 11) * 2 ** 32 + low;
}

/** The uses of a seed, so that tables with the same seed have different keys. */
export const Use = {
  interfaces: 1,
  neighbors: 2,
  netbase: 3,
  routeCache: 4,
  recentPeers: 5,
  arpQueue: 6,
  solicits: 7,
  demand: 8,
  neighborMap: 9,
} as const;

/** The key for `use`, one of {@linkcode Use}, derived from `seed`. */
export function keyOf(seed: number, use: number): HashKey {
  const [low, high] = [seed | 0, Math.floor(seed / 2 ** 32) | 0];
  const word = (i: number) => finish(finish(low + Math.imul(4 * use + i, 0x9e3779b1)) + high + i);
  return { add: word(0), first: word(1) | 1, second: word(2) | 1 };
}

/** The finaliser of MurmurHash3. */
function finish(word: number): number {
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
  return word ^ (word >>> 16);
}

/**
 * Hash of the words `a` and `b`, as a signed word. Any of its bits can select a slot. `b` is the word
 * over which strangers have the most control; the other arguments are a {@linkcode HashKey}, as
 * numbers, since the data path keeps them in its own fields.
 *
 * Each of its two rounds multiplies by a secret odd number and folds the upper bits over the lower. One
 * round alone occasionally clusters a whole arithmetic progression; the second breaks those up. A seed
 * XORed to the key before a known mixer would preserve the differences of keys, and with them the
 * colliding pairs. No bound is proven for the lower bits, which tables use.
 * `tests/unit/netbase/stranger_tables_test.ts` measures it: two keys, whatever their difference, share
 * one of 1,024 slots about as often as by chance.
 *
 * It is not a cryptographic hash: its key can be computed from its results, so those stay in memory
 * that strangers cannot read.
 */
export function hash(a: number, b: number, add: number, first: number, second: number): number {
  let mixed = Math.imul(b + add, first);
  mixed = (mixed ^ (mixed >>> 15)) + Math.imul(a, second);
  mixed = Math.imul(mixed ^ (mixed >>> 13), second);
  return mixed ^ (mixed >>> 16);
}
