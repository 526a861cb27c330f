// SPDX-License-Identifier: Apache-2.0
/** The blocks of TOML in the pages that say how Tegula and its apps are configured. */

import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const OPERATING = "docs/operating";

/** One block, with the page that it is in and the line where it begins. */
export interface Block {
  readonly page: string;
  readonly line: number;
  readonly text: string;
}

/** The pages: their paths in the repository, and their texts. */
export function configuringPages(): { page: string; text: string }[] {
  const operating = [...Deno.readDirSync(`${ROOT}${OPERATING}`)].map(({ name }) => name)
    .filter((name) => name.endsWith(".md")).sort().map((name) => `${OPERATING}/${name}`);
  return ["README.md", "docs/apps.md", ...operating].map((page) => ({
    page,
    text: Deno.readTextFileSync(`${ROOT}${page}`),
  }));
}

/** All blocks of these pages. */
export function blocksOfToml(): Block[] {
  return configuringPages().flatMap(({ page, text }) =>
    [...text.matchAll(/^```toml\n([^]*?)^```$/gm)].map(({ index, 1: block }) => ({
      page,
      line: text.slice(0, index).split("\n").length + 1,
      text: block,
    }))
  );
}

/** The block that begins with this line. Throws Error if there is not exactly one. */
export function blockOfToml(first: string): string {
  const found = blocksOfToml().filter(({ text }) => text.startsWith(`${first}\n`));
  if (found.length !== 1) throw new Error(`${found.length} blocks of TOML begin with ${first}`);
  return found[0].text;
}
