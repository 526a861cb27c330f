// SPDX-License-Identifier: Apache-2.0
/**
 * The policy of system calls, its reasons, and `docs/system_calls.md` belong together; and what honest
 * code calls is in it. `scripts/syscalls` measures more, and for longer.
 */

import { deepEqual, equal, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  DOCUMENT,
  documentText,
  forEach,
  formatted,
  kept,
  observe,
  play,
  QUICK,
  readPolicy,
  WHO,
} from "../../syscalls/syscalls.ts";
import { EXPECTED, EXPECTED_OF_PROCESSES, REASONS } from "../../syscalls/reasons.ts";

const SOURCE = fileURLToPath(new URL("../../../ffi/policy.h", import.meta.url));
const POLICY = readPolicy(Deno.readTextFileSync(SOURCE));
const TEXT = Deno.readTextFileSync(DOCUMENT);
/** How the quick workloads end that do not end well. */
const ENDS: { readonly [name: string]: string } = {
  abort: "SIGABRT",
  "uncaught error": "status 4: onerror: Uncaught Error: uncaught",
};

Deno.test("every call that the policy names has a reason, and every reason its call", () => {
  ok(POLICY.allowed.size > 80, `${POLICY.allowed.size} calls were read from ffi/policy.h`);
  deepEqual(Object.keys(REASONS).sort(), [...POLICY.allowed.keys()].sort());
  deepEqual(Object.keys(EXPECTED).sort(), [...POLICY.expected.keys()].sort());
  deepEqual(
    Object.keys(EXPECTED_OF_PROCESSES).sort(),
    [...POLICY.expectedOfProcesses.keys()].sort(),
  );
});

Deno.test("docs/system_calls.md says what was seen, and what ffi/policy.h does", async () => {
  const text = await formatted(documentText(kept(), POLICY), "md");
  equal(TEXT, text, "`scripts/syscalls nothing` writes it anew");
});

Deno.test("a worker makes no call that docs/system_calls.md does not list", async () => {
  const { calls, ends } = await observe(QUICK);
  for (const name of QUICK) equal(ends[name], ENDS[name] ?? "status 0", name);
  const before = TEXT.split("## Only before confinement")[1].match(/\w+/g)!;
  const known = new Set([...TEXT.matchAll(/^- \*\*(\w+)\*\*:/gm)].map(([, call]) => call));
  for (const who of WHO) {
    const seen = Object.keys(calls).filter((call) => calls[call][who] !== undefined);
    ok(seen.length > 5, `${seen.length} calls ${who}`);
    const all = who === "start" ? new Set([...known, ...before]) : known;
    deepEqual(seen.filter((call) => !all.has(call)), [], who);
  }
});

for (const v8Flags of [undefined, "--no-memory-protection-keys"]) {
  Deno.test(`honest code in an app's process is refused nothing (${v8Flags ?? "V8 as it is"})`, async () => {
    await forEach(QUICK, async (name) => {
      const { end, refused } = await play(name, { confined: true, v8Flags });
      deepEqual(refused, [], name);
      // Process 1 of a PID namespace takes no SIGABRT of its own, and libc ends it by a fault then.
      const isAbort = name === "abort" && end === "SIGSEGV";
      equal(isAbort ? ENDS[name] : end, ENDS[name] ?? "status 0", name);
    });
  });
}
