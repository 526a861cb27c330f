// SPDX-License-Identifier: Apache-2.0
import { equal } from "node:assert/strict";
import { pku } from "../../../scripts/machine.ts";

Deno.test("protection keys are found among flags, and not where a CPU lists Features or nothing", () => {
  equal(pku("model name\t: A\nflags\t\t: fpu pku ospke\n"), "yes");
  equal(pku("flags\t\t: fpu ospke\n"), "no");
  equal(pku("CPU part\t: 0xd0c\nFeatures\t: fp asimd crc32\n"), "no");
  equal(pku("processor\t: 0\n"), "unknown");
});
