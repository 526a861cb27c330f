// SPDX-License-Identifier: Apache-2.0
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
  for (const arg of ["--version", "-V", "version"]) {
    const { code, out } = tegula(arg);
    assert.equal(code, 0, arg);
    assert.match(out, /^tegula \d+\.\d+\.\d+$/m);
  }
  assert.match(tegula("help", "route").out, /^usage: tegula route get/);
});

Deno.test("a command that there is not is named, with those that there are", () => {
  const { code, err } = tegula("rum");
  assert.equal(code, 2);
  assert.match(err, /unknown command 'rum'; the commands are run, demo, /);
});

Deno.test("commands and what they show may be abbreviated, as for ip", () => {
  const full = tegula("show", "interfaces", "-j");
  assert.equal(full.code, 0);
  assert.deepEqual(tegula("sh", "i", "-j"), full);
  assert.match(tegula("r", "g", "127.0.0.1").out, /^local 127\.0\.0\.1 dev lo /);
  for (const word of ["neigh", "neighbour", "neighbours"]) {
    assert.equal(tegula("show", word).code, 0, word);
  }
});

Deno.test("an abbreviation that fits several is refused, and names them", () => {
  const { code, err } = tegula("c");
  assert.equal(code, 2);
  assert.equal(err, "tegula: 'c' may be check or capture\n");
  assert.match(tegula("show", "").err, /cannot show '': interfaces, routes, neighbors/);
});

Deno.test("route get -j prints an array, as ip does", () => {
  const [route, ...others] = JSON.parse(tegula("route", "get", "127.0.0.1", "-j").out);
  assert.deepEqual([route.dst, route.type, others.length], ["127.0.0.1", "local", 0]);
});
