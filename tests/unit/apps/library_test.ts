// SPDX-License-Identifier: Apache-2.0
/** The library for authors of apps: each structure next to a model that is simple and slow. */

import assert from "node:assert/strict";
import { Address } from "../../../tiles/app/address.ts";
import { ClockMap } from "../../../apps/library/clock_map.ts";
import { Maglev, mix } from "../../../apps/library/maglev.ts";
import { SessionTable } from "../../../apps/library/session_table.ts";
import { SlidingWindows } from "../../../apps/library/sliding_windows.ts";
import { TokenBuckets } from "../../../apps/library/token_buckets.ts";
import fc from "../property.ts";

Deno.test("a token bucket lets through what one that counts tokens lets through", () => {
  const asks = fc.array(fc.tuple(fc.nat(3), fc.nat(400)), { maxLength: 200, size: "max" });
  fc.assert(fc.property(asks, fc.integer({ min: 1, max: 20 }), (asks, burst) => {
    const buckets = new TokenBuckets({ perSecond: 10, burst, entries: 64 });
    const model = new Map<number, { tokens: number; at: number }>();
    let now = 1e12;
    for (const [address, elapsed] of asks) {
      now += elapsed;
      const bucket = model.get(address) ?? { tokens: burst, at: now };
      // In hundredths of a token, which are exact: ten tokens a second are one a millisecond.
      bucket.tokens = Math.min(burst, (bucket.tokens * 100 + (now - bucket.at)) / 100);
      bucket.at = now;
      model.set(address, bucket);
      const expected = bucket.tokens >= 1 - 1e-9;
      if (expected) bucket.tokens -= 1;
      assert.equal(buckets.take(new Address(address), now), expected);
    }
  }));
});

Deno.test("of more addresses than entries the active ones stay limited", () => {
  const buckets = new TokenBuckets({ perSecond: 1, burst: 1, entries: 1024 });
  const [active, stranger] = [new Address(0xffff_ffff), new Address()];
  assert.ok(buckets.take(active, 0));
  for (let i = 0; i < 100_000; i++) {
    // It asks between strangers that ask once, and gets one token a second.
    const now = i / 10;
    const granted = buckets.take(active, now);
    assert.equal(granted, now > 0 && Number.isInteger(now / 1000), `${now}`);
    stranger.words[3] = i;
    buckets.take(stranger, now - 1001);
  }
});

Deno.test("the number of entries has to be a power of two", () => {
  for (const entries of [0, 4, 24]) {
    for (
      const make of [
        () => new TokenBuckets({ perSecond: 1, burst: 1, entries }),
        () => new SlidingWindows({ most: 1, millis: 1, entries }),
      ]
    ) assert.throws(make, /entries must be a power of two/);
  }
});

Deno.test("a sliding window lets through what one that keeps all times lets through", () => {
  const millis = 100;
  const asks = fc.array(fc.tuple(fc.nat(3), fc.nat(80)), { maxLength: 200, size: "max" });
  fc.assert(fc.property(asks, fc.integer({ min: 1, max: 20 }), (asks, most) => {
    const windows = new SlidingWindows({ most, millis, entries: 64 });
    const model = new Map<number, number[]>();
    let now = 1e12;
    for (const [address, elapsed] of asks) {
      now += elapsed;
      const times = model.getOrInsertComputed(address, () => []);
      const begin = now - now % millis;
      const current = times.filter((time) => time >= begin).length;
      const before = times.filter((time) => time < begin && time >= begin - millis).length;
      // In hundredths, which are exact.
      const expected = before * (millis - now % millis) + (current + 1) * millis <= most * millis;
      if (expected) times.push(now);
      assert.equal(windows.take(new Address(address), now), expected);
    }
  }));
});

Deno.test("within any window less than twice the limit of a sliding window is let through", () => {
  const millis = 100;
  // Bursts and pauses, which no window of fixed place sees as a whole.
  const asks = fc.array(fc.tuple(fc.nat(40), fc.nat(120)), { maxLength: 60, size: "max" });
  fc.assert(fc.property(asks, fc.integer({ min: 1, max: 20 }), (asks, most) => {
    const windows = new SlidingWindows({ most, millis, entries: 64 });
    const address = new Address(1);
    const times: number[] = [];
    const within = (span: number) => times.filter((time) => time >= now - span).length;
    let now = 1e12;
    for (const [count, elapsed] of asks) {
      now += elapsed;
      for (let i = 0; i < count; i++) {
        const hadLess = within(2 * millis) < most;
        const granted = windows.take(address, now);
        if (granted) times.push(now);
        else assert.ok(!hadLess, `refused after ${times}, at ${now}`);
        assert.ok(within(millis) < 2 * most, `${times}`);
      }
    }
  }));
});

