// SPDX-License-Identifier: Apache-2.0
/** Each block of TOML in the documentation is a configuration that Tegula takes. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { UserError } from "../../../cli/command.ts";
import { checkConfig, planApps, readConfig } from "../../../cli/config.ts";
import { blocksOfToml, configuringPages } from "../../documented_toml.ts";

/** Writes a block into a folder, with all files beside it that it names, and plans what it configures. */
async function plan(text: string): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "tegula-documented-" });
  try {
    for (const [, path] of text.matchAll(/(\.\/[\w./-]+\.\w+)/g)) {
      Deno.mkdirSync(join(folder, dirname(path)), { recursive: true });
      Deno.writeTextFileSync(join(folder, path), "export function answer() {}");
    }
    Deno.writeTextFileSync(join(folder, "tegula.toml"), text);
    const config = await readConfig({
      config: join(folder, "tegula.toml"),
      // A block may be about something else than ports.
      ...(!/^listen = /m.test(text) && { listen: ["7=echo"] }),
    });
    checkConfig(config);
    assert.ok(planApps(config).length > 0);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

for (const { page, line, text } of blocksOfToml()) {
  Deno.test(`${page}, line ${line}: the block of TOML is read, checked and planned`, async () => {
    await plan(text);
  });

  Deno.test(`${page}, line ${line}: with any key misspelt, the block of TOML is refused`, async () => {
    for (const { index, 0: found, 1: key } of text.matchAll(/^(\w+) = /gm)) {
      // Options of an app that does not ship are its own.
      if (key === "greeting") continue;
      const misspelt = `${text.slice(0, index)}${key}_ = ${text.slice(index + found.length)}`;
      await assert.rejects(plan(misspelt), UserError, key);
    }
  });
}

Deno.test("pages that say how Tegula is configured have TOML in no other block", () => {
  for (const { page, text } of configuringPages()) {
    const others = text.replaceAll(/^```(?:toml|ts)\n.*?^```$/gms, "");
    const found = /^ *(?:\[apps\.\w+\]|\[announce\]|[a-z_]+ = (?:["[{\d]|true|false).*)$/m.exec(
      others,
    );
    assert.equal(found?.[0], undefined, page);
  }
});
