// SPDX-License-Identifier: Apache-2.0
/**
 * The surface of the built native library: who may load it finds nothing in it besides what the bindings
 * name. And how much C there is at all.
 */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { libraryPath, sealPath } from "../../../ffi/library.ts";

const FOLDER = new URL("../../../ffi/", import.meta.url);

function run(program: string, ...args: string[]): string {
  const { stdout } = new Deno.Command(program, { args }).outputSync();
  return new TextDecoder().decode(stdout);
}

Deno.test("libtegula.so exports exactly what the bindings in ffi/ name", () => {
  const named = new Set<string>();
  for (const { name } of Deno.readDirSync(FOLDER)) {
    if (!name.endsWith(".ts")) continue;
    const binding = Deno.readTextFileSync(new URL(name, FOLDER));
    for (const [symbol] of binding.matchAll(/\btegula_[a-z_]+(?=[:"])/g)) named.add(symbol);
  }
  const exported = run("nm", "-D", "--defined-only", libraryPath()).trim().split("\n")
    .map((line) => line.split(" ").at(-1));
  ok(exported.length > 50);
  deepEqual(exported.sort(), [...named].sort());
});

Deno.test("libtegula.so needs libc and nothing else", () => {
  const needed = run("readelf", "-d", libraryPath()).match(/(?<=NEEDED.*\[)[^\]]+/g);
  equal(needed?.filter((library) => !/^(libc|ld-linux)/.test(library)).join(), "");
});

Deno.test("libtegula_seal.so, which is preloaded, exports prctl alone, in place of libc's", () => {
  match(run("nm", "-D", "--defined-only", sealPath()), /^[0-9a-f]+ T prctl\n$/);
});

// Of these the spawner of confined processes and the observer of their refused calls take a third: what
// runs between fork and exec, or beside the threads that it answers for, cannot be TypeScript.
Deno.test("the C, the XDP program and the headers fit in 3,600 lines", async () => {
  let lines = 0;
  for await (const { name } of Deno.readDir(FOLDER)) {
    if (!/\.[ch]$/.test(name)) continue;
    lines += (await Deno.readTextFile(new URL(name, FOLDER))).split("\n").length - 1;
  }
  ok(lines > 0 && lines <= 3600, `${lines} lines`);
});
