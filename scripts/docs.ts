// SPDX-License-Identifier: Apache-2.0
/**
 * `deno task docs`: generates parts of the documentation from the source. Tests compare them.
 *
 * - `docs/app_contract.txt`: the types of an app as `deno doc` prints them, from `tiles/app/contract.ts`.
 * - `docs/testing.md`, below its heading "Inventory": the names of all tests, from the test files.
 * - `docs/operating/metrics.md`: all metrics and counters, from `tiles/runtime/metrics.ts` and
 *   `counters.ts`.
 */

import { execFileSync } from "node:child_process";
import { globSync } from "node:fs";
import { wrapped } from "../cli/command.ts";
import { ROOT } from "../ffi/library.ts";
import { COUNTERS } from "../tiles/runtime/counters.ts";
import { metricOf, METRICS as TABLE } from "../tiles/runtime/metrics.ts";
import type { TileKind } from "../tiles/runtime/tile.ts";

export const CONTRACT = `${ROOT}docs/app_contract.txt`;

/** The text of `docs/app_contract.txt`. Throws Error with the errors of `deno doc`. */
export function contractText(): string {
  const text = execFileSync(Deno.execPath(), ["doc", "tiles/app/contract.ts"], {
    ...{ cwd: ROOT, env: { ...Deno.env.toObject(), NO_COLOR: "1" } },
    ...{ encoding: "utf8", stdio: "pipe" },
  });
  return text.replaceAll(/^Defined in .*\n\n/gm, "")
    .replaceAll(/\{@linkcode (\w+(?:\.\w+)?)\}/g, "$1").trim() + "\n";
}

export const TESTING = `${ROOT}docs/testing.md`;
const INVENTORY = "## Inventory\n";

/** The text of `docs/testing.md`: the current handwritten part, and the inventory. */
export function testingText(): string {
  const [byHand] = Deno.readTextFileSync(TESTING).split(INVENTORY);
  const files = testFiles("tests").map((path) => {
    const names = testsOf(Deno.readTextFileSync(ROOT + path));
    return [path, ...names.map((name) => `  ${name}`)].join("\n");
  });
  return `${byHand}${INVENTORY}\n\`\`\`text\n${files.join("\n\n")}\n\`\`\`\n`;
}

/** All test files below `folder`, a path from the project's folder as theirs are. */
export function testFiles(folder: string): string[] {
  return globSync(`${folder}/**/*_test.ts`, { cwd: ROOT }).sort();
}

/** A call that declares a test or a step, and the literal that names it. */
const DECLARATION =
  /(?<step>\.step|(?<![.\w])(?:Deno\.test|labTest|test))\(\s*(?:\{\s*name:\s*)?(?:"(?<plain>(?:\\.|[^"\\])*)"|`(?<template>(?:\\.|[^`\\])*)`)/g;

/**
 * The names of the tests that a file declares, in order; names of steps are indented. A name with
 * placeholders is given as in the source (`${…}`). Tests without a literal name are left out.
 */
export function testsOf(source: string): string[] {
  return [...source.matchAll(DECLARATION)].map(({ groups }) => {
    const { step, plain, template } = groups!;
    return (step === ".step" ? "  " : "") + (plain ?? template).replaceAll(/\\(.)/g, "$1");
  });
}

export const METRICS = `${ROOT}docs/operating/metrics.md`;

/** An item of a list, wrapped as `deno fmt` does. */
function item(text: string): string {
  return `- ${wrapped(text, 2, 100)}\n`;
}

export function metricsText(): string {
  const metrics = Object.entries(TABLE).map(([name, { type, labels, unit, help, from }]) => {
    const shown = labels.length === 0 ? name : `${name}{${labels}}`;
    const source = typeof from === "string" ? from : "counters";
    const about = [type, ...unit === undefined ? [] : [unit], `from ${source}`].join("; ");
    return item(`\`${shown}\` (${about}): ${help}`);
  });
  const samples = Object.fromEntries(
    Object.entries(COUNTERS).map(([kind, { help }]) => [
      kind,
      Object.entries(help).map(([counter, sentence]) => {
        const { name, labels } = metricOf(kind as TileKind, counter);
        const shared = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
        const sample = shared.length === 0 ? name : `${name}{${shared}}`;
        return item(`\`${counter}\`, \`${sample}\`: ${sentence}`);
      }).join(""),
    ]),
  );
  return `# Metrics and counters

\`deno task docs\` generates this page from \`tiles/runtime/metrics.ts\` and
\`tiles/runtime/counters.ts\`.

## Metrics

Prometheus reads these. Each has its type, its unit, where the status tile reads it, and what it is.
Metrics of an app's tile also have the label \`app\`.

${metrics.join("")}
## Counters

The control socket, SIGUSR2 and \`tegula capture\` show counters of each tile by these names. The
metric follows that the counter is a sample of.

### Net tiles

${samples.net}
### Netlink tile

${samples.netlink}
### Apps

${samples.app}
### Status tile

${samples.status}`;
}

if (import.meta.main) {
  Deno.writeTextFileSync(METRICS, metricsText());
  Deno.writeTextFileSync(CONTRACT, contractText());
  Deno.writeTextFileSync(TESTING, testingText());
}
