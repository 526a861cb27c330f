// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula demo` as its user sees it, and that nothing of it stays, however it ends.
 */

import { strict as assert } from "node:assert";
import { Lines } from "../../../demo/lab.ts";
import { selfCommand } from "../../../cli/command.ts";
import { temporaryFile } from "../config_file.ts";
import { eventually } from "../lab.ts";

/** Where the demo's temporary files would be, so that nobody else's are taken for its. */
const TEMPORARY = Deno.makeTempDirSync();

/** Starts the demo; its output is read as it comes. */
function start(...args: string[]) {
  return startWith({}, args);
}

function startWith(env: Record<string, string>, args: string[]) {
  const [program, ...prefix] = selfCommand();
  const child = new Deno.Command(program, {
    args: [...prefix, "demo", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env: { TMPDIR: TEMPORARY, ...env },
  }).spawn();
  return { child, stdout: new Lines(child.stdout), stderr: new Lines(child.stderr) };
}

async function play(...args: string[]) {
  const { child, stdout, stderr } = start(...args);
  const { code } = await child.status;
  await Promise.all([stdout.closed, stderr.closed]);
  return { code, lines: stdout.all, said: stderr.all.join("\n") };
}

/** Processes and namespaces that there are, as far as the demo could have made them. */
function inventory(): string[] {
  const found = new Set<string>();
  for (const { name: pid } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      found.add(Deno.readTextFileSync(`/proc/${pid}/cmdline`).replaceAll("\0", " "));
      found.add(Deno.readLinkSync(`/proc/${pid}/ns/net`));
    } catch {
      // It ended while we looked.
    }
  }
  for (const folder of ["/run", "/run/netns", TEMPORARY]) {
    for (const { name } of Deno.readDirSync(folder)) found.add(`${folder}/${name}`);
  }
  return [...found].sort();
}

/** Runs `body` and waits until nothing is there that was not there before. */
async function leavesNothing(body: () => Promise<void>): Promise<void> {
  const before = new Set(inventory());
  await body();
  let extra: string[] = [];
  await eventually("everything to be gone", () => {
    extra = inventory().filter((each) => !before.has(each));
    return Promise.resolve(extra.length === 0 ? true : undefined);
  }).catch((error) => {
    throw new Error(`left behind:\n${extra.join("\n")}`, { cause: error });
  });
}

const NAMES = [
  "nothing known",
  "neighbour changes MAC",
  "default route moves",
  "specific route",
  "interface down and up",
  "blackhole route",
  "spoofed flood",
];

for (const [mode, args] of [[/^xdp /, []], [/socket/, ["--provider", "socket"]]] as const) {
  Deno.test(`demo --json ${args.join(" ")} prints one object, ok, and leaves nothing`, async () => {
    await leavesNothing(async () => {
      const { code, lines, said } = await play("--json", "--seconds", "7", ...args);
      assert.equal(lines.length, 1, lines.join("\n"));
      const result = JSON.parse(lines[0]);
      assert.equal(result.ok, true, said);
      assert.equal(code, 0);
      assert.match(result.mode, mode);
      assert.ok(result.sent > 2000, `${result.sent} sent`);
      assert.ok(result.answered > 0 && result.answered <= result.sent);
      assert.equal(result.mismatched, 0);
      assert.ok(result.rttMicros.p50 > 0 && result.rttMicros.p99 >= result.rttMicros.p50);
      assert.deepEqual(result.changes.map(({ name }: { name: string }) => name), NAMES);
      const lost = result.changes.reduce(
        (sum: number, each: { lost: number }) => sum + each.lost,
        0,
      );
      assert.equal(lost, result.sent - result.answered);
    });
  });
}

/**
 * The environment in which `tegula run` is started by a shell that passes signals on, and that ends
 * with status 139. `onCounters` is the signal for the appliance when the demo asks for its counters.
 */
