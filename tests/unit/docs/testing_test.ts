// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { METRICS, metricsText, TESTING, testingText, testsOf } from "../../../scripts/docs.ts";

Deno.test("docs/testing.md names every test: deno task docs", () => {
  assert.equal(Deno.readTextFileSync(TESTING), testingText());
});

Deno.test("docs/operating/metrics.md names every counter: deno task docs", () => {
  assert.equal(Deno.readTextFileSync(METRICS), metricsText());
});

Deno.test("testsOf() finds names of tests and steps, and calls of other functions it does not take", () => {
  const source = `
    DECLARE("says \\"yes\\"", () => {});
    DECLARE(
      \`\${signal} ends it\`,
      async (t) => {
        await t.STEP("at once", () => {});
        await t.STEP(name, () => {});
      },
    );
    DECLARE({ name: "as an option", fn: () => {} });
    if (/a/.test("no test")) protest("nor this");`;
  const calls = source.replaceAll("DECLARE", "Deno" + ".test").replaceAll("STEP", "step");
  assert.deepEqual(testsOf(calls), [
    'says "yes"',
    "${signal} ends it",
    "  at once",
    "as an option",
  ]);
});
