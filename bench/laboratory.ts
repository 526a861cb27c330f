// SPDX-License-Identifier: Apache-2.0
/**
 * Benchmarks on the real kernel. Each one restarts itself in its own namespaces (`../demo/lab.ts`). When it ends, the
 * kernel removes them with everything in them.
 */

import { checkLaboratory, laboratoryCommand } from "../demo/lab.ts";
import { linesOf } from "../cli/command.ts";
import type { Report, Selection } from "./harness.ts";

/** Runs the module at `path` in a laboratory. The module calls {@linkcode inLaboratory}. */
export async function runInLaboratory(
  path: string,
  report: Report,
  selection: Selection = {},
): Promise<void> {
  checkLaboratory();
  const [program, ...args] = laboratoryCommand([
    ...[Deno.execPath(), "run", "--allow-all", "--unstable-worker-options"],
    ...[path, JSON.stringify(selection)],
  ]);
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped" }).spawn();
  for await (const line of linesOf(child.stdout)) report(JSON.parse(line));
  if (!(await child.status).success) throw new Error("it failed");
}

/** Called inside {@linkcode runInLaboratory}: runs `body`, and prints its results for the outer process. */
export async function inLaboratory(
  body: (report: Report, selection: Selection) => Promise<void>,
): Promise<void> {
  const selection = JSON.parse(Deno.args[0]);
  await body((result) => console.log(JSON.stringify(result)), selection);
  Deno.exit(0);
}
