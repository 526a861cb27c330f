/**
 * `deno task docs`: writes `docs/app_contract.txt`, the types of an app as `deno doc` prints them, from
 * `tiles/app/contract.ts`. A test holds the two together.
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

if (import.meta.main) Deno.writeTextFileSync(CONTRACT, contractText());
