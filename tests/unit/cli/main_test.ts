import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../../../main.ts", import.meta.url));

/** Runs `tegula ARGS` and returns how it ended and what it said. */
function tegula(...args: string[]): { code: number; out: string; err: string } {
  const { code, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", "--unstable-worker-options", MAIN, ...args],
    env: { NO_COLOR: "1" },
  }).outputSync();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

Deno.test("without a command tegula says how it is used, and ends as if used wrongly", () => {
  const { code, out } = tegula();
  assert.equal(code, 2);
  assert.match(out, /^usage: tegula COMMAND/m);
});

Deno.test("asked for help or its version tegula says it, and all is well", () => {
  for (const arg of ["--help", "-h", "help"]) {
    const { code, out } = tegula(arg);
    assert.equal(code, 0, arg);
    assert.match(out, /^ {2}run +answer UDP/m);
  }
  const { code, out } = tegula("--version");
  assert.equal(code, 0);
  assert.match(out, /^tegula \d+\.\d+\.\d+$/m);
});

Deno.test("a command that there is not is named, with those that there are", () => {
  const { code, err } = tegula("rum");
  assert.equal(code, 2);
  assert.match(err, /unknown command 'rum'; the commands are run, demo, /);
});
