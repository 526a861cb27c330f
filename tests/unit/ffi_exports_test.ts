/**
 * The surface of the built native libraries: a worker that may load one must find nothing in it
 * besides what the bindings name. And how much C there is at all.
 */

import { deepEqual, equal, ok } from "node:assert/strict";
import { type LibraryName, libraryPath } from "../../ffi/paths.ts";

const NAMES: LibraryName[] = ["host", "netlink", "process", "region", "tile", "udp", "xsk"];

function run(program: string, ...args: string[]): string {
  const { stdout } = new Deno.Command(program, { args }).outputSync();
  return new TextDecoder().decode(stdout);
}

for (const name of NAMES) {
  Deno.test(`libtegula_${name}.so exports exactly what ffi/${name}.ts names`, async () => {
    const binding = await Deno.readTextFile(new URL(`../../ffi/${name}.ts`, import.meta.url));
    const named = new Set(binding.match(new RegExp(`\\btegula_${name}_[a-z_]+(?=:)`, "g")));
    const exported = run("nm", "-D", "--defined-only", libraryPath(name)).trim().split("\n")
      .map((line) => line.split(" ").at(-1));
    deepEqual(exported.sort(), [...named].sort());
  });

  Deno.test(`libtegula_${name}.so needs libc and nothing else`, () => {
    const needed = run("readelf", "-d", libraryPath(name)).match(/(?<=NEEDED.*\[)[^\]]+/g);
    equal(needed?.filter((library) => !/^(libc|ld-linux)/.test(library)).join(), "");
  });
}

Deno.test("libtegula_seal.so, which is preloaded, exports nothing", () => {
  equal(run("nm", "-D", "--defined-only", libraryPath("seal")), "");
});

// Of these the spawner of confined processes and the observer of their refused calls take a third: what
// runs between fork and exec, or beside the threads that it answers for, cannot be TypeScript.
Deno.test("the C, the XDP program and the headers fit in 3,600 lines", async () => {
  const folder = new URL("../../ffi/", import.meta.url);
  let lines = 0;
  for await (const { name } of Deno.readDir(folder)) {
    if (!/\.[ch]$/.test(name)) continue;
    lines += (await Deno.readTextFile(new URL(name, folder))).split("\n").length - 1;
  }
  ok(lines > 0 && lines <= 3600, `${lines} lines`);
});
