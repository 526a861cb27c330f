// SPDX-License-Identifier: Apache-2.0
/**
 * What a confined tile can still do and what it cannot, each tried from inside, in a child process.
 */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openHost } from "../../../ffi/host.ts";
import { openTile, type Role } from "../../../ffi/tile.ts";
import type { Result } from "./tile_child.ts";
import type { Task } from "./tile_worker.ts";

const ROLES: Role[] = ["net", "netlink", "status"];
const CAP_NET_ADMIN = 1 << 12;
const SIGTERM_BLOCKED = 1n << 14n;
const SIGSEGV_BLOCKED = 1n << 10n;

/** Deno's flags, with and without V8's use of memory protection keys, where the CPU has them. */
const FLAGS = { "": [], " without protection keys": ["--v8-flags=--no-memory-protection-keys"] };

/** Gives the child `tasks`, one worker after the other, and returns what became of each. */
function confined(...tasks: Partial<Task>[]): Result[] {
  const { code, signal, stdout, stderr } = run(tasks);
  ok(code === 0, `${signal ?? code}: ${stderr} ${stdout.slice(0, 99)}`);
  return stdout.trim().split("\n").map((line) => JSON.parse(line));
}

/** The same, as the child leaves it. */
function run(tasks: readonly Partial<Task>[], flags: readonly string[] = []) {
  const complete = tasks.map((task) => ({
    role: "net",
    work: "attempts",
    keepNetAdmin: false,
    milliseconds: 0,
    turns: 1,
    ...task,
  }));
  const script = fileURLToPath(new URL("./tile_child.ts", import.meta.url));
  const { code, signal, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--allow-all", "--no-check", "--unstable-worker-options", ...flags],
      ...[script, JSON.stringify(complete)],
    ],
  }).outputSync();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, signal, stdout: text(stdout), stderr: text(stderr) };
}

/** Names of `results` that ended as `how`. */
function ended(results: Record<string, string>, how: (outcome: string) => boolean): string[] {
  return Object.keys(results).filter((name) => how(results[name]));
}

/** What every role may do: look where a symbolic link leads, and say its last words, by the observer. */
const ALL_MAY = ["readlink", "write to stdout"];

/** What each role may do besides that, waiting and waking, of all that the worker tries. */
const ALLOWED: Record<Role, string[]> = {
  status: ["accept4", "close", "epoll_ctl", "recvfrom on other's", "recvfrom on own"],
  net: [
    "sendto on own",
    "recvfrom on own",
    "sendmmsg on own",
    "recvmmsg on own",
    "getsockopt on own",
    "udp.send",
    "udp.receive",
  ],
  netlink: [
    "sendto on own",
    "recvmmsg on own",
    "recvmsg on own",
    "netlink.send",
    "netlink.receive",
    "udp.receive",
  ],
};

for (const role of ROLES) {
  Deno.test(`a confined ${role} tile is refused everything but its own calls`, () => {
    const [{ results, refused }] = confined({ role });
    ok(results);
    const passed = ended(results, (outcome) => outcome !== "EPERM" && outcome !== "-1");
    deepEqual(passed.sort(), [...ALL_MAY, ...ALLOWED[role]].sort());
    ok(ended(results, (outcome) => outcome === "EPERM").length > 45);
    for (const call of ["ptrace", "execve", "socket", "bpf", "ioctl", "memfd_create", "mmap"]) {
      equal(refused[call], 1, `${call} was counted`);
    }
  });

  Deno.test(`a confined ${role} tile can wake another`, () => {
    equal(confined({ role })[0].woken, 1);
  });

  Deno.test(`a confined ${role} tile works on for seconds, and may be followed by another`, () => {
    const [first, second] = confined(
      { role, work: "busy", milliseconds: 2000, turns: 20 },
      { role, work: "busy", milliseconds: 100 },
    );
    ok(first.turns! >= 20, `${first.turns} turns, then ${first.error}`);
    equal(first.pings, first.turns);
    match(first.error!, /an error nobody catches/);
    ok(second.turns! >= 1);
    match(second.error!, /an error nobody catches/);
  });
}

