import assert from "node:assert/strict";
import { CONTRACT, contractText } from "../../scripts/docs.ts";

Deno.test("docs/app_contract.txt is what deno doc says of the contract: deno task docs", () => {
  assert.equal(Deno.readTextFileSync(CONTRACT), contractText());
});