Deno.test("a sliding window lets through one less than twice its limit at worst", () => {
  const windows = new SlidingWindows({ most: 10, millis: 100, entries: 64 });
  const address = new Address(1);
  const taken = (now: number) =>
    Array.from({ length: 20 }, () => windows.take(address, now)).filter(Boolean).length;
  assert.deepEqual([99, 198].map(taken), [10, 9]);
});

Deno.test("who stays below the limit of a sliding window is never refused, whoever else floods", () => {
  const windows = new SlidingWindows({ most: 10, millis: 1000, entries: 1024 });
  const [steady, flood, stranger] = [1, 2, 0].map((word) => new Address(word));
  let flooded = 0;
  for (let now = 0; now < 20_000; now++) {
    if (now % 125 === 50) assert.ok(windows.take(steady, now), `${now}`);
    if (windows.take(flood, now)) flooded++;
    // It asks once, and is forgotten first.
    stranger.words[3] = 1000 + now;
    windows.take(stranger, now);
  }
  assert.ok(flooded >= 10 * 10 && flooded <= 10 * 20, `${flooded}`);
});

Deno.test("a clock map has what a slow one has, and forgets what was not found lately", () => {
  const entries = 8;
  const command = fc.tuple(fc.constantFrom("find", "find", "use", "use", "remove"), fc.nat(20));
  fc.assert(
    fc.property(fc.array(command, { maxLength: 300, size: "max" }), fc.nat(), (commands, key) => {
      const map = new ClockMap(entries, key);
      const model: ({ of: number; isUsed: boolean } | null)[] = Array(entries).fill(null);
      let hand = 0;
      for (const [what, of] of commands) {
        const address = new Address().load([of % 3, 0, 0xffff, of % 5]);
        const known = model.findIndex((each) => each?.of === of);
        assert.equal(map.find(address, of), known);
        if (known >= 0) model[known]!.isUsed = true;
        if (known >= 0 && what === "remove") {
          map.remove(known);
          model[known] = null;
        }
        if (known >= 0 || what !== "use") continue;
        for (; model[hand]?.isUsed; hand = (hand + 1) % entries) model[hand]!.isUsed = false;
        assert.equal(map.insert(address, of), hand);
        model[hand] = { of, isUsed: false };
        hand = (hand + 1) % entries;
        assert.equal(map.count, model.filter((each) => each !== null).length);
      }
    }),
  );
});

Deno.test("a clock map does not look for long for an entry to forget", () => {
  const map = new ClockMap(1000);
  const address = new Address();
  for (let word = 0; word < 1000; word++) map.insert(address, word);
  for (let word = 0; word < 1000; word++) assert.ok(map.find(address, word) >= 0);
  // All are in use: the hand passes 64 of them.
  assert.equal(map.insert(address, 1000), 64);
  assert.equal(map.count, 1000);
});

function backendsOf(weights: readonly number[]) {
  return weights.map((weight, i) => ({ address: new Address(0xc6120500 + i), port: 53, weight }));
}

/** How many of the hashes each backend gets. */
function sharesOf(maglev: Maglev, backends: number): number[] {
  const shares = Array<number>(backends).fill(0);
  for (let i = 0; i < 100_000; i++) shares[maglev.find(mix(new Address(i), 1, 0))]++;
  return shares;
}

Deno.test("Maglev spreads clients evenly, or by weight, whatever the order of the backends", () => {
  const maglev = new Maglev();
  assert.equal(maglev.find(1), -1);
  maglev.build(backendsOf(Array(10).fill(1)));
  for (const share of sharesOf(maglev, 10)) assert.ok(share > 9000 && share < 11_000, `${share}`);
  maglev.build(backendsOf([1, 2, 0, 1]));
  const [one, two, none, other] = sharesOf(maglev, 4);
  assert.equal(none, 0);
  assert.ok(
    Math.abs(two / one - 2) < 0.2 && Math.abs(other / one - 1) < 0.1,
    `${one} ${two} ${other}`,
  );
  const backends = backendsOf(Array(100).fill(1));
  maglev.build(backends);
  const mine = Array.from(
    { length: 1000 },
    (_, i) => backends[maglev.find(mix(new Address(i), 2, 0))],
  );
  const turned = backends.toReversed();
  const elsewhere = new Maglev();
  elsewhere.build(turned);
  const same = mine.filter((backend, i) =>
    turned[elsewhere.find(mix(new Address(i), 2, 0))] === backend
  );
  assert.ok(same.length > 950, `${same.length} of 1000 clients have the same backend`);
});

