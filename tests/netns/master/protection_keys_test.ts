// SPDX-License-Identifier: Apache-2.0
/**
 * An appliance's life with V8's memory protection keys and without. Where the CPU has none, both are the
 * same, and `scripts/test` boots a machine that has them (`tests/vm/life_test.ts`).
 */

import { strict as assert } from "node:assert";
import { askUntilAnswered, ECHO, labTest, pair } from "../lab.ts";
import { selfCommand } from "../../../cli/command.ts";
import { processesOf } from "../processes.ts";

const HAS_KEYS = /^flags\s*:.*\bpku\b/m.test(Deno.readTextFileSync("/proc/cpuinfo"));
const WITHOUT = "DENO_V8_FLAGS=--no-memory-protection-keys";

for (
  const [how, environment, expected] of [["with", [], HAS_KEYS], [
    "without",
    [WITHOUT],
    false,
  ]] as const
) {
  labTest(`an appliance serves, reloads and stops in order ${how} protection keys`, async (lab) => {
    const { host, asker } = await pair(lab);
    const process = host.spawn(["env", ...environment, ...selfCommand(), "run", ...ECHO]);
    await process.stderr.find("ready:");
    for (const { pid, role } of processesOf(process.pid)) {
      assert.equal(usesKeys(pid), role === "main" ? expected : HAS_KEYS, `V8 of ${role}`);
    }
    assert.equal((await askUntilAnswered(asker)).text, "hello");
    process.kill("SIGHUP");
    await process.stderr.find("reloaded: ");
    assert.equal((await askUntilAnswered(asker)).text, "hello");
    process.kill("SIGTERM");
    assert.equal((await process.ended()).code, 0);
  });
}

/** Whether any memory of the process has a key of its own (proc_pid_smaps(5)). */
function usesKeys(pid: number): boolean {
  return /^ProtectionKey:\s+[1-9]/m.test(Deno.readTextFileSync(`/proc/${pid}/smaps`));
}
