/**
 * What a confined tile can still do and what it cannot, each tried from inside, in a child process.
 */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openHost } from "../../ffi/host.ts";
import { libraryPath } from "../../ffi/paths.ts";
import { openTile, type Role } from "../../ffi/tile.ts";
import type { Result } from "./ffi_tile_child.ts";
import type { Task } from "./ffi_tile_worker.ts";

const ROLES: Role[] = ["app", "net", "netlink", "status"];
const CAP_NET_ADMIN = 1 << 12;
const SIGTERM_BLOCKED = 1n << 14n;
const SIGSEGV_BLOCKED = 1n << 10n;

/** Gives the child `tasks`, one worker after the other, and returns what became of each. */
function confined(...tasks: Partial<Task>[]): Result[] {
  const complete = tasks.map((task) => ({
    role: "app",
    work: "attempts",
    keepNetAdmin: false,
    milliseconds: 0,
    turns: 1,
    ...task,
  }));
  const script = fileURLToPath(new URL("./ffi_tile_child.ts", import.meta.url));
  const run = ["run", "--allow-all", "--no-check", "--unstable-worker-options"];
  const { code, signal, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: [...run, script, JSON.stringify(complete)],
  }).outputSync();
  const decoder = new TextDecoder();
  ok(
    code === 0,
    `${signal ?? code}: ${decoder.decode(stderr)} ${decoder.decode(stdout).slice(0, 99)}`,
  );
  return decoder.decode(stdout).trim().split("\n").map((line) => JSON.parse(line));
}

/** Names of `results` that ended as `how`. */
function ended(results: Record<string, string>, how: (outcome: string) => boolean): string[] {
  return Object.keys(results).filter((name) => how(results[name]));
}

/** What each role may do besides waiting and waking, of all that the worker tries. */
const ALLOWED: Record<Role, string[]> = {
  app: [],
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
    "sendmsg on own",
    "recvmsg on own",
    "netlink.send",
    "netlink.receive",
    "netlink.probe",
    "udp.receive",
  ],
};

for (const role of ROLES) {
  Deno.test(`a confined ${role} tile is refused everything but its own calls`, () => {
    const [{ results }] = confined({ role });
    ok(results);
    const passed = ended(results, (outcome) => outcome !== "EPERM" && outcome !== "-1");
    deepEqual(passed.sort(), ALLOWED[role].sort());
    ok(ended(results, (outcome) => outcome === "EPERM").length > 45);
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
  const [{ thread, main }] = confined({ role: "app" });
  const blocked = BigInt(`0x${thread.SigBlk}`);
  equal(blocked & SIGTERM_BLOCKED, SIGTERM_BLOCKED);
  equal(blocked & SIGSEGV_BLOCKED, 0n);
  equal(BigInt(`0x${main.SigBlk}`) & SIGTERM_BLOCKED, 0n);
});

Deno.test("wait() returns 1 once for any number of wakes, and 0 when there was none", () => {
  const tile = openTile(libraryPath("tile"));
  const host = openHost(libraryPath("host"));
  const eventfd = host.eventfd();
  equal(tile.wait(eventfd, 0), 0);
  tile.wake(eventfd);
  tile.wake(eventfd);
  equal(tile.wait(eventfd, -1), 1);
  equal(tile.wait(eventfd, 1), 0);
});

const LANDLOCK = "landlock by itself keeps a confined tile from every file and from TCP";
Deno.test({ name: LANDLOCK, ignore: !confined({})[0].landlock }, () => {
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/there`, "");
  const [landlocked] = confined({ work: "landlock", folder });
  const names = ["read", "write", "make", "delete"].map((what) => `${what} a file`);
  names.push("read a folder", "make a folder", "connect by TCP");
  const refused = Object.fromEntries(names.map((name) => [name, "EACCES"]));
  deepEqual(landlocked.results, refused);
  deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["there"]);
  Deno.removeSync(folder, { recursive: true });
});
