// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleCommand } from "../../../master/app_files.ts";
import { CONTRACT, contractText } from "../../../scripts/docs.ts";
import { examples, typedIn, writtenFolder } from "../../ten_minutes.ts";

Deno.test("docs/app_contract.txt is what deno doc says of the contract: deno task docs", () => {
  assert.equal(Deno.readTextFileSync(CONTRACT), contractText());
});

Deno.test("docs/apps.md, steps 1 and 2: the app is written and its test passes", () => {
  const { code, stdout, stderr } = new Deno.Command("sh", {
    args: ["-c", typedIn(2)],
    cwd: writtenFolder(),
    env: { PATH: `${dirname(Deno.execPath())}:${Deno.env.get("PATH")}`, NO_COLOR: "1" },
  }).outputSync();
  const [said, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assert.equal(code, 0, said + errors);
  assert.match(said, /who asks is greeted \.\.\. ok/);
});

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const PAGE = Deno.readTextFileSync(`${ROOT}docs/apps.md`);

Deno.test("docs/apps.md: the command that bundles packages is the one that a start names", () => {
  assert.ok(PAGE.includes(`\n${bundleCommand("app.ts")}\n`));
});

Deno.test("docs/apps.md: the library is found by name, by the deno.json that is written there", () => {
  const [, section] = /^## The library\n(.*?)^## /ms.exec(PAGE)!;
  const [app, config] = ["ts", "json"].map((language) =>
    new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, "ms").exec(section)![1]
  );
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/app.ts`, app);
  Deno.writeTextFileSync(`${folder}/deno.json`, config.replace("/path/to/tegula/", ROOT));
  Deno.writeTextFileSync(
    `${folder}/ask.ts`,
    `import { AppHarness } from "tegula/harness.ts";
    import * as app from "./app.ts";
    const harness = await AppHarness.start(app, { ports: [7] });
    const answers = Array.from({ length: 30 }, () => harness.ask({ payload: "x" }).length);
    console.log(answers.reduce((sum, count) => sum + count));`,
  );
  const { code, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["run", "--check", "--allow-read", "ask.ts"],
    cwd: folder,
  }).outputSync();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.equal(new TextDecoder().decode(stdout), "10\n");
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("docs/apps.md: the examples have the types that they name", () => {
  const folder = Deno.makeTempDirSync();
  const files = [...examples()].map(({ text }, i) => {
    Deno.writeTextFileSync(`${folder}/${i}.ts`, text);
    return `${folder}/${i}.ts`;
  });
  const { code, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["check", "--import-map", `${ROOT}apps/library/imports.json`, ...files],
    cwd: folder,
  }).outputSync();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  Deno.removeSync(folder, { recursive: true });
});
