// SPDX-License-Identifier: Apache-2.0
/** What tiles and their process load: every module costs each that has it memory. */

import { deepEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../../", import.meta.url);

interface Graph {
  readonly modules: readonly {
    readonly specifier: string;
    readonly dependencies?: readonly {
      readonly code?: { readonly specifier: string };
      readonly isDynamic?: boolean;
    }[];
  }[];
}

/** What the module at `path` imports, itself, types and what is imported later left out. */
function loaded(path: string): string[] {
  const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", fileURLToPath(new URL(path, ROOT))],
  }).outputSync();
  ok(success, new TextDecoder().decode(stderr));
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as Graph;
  const needs = new Map(modules.map(({ specifier, dependencies = [] }) => [
    specifier,
    dependencies.flatMap(({ code, isDynamic = false }) =>
      code === undefined || isDynamic ? [] : [code.specifier]
    ),
  ]));
  const found = new Set([new URL(path, ROOT).href]);
  for (const each of found) for (const needed of needs.get(each) ?? []) found.add(needed);
  return [...found].slice(1).map((each) => each.replace(ROOT.href, ""));
}

const TILES = [
  "tiles/app/process.ts",
  ...["net", "netlink", "status"].map((kind) => `tiles/${kind}/tile.ts`),
];

/** What listening on a handed descriptor takes of Node: node:net loads the others, too. */
const LISTENING = ["node:buffer", "node:events", "node:net"];
const ENTRIES = [
  "tiles/runtime/appliance.ts",
  "tiles/runtime/worker.ts",
  "tiles/app/process.ts",
];

for (const path of [...ENTRIES, ...TILES]) {
  const needed = path.includes("/status/") ? LISTENING : [];
  const modules = needed.length === 0 ? "no module" : `${needed.join(" and ")} alone`;
  Deno.test(`${path} loads ${modules} of Node's, and none of npm's`, () => {
    const all = loaded(path);
    deepEqual(all.filter((each) => each.includes(":")).sort(), needed);
    ok(all.some((each) => each.startsWith("ffi/")), "it finds what there is");
  });
}

Deno.test("only the netlink tile loads what writes netbase", () => {
  for (const path of TILES) {
    const writers = loaded(path).filter((each) => each.endsWith("_writer.ts"));
    deepEqual(writers.length > 0, path.includes("/netlink/"), path);
  }
});
