// SPDX-License-Identifier: Apache-2.0
/** The native parts compile for aarch64, too, by Debian's cross compiler. They are not linked, nor run. */

import { equal } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FOLDER = Deno.makeTempDirSync({ prefix: "tegula-aarch64-" });
globalThis.addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));
const WARNINGS = ["-Wall", "-Wextra", "-Werror", "-O2"];

/** Runs a shell's line in the project's folder; returns what it said, which is nothing when all is well. */
function run(line: string): string {
  const { success, stderr } = new Deno.Command("sh", { args: ["-ec", line], cwd: ROOT })
    .outputSync();
  return new TextDecoder().decode(stderr) || (success ? "" : `${line} failed`);
}

const libraries = [...Deno.readDirSync(`${ROOT}ffi`)].map(({ name }) => name)
  .filter((name) => name.endsWith(".c") && !name.endsWith(".bpf.c"));

for (const name of libraries) {
  Deno.test(`ffi/${name} compiles for aarch64`, () => {
    // As scripts/build.mk makes it of this machine's.
    const names = `${FOLDER}/system_calls.inc`;
    equal(
      run(
        "echo '#include <asm/unistd.h>' | aarch64-linux-gnu-gcc -dM -E - | " +
          `sed -n 's/^#define __NR_\\([a-z_0-9]*\\) .*/[__NR_\\1] = "\\1",/p' >${names}`,
      ),
      "",
    );
    const flags = ["-std=gnu11", "-fPIC", "-D_FORTIFY_SOURCE=2", `-I${FOLDER}`, "-Ibuild"];
    // The headers of libxdp and libbpf are the same for all; libc's of aarch64 go before.
    const headers = ["-idirafter", "/usr/include", `-DFILTER_OBJECT='"build/xdp_filter.bpf.o"'`];
    const command = ["aarch64-linux-gnu-gcc", ...flags, ...WARNINGS, ...headers];
    equal(run([...command, "-c", "-o", "/dev/null", `ffi/${name}`].join(" ")), "");
  });
}

Deno.test("the XDP program compiles with the headers of aarch64", () => {
  const headers = ["-D__aarch64__", "-Ibuild", "-I/usr/aarch64-linux-gnu/include"];
  const command = ["clang", "-target", "bpf", "-g", ...WARNINGS, ...headers];
  equal(run([...command, "-c", "-o", "/dev/null", "ffi/xdp_filter.bpf.c"].join(" ")), "");
});
