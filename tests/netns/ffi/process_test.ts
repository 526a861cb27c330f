// SPDX-License-Identifier: Apache-2.0
/**
 * Walls of a confined process, each tried from inside: as root, as an ordinary user, as a unit that may
 * not make namespaces, and what the caller sees of it.
 */

import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { libraryPath, ROOT } from "../../../ffi/library.ts";
import { openProcesses, RUN_FLAGS } from "../../../ffi/process.ts";
import { openObserver, SLOT_BYTES } from "../../../ffi/tile.ts";
import type { Said } from "./process_appliance.ts";
import type { Outcome, Task } from "./process_host.ts";
import type { Upgraded } from "./process_upgrade.ts";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const EPERM = 1, EACCES = 13, EINVAL = 22, ENOSYS = 38, EOPNOTSUPP = 95;
const CAP_NET_ADMIN = 1 << 12;

/** A folder that every user can read, with all that a child loads. */
const FOLDER = makeFolder();
addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));

function makeFolder(): string {
  const folder = Deno.makeTempDirSync({ prefix: "process-" });
  Deno.chmodSync(folder, 0o755);
  const source = `${HERE}process_attacks.c`;
  run("gcc", "-shared", "-fPIC", "-O1", "-o", `${folder}/attacks.so`, source);
  run("gcc", "-O1", "-o", `${folder}/without_namespaces`, source);
  run("gcc", "-O1", "-DLISTENER", "-o", `${folder}/beneath_a_listener`, source);
  Deno.copyFileSync(`${HERE}process_child.js`, `${folder}/process_child.js`);
  Deno.copyFileSync(libraryPath(), `${folder}/libtegula.so`);
  // Plain JavaScript, as an app's process gets it.
  const modules = ["region", "library"].map((name) => `${ROOT}ffi/${name}.ts`);
  run(Deno.execPath(), "transpile", "--quiet", "--outdir", folder, ...modules);
  for (const { name } of Deno.readDirSync(`${folder}/ffi`)) {
    const text = Deno.readTextFileSync(`${folder}/ffi/${name}`);
    Deno.writeTextFileSync(`${folder}/${name}`, text.replaceAll(/(from "\..*)\.ts"/g, '$1.js"'));
  }
  copyTree(`${folder}/appliance`, "process_appliance.ts");
  for (const { name } of Deno.readDirSync(folder)) Deno.chmodSync(`${folder}/${name}`, 0o755);
  return folder;
}

/** Copies to `folder` what a program of this folder has loaded, as it lies in the source tree. */
function copyTree(folder: string, program: string): void {
  for (const part of ["ffi", "build", "tests/netns/ffi"]) {
    Deno.mkdirSync(`${folder}/${part}`, { recursive: true });
    for (const { name, isFile } of Deno.readDirSync(`${ROOT}${part}`)) {
      if (!isFile || (part === "tests/netns/ffi" && name !== program)) continue;
      Deno.copyFileSync(`${ROOT}${part}/${name}`, `${folder}/${part}/${name}`);
    }
  }
}

function run(program: string, ...args: string[]): void {
  const { success, stderr } = new Deno.Command(program, { args }).outputSync();
  ok(success, new TextDecoder().decode(stderr));
}

/** Who starts the process, as a command that the host is an argument of. */
const STARTERS: { readonly [name: string]: readonly string[] } = {
  root: [],
  user: ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"],
  unit: [
    ...["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs"],
    ...["--inh-caps=-all,+net_admin,+net_raw,+bpf,+net_bind_service"],
    ...["--ambient-caps=-all,+net_admin,+net_raw,+bpf,+net_bind_service", "--bounding-set=-all"],
    `${FOLDER}/without_namespaces`,
  ].filter((arg) => arg !== "--bounding-set=-all"),
  nobody: [
    ...["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"],
    `${FOLDER}/without_namespaces`,
  ],
  beneath: [`${FOLDER}/beneath_a_listener`],
};

function command(
  starter: string,
  task: Partial<Task>,
  { deno = Deno.execPath(), here = HERE } = {},
): Deno.Command {
  const argument = JSON.stringify({ folder: FOLDER, options: {}, ...task });
  const host = [
    ...[
      deno,
      "run",
      "--allow-all",
      "--no-check",
      "--no-lock",
      "--unstable-worker-options",
    ],
    ...[`${here}process_host.ts`, argument],
  ];
  const [program, ...args] = [...STARTERS[starter], ...host];
  return new Deno.Command(program, { args, stdout: "piped", stderr: "piped" });
}

/** Has a child started by `starter` do `work`, and returns what came of it, and its words. */
function outcome(
  starter: string,
  work: string,
  task: Partial<Task> = {},
  from?: Parameters<typeof command>[2],
): Outcome & { words: string } {
  const { success, stdout, stderr } = command(starter, { work, ...task }, from).outputSync();
  const [out, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  ok(success, `${out}${words}`);
  return { ...JSON.parse(out.trim().split("\n").at(-1)!), words };
}

const NAMESPACES = [
  "it is in the host's network namespace",
  "it is in the host's PID namespace",
  "it is in the host's IPC, UTS and cgroup namespaces",
];
const USER = "it has the user of the process that started it";
const OBSERVER = "its refused system calls are not counted";
const THREADS = "its threads are not limited";
const MISSING: { readonly [starter: string]: readonly string[] } = {
  root: [],
  user: [USER],
  unit: [...NAMESPACES, USER, THREADS],
  nobody: [...NAMESPACES, USER, THREADS],
  beneath: [OBSERVER],
};

/** What is refused otherwise than with EPERM. */
const OTHERWISE: { readonly [attack: string]: number } = {
  clone3: ENOSYS,
  io_uring_setup: ENOSYS,
  openat2: ENOSYS,
  "socket INET": EACCES,
  "socket UNIX": EACCES,
  "socket NETLINK": EACCES,
  "open to read": EACCES,
  "open memory": EACCES,
  "open to write": EACCES,
  "open a region": EACCES,
  mkdir: EACCES,
  unlink: EACCES,
};

for (const starter of Object.keys(STARTERS)) {
  Deno.test(`started by ${starter}: what /proc shows, and which walls are missing`, () => {
    const { missing, status, limits, namespaces, messages, ending, refused, firstMessageMs } =
      outcome(
        starter,
        "ready",
        { then: "kill", options: { memoryMib: 256, uid: 60123 } },
      );
    deepEqual(missing, MISSING[starter]);
    deepEqual(messages, [{ ready: true }]);
    deepEqual(ending, { status: 0, signal: 9 });
    deepEqual(refused, {});
    const own = !MISSING[starter].includes(NAMESPACES[0]);
    deepEqual(namespaces, {
      ...{ net: own, ipc: own, uts: own, pid: own, cgroup: own },
      user: starter === "user",
    });
    equal(status.Uid.split(/\s+/)[0], MISSING[starter].includes(USER) ? "1000" : "60123");
    equal(status.Groups, "");
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
      equal(parseInt(status[set], 16), 0, set);
    }
    if (starter === "root" || starter === "user") equal(parseInt(status.CapBnd, 16), 0);
    equal(status.NoNewPrivs, "1");
    equal(status.Seccomp, "2");
    const blocked = BigInt(`0x${status.SigBlk}`);
    for (const signal of [1, 2, 10, 12, 15]) ok(blocked >> BigInt(signal - 1) & 1n, `${signal}`);
    equal(limits["Max core file size"], "0");
    equal(limits["Max open files"], "64");
    equal(limits["Max locked memory"], "0");
    equal(limits["Max msgqueue size"], "0");
    equal(limits["Max data size"], String((256 + 530) << 20));
    if (!MISSING[starter].includes(THREADS)) equal(limits["Max processes"], "256");
    console.log(`started by ${starter}: first message after ${firstMessageMs.toFixed(0)} ms`);
  });

  Deno.test(`started by ${starter}: no system call opens a way out`, () => {
    const { messages, ending, refused, words } = outcome(starter, "attack");
    deepEqual(ending, { status: 0, signal: 0 }, words);
    const [{ errors }] = messages;
    ok(Object.keys(errors).length > 50, `${Object.keys(errors).length} attacks`);
    const expected = Object.keys(errors).map((name) => [name, OTHERWISE[name] ?? EPERM]);
    deepEqual(errors, Object.fromEntries(expected));
    if (MISSING[starter].includes(OBSERVER)) return deepEqual(refused, {});
    // Each is counted, but those that have an answer of their own, or that the seal refuses.
    for (const call of ["memfd_create", "ptrace", "bpf", "mount", "socket", "ftruncate", "kill"]) {
      ok(refused[call] > 0, `${call}: ${JSON.stringify(refused)}`);
    }
  });
}

/** What an appliance may do outside of its tiles that an app's process may not. */
const APPLIANCE_MAY: { readonly [attack: string]: number } = {
  "socket INET": ENOSYS,
  "socket NETLINK": 0,
  // Wrong arguments, and landlock's, which is asked after the filter.
  seccomp: EINVAL,
  capset: EINVAL,
  "open to read": EACCES,
  "open memory": EACCES,
};
/** Of what a tile is refused, calls that its filter has an answer of its own to. */
const UNCOUNTED: { readonly [attack: string]: number } = {
  clone3: ENOSYS,
  "shared memory without a file": ENOSYS,
};

for (const starter of Object.keys(STARTERS)) {
  Deno.test(`an appliance started by ${starter} runs tiles that confine themselves`, () => {
    const { messages, missing, status, namespaces, ending, answers, written, words } = outcome(
      starter,
      "appliance",
      {
        then: "kill",
        udpSockets: 8,
        permissions: ["--allow-net"],
        options: { role: "appliance", uid: 60123, netAdmin: true },
      },
    );
    deepEqual(ending, { status: 0, signal: 9 }, words);
    const unprivileged = !["root", "beneath"].includes(starter);
    const netAdmin = !["user", "nobody"].includes(starter) ? CAP_NET_ADMIN : 0;
    deepEqual(missing, unprivileged ? [...NAMESPACES.slice(1), USER, THREADS] : []);
    deepEqual(namespaces, {
      ...{ net: false, user: false, ipc: !unprivileged, uts: !unprivileged },
      ...{ pid: !unprivileged, cgroup: !unprivileged },
    });
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
      equal(parseInt(status[set], 16), netAdmin, set);
    }
    equal(status.NoNewPrivs, "1");
    const [{ tiles, listeners, digest, main }] = messages;
    deepEqual([listeners, answers, digest, written], [[true, true], ["back", "back"], 32, 42]);
    equal(tiles.netlink.did.port, true);
    deepEqual(tiles.net.did.rings, unprivileged ? EOPNOTSUPP : 0);
    equal(tiles.net.did.ready, 0);
    // The launcher's own filter refuses it before ours.
    const namespace = ["unit", "nobody"].includes(starter) ? EPERM : ENOSYS;
    const otherwise: { readonly [attack: string]: number } = { ...APPLIANCE_MAY, namespace };
    deepEqual(
      main,
      Object.fromEntries(Object.keys(main).map((name) => [name, otherwise[name] ?? ENOSYS])),
    );
    for (const [role, tile] of Object.entries<Said>(tiles)) {
      deepEqual(tile.confined, { landlock: true, observed: starter !== "beneath" }, role);
      equal(parseInt(tile.capabilities, 16), role === "netlink" ? netAdmin : 0, role);
      // The process's own filter refuses these, so that they do not wait for a tile's.
      ok(Object.keys(tile.signals).length === 9);
      deepEqual([...new Set(Object.values(tile.signals))], [ENOSYS], role);
      ok(Object.keys(tile.errors).length > 50);
      deepEqual(
        tile.errors,
        Object.fromEntries(
          Object.keys(tile.errors).map((name) => [name, UNCOUNTED[name] ?? EPERM]),
        ),
        role,
      );
      if (starter === "beneath") continue;
      for (const call of ["ptrace", "execve", "socket", "openat", "seccomp", "memfd_create"]) {
        ok(tile.refused.includes(call), `${role}: ${call} of ${tile.refused}`);
      }
    }
  });
}

