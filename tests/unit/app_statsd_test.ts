import assert from "node:assert/strict";
import { AppHarness } from "../../tiles/app/harness.ts";
import * as statsd from "../../tiles/app/statsd.ts";
import fc from "./property.ts";

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
  assert.equal(counters["statsd.lines_refused"], 0);
});

Deno.test("gauges are set, or moved by a value with a sign", async () => {
  const { counters } = await sink("g:10|g", "g:+5|g", "g:-2.5|g", "other:-3|g");
  assert.equal(counters.g, 12.5);
  assert.equal(counters.other, -3);
});

Deno.test("a timer has count and sum at once, and median, 99th percentile and largest by tick", async () => {
  const harness = await sink(
    ...Array.from({ length: 100 }, (_, i) => `t:${i + 1}|ms`),
    "h:7|h|@0.5",
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
  harness.tick();
  assert.equal(harness.counters["t.median"], 0, "of an interval in which nothing came");
  assert.equal(harness.counters["t.count"], 100);
});

Deno.test("lines that say nothing are refused and counted", async () => {
  const bad = [
    "x",
    ":1|c",
    "x:|c",
    "x:1",
    "x:1|",
    "x:1|s",
    "x:a|c",
    "x:1|c|@0",
    "x:1|c|@2",
    "x:.|g",
    "x:-1|c",
    "x:1|cx",
    "x:1|m",
    "x:1|mq",
    "x:1|c@0.5",
    "x:1|c|@",
    `x:${"9".repeat(17)}|c`,
    `x:-${"9".repeat(400)}|g`,
    `x:1|ms|@0.${"0".repeat(400)}1`,
  ];
  const { counters } = await sink(...bad);
  assert.equal(counters["statsd.lines"], bad.length);
  assert.equal(counters["statsd.lines_refused"], bad.length);
});

Deno.test("names without end are refused once there is no more room, and known ones go on", async () => {
  const harness = await sink(
    ...Array.from({ length: 5000 }, (_, i) => `n${i}:1|c`),
    "n17:1|c",
    "late:1|c",
  );
  assert.equal(harness.counters.n17, 2);
  assert.equal(harness.counters.late, undefined);
  assert.ok(harness.counters["statsd.lines_refused"] > 900);
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
