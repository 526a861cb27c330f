/** An app's process that is replaced, and its successor on the same regions, as the benchmark has them. */

import { equal, ok } from "node:assert/strict";
import type { Result } from "../../bench/harness.ts";
import { ROOT } from "../../ffi/paths.ts";

/** Figures of the benchmark by case. */
async function measured(how: "killed" | "handed over", runs: number) {
  // A process of its own: the observer's thread ends with it alone.
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--allow-all", "--no-check", `${ROOT}bench/main.ts`, "process", "--json"],
      ...["--only", `^${how} (waited|lost|repeated|descriptors)$`, "--runs", `${runs}`],
    ],
  }).output();
  const [out, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  ok(success, words);
  const results = out.trim().split("\n").map((line) => JSON.parse(line) as Result);
  return new Map(results.map((result) => [result.case.slice(how.length + 1), result]));
}

Deno.test("a restart answers all that waited in the link as an app's process was killed", async () => {
  const figures = await measured("killed", 3);
  equal(figures.get("lost")!.tegula, 0);
  ok(figures.get("waited")!.tegula > 0);
});

Deno.test("of forty handovers none loses a request or a descriptor, or has one answered twice", async () => {
  const figures = await measured("handed over", 40);
  equal(figures.get("lost")!.tegula, 0);
  equal(figures.get("repeated")!.tegula, 0);
  const { tegula, peers } = figures.get("descriptors")!;
  // Two of one that has ended may be open until the observer's thread has looked.
  ok(tegula <= peers.first + 4, `${peers.first} descriptors became ${tegula}`);
});
