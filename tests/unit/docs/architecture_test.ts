// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const TEXT = Deno.readTextFileSync(`${ROOT}docs/architecture.md`);
/** Every source file of the product and of its benchmarks, by its path in the tree. */
const SOURCES = new Map(
  ["apps", "bench", "cli", "demo", "ffi", "master", "netbase", "scripts", "tiles"].flatMap((
    folder,
  ) => [...sourcesIn(folder)]),
);

function* sourcesIn(folder: string): Generator<[path: string, text: string]> {
  for (const { name, isDirectory } of Deno.readDirSync(ROOT + folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) yield* sourcesIn(path);
    else if (/\.(ts|c)$/.test(name)) yield [path, Deno.readTextFileSync(ROOT + path)];
  }
}

/** The names in backquotes that match `pattern` and do not exist. */
function missing(pattern: RegExp, isThere: (...groups: string[]) => boolean): string[] {
  const named = [...new Set(TEXT.match(/(?<=`)[^`\n]+(?=`)/g))];
  const found = named.map((name) => pattern.exec(name)).filter((match) => match !== null);
  assert.ok(found.length > 5, `docs/architecture.md names ${found.length} like ${pattern}`);
  return found.filter(([, ...groups]) => !isThere(...groups)).map(([name]) => name);
}

/** The texts of the files that declare a class, interface or type of this name. */
function declaring(name: string): string[] {
  return [...SOURCES.values()].filter((text) =>
    new RegExp(`^(export )?(class|interface|type) ${name}\\b`, "m").test(text)
  );
}

Deno.test("every file that docs/architecture.md names is there", () => {
  const gone = missing(/^([\w/.*]+\.(?:ts|c))$/, (name) => {
    const pattern = new RegExp(`(^|/)${name.replaceAll(".", "\\.").replaceAll("*", "\\w+")}$`);
    return [...SOURCES.keys()].some((path) => pattern.test(path));
  });
  assert.deepEqual(gone, []);
});

Deno.test("every class and method that docs/architecture.md names is there", () => {
  const gone = missing(/^([A-Z][a-z]\w*)\.(#?[a-z]\w*)$/, (name, method) => {
    const declared = new RegExp(`^ {2}(?: {2})?(async |get |static )?${method}\\(`, "m");
    return declaring(name).some((text) => declared.test(text));
  });
  assert.deepEqual(gone.filter((name) => name !== "Atomics.wait"), []);
});

Deno.test("every counter and constant that docs/architecture.md names is there", () => {
  const all = [...SOURCES.values()].join("\n");
  const gone = missing(
    /^((?:tx|rx)_[a-z_]+|[A-Z]+(?:_[A-Z]+)+)$/,
    (name) => new RegExp(`\\b${name}\\b`).test(all),
  );
  assert.deepEqual(gone, []);
});
