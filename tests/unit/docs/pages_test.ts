// SPDX-License-Identifier: Apache-2.0
/** Every page of the documentation: its links lead somewhere, files that it names exist, tables fit a screen. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

function* pagesIn(folder: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = join(folder, name);
    if (isDirectory) yield* pagesIn(path);
    else if (name.endsWith(".md")) yield path;
  }
}

const PAGES = [
  ...["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map((name) => join(ROOT, name)),
  ...pagesIn(join(ROOT, "docs")),
];

/** The anchors of a page's headings, as GitHub makes them. */
function anchors(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading.toLowerCase().replaceAll(/[^\w\s-]/g, "").replaceAll(" ", "-")
  );
}

/** A page without its indented and fenced blocks. */
function prose(text: string): string {
  return text.replaceAll(/^```.*?^```/gms, "").replaceAll(/^ {4}.*$/gm, "");
}

for (const page of PAGES) {
  const text = Deno.readTextFileSync(page);
  const name = relative(ROOT, page);

  Deno.test(`${name}: each link leads to a file, and to a heading in it`, () => {
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path, anchor] = target.split("#");
      const file = path === "" ? page : join(dirname(page), path);
      assert.ok(existsSync(file), target);
      if (anchor === undefined) continue;
      assert.ok(anchors(Deno.readTextFileSync(file)).includes(anchor), target);
    }
  });

  Deno.test(`${name}: each file that it names exists, and no table is wider than 120 columns`, () => {
    for (
      const [, path] of prose(text).matchAll(/`((?:[\w-]+\/)+[\w.-]+\.(?:ts|c|h|md|toml|sh))`/g)
    ) {
      const found = ["", "tests", "ffi", "docs"].some((folder) =>
        existsSync(join(ROOT, folder, path))
      );
      assert.ok(found, `${path} in ${name}`);
    }
    for (const line of text.split("\n")) {
      assert.ok(!line.startsWith("|") || line.length <= 120, line);
    }
  });
}

/** Source files of the project below a folder. */
function* sourcesIn(folder: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = join(folder, name);
    if (isDirectory) yield* sourcesIn(path);
    else if (/\.(ts|js|mjs|c|h|py|sh|mk|css)$/.test(name)) yield path;
  }
}

Deno.test("each source file names its licence, that of deno.json except for the XDP program", () => {
  const { license } = JSON.parse(Deno.readTextFileSync(join(ROOT, "deno.json")));
  const folders = ["apps", "bench", "cli", "demo", "ffi", "master", "netbase", "scripts", "tests"];
  for (const folder of [...folders, "tiles", "packaging"]) {
    for (const path of sourcesIn(join(ROOT, folder))) {
      const head = Deno.readTextFileSync(path).split("\n", 2).join("\n");
      const [, said] = /SPDX-License-Identifier: (.*?)(?: \*\/)?$/m.exec(head) ?? [];
      const expected = path.endsWith(".bpf.c") ? `GPL-2.0-only OR ${license}` : license;
      assert.equal(said, expected, relative(ROOT, path));
    }
  }
});