Deno.test("an appliance may have 4,096 sockets, and descriptors for 20 workers besides", () => {
  const { messages, limits, answers, words } = outcome("root", "appliance", {
    then: "kill",
    udpSockets: 4096,
    permissions: ["--allow-net"],
    options: { role: "appliance", uid: 60123 },
  });
  deepEqual(answers, ["back", "back"], words);
  equal(messages[0].tiles.net.did.ready, 0);
  equal(limits["Max open files"], String(4 + 5 + 4096 + 1 + 512));
  equal(limits["Max processes"], "1024");
});

const PROCESSES = ["app", "appliance"] as const;
/** MiB for a process with one worker, for which V8 reserves as much again. */
const WITH_A_WORKER = 256 + 530;

for (const role of PROCESSES) {
  Deno.test(`honest code has crypto, timers, workers and its files, and is refused nothing: ${role}`, () => {
    const { messages, ending, refused } = outcome("root", "honest", {
      options: { role, memoryMib: WITH_A_WORKER },
    });
    deepEqual(messages, [{
      honest: {
        digest: 32,
        worker: 2,
        own: true,
        file: "NotCapable",
        command: "NotCapable",
        connect: "NotCapable",
        memory: true,
        date: "1970-01-01T00:00:00.000Z",
        random: 4,
        path: Deno.execPath(),
      },
    }]);
    deepEqual(refused, {});
    deepEqual(ending, { status: 0, signal: 0 });
  });

  Deno.test(`what is granted works, and opens nothing else: ${role}`, async () => {
    const folder = `${FOLDER}/own ${role}`;
    const refusal = (error: number) => role === "app" ? error : ENOSYS;
    Deno.mkdirSync(folder);
    Deno.chmodSync(folder, 0o777);
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    const echo = (async () => {
      const connection = await listener.accept();
      await connection.readable.pipeTo(connection.writable);
    })();
    const { stdout, stderr } = await command("root", {
      work: "granted",
      then: "kill",
      permissions: ["--unstable-net", "--allow-net", "--allow-env=TASK", `--allow-write=${FOLDER}`],
      options: {
        role,
        net: true,
        ports: [port],
        clock: true,
        write: [folder],
        env: { TASK: JSON.stringify({ port, file: `${folder}/file` }) },
      },
    }).output();
    const words = new TextDecoder().decode(stderr);
    const { messages, namespaces, refused } = JSON.parse(new TextDecoder().decode(stdout));
    deepEqual(messages, [{
      granted: {
        answer: 7,
        datagram: 9,
        file: "written",
        other: "PermissionDenied",
        elsewhere: "PermissionDenied",
        clock: { adjtimex: 0 },
        errors: {
          "open to read": EACCES,
          "open memory": EACCES,
          "open to write": EACCES,
          "open a region": EACCES,
          openat2: ENOSYS,
          mkdir: EACCES,
          fork: refusal(EPERM),
          execve: refusal(EPERM),
          execveat: refusal(EPERM),
          memfd_create: refusal(EPERM),
          ptrace: refusal(EPERM),
          "socket UNIX": refusal(EACCES),
        },
      },
    }], words || undefined);
    equal(namespaces.net, false);
    equal(namespaces.pid, true);
    equal(refused.ptrace, role === "app" ? 1 : undefined);
    await echo;
    listener.close();
  });
}