Deno.test("of 100 backends one that goes moves its own clients and at most one of a hundred others", () => {
  const backends = backendsOf(Array(100).fill(1));
  const [before, after] = [new Maglev(), new Maglev()];
  before.build(backends);
  fc.assert(
    fc.property(fc.nat(99), (gone) => {
      const left = backends.toSpliced(gone, 1);
      after.build(left);
      let [others, moved] = [0, 0];
      for (let i = 0; i < 20_000; i++) {
        const hash = mix(new Address(i), 3, 0);
        const backend = backends[before.find(hash)];
        if (backend === backends[gone]) continue;
        others++;
        if (left[after.find(hash)] !== backend) moved++;
      }
      assert.ok(moved <= others / 100, `${moved} of ${others}`);
    }),
    { numRuns: 20 },
  );
});

Deno.test("a session table has the sessions that a map has, also for its successor", () => {
  const sessions = 24;
  const command = fc.tuple(
    fc.constantFrom("find", "begin", "begin", "end", "expire", "succeed"),
    fc.nat(sessions - 1),
    fc.nat(40),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 300, size: "max" }), fc.nat(), (commands, key) => {
      const memory = new Uint8Array(SessionTable.bytesFor(sessions));
      let table = new SessionTable(memory, sessions, key);
      const model = new Map<number, { words: number; used: number }>();
      let now = 1;
      for (const [what, session, words] of commands) {
        now++;
        const known = [...model].find(([, each]) => each.words === words)?.[0] ?? -1;
        // Of two words of the address, as IPv6 has, and of the other word.
        const address = new Address().load([words % 3, 0, 0xffff, words % 5]);
        assert.equal(table.find(address, words * 7), known);
        if (what === "begin" && known < 0 && !model.has(session)) {
          table.begin(session, address, words * 7, now);
          model.set(session, { words, used: now });
        } else if (what === "begin") {
          assert.throws(() => table.begin(session, address, words * 7, now), /in use/);
        } else if (what === "end") {
          table.end(session);
          model.delete(session);
        } else if (what === "expire") {
          const ended: number[] = [];
          table.expire(now - 10, sessions, (session) => ended.push(session));
          const over = [...model].filter(([, { used }]) => used < now - 10).map(([session]) =>
            session
          );
          assert.deepEqual(ended.toSorted(), over.toSorted());
          for (const session of over) model.delete(session);
        } else if (what === "succeed") table = new SessionTable(memory, sessions);
        assert.equal(table.count, model.size);
      }
    }),
  );
});

Deno.test("a million clients have sessions at once, which a successor finds", () => {
  const sessions = 1_000_000;
  const memory = new Uint8Array(SessionTable.bytesFor(sessions));
  assert.ok(memory.length < 73 * 2 ** 20);
  const address = new Address();
  const client = (i: number) => address.load([0, 0, 0xffff, 0xc6120000 + (i % 1000)]);
  const table = new SessionTable(memory, sessions, 12_345);
  for (let i = 0; i < sessions; i++) {
    table.begin(i, client(i), i, 1);
    table.words[table.own(i)] = i + 1;
  }
  const successor = new SessionTable(memory, sessions);
  assert.equal(successor.count, sessions);
  for (let i = 0; i < sessions; i++) {
    const found = successor.find(client(i), i);
    if (found !== i || successor.words[successor.own(i)] !== i + 1) assert.fail(`${i}: ${found}`);
  }
});

Deno.test("a predecessor that was killed in the middle of a change leaves sessions that are all found", () => {
  const memory = new Uint8Array(SessionTable.bytesFor(8));
  const words = new Uint32Array(memory.buffer);
  const table = new SessionTable(memory, 8, 1);
  for (let i = 0; i < 6; i++) table.begin(i, new Address(i), i, 1);
  const { store } = Atomics;
  Atomics.store = (array, index, value) => {
    store(array as Uint32Array, index, Number(value));
    throw new Error("killed");
  };
  try {
    assert.throws(() => table.end(3), /killed/);
  } finally {
    Atomics.store = store;
  }
  // Whatever it has done to the index, which is at the end, by then.
  words.fill(0, words.length - 16);
  const successor = new SessionTable(memory, 8);
  assert.equal(successor.count, 6);
  for (let i = 0; i < 6; i++) assert.equal(successor.find(new Address(i), i), i);
});

Deno.test("memory that is too small, or of another shape, is refused or cleared", () => {
  assert.throws(() => new SessionTable(new Uint8Array(64), 24), /24 sessions take \d+ bytes/);
  const memory = new Uint8Array(SessionTable.bytesFor(32)).fill(0xff);
  const table = new SessionTable(memory, 32);
  assert.equal(table.count, 0);
  table.begin(3, new Address(1), 2, 5);
  assert.equal(new SessionTable(memory, 16).count, 0);
});
