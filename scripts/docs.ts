/**
 * `deno task docs`: writes what of the documentation is made from the source. Tests compare.
 *
 * - `docs/app_contract.txt`: the types of an app as `deno doc` prints them, from `tiles/app/contract.ts`.
 * - `docs/testing.md`, below its heading "Inventory": the names of all tests, from the test files.
 * - `docs/operating/metrics.md`: all metrics and counters, from `tiles/runtime/counters.ts`.
 */

import { fileURLToPath } from "node:url";
import { COUNTERS, type MetricFamily, metricOf, OTHER_METRICS } from "../tiles/runtime/counters.ts";
import type { TileKind } from "../tiles/runtime/tile.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Where the text belongs. */
export const CONTRACT = `${ROOT}docs/app_contract.txt`;

/** The text that belongs there. Throws Error with what `deno doc` said when it failed. */
export function contractText(): string {
  const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["doc", "tiles/app/contract.ts"],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).outputSync();
  const decoder = new TextDecoder();
  if (!success) throw new Error(decoder.decode(stderr));
  const text = decoder.decode(stdout).replaceAll(/^Defined in .*\n\n/gm, "");
  return text.replaceAll(/\{@linkcode (\w+(?:\.\w+)?)\}/g, "$1").trim() + "\n";
}

/** Where the inventory of tests is. */
export const TESTING = `${ROOT}docs/testing.md`;
const INVENTORY = "## Inventory\n";

/** What `docs/testing.md` has to be: the part written by hand as it is, and the inventory. */
export function testingText(): string {
  const [byHand] = Deno.readTextFileSync(TESTING).split(INVENTORY);
  const files = [...testFiles(`${ROOT}tests`)].sort().map((path) => {
    const names = testsOf(Deno.readTextFileSync(path));
    return [path.slice(ROOT.length), ...names.map((name) => `  ${name}`)].join("\n");
  });
  return `${byHand}${INVENTORY}\n\`\`\`text\n${files.join("\n\n")}\n\`\`\`\n`;
}

/** The paths of all test files in a folder and in the folders in it. */
export function* testFiles(folder: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    if (isDirectory) yield* testFiles(`${folder}/${name}`);
    else if (name.endsWith("_test.ts")) yield `${folder}/${name}`;
  }
}

/** A call that declares a test or a step, and the literal that names it. */
const DECLARATION =
  /(?<step>\.step|(?<![.\w])(?:Deno\.test|labTest|test))\(\s*(?:\{\s*name:\s*)?(?:"(?<plain>(?:\\.|[^"\\])*)"|`(?<template>(?:\\.|[^`\\])*)`)/g;

/**
 * The names of the tests that a file declares, in order, those of steps behind two spaces. Of a name that
 * is put together at run time the source is given (`${…}`); where it is no literal at all, nothing is.
 */
export function testsOf(source: string): string[] {
  return [...source.matchAll(DECLARATION)].map(({ groups }) => {
    const { step, plain, template } = groups!;
    return (step === ".step" ? "  " : "") + (plain ?? template).replaceAll(/\\(.)/g, "$1");
  });
}

/** Where the list of metrics is. */
export const METRICS = `${ROOT}docs/operating/metrics.md`;

/** A metric's name, type and help as an item of a list. */
function metricItem({ name, type, help }: MetricFamily, labels: readonly string[]): string {
  const full = `tegula_${name}${type === "counter" ? "_total" : ""}`;
  return item(`\`${full}{${labels}}\` (${type}): ${help}`);
}

/** An item of a list, wrapped as `deno fmt` does. */
function item(text: string): string {
  const lines = ["-"];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`;
    if (longer.length <= 100) lines[lines.length - 1] = longer;
    else lines.push(`  ${word}`);
  }
  return lines.join("\n") + "\n";
}

/** The text that belongs there. */
export function metricsText(): string {
  const tile = {
    app: ["app", "tile"],
    net: ["tile"],
    netlink: ["tile"],
    status: ["tile"],
  } as const;
  const families = new Map<string, string>();
  const samples: Record<string, string> = {};
  for (const kind of Object.keys(COUNTERS) as TileKind[]) {
    samples[kind] = "";
    for (const [counter, help] of Object.entries(COUNTERS[kind].help)) {
      const { family, labels } = metricOf(kind, counter);
      const names = [...tile[family.name === "drops" ? "net" : kind], ...Object.keys(labels)];
      if (!families.has(family.name)) families.set(family.name, metricItem(family, names));
      const shared = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
      const of = family.help === help ? "" : `, \`${family.name}{${shared}}\``;
      samples[kind] += item(`\`${counter}\`${of}: ${help}`);
    }
  }
  const others = {
    syncState: ["state"],
    interfaceXdp: ["interface"],
    tileRunning: ["tile"],
    refusedCalls: ["tile", "call"],
    counter: ["app", "tile", "name"],
    gauge: ["app", "tile", "name"],
  };
  const all = Object.entries(OTHER_METRICS).map(([key, family]) =>
    metricItem(family, others[key as keyof typeof others])
  );
  return `# Metrics and counters

\`deno task docs\` generates this page from \`tiles/runtime/counters.ts\`.

## Metrics

Prometheus reads these. Metrics of apps also have the label \`app\`.

${all.join("")}${[...families.values()].join("")}
## Counters

The control socket, SIGUSR2 and \`tegula capture\` show counters of each tile by these names. If a
counter is one sample of a metric, the metric follows, without \`tegula_\` and \`_total\`.

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
