/** An app's process that is killed, and its successor on the same regions, as the benchmark has them. */

import { equal, ok } from "node:assert/strict";
import type { Result } from "../../bench/harness.ts";
import { ROOT } from "../../ffi/paths.ts";

Deno.test("a successor answers all that waited in the link as an app's process was killed", async () => {
  // A process of its own: the observer's thread ends with it alone.
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--allow-all", "--no-check", `${ROOT}bench/main.ts`],
      ...["process", "--json", "--only", "^takeover (waited|lost)$", "--runs", "3"],
    ],
  }).output();
  const [out, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  const results = out.trim().split("\n").filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Result);
  const figures = Object.fromEntries(results.map(({ case: name, tegula }) => [name, tegula]));
  equal(figures["takeover lost"], 0, words);
  ok(figures["takeover waited"] > 0, `${out}${words}`);
  ok(success, words);
});
