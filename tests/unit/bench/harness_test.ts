// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import {
  interleave,
  interval,
  measure,
  median,
  resultOf,
  spread,
  TEGULA,
} from "../../../bench/harness.ts";
import { V8_FLAGS } from "../../../ffi/process.ts";
import project from "../../../deno.json" with { type: "json" };

Deno.test("benchmarks run with what the appliance tells V8", () => {
  assert.ok(project.tasks.bench.command.includes(` ${V8_FLAGS} `));
});

Deno.test("interleave() lets contestants take turns, every second round in reverse", async () => {
  const order: string[] = [];
  const turn = (name: string) => () => order.push(name);
  const samples = await interleave({ a: turn("a"), b: turn("b") }, { runs: 2, warmup: 1 });
  assert.deepEqual(order, ["a", "b", "b", "a", "a", "b"]);
  assert.deepEqual([...samples], [["a", [4, 5]], ["b", [3, 6]]]);
});

Deno.test("median() is the middle figure, of an even number the mean of two", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.ok(Number.isNaN(median([])));
});

Deno.test("spread() is the range over the median", () => {
  assert.equal(spread([9, 10, 12]), 0.3);
});

Deno.test("resultOf() sets Tegula's median beside its peers'", () => {
  const samples = new Map([[TEGULA, [10, 11, 12]], ["peer", [20, 22, 21]]]);
  assert.deepEqual(resultOf({ bench: "b", case: "c", unit: "kpps" }, samples), {
    bench: "b",
    case: "c",
    unit: "kpps",
    tegula: 11,
    peers: { peer: 21 },
    ratio: { peer: 0.5 },
    ratioLow: { peer: 0.5 },
    ratioHigh: { peer: 0.571 },
    runs: 3,
    spread: 0.18,
  });
});

Deno.test("interval() leaves out as many figures at each end as 95 % certainty allows", () => {
  const upTo = (count: number) => Array.from({ length: count }, (_, i) => count - i);
  // As tables of the sign test have it.
  assert.deepEqual(interval(upTo(8)), [1, 8]);
  assert.deepEqual(interval(upTo(9)), [2, 8]);
  assert.deepEqual(interval(upTo(12)), [3, 10]);
  assert.deepEqual(interval(upTo(25)), [8, 18]);
  assert.deepEqual(interval([7]), [7, 7]);
});

Deno.test("measure() runs a case with its warm-up not counted", async () => {
  let calls = 0;
  const result = await measure({
    bench: "b",
    case: "c",
    unit: "ns/op",
    tegula: () => ++calls,
    runs: 3,
    warmup: 2,
  });
  assert.deepEqual([result.tegula, result.runs, calls], [4, 3, 5]);
});
