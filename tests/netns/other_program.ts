// SPDX-License-Identifier: Apache-2.0
/** An XDP program that is not ours, as another user may have attached it. */

import { mustRun } from "./bare_root.ts";

const SOURCE = `
__attribute__((section("xdp"))) int other_program(void *context) { return 2; }
char text[] __attribute__((section("license"))) = "GPL";
`;

/** The path of its object file, for `ip link set … obj PATH sec xdp`. */
export function otherProgram(): string {
  const object = Deno.makeTempFileSync({ suffix: ".o" });
  Deno.writeTextFileSync(`${object}.c`, SOURCE);
  mustRun(["clang", "-target", "bpf", "-O2", "-c", `${object}.c`, "-o", object]);
  return object;
}