Deno.test("regions are shared by their descriptors, and one for reading stays so", () => {
  const { messages, written, ending } = outcome("root", "regions");
  deepEqual(messages, [{
    regions: {
      read: 41,
      seen: 41,
      open: "SystemError",
      load: "NotCapable",
      errors: [EACCES, EACCES],
    },
  }]);
  equal(written, 42);
  deepEqual(ending, { status: 0, signal: 0 });
});

Deno.test("Deno and the libraries may lie in a folder that is closed to the child's user", () => {
  const closed = `${FOLDER}/closed`;
  Deno.mkdirSync(closed, { mode: 0o700 });
  copyTree(closed, "process_host.ts");
  Deno.copyFileSync(Deno.execPath(), `${closed}/deno`);
  const from = { deno: `${closed}/deno`, here: `${closed}/tests/netns/ffi/` };
  const { messages, ending, refused } = outcome("root", "honest", {
    options: { memoryMib: WITH_A_WORKER, uid: 60123 },
  }, from);
  equal(messages[0].honest.path, `${closed}/deno`);
  deepEqual([messages[0].honest.worker, refused, ending], [2, {}, { status: 0, signal: 0 }]);
  // Without the seal there is no start: the loader would continue.
  Deno.chmodSync(`${closed}/build/libtegula_seal.so`, 0o600);
  const task = { work: "ready", options: { uid: 60123 } };
  const { success, stderr } = command("root", task, from).outputSync();
  equal(success, false);
  match(new TextDecoder().decode(stderr), /\(open the library that seals it\): EACCES/);
  Deno.chmodSync(`${closed}/build/libtegula_seal.so`, 0o755);
  // The seal is on: execve is refused by it alone.
  const { messages: [{ errors }] } = outcome("root", "attack", { options: { uid: 60123 } }, from);
  deepEqual([errors.execve, errors.execveat, errors.seccomp], [EPERM, EPERM, EPERM]);
});

