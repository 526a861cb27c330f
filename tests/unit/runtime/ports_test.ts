// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import {
  countPorts,
  joinRanges,
  type PortRange,
  portsOf,
  portsText,
} from "../../../tiles/runtime/plan.ts";
import fc from "../property.ts";

const ranges = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 300 }), fc.nat(20))
    .map(([first, more]): PortRange => [first, first + more]),
);

Deno.test("joinRanges() keeps every port, in order, and leaves no neighbours apart", () => {
  fc.assert(fc.property(ranges, (ranges) => {
    const joined = joinRanges(ranges);
    assert.deepEqual(portsOf(joined), portsOf(ranges));
    assert.equal(countPorts(joined), portsOf(ranges).length);
    for (let i = 1; i < joined.length; i++) assert.notEqual(joined[i - 1][1] + 1, joined[i][0]);
  }));
});

Deno.test("portsText() names ports as ranges, and counts them where there are many", () => {
  assert.equal(portsText([7]), "port 7 is");
  assert.equal(portsText([7, 8, 10]), "ports 7-8, 10 are");
  const odd = Array.from({ length: 100 }, (_, i) => 2 * i + 1);
  assert.equal(portsText(odd), "ports 1, 3, 5, 7, 9, 11, 13, 15 and 92 more are");
});
