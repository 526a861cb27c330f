// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import type { AppContext } from "../../../tiles/app/contract.ts";
import { AppHarness } from "../../../tiles/app/harness.ts";
import * as statsd from "../../../apps/statsd.ts";
import fc from "../property.ts";

async function sink(...payloads: string[]): Promise<AppHarness> {
  const harness = await AppHarness.start(statsd, { ports: [8125] });
  for (const payload of payloads) assert.deepEqual(harness.ask({ payload }), []);
  assert.equal(harness.counters.errors, 0, harness.logged.join());
  return harness;
}

Deno.test("counters add up, sampled ones by how many they stand for", async () => {
  const { counters } = await sink("a:1|c", "a:2.5|c\nb:1|c|@0.1|#tag:x\n", "b:2|c|@0.5\n\na:+1|c");
  assert.equal(counters.a, 4.5);
  assert.equal(counters.b, 14);
  assert.equal(counters["statsd.lines"], 5);
  assert.deepEqual(refusedIn(counters), {});
  assert.equal(counters["statsd.tags_dropped"], 1);
});

/** How many lines were refused, by reason. */
function refusedIn(counters: Record<string, number>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(counters).flatMap(([name, count]) => {
      const [, reason] = /^statsd\.lines_refused\{reason="(.*)"\}$/.exec(name) ?? [];
      return reason === undefined || count === 0 ? [] : [[reason, count]];
    }),
  );
}

Deno.test("tags are dropped, which is counted, and said once", async () => {
  const { counters, logged } = await sink(
    "a:1|c|#env:prod\na:1|c|@0.5|#x\na:1|c|#",
    "b:2|g|#x|c:container\nb:3|g|T1656581400",
  );
  assert.equal(counters.a, 4);
  assert.equal(counters.b, 3);
  assert.equal(counters["statsd.tags_dropped"], 4);
  assert.deepEqual(logged, [
    "tags are dropped, first those of a: statsd.tags_dropped counts lines",
  ]);
});

Deno.test("a set has the number of its different values in an interval", async () => {
  const harness = await sink("s:alice|s", "s:bob|s\ns:alice|s|#x", "s:17|s\ns:1:2|s", "t:x|s");
  assert.equal(harness.counters["s.unique"], 0);
  harness.tick();
  assert.equal(harness.counters["s.unique"], 4);
  assert.equal(harness.counters["t.unique"], 1);
  harness.tick();
  assert.equal(harness.counters["s.unique"], 0, "of an interval in which nothing came");
});

Deno.test("the number of a set's values is right to a few percent, however many there are", async () => {
  for (const count of [10, 100, 1000, 10_000, 100_000]) {
    const harness = await sink();
    for (let i = 0; i < count; i += 100) {
      const lines = Array.from({ length: Math.min(100, count) }, (_, j) => `s:user-${i + j}|s`);
      harness.ask({ payload: lines.join("\n") });
    }
    harness.tick();
    const { "s.unique": unique } = harness.counters;
    // Five times the standard error.
    assert.ok(Math.abs(unique - count) <= Math.max(1, count * 0.08), `${unique} of ${count}`);
  }
});

Deno.test("gauges are set, or moved by a value with a sign", async () => {
  const { counters } = await sink("g:10|g", "g:+5|g", "g:-2.5|g", "other:-3|g");
  assert.equal(counters.g, 12.5);
  assert.equal(counters.other, -3);
});

Deno.test("a timer has count and sum at once, and median, 99th percentile and largest by tick", async () => {
  const harness = await sink(
    ...Array.from({ length: 100 }, (_, i) => `t:${i + 1}|ms`),
    "h:7|h|@0.5\nd:7|d|@0.5",
  );
  assert.equal(harness.counters["t.count"], 100);
  assert.equal(harness.counters["t.sum"], 5050);
  assert.equal(harness.counters["t.median"], 0);
  harness.tick();
  const { counters } = harness;
  assert.ok(Math.abs(counters["t.median"] - 50) < 3, `${counters["t.median"]}`);
  assert.ok(Math.abs(counters["t.p99"] - 99) < 6, `${counters["t.p99"]}`);
  assert.equal(counters["t.upper"], 100);
  assert.equal(counters["h.count"], 2);
  assert.equal(counters["d.count"], 2);
  harness.tick();
  assert.equal(harness.counters["t.median"], 0, "of an interval in which nothing came");
  assert.equal(harness.counters["t.count"], 100);
});

Deno.test("an interval that is no time is refused", async () => {
  for (const interval of [0, -1, 1e300, "10", null, Infinity, NaN]) {
    await assert.rejects(
      AppHarness.start(statsd, { ports: [8125], options: { interval } }),
      { message: "options.interval: must be a number from 0.1 to 86400" },
    );
  }
});