Deno.test("a program that was replaced goes on to start what it is", () => {
  const deno = `${FOLDER}/replaced`;
  Deno.copyFileSync(Deno.execPath(), deno);
  const { messages, missing } = outcome("root", "ready", { then: "kill", replaced: true }, {
    deno,
  });
  deepEqual([messages, missing], [[{ ready: true }], []]);
});

Deno.test("readableBy() says whether a user can read a file, as its folders let it", () => {
  const { readableBy } = openProcesses();
  const folder = `${FOLDER}/readable`;
  Deno.mkdirSync(`${folder}/in`, { recursive: true, mode: 0o755 });
  Deno.writeTextFileSync(`${folder}/in/file`, "", { mode: 0o640 });
  Deno.chownSync(`${folder}/in/file`, 60123, 60124);
  const readers = () =>
    [[0, 0], [60123, 60123], [1000, 60124], [1000, 1000]]
      .map(([uid, gid]) => readableBy(`${folder}/in/file`, uid, gid));
  deepEqual(readers(), [true, true, true, false]);
  Deno.chmodSync(folder, 0o710);
  deepEqual(readers(), [true, false, false, false]);
  equal(readableBy(folder, 0), true);
  Deno.chmodSync(folder, 0o744);
  equal(readableBy(folder, 1000), false, "a folder has to be entered, too");
  Deno.chmodSync(folder, 0o755);
  equal(readableBy(folder, 1000), true);
  equal(readableBy(`${folder}/none`, 0), false);
});

