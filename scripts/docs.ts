/**
 * `deno task docs`: writes what of the documentation is made from the source. Tests compare.
 *
 * - `docs/app_contract.txt`: the types of an app as `deno doc` prints them, from `tiles/app/contract.ts`.
 * - `docs/testing.md`, below its heading "Inventory": the names of all tests, from the test files.
 */

import { fileURLToPath } from "node:url";

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

function* testFiles(folder: string): Generator<string> {
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

if (import.meta.main) {
  Deno.writeTextFileSync(CONTRACT, contractText());
  Deno.writeTextFileSync(TESTING, testingText());
}