function withBadEnd(onCounters: "USR2" | "ABRT"): Record<string, string> {
  const [deno, ...args] = selfCommand();
  const script = `#!/bin/sh
[ "$1" = run ] || exec ${deno} ${args.join(" ")} "$@"
${deno} ${args.join(" ")} "$@" &
appliance=$!
trap 'kill -TERM $appliance' TERM
trap 'kill -${onCounters} $appliance' USR2
while kill -0 $appliance 2>/dev/null; do wait $appliance; done
exit 139
`;
  const path = temporaryFile(script, ".sh");
  Deno.chmodSync(path, 0o755);
  return { TEGULA_EXECUTABLE: path };
}

Deno.test("demo --json is not ok when its appliance ends badly after the last scene", async () => {
  await leavesNothing(async () => {
    const { child, stdout, stderr } = startWith(withBadEnd("USR2"), ["--json", "--seconds", "1"]);
    const { code } = await child.status;
    await Promise.all([stdout.closed, stderr.closed]);
    assert.equal(code, 1, stderr.all.join("\n"));
    assert.equal(JSON.parse(stdout.all.join("\n")).ok, false);
    assert.equal(
      stderr.all.at(-1),
      "tegula: the appliance ended with status 139 after SIGTERM",
    );
  });
});

Deno.test("demo ends with one sentence when its appliance ends in a scene", async () => {
  await leavesNothing(async () => {
    const { child, stdout, stderr } = startWith(withBadEnd("ABRT"), []);
    const { code } = await child.status;
    await Promise.all([stdout.closed, stderr.closed]);
    assert.equal(code, 1, stderr.all.join("\n"));
    assert.match(
      stderr.all.join("\n"),
      /^tegula: the appliance ended with status 139 in "[\w ]+"$/,
    );
  });
});

for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
  Deno.test(`demo ended by ${signal} in the middle leaves nothing`, async () => {
    await leavesNothing(async () => {
      const { child, stdout, stderr } = start();
      await stdout.find("  ✓", { timeoutMs: 60_000 });
      child.kill(signal);
      const { code } = await child.status;
      await Promise.all([stdout.closed, stderr.closed]);
      assert.notEqual(code, 0);
    });
  });
}

Deno.test("demo --hold stands until it is told to stop, and says how to look at it", async () => {
  await leavesNothing(async () => {
    const { child, stdout, stderr } = start("--hold", "--seconds", "7");
    await stderr.find("Ctrl-C", { timeoutMs: 60_000 });
    // What it prints is typed into a shell as it stands, lines that end with a backslash joined.
    const commands = stderr.all.join("\n").replaceAll("\\\n", "").split("\n")
      .filter((line) => line.startsWith("  nsenter"));
    assert.ok(commands.length >= 4);
    for (const command of commands) {
      const { success, stderr } = await new Deno.Command("sh", { args: ["-c", command] }).output();
      assert.ok(success, `${command}: ${new TextDecoder().decode(stderr)}`);
    }
    await stdout.find("counters: ");
    child.kill("SIGINT");
    assert.equal((await child.status).signal, "SIGINT");
    await Promise.all([stdout.closed, stderr.closed]);
  });
});

Deno.test("demo without root says so in one sentence, status 3", async () => {
  const [program, ...prefix] = selfCommand();
  const { code, stderr } = await new Deno.Command("setpriv", {
    args: ["--reuid", "65534", "--clear-groups", program, ...prefix, "demo"],
  }).output();
  // Deno may say first that it fills this user's cache.
  const said = new TextDecoder().decode(stderr).trim().split("\n");
  assert.equal(code, 3, said.join("\n"));
  assert.match(said.at(-1)!, /^tegula: .*root/);
});

Deno.test("demo refuses wrong options with status 2", async () => {
  for (const args of [["--seconds", "0"], ["--provider", "magic"], ["--what"], ["leftover"]]) {
    const { code, said } = await play(...args);
    assert.equal(code, 2, said);
    assert.match(said, /^tegula: [^\n]+$/);
  }
});
