// SPDX-License-Identifier: Apache-2.0
/**
 * The ten minutes of `docs/apps.md`, to be gone through as a reader would: the contents of its fenced
 * blocks, put into a folder of its own.
 */

import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** A folder with the files of steps 1 and 2, gone when the test file has ended. */
export function writtenFolder(): string {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-ten-minutes-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  Deno.writeTextFileSync(`${folder}/hello.ts`, blockOf(1, "ts"));
  Deno.writeTextFileSync(`${folder}/hello_test.ts`, blockOf(2, "ts"));
  return folder;
}

/** The heading above an app of two files. */
export const SLOW_SIDE = "The slow side";

/**
 * A folder with the files of the section about the slow side, and the configuration; gone when the test file
 * has ended.
 */
export function slowSideFolder(): string {
  const [, section] = new RegExp(`^## ${SLOW_SIDE}\n(.*?)^## `, "ms").exec(documented()) ?? [];
  const blocks = [...section!.matchAll(/^```\w+\n(.*?)^```/gms)].map(([, block]) => block);
  const names = ["greeter.ts", "beside.ts", "tegula.toml"];
  if (blocks.length !== names.length) throw new Error("docs/apps.md: other blocks than expected");
  const folder = Deno.makeTempDirSync({ prefix: "tegula-slow-side-" });
  Deno.chmodSync(folder, 0o755);
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  names.forEach((name, i) => Deno.writeTextFileSync(`${folder}/${name}`, blocks[i]));
  return folder;
}

function documented(): string {
  return Deno.readTextFileSync(`${ROOT}docs/apps.md`).replaceAll("/path/to/tegula/", ROOT);
}

/** What is to be typed in a step, for `sh -c`; whoever tests is root already. */
export function typedIn(step: number): string {
  return blockOf(step, "sh").replaceAll("sudo ", "");
}

/** The examples that are files of apps: the heading that each is below, and the file. */
export function* examples(): Generator<{ heading: string; text: string }> {
  let heading = "";
  for (const [all, title, text] of documented().matchAll(/^## (.*)$|^```ts\n([^]*?)^```/gm)) {
    if (all.startsWith("#")) heading = title;
    else if (/^export (default )?function/m.test(text)) yield { heading, text };
  }
}

/** The block of a language in a step. Throws Error when there is none. */
function blockOf(step: number, language: string): string {
  const text = documented();
  const [, said = ""] = new RegExp(`^\\*\\*${step}\\. (.*?)^(?:\\*\\*|## )`, "ms").exec(text) ?? [];
  const [, block] = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, "ms").exec(said) ?? [];
  if (block === undefined) {
    throw new Error(`docs/apps.md: step ${step} has no block of ${language}`);
  }
  return block;
}