/** Lines that are refused, by reason. */
const REFUSED = {
  form: ["x", ":1|c", "x:1", "x1|c", ":|", "_sc|redis|0"],
  type: ["x:1|", "x:1|k", "x:1|cx", "x:1|m", "x:1|mq", "x:1|c@0.5", "_e{1,1}:a|b"],
  value: [
    ...["x:|c", "x:a|c", "x:.|g", "x:-1|c", "x:1a|c", "x:1:2|ms", "x:|s"],
    ...[`x:${"9".repeat(17)}|c`, `x:-${"9".repeat(400)}|g`, "x:1.2.3|g"],
  ],
  rate: ["x:1|c|@0", "x:1|c|@2", "x:1|c|@", `x:1|ms|@0.${"0".repeat(400)}1`],
};

Deno.test("lines that say nothing are refused, and counted by what is wrong", async () => {
  const { counters } = await sink(...Object.values(REFUSED).flat());
  assert.equal(counters["statsd.lines"], Object.values(REFUSED).flat().length);
  assert.deepEqual(
    refusedIn(counters),
    Object.fromEntries(Object.entries(REFUSED).map(([reason, lines]) => [reason, lines.length])),
  );
});

Deno.test("names without end are refused once there is no more room, and known ones go on", async () => {
  const harness = await sink(
    ...Array.from({ length: 5000 }, (_, i) => `n${i}:1|c`),
    "n17:1|c",
    "late:1|c",
  );
  assert.equal(harness.counters.n17, 2);
  assert.equal(harness.counters.late, undefined);
  assert.ok(refusedIn(harness.counters).room > 900);
});

Deno.test("whatever the order of lines, sums are those of a simple count", async () => {
  const line = fc.record({
    name: fc.constantFrom("a", "b.c", "ü", "a "),
    value: fc.nat(1000),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(line, { minLength: 1, maxLength: 5 })), async (all) => {
      const harness = await sink(
        ...all.map((lines) => lines.map(({ name, value }) => `${name}:${value}|c`).join("\n")),
      );
      const sums: Record<string, number> = {};
      for (const { name, value } of all.flat()) sums[name] = (sums[name] ?? 0) + value;
      for (const [name, sum] of Object.entries(sums)) assert.equal(harness.counters[name], sum);
    }),
  );
});

/** Undoes `x ^ x >>> 15`. */
function unfold(word: number): number {
  return word ^ (word >>> 15) ^ (word >>> 30);
}

/** The factor by which a multiplication by an odd number, modulo 2³², is undone. */
function inverse(odd: number): number {
  let found = odd;
  for (let i = 0; i < 5; i++) found = Math.imul(found, 2 - Math.imul(odd, found));
  return found;
}

/** Names of one hash, as who knows its key finds them: from the beginning and from the end to the middle. */
function namesAlike([start, multiplier]: Uint32Array, type: number): Uint8Array[] {
  const factor = multiplier | 1;
  const back = inverse(factor);
  const step = (hash: number, byte: number) => Math.imul(hash ^ (hash >>> 15) ^ byte, factor);
  const middles = new Map<number, number>();
  for (let i = 0; i < 1 << 20; i++) {
    let hash = start ^ type;
    for (let at = 0; at < 20; at += 5) hash = step(hash, 0x5b + ((i >>> at) & 31));
    middles.set(hash, i);
  }
  const alike: Uint8Array[] = [];
  for (let i = 0; i < 1 << 17; i++) {
    let hash = 0x12345678;
    const end = [10, 5, 0].map((at) => 0x5b + ((i >>> at) & 31)).concat(0x61 + (i >>> 15));
    for (const byte of end.toReversed()) hash = unfold(Math.imul(hash, back) ^ byte);
    const middle = middles.get(hash);
    if (middle === undefined) continue;
    alike.push(Uint8Array.of(...[0, 5, 10, 15].map((at) => 0x5b + ((middle >>> at) & 31)), ...end));
  }
  return alike;
}

Deno.test("names that meet under one key of the hash do not under another, and few are kept that do", () => {
  const key = Uint32Array.of(0x9abc_def0, 0x1234_5671);
  const type = "c".charCodeAt(0);
  const alike = namesAlike(key, type);
  assert.ok(alike.length > 10, `${alike.length} names`);
  const kept = (key: Uint32Array<ArrayBuffer>) => {
    const context = { metric: () => ({ value: 0 }) } as unknown as AppContext;
    const names = new statsd.Names(context, key);
    const find = (name: Uint8Array) => names.find(name, { at: 0, nameEnd: name.length, type });
    return alike.filter((name) => find(name) !== null && find(name) === find(name)).length;
  };
  assert.equal(kept(key), 4);
  assert.equal(kept(Uint32Array.of(key[0], 0x7654_3211)), alike.length);
  assert.equal(kept(Uint32Array.of(key[0] + 1, key[1])), alike.length);
});
