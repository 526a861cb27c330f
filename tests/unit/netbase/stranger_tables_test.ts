// SPDX-License-Identifier: Apache-2.0
/**
 * Every table whose keys strangers choose (`bench/stranger_tables.ts` lists them) is keyed: what meets in
 * one place under one seed does not under another. And it is bounded, in what it holds and in how much
 * it reads for one key, even where somebody knows the seed.
 */

import assert from "node:assert/strict";
import {
  hashOfMap,
  meetingKeys,
  STRANGER_TABLES,
  type StrangerTable,
} from "../../../bench/stranger_tables.ts";
import { hash, keyOf, randomSeed, Use } from "../../../netbase/hash.ts";
import { NeighborMap } from "../../../tiles/netlink/neighbor_resolver.ts";
import fc from "../property.ts";
import { Random } from "../random.ts";

const KEYS = 200;
const [SEED, OTHER_SEED] = [0x1234_5678_9abc, 0x0fed_cba9_8765];
const NAMES = ["Int32Array", "Uint32Array", "Uint16Array", "Uint8Array", "Float64Array"] as const;

/** What each counted array is for. */
const targets = new WeakMap<object, object>();

// Atomics takes no proxies.
for (const name of ["load", "store"] as const) {
  const original = Atomics[name] as (...given: unknown[]) => number;
  Object.assign(Atomics, {
    [name]: (array: object, ...rest: unknown[]) => original(targets.get(array) ?? array, ...rest),
  });
}

/**
 * Makes a table whose typed arrays count how often an element is read, and whose maps count all numbers
 * that V8 may have to pass by to find one.
 */
