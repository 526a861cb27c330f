// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { CONTRACT, contractText } from "../../../scripts/docs.ts";
import { typedIn, writtenFolder } from "../../ten_minutes.ts";

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