for (const [without, flags] of Object.entries(FLAGS)) {
  Deno.test(`what honest code does is not refused to a confined tile${without}`, () => {
    const { code, stdout, stderr } = run([{ work: "honest" }], flags);
    equal(code, 0, stderr);
    const { results, refused } = JSON.parse(stdout) as Result;
    deepEqual(results, {
      "digest of a megabyte": "32",
      "generate a key": "private",
      "time zone": new Intl.DateTimeFormat().resolvedOptions().timeZone,
      "year": `${new Date().getFullYear()}`,
      "the clock by a system call": "ok",
      "stat without a permission": "NotCapable",
      "statSync without a permission": "NotCapable",
      "execPath": "true",
      "memory": "true",
      "timer": "fired",
      "node:crypto": "32",
      "garbage": "done",
      "WebAssembly": "true",
      "a nested worker": "undefined",
    });
    deepEqual(refused, {});
  });

  Deno.test(`an abort in a confined tile is an abort, and its last words are in the log${without}`, () => {
    const { signal, stderr } = run([{ work: "abort" }], flags);
    equal(signal, "SIGABRT");
    match(stderr, /^net: last words\\x1b\[2J\nnet: of one\n/);
  });
}

Deno.test("where the heap of a confined tile overflows, V8's last words are in the log", () => {
  const { signal, stderr } = run([{ work: "overflow" }], ["--v8-flags=--max-old-space-size=64"]);
  equal(signal, "SIGTRAP");
  match(stderr, /^net: # Fatal JavaScript out of memory/m);
});

Deno.test("confine() leaves a net tile the descriptors that it lists, and none between them", () => {
  const [{ results }] = confined({ role: "net", work: "descriptors" });
  ok(results);
  for (const call of ["getsockopt", "recvmmsg"]) equal(results[call], results.listed, call);
  equal(results.read, results.eventfds, "read");
  // The observer writes to standard output and error in its place.
  equal(results.write, JSON.stringify([1, 2, ...JSON.parse(results.eventfds)]), "write");
});

Deno.test("confine() leaves a thread no capability, and main all of its own", () => {
  const [{ thread, main }] = confined({ role: "net" });
  for (const set of ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"]) {
    equal(parseInt(thread[set], 16), 0, set);
  }
  equal(thread.NoNewPrivs, "1");
  equal(thread.Seccomp, "2");
  const own = Deno.readTextFileSync("/proc/self/status");
  equal(main.CapEff, own.match(/CapEff:\s*(\w+)/)![1]);
  equal(main.NoNewPrivs, "0");
  equal(main.Seccomp, "0");
});

Deno.test("confine() leaves the netlink tile CAP_NET_ADMIN when told to, and nothing else", () => {
  const [{ thread }] = confined({ role: "netlink", keepNetAdmin: true });
  equal(parseInt(thread.CapEff, 16), CAP_NET_ADMIN);
  equal(parseInt(thread.CapPrm, 16), CAP_NET_ADMIN);
  equal(parseInt(thread.CapBnd, 16), 0);
});

Deno.test("confine() leaves signals to main, but for those of the thread's own faults", () => {
  const [{ thread, main }] = confined({ role: "net" });
  const blocked = BigInt(`0x${thread.SigBlk}`);
  equal(blocked & SIGTERM_BLOCKED, SIGTERM_BLOCKED);
  equal(blocked & SIGSEGV_BLOCKED, 0n);
  equal(BigInt(`0x${main.SigBlk}`) & SIGTERM_BLOCKED, 0n);
});

Deno.test("wait() returns 1 once for any number of wakes, and 0 when there was none", () => {
  const tile = openTile();
  const host = openHost();
  const eventfd = host.eventfd();
  equal(tile.wait(eventfd, 0), 0);
  tile.wake(eventfd);
  tile.wake(eventfd);
  equal(tile.wait(eventfd, -1), 1);
  equal(tile.wait(eventfd, 1), 0);
});

Deno.test("trim() gives memory back that malloc keeps", () => {
  const { symbols } = Deno.dlopen("libc.so.6", {
    malloc: { parameters: ["usize"], result: "pointer" },
    memset: { parameters: ["pointer", "i32", "usize"], result: "pointer" },
    free: { parameters: ["pointer"], result: "void" },
  });
  // Below the size from which malloc maps memory for each alone.
  const [count, bytes] = [1024, 64 << 10];
  const blocks = Array.from({ length: count }, () => symbols.malloc(BigInt(bytes)));
  for (const block of blocks) symbols.memset(block, 1, BigInt(bytes));
  // The last keeps the heap's end where it is.
  for (const block of blocks.slice(0, -1)) symbols.free(block);
  const before = Deno.memoryUsage().rss;
  openTile().trim();
  ok(before - Deno.memoryUsage().rss > count * bytes / 2);
  symbols.free(blocks.at(-1)!);
});

Deno.test("bePrompt() gives the calling thread the shortest slices that there are, and the usual ones", () => {
  const tile = openTile();
  const slice = () =>
    Number(/se\.slice.*: +(\d+)/.exec(Deno.readTextFileSync("/proc/thread-self/sched"))?.[1]);
  const before = slice();
  equal(tile.bePrompt(true), 0);
  // Kernels before 6.12 have none, and others may not show them.
  if (before > 0) equal(slice(), 100_000);
  equal(tile.bePrompt(false), 0);
  if (before > 0) equal(slice(), before);
});