function countReads<Made>(make: () => Made): { made: Made; reads: () => number } {
  // deno-lint-ignore no-explicit-any -- constructors of all kinds
  const globals = globalThis as unknown as Record<string, any>;
  const originals = NAMES.map((name) => globals[name]);
  let count = 0;
  const counted = (array: object): object => {
    const proxy = new Proxy(array, {
      get(target, property) {
        if (typeof property === "string" && /^\d/.test(property)) count++;
        const value = Reflect.get(target, property, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    targets.set(proxy, array);
    return proxy;
  };
  NAMES.forEach((name, i) =>
    globals[name] = new Proxy(originals[i], {
      construct: (original, given) => counted(Reflect.construct(original, given)),
      get: (original, property) => {
        const value = Reflect.get(original, property);
        if (property !== "from" && property !== "of") return value;
        return (...given: unknown[]) => counted(value.apply(original, given));
      },
    })
  );
  const OriginalMap = Map;
  globals.Map = class<Key, Value> extends OriginalMap<Key, Value> {
    // Not private: the constructor that is inherited adds before there are any.
    chains? = new OriginalMap<number, number>();

    override get(key: Key): Value | undefined {
      if (typeof key === "number") count += this.chains?.get(hashOfMap(key) & 0xffff) ?? 0;
      return super.get(key);
    }
    override has(key: Key): boolean {
      this.get(key);
      return super.has(key);
    }
    override set(key: Key, value: Value): this {
      const chain = typeof key === "number" ? hashOfMap(key) & 0xffff : -1;
      if (!super.has(key)) this.chains?.set(chain, (this.chains.get(chain) ?? 0) + 1);
      return super.set(key, value);
    }
  };
  try {
    return { made: make(), reads: () => count };
  } finally {
    globals.Map = OriginalMap;
    NAMES.forEach((name, i) => globals[name] = originals[i]);
  }
}

/**
 * The most words that a table of `seed` reads for one of `keys` when every second is used, and how many of
 * all it is wrong about then: they are not in it, or pass for such as are.
 */
function use(
  table: StrangerTable,
  seed: number,
  keys: Int32Array,
): { reads: number; wrong: number } {
  const { made, reads } = countReads(() => table.make(seed));
  let most = 0;
  keys.forEach((key, i) => {
    if (i % 2 === 1) return;
    const before = reads();
    made.use(key);
    most = Math.max(most, reads() - before);
  });
  const wrong = keys.reduce((sum, key, i) => sum + Number(made.has(key) !== (i % 2 === 0)), 0);
  return { reads: most, wrong };
}

function randomKeys(count: number): Int32Array {
  const random = new Random(5);
  return Int32Array.from({ length: count }, () => random.below(2 ** 32) | 0);
}

for (const table of STRANGER_TABLES) {
  const { name, place, known, most, mostReads } = table;

  Deno.test(`${name}: keys that meet in a known mixer, or under another seed, cost no more than others`, () => {
    const expected = use(table, OTHER_SEED, randomKeys(KEYS));
    const sets = [meetingKeys(known, KEYS), ...place ? [meetingKeys(place(SEED), KEYS)] : []];
    for (const keys of sets) {
      const { reads, wrong } = use(table, OTHER_SEED, keys);
      assert.ok(
        reads <= 2 * expected.reads + 16,
        `${reads} words, ${expected.reads} of random keys`,
      );
      assert.ok(
        wrong <= expected.wrong + KEYS / 20,
        `${wrong} wrong, ${expected.wrong} of random keys`,
      );
    }
  });

  if (place !== undefined) {
    Deno.test(`${name}: who knows the seed makes it read ${mostReads} words at most`, () => {
      const expected = use(table, SEED, randomKeys(KEYS));
      const { reads, wrong } = use(table, SEED, meetingKeys(place(SEED), KEYS));
      assert.ok(reads <= mostReads, `${reads} words`);
      const differs = reads > 2 * expected.reads || wrong > expected.wrong + KEYS / 4;
      assert.ok(differs, "it is by the seed that it places keys");
    });
  }

  if (most < Infinity) {
    Deno.test(`${name}: no more than ${most} keys are held`, () => {
      const made = table.make(SEED);
      const keys = randomKeys(Math.max(2 * most, 10_000));
      for (const key of keys) made.use(key);
      const held = keys.reduce((sum, key) => sum + Number(made.has(key)), 0);
      assert.ok(held <= most, `${held}`);
    });
  }
}

Deno.test("a table is made with a seed that nobody knows, each with another", () => {
  const seeds = new Set(Array.from({ length: 100 }, randomSeed));
  assert.equal(seeds.size, 100);
  assert.ok([...seeds].every((seed) => Number.isSafeInteger(seed) && seed >= 0));
  assert.ok([...seeds].some((seed) => seed > 2 ** 50), "more than 32 bits");
  const keys = [...seeds].flatMap((seed) => Object.values(Use).map((use) => keyOf(seed, use)));
  assert.equal(new Set(keys.map((key) => JSON.stringify(key))).size, keys.length);
  assert.ok(keys.every(({ first, second }) => (first & second & 1) === 1));
  const high = (seed: number) => JSON.stringify(keyOf(seed, 1));
  assert.notEqual(high(1), high(1 + 2 ** 40), "all bits of a seed count");
});

Deno.test("hash() puts any two keys in one of 1,024 places about as often as chance does", () => {
  const random = new Random(9);
  const word = () => random.below(2 ** 32) | 0;
  const differences = [
    1,
    2,
    0x8000,
    0x10000,
    0x10001,
    0x1000100,
    0x80000000,
    0xc0000000,
    0x9e3779b1,
  ];
  for (const difference of differences) {
    let met = 0;
    for (let i = 0; i < 200_000; i++) {
      const [add, first, second, key] = [word(), word() | 1, word() | 1, word()];
      const one = hash(2, key, add, first, second);
      met += Number(((one ^ hash(2, key ^ difference, add, first, second)) & 1023) === 0);
    }
    assert.ok(met < 1.5 * 200_000 / 1024, `${met} times, by ${difference.toString(16)}`);
  }
});

Deno.test("NeighborMap: does what two maps do, whatever its seed", () => {
  const step = fc.record({
    do: fc.constantFrom("set", "delete", "look"),
    ifindex: fc.integer({ min: 1, max: 3 }),
    address: fc.oneof(fc.nat(4), fc.integer({ min: 0xfffffff0, max: 0xffffffff })),
  });
  fc.assert(fc.property(fc.maxSafeNat(), fc.array(step), (seed, steps) => {
    const map = new NeighborMap<number>(seed);
    const oracle = new Map<string, number>();
    steps.forEach(({ do: what, ifindex, address }, i) => {
      const key = `${ifindex} ${address}`;
      if (what === "set") map.set(ifindex, address, i);
      if (what === "set") oracle.set(key, i);
      if (what === "delete") assert.equal(map.delete(ifindex, address), oracle.delete(key));
      assert.equal(map.get(ifindex, address), oracle.get(key));
      assert.equal(map.has(ifindex, address), oracle.has(key));
      assert.equal(map.size, oracle.size);
    });
    assert.deepEqual([...map.values()].sort(), [...oracle.values()].sort());
  }));
});
