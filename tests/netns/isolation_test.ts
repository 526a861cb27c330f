/**
 * What a tile cannot do, tried from inside: a probe is started by the real `worker.ts`, with the real
 * permissions and the real confinement of each kind of tile, in a child process.
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { DENO_FLAGS } from "../../cli/self.ts";
import { controlGrants, flags, kept, type Needs } from "../../cli/narrow.ts";
import { ROOT } from "../../ffi/paths.ts";
import { landlock } from "../../scripts/machine.ts";
import { NO_GRANTS } from "../../tiles/runtime/permissions.ts";
import type { TileKind } from "../../tiles/runtime/tile.ts";

const HOST = fileURLToPath(new URL("../fixtures/isolation/host.ts", import.meta.url));

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

async function probe(kind: TileKind, { store }: { store: boolean }) {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...DENO_FLAGS, HOST, JSON.stringify({ kind, store })],
    signal: AbortSignal.timeout(120_000),
  });
  const { code, signal, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, signal, lines: text(stdout).split("\n"), stderr: text(stderr) };
}

for (const kind of ["netlink", "net", "app", "status"] as const) {
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

for (const control of [null, "/run/tegula/eth0.sock"]) {
  const seen = control === null ? "" : ", the one that listens too,";
  Deno.test(`main, once it has booted, may load and restart tiles${seen} and nothing else`, async () => {
    // The second is in a folder that it keeps.
    const files = ["/etc/hostname", `${ROOT}tiles/app/echo.ts`];
    const needs = { grants: controlGrants({ control }), files };
    const { states, stderr } = await settledStates(needs);
    const { read, ffi, write, net } = kept(needs);
    assert.deepEqual(
      Object.keys(states).filter((name) => states[name] === "granted").sort(),
      Object.entries({ read, ffi, write, net })
        .flatMap(([name, values]) => values.map((value) => `${name} ${value}`)).sort(),
      stderr,
    );
  });
}

Deno.test("main keeps what an app was granted by name, to start it again with it", async () => {
  const given = { read: ["/etc/hosts"], env: ["LANG"], net: ["192.0.2.1:9"] };
  const needs = { grants: { ...NO_GRANTS, ...given }, files: [] };
  const { states, stderr } = await settledStates(needs);
  const granted = Object.keys(states).filter((name) => states[name] === "granted");
  for (const each of ["read /etc/hosts", "env LANG", "net 192.0.2.1:9"]) {
    assert.ok(granted.includes(each), `${each}: ${stderr}`);
  }
  for (const each of ["read /etc/passwd", "env HOME", "env NOTIFY_SOCKET", "net", "read", "env"]) {
    assert.ok(!granted.includes(each), each);
  }
});

async function settledStates(needs: Needs) {
  const settled = fileURLToPath(new URL("../fixtures/isolation/settled.ts", import.meta.url));
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-prompt",
      "--unstable-worker-options",
      ...flags(needs),
      settled,
      JSON.stringify(needs),
    ],
  });
  const { stdout, stderr } = await child.output();
  const states = JSON.parse(new TextDecoder().decode(stdout) || "{}") as Record<string, string>;
  return { states, stderr: new TextDecoder().decode(stderr) };
}
