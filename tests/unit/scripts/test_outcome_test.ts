// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { readOutcome, readSkips } from "../../../scripts/test.ts";

const OUTPUT = `running 3 tests from ./tests/unit/a_test.ts
one ... ok (1ms)
two ... FAILED (1ms)
  a step ... ignored (0ms)
three ... ignored (0ms)

FAILED | 1 passed (2 steps) | 1 failed | 1 ignored (1 step) (7ms)`.split("\n");

Deno.test("readOutcome() takes the counts from the closing line and the names of what was skipped", () => {
  assert.deepEqual(readOutcome(OUTPUT, false), { passed: 1, failed: 1, skipped: ["three"] });
});

Deno.test("readOutcome() counts a good run", () => {
  const lines = ["ok | 11 passed | 0 failed (38ms)"];
  assert.deepEqual(readOutcome(lines, true), { passed: 11, failed: 0, skipped: [] });
});

Deno.test("readOutcome() counts a run that never closed as a failure", () => {
  assert.equal(readOutcome(["one ... ok (1ms)"], true).failed, 1);
});

Deno.test("readOutcome() counts a bad exit without a failed test as a failure", () => {
  assert.equal(readOutcome(["ok | 1 passed | 0 failed (1ms)"], false).failed, 1);
});

Deno.test("readSkips() reads names and reasons", () => {
  const skips = readSkips("# comment\n\nzero-copy works :: no device here has it\n");
  assert.deepEqual([...skips], [["zero-copy works", "no device here has it"]]);
});

Deno.test("readSkips() refuses a skip without a reason", () => {
  assert.throws(() => readSkips("zero-copy works\n"), /without a reason/);
});