Deno.test("a process that spins is ended and reaped", () => {
  const { ending, reapedMs } = outcome("root", "spin", { then: "kill" });
  deepEqual(ending, { status: 0, signal: 9 });
  console.log(`reaped after ${reapedMs.toFixed(1)} ms`);
});

const ENDS: { readonly [work: string]: Outcome["ending"] } = {
  crash: { status: 0, signal: 11 },
  exit: { status: 7, signal: 0 },
  heap: { status: 0, signal: 5 },
};
for (const [work, ending] of Object.entries(ENDS)) {
  Deno.test(`a process ends alone: ${work}`, () => {
    deepEqual(outcome("root", work, { options: { memoryMib: 64 } }).ending, ending);
  });
}

Deno.test("memory is bounded where it is no heap", () => {
  const { messages } = outcome("root", "buffers", { options: { memoryMib: 256 } });
  equal(messages[0].error, "RangeError");
  ok(messages[0].buffers > 100 && messages[0].buffers <= 256, `${messages[0].buffers} MiB`);
});

Deno.test("what a process writes is said in its name, in bounds, without control characters", () => {
  const { words, ending } = outcome("root", "talk");
  const lines = words.trim().split("\n");
  for (const line of lines) match(line, /^child: /);
  match(lines[0], /^child: line 0\\x1b\[31m$/);
  ok(lines.length < 500, `${lines.length} lines`);
  deepEqual(ending, { status: 1, signal: 0 });
});

Deno.test("what names itself is said as it is, in wider bounds", () => {
  const { words } = outcome("root", "talk", { verbatim: true });
  const lines = words.trim().split("\n");
  equal(lines[0], "line 0\\x1b[31m");
  ok(lines.length > 500 && lines.length < 5000, `${lines.length} lines`);
  equal(outcome("root", "long", { verbatim: true }).words.length, 4096 + 1);
});

Deno.test("a slot of the observer goes from process to process, and each line is its process's", () => {
  const { words } = outcome("root", "name", { times: 20 });
  const names = Array.from({ length: 20 }, (_, i) => i < 19 ? `child ${i + 1}` : "child");
  deepEqual(words.trim().split("\n"), names.map((name) => `${name}: ${name}`));
});

/** Starts a process that stays, and its host; ends both after `body`. */
async function whileItStays(
  starter: string,
  task: Partial<Task>,
  body: (pid: number) => void,
): Promise<void> {
  const host = command(starter, { work: "ready", then: "stay", ...task }).spawn();
  const reader = host.stdout.pipeThrough(new TextDecoderStream()).getReader();
  body(parseInt((await reader.read()).value!));
  host.kill("SIGKILL");
  await host.status;
  await reader.cancel();
  await host.stderr.cancel();
}

for (const starter of ["root", "user", "unit"]) {
  Deno.test(`started by ${starter}: where memory runs out apps are ended before the appliance`, async () => {
    for (const [role, score] of [["app", 1000], ["appliance", 500]] as const) {
      await whileItStays(starter, { options: { role } }, (pid) => {
        equal(Number(Deno.readTextFileSync(`/proc/${pid}/oom_score_adj`)), score);
      });
    }
  });
}

Deno.test("a process dies with the one that started it", async () => {
  let pid = 0;
  await whileItStays("root", {}, (child) => {
    pid = child;
    ok(Deno.readTextFileSync(`/proc/${pid}/status`).includes("deno"));
  });
  for (let i = 0;; i++) {
    ok(i < 10_000, "it is alive");
    try {
      // A zombie is dead; process 1 of this namespace reaps it.
      if (/State:\s+Z/.test(Deno.readTextFileSync(`/proc/${pid}/status`))) break;
    } catch {
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
});

for (const starter of ["root", "user"]) {
  Deno.test(`a master started by ${starter} executes itself in its place, and its child goes on`, () => {
    const writable = Deno.makeTempDirSync({ prefix: "process-writable-" });
    Deno.chmodSync(writable, 0o777);
    const [program, ...args] = [
      ...STARTERS[starter],
      ...[Deno.execPath(), "run", "--allow-all", "--no-check", "--no-lock"],
      ...[`${HERE}process_upgrade.ts`, FOLDER, writable],
    ];
    const { stdout, stderr } = new Deno.Command(program, { args }).outputSync();
    const words = new TextDecoder().decode(stderr);
    ok(stdout.length > 0, words);
    const got: Upgraded = JSON.parse(new TextDecoder().decode(stdout));
    equal(got.pids[1], got.pids[0]);
    equal(got.parentOfChild, got.pids[1]);
    equal(got.answer, "attack");
    deepEqual(got.refused, ["ptrace"]);
    deepEqual([got.ready, got.ending], [1, { status: 0, signal: 9 }]);
    deepEqual(got.next, { missing: MISSING[starter], answer: "second" });
    match(words, /^child: asked first\nchild: asked attack\nchild: asked second\n/);
    // CAP_SYS_PTRACE and CAP_SYS_MODULE are none that it needs.
    ok(got.threads.length > 3);
    for (const thread of got.threads) {
      const [noNewPrivileges, effective, bounding] = thread.split(",");
      equal(noNewPrivileges, "1");
      equal(BigInt(`0x${effective}`) & 0x90000n, 0n);
      if (starter === "root") equal(effective, bounding);
    }
    deepEqual(got.tried, {
      "write in its folder": "done",
      "listen in its folder": "done",
      "write elsewhere": "PermissionDenied",
      "remove elsewhere": "PermissionDenied",
      "read elsewhere": "done",
      execute: "done",
      "bind TCP": "SystemError",
      // Nobody listens there, and that it may ask.
      "connect TCP": "ConnectionRefused",
    });
    Deno.removeSync(writable, { recursive: true });
  });
}

Deno.test("100 starts leave no descriptor behind", () => {
  const { descriptors: [before, after] } = outcome("root", "exit", { times: 100 });
  // Deno itself opens two, half a second after it was started.
  ok(after <= before + 2, `${before} before, ${after} after`);
});

Deno.test("what the observer hears by is also the caller's, until it closes the process", async () => {
  const processes = openProcesses();
  const observer = openObserver();
  const link = (fd: number | string) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return null;
    }
  };
  const moment = () => new Promise((resolve) => setTimeout(resolve, 1));
  observer.start(new Uint32Array(new SharedArrayBuffer(SLOT_BYTES)));
  const script = `${FOLDER}/process_child.js`;
  const child = processes.start({
    name: "child",
    args: [...RUN_FLAGS, `--allow-read=${FOLDER}`, `--allow-ffi=${FOLDER}`, script, "spin"],
    read: [FOLDER],
  });
  observer.hear({ ...child, slot: 0 });
  const own = [child.pidfd, child.channel, child.words, child.listener];
  const before = own.map(link);
  const copies = () =>
    [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => link(name) === before[2]).length;
  equal(copies(), 2, "the observer has one, and the caller");
  child.kill();
  while (child.wait() === null) await moment();
  for (let i = 0; i < 10_000 && copies() > 1; i++) await moment();
  equal(copies(), 1, "the observer has closed its own");
  deepEqual(own.map(link), before);
  // What is left of it can be heard again, as after an upgrade.
  observer.hear({ ...child, slot: 0 });
  child.close();
  for (let i = 0; i < 10_000 && copies() > 0; i++) await moment();
  equal(copies(), 0);
  deepEqual(own.map((fd, i) => link(fd) === before[i]), [false, false, false, false]);
  throws(() => observer.hear({ ...child, slot: 0 }), /observe the process of child: EBADF/);
});

Deno.test("a start that cannot be says at which step, and leaves nothing behind", () => {
  const { success, stderr } = command("root", {
    work: "ready",
    options: { descriptors: [999] },
  }).outputSync();
  equal(success, false);
  match(
    new TextDecoder().decode(stderr),
    /cannot start the process of child \(put its descriptors in place\): EBADF, bad file descriptor/,
  );
});
