// SPDX-License-Identifier: Apache-2.0
/**
 * What a tile of the appliance cannot do, tried from inside: a probe is started by the real `worker.ts`, with
 * the real permissions and the real confinement of each kind of tile, in a child process. Apps are processes
 * of their own: `tests/attacks`.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { DENO_FLAGS } from "../../../cli/command.ts";
import { landlock } from "../../../scripts/machine.ts";
import type { WorkerKind } from "../../../tiles/runtime/tile.ts";

const HOST = fileURLToPath(new URL("../../fixtures/isolation/host.ts", import.meta.url));

/** Attempts, and what refuses each: Deno's permissions first, the thread's seccomp filter behind. */
const REFUSALS = {
  "connect": ["NotCapable"],
  "read a file": ["NotCapable"],
  "write a file": ["NotCapable"],
  "listen": ["NotCapable"],
  "run a program": ["NotCapable"],
  "read the environment": ["NotCapable"],
  "open a library": ["NotCapable"],
  "end the process by a signal": ["PermissionDenied"],
  "write to standard output": ["BadResource"],
};

async function probe(kind: WorkerKind, { store }: { store: boolean }) {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...DENO_FLAGS, HOST, JSON.stringify({ kind, store })],
    signal: AbortSignal.timeout(120_000),
  });
  const { code, signal, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, signal, lines: text(stdout).split("\n"), stderr: text(stderr) };
}

for (const kind of ["netlink", "net", "status"] as const) {
  Deno.test(`a ${kind} tile is refused whatever is not its job`, async () => {
    const { lines, stderr } = await probe(kind, { store: false });
    // A kernel without landlock leaves seccomp and Deno's permissions, which refuse the same.
    const confined = landlock() === "none" ? "confined: observed" : "confined: landlock observed";
    assert.ok(lines.includes(confined), lines.join("\n") + stderr);
    for (const [attempt, refusals] of Object.entries(REFUSALS)) {
      const line = lines.find((each) => each.startsWith(`${attempt}: `));
      assert.ok(line !== undefined, `'${attempt}' was tried: ${lines.join("; ")}`);
      assert.ok(refusals.includes(line.slice(attempt.length + 2)), line);
    }
    assert.ok(lines.includes("ended"), "it went on to its end all the same");
  });

  Deno.test(`a ${kind} tile that stores into another's region ends the process at once`, async () => {
    const { signal, lines } = await probe(kind, { store: true });
    assert.equal(signal, "SIGSEGV");
    assert.ok(!lines.includes("done"));
  });
}
