// SPDX-License-Identifier: Apache-2.0
/**
 * System calls by which native code could leave the process that it got into, and how they are made in a
 * thread of somebody else's (`inject.c`). To try one more, add a line to `CALLS`: what it tries, the
 * call's name, its arguments. Unless the line says otherwise it must fail before the kernel looks at its
 * arguments: with EPERM, EACCES or ENOSYS.
 */

import { fileURLToPath } from "node:url";
import { OBSERVED_CALLS } from "../../ffi/shared.ts";
import { openTile } from "../../ffi/tile.ts";

/** Whom it is tried on, as the thread's own PID namespace does not name them. */
export interface Place {
  readonly master: number;
  /** Another process of the program. */
  readonly other: number;
  /** The process itself. */
  readonly self: number;
  /** Its descriptors of memory that it may only read. */
  readonly readOnly: readonly number[];
}

/** A number, or what is passed by its address: text that ends by a zero, or bytes. */
type Argument = number | string | Uint8Array | ((place: Place) => number | string);

/** A call's name, and its arguments. */
export type Call = readonly [name: string, ...args: Argument[]];

export interface Attempt {
  readonly call: Call;
  /** Errors that it may fail with besides `REFUSED`: the filter lets it pass, and the kernel refuses it. */
  readonly also?: readonly string[];
}

const ERRORS: Readonly<Record<string, number>> = {
  ...{ EPERM: 1, ESRCH: 3, EBADF: 9, EACCES: 13, EEXIST: 17, ENOTTY: 25, ENOSYS: 38 },
};
const REFUSED = ["EPERM", "EACCES", "ENOSYS"];

const ZEROES = new Uint8Array(256);
const AT_FDCWD = -100;
const [SIGUSR1, SIGKILL, SIGCHLD] = [10, 9, 17];
const [O_RDWR, O_CREAT] = [2, 0o100];
const [AF_UNIX, AF_INET, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_XDP] = [
  1,
  2,
  16,
  17,
  38,
  40,
  44,
];
const [STREAM, DGRAM, RAW] = [1, 2, 3];
const NAMESPACES = {
  ...{ mount: 0x20000, cgroup: 0x2000000, UTS: 0x4000000, IPC: 0x8000000 },
  ...{ user: 0x10000000, PID: 0x20000000, network: 0x40000000 },
};
const SOCKETS = {
  ...{ INET: [AF_INET, DGRAM], "INET raw": [AF_INET, RAW], UNIX: [AF_UNIX, STREAM] },
  ...{ NETLINK: [AF_NETLINK, RAW], PACKET: [AF_PACKET, RAW], XDP: [AF_XDP, RAW] },
  ...{ ALG: [AF_ALG, 5], VSOCK: [AF_VSOCK, STREAM] },
};

const master = ({ master }: Place) => master;
const other = ({ other }: Place) => other;
const call = (...call: Call): Attempt => ({ call });

/** What is tried, by what it is for. */
export const CALLS: Readonly<Record<string, Attempt>> = {
  // Other processes.
  "kill the master": call("kill", master, SIGKILL),
  "kill another": call("kill", other, SIGKILL),
  "kill all": call("kill", -1, SIGKILL),
  "abort another": call("kill", other, 6),
  "open the debugger of the master": call("kill", master, SIGUSR1),
  "open its own debugger": call("kill", ({ self }) => self, SIGUSR1),
  "signal a thread": call("tkill", master, SIGKILL),
  "signal a thread of the master": call("tgkill", master, master, SIGKILL),
  "abort a thread of another": call("tgkill", other, other, 6),
  "queue a signal": call("rt_sigqueueinfo", master, SIGUSR1, ZEROES),
  "queue a signal to a thread": call("rt_tgsigqueueinfo", master, master, SIGUSR1, ZEROES),
  "signal by a pidfd": call("pidfd_send_signal", 3, SIGKILL, 0, 0),
  "get a pidfd": call("pidfd_open", master, 0),
  "take another's descriptor": call("pidfd_getfd", 3, 0, 0),
  "trace the master": call("ptrace", 16, master, 0, 0),
  "seize another": call("ptrace", 0x4206, other, 0, 0),
  "be traced": call("ptrace", 0, 0, 0, 0),
  "read another's memory": call("process_vm_readv", other, ZEROES, 1, ZEROES, 1, 0),
  "write the master's memory": call("process_vm_writev", master, ZEROES, 1, ZEROES, 1, 0),
  "compare with the master": call("kcmp", master, other, 0, 0, 0),
  "open the master's memory": call(
    "openat",
    AT_FDCWD,
    ({ master }) => `/proc/${master}/mem`,
    O_RDWR,
  ),
  "open the parent's memory": call("openat", AT_FDCWD, "/proc/1/mem", O_RDWR),
  "open its own memory": call("openat", AT_FDCWD, "/proc/self/mem", O_RDWR),
  "open another's descriptor": call("openat", AT_FDCWD, ({ other }) => `/proc/${other}/fd/4`, 0),
  "read the master's environment": call(
    "openat",
    AT_FDCWD,
    ({ master }) => `/proc/${master}/environ`,
    0,
  ),
  "limit another": call("prlimit64", other, 7, ZEROES, 0),
  "schedule another": call("sched_setscheduler", other, 0, ZEROES),
  "schedule itself before all others": call(
    "sched_setscheduler",
    0,
    1,
    new Uint8Array([1, 0, 0, 0]),
  ),
  "place another": call("sched_setaffinity", other, 8, ZEROES),
  "outlive the master": call("prctl", 1, 0, 0, 0, 0),
  // Other programs, other privileges.
  fork: call("clone", SIGCHLD, 0, 0, 0, 0),
  vfork: call("vfork"),
  "clone by a structure": call("clone3", ZEROES, 88),
  "execute a program": call("execve", "/bin/true", 0, 0),
  "execute a descriptor": call("execveat", 3, "", 0, 0, 0x1000),
  "become root": call("setuid", 0),
  "become root for files": call("setresuid", 0, 0, 0),
  "be in root's group": call("setgid", 0),
  "leave its groups": call("setgroups", 0, 0),
  "take capabilities": call("capset", ZEROES, ZEROES),
  "be dumpable": call("prctl", 4, 1, 0, 0, 0),
  "be traced by anybody": call("prctl", 0x59616d61, -1, 0, 0, 0),
  "put another filter on": call("seccomp", 1, 0, ZEROES),
  "put an old filter on": call("prctl", 22, 2, ZEROES, 0, 0),
  "be another system": call("personality", 0x0040000),
  "raise its limit": { call: ["prlimit64", 0, 7, new Uint8Array(16).fill(255), 0] },
  // Namespaces and file systems.
  ...Object.fromEntries(
    Object.entries(NAMESPACES).map((
      [name, flag],
    ) => [`leave its ${name} namespace`, call("unshare", flag)]),
  ),
  ...Object.fromEntries(
    Object.entries(NAMESPACES).map((
      [name, flag],
    ) => [`clone into a ${name} namespace`, call("clone", flag + SIGCHLD, 0, 0, 0, 0)]),
  ),
  "enter a namespace": call("setns", 3, 0),
  mount: call("mount", "none", "/", "tmpfs", 0, 0),
  unmount: call("umount2", "/proc", 2),
  "open a file system": call("fsopen", "tmpfs", 0),
  "copy a mount": call("open_tree", AT_FDCWD, "/", 1),
  chroot: call("chroot", "/proc"),
  "exchange the root": call("pivot_root", "/", "/"),
  // Files.
  "read a file": call("openat", AT_FDCWD, "/etc/passwd", 0),
  "make a file": call("openat", AT_FDCWD, "/dev/shm/tegula-attack", O_RDWR | O_CREAT, 0o600),
  "make a folder": call("mkdirat", AT_FDCWD, "/dev/shm/tegula-attack", 0o700),
  "make a device": call("mknodat", AT_FDCWD, "/dev/shm/tegula-attack", 0o20666, 0x0101),
  "remove a file": call("unlinkat", AT_FDCWD, "/dev/shm/tegula-attack", 0),
  "rename a file": call("renameat2", AT_FDCWD, "/etc/passwd", AT_FDCWD, "/etc/passwd-", 0),
  "link to a file": call("linkat", AT_FDCWD, "/etc/passwd", AT_FDCWD, "/dev/shm/tegula-attack", 0),
  "make a symbolic link": call("symlinkat", "/etc/passwd", AT_FDCWD, "/dev/shm/tegula-attack"),
  "change a file's mode": call("fchmodat", AT_FDCWD, "/dev/shm", 0o777),
  "change a file's owner": call("fchownat", AT_FDCWD, "/dev/shm", 0, 0, 0),
  "shorten a file": call("truncate", "/etc/passwd", 0),
  "open by a structure": call("openat2", AT_FDCWD, "/", ZEROES, 24),
  "open by a handle": call("open_by_handle_at", 3, ZEROES, 0),
  "watch files": call("inotify_init1", 0),
  "watch all files": call("fanotify_init", 0, 0),
  // Memory and descriptors.
  "make memory with a descriptor": call("memfd_create", "x", 0),
  "make secret memory": call("memfd_secret", 0),
  "share memory that counts nowhere": call("mmap", 0, 4096, 3, 0x21, -1, 0),
  "share memory by System V": call("shmget", 0, 4096, 0o600),
  "make a queue": call("mq_open", "x", O_RDWR | O_CREAT, 0o600, 0),
  "make a System V queue": call("msgget", 0, 0o1600),
  "make a semaphore": call("semget", 0, 1, 0o1600),
  "copy a descriptor": call("dup", 3),
  "copy a descriptor to a place": call("dup3", 3, 60, 0),
  "send a descriptor": call("sendmsg", 3, ZEROES, 0),
  "receive a descriptor": call("recvmsg", 3, ZEROES, 0x40),
  "signals of a descriptor": call("fcntl", 3, 10, SIGKILL),
  "own a descriptor's signals": call("fcntl", 3, 8, master),
  "move pages between pipes": call("splice", 1, 0, 2, 0, 1, 2),
  "give pages to a pipe": call("vmsplice", 1, ZEROES, 1, 2),
  // The kernel.
  ...Object.fromEntries(
    Object.entries(SOCKETS).map((
      [name, [family, type]],
    ) => [`a ${name} socket`, call("socket", family, type, 0)]),
  ),
  "connect a socket": call("connect", 3, ZEROES, 16),
  "bind a socket": call("bind", 3, ZEROES, 16),
  "a pair of INET sockets": call("socketpair", AF_INET, STREAM, 0, ZEROES),
  "load BPF": call("bpf", 0, ZEROES, 64),
  "set io_uring up": call("io_uring_setup", 8, ZEROES),
  "handle page faults": call("userfaultfd", 0),
  "read a keyring": call("keyctl", 0, -3, 0),
  "add a key": call("add_key", "user", "x", "x", 1, -3),
  "ask for a key": call("request_key", "user", "x", 0, -3),
  "measure the machine": call("perf_event_open", ZEROES, 0, -1, -1, 0),
  "load a module": call("finit_module", 3, "", 0),
  "execute another kernel": call("kexec_load", 0, 0, 0, 0),
  "reboot": call("reboot", 0xfee1dead, 672274793, 0, 0),
  "read the kernel's log": call("syslog", 3, ZEROES, 8),
  "set the clock": call("clock_settime", 0, ZEROES),
  "steer the clock": call("clock_adjtime", 0, ZEROES),
  "name the host": call("sethostname", "x", 1),
  "swap": call("swapon", "/dev/shm", 0),
  "account": call("acct", 0),
  "type into a terminal": call("ioctl", 0, 0x5412, "x"),
  "number 1000": call("#1000"),
  ...(Deno.build.arch === "x86_64"
    ? {
      "use ports of the machine": call("iopl", 3),
      "change the descriptor table": call("modify_ldt", 1, ZEROES, 16),
      "a call of x32": call("#0x40000027"),
    }
    : {}),
};

/**
 * What nobody refuses to the appliance, by what it takes it for: its tiles are confined further. Nothing of
 * it concerns another process.
 */
export const OF_APPLIANCE: ReadonlySet<string> = new Set([
  // The unit's MemoryMax bounds it.
  "share memory that counts nowhere",
]);
export const OF_APPLIANCE_BESIDE_TILES: ReadonlySet<string> = new Set([
  ...OF_APPLIANCE,
  // Tiles confine themselves.
  ...["put another filter on", "take capabilities"],
  // The mirror's sockets, and those of the ports, which the tiles have by their numbers.
  ...["a NETLINK socket", "send a descriptor", "receive a descriptor"],
]);

/** What whoever accepts connections might do with other sockets, or with these. */
export const ACCEPTING_CALLS: Readonly<Record<string, Attempt>> = {
  "send to an address": call("sendto", 3, "x", 1, 0, ZEROES, 16),
  "send several": call("sendmmsg", 3, ZEROES, 1, 0),
  "receive several": call("recvmmsg", 3, ZEROES, 1, 0, 0),
  "give a socket a mark": call("setsockopt", 3, 1, 36, ZEROES, 4),
  "give a socket options": call("setsockopt", 3, 0, 4, ZEROES, 4),
};

/** The same for each descriptor of memory that the process may only read. */
export const READ_ONLY_CALLS: Readonly<Record<string, (fd: number) => Attempt>> = {
  "map it to write": (fd) => call("mmap", 0, 4096, 3, 1, fd, 0),
  "open it anew to write": (fd) => call("openat", AT_FDCWD, `/proc/self/fd/${fd}`, O_RDWR),
  "change its size": (fd) => call("ftruncate", fd, 0),
  "make a hole in it": (fd) => call("fallocate", fd, 3, 0, 4096),
  "seal it": (fd) => call("fcntl", fd, 1033, 2),
  "write to it": (fd) => ({ call: ["write", fd, "x", 1], also: ["EBADF"] }),
  "write to a place of it": (fd) => ({ call: ["pwrite64", fd, "x", 1, 0], also: ["EBADF"] }),
  "copy into it": (fd) => call("copy_file_range", fd, 0, fd, 0, 1, 0),
};

const tile = openTile();
const NUMBERS = new Map(
  Array.from({ length: OBSERVED_CALLS }, (_, number) => [tile.callName(number), number]),
);

/** The number of a call on this architecture; undefined where it has none of that name. */
export function numberOf(name: string): number | undefined {
  return name.startsWith("#") ? Number(name.slice(1)) : NUMBERS.get(name);
}

let injector: string | undefined;

/** Builds `inject.c`, once. */
function buildInjector(): string {
  if (injector !== undefined) return injector;
  const path = `${Deno.makeTempDirSync({ prefix: "tegula-inject-" })}/inject`;
  const source = fileURLToPath(new URL("./inject.c", import.meta.url));
  const warnings = ["-Wall", "-Wextra", "-Werror"];
  const { success, stderr } = new Deno.Command("gcc", {
    args: ["-std=gnu11", "-O1", ...warnings, source, "-o", path],
  }).outputSync();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return injector = path;
}

/** What a call returned, -errno where it failed; null where the thread has ended. */
export type Outcome = number | null;

/** Has the thread `tid` make the calls, each `times` times, and returns what the last of each returned. */
export async function inject(
  tid: number,
  calls: readonly Call[],
  place: Place,
  times = 1,
): Promise<Outcome[]> {
  const bytes = (argument: Uint8Array) => `x${argument.toHex()}`;
  const word = (argument: Argument): string => {
    const value = typeof argument === "function" ? argument(place) : argument;
    if (typeof value === "number") return String(value);
    return bytes(typeof value === "string" ? new TextEncoder().encode(`${value}\0`) : value);
  };
  const lines = calls.map(([name, ...args]) =>
    [times, numberOf(name), ...args.map(word)].join(" ") + "\n"
  );
  const child = new Deno.Command(buildInjector(), {
    args: [String(tid)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const written = new Blob(lines).stream().pipeTo(child.stdin).catch(() => {});
  const { success, stdout, stderr } = await child.output();
  await written;
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const said = new TextDecoder().decode(stdout).trim().split("\n");
  return calls.map((_, i) => /^-?\d/.test(said[i] ?? "") ? Number(said[i].split(" ")[0]) : null);
}

/** What an attempt may end with, as `inject` returns it. */
export function allowedErrors({ also = [] }: Attempt): number[] {
  return [...REFUSED, ...also].map((name) => -ERRORS[name]);
}

/** Everything that is tried in a process, by what it tries, that this architecture has. */
export function attemptsOn(place: Place): [what: string, Attempt][] {
  const all = [
    ...Object.entries(CALLS),
    ...place.readOnly.flatMap((fd) =>
      Object.entries(READ_ONLY_CALLS).map(([what, of]) =>
        [`descriptor ${fd}, read-only: ${what}`, of(fd)] as [string, Attempt]
      )
    ),
  ];
  return all.filter(([, { call: [name] }]) => numberOf(name) !== undefined);
}

/** Threads of a process. */
export function threadsOf(pid: number): number[] {
  return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => Number(name));
}

/** Fields of `/proc/PID/task/TID/status`. */
export function statusOf(pid: number, tid: number): Readonly<Record<string, string>> {
  const text = Deno.readTextFileSync(`/proc/${pid}/task/${tid}/status`);
  return Object.fromEntries(
    [...text.matchAll(/^(\w+):[ \t]*(.*?)[ \t]*$/gm)].map(([, name, value]) => [name, value]),
  );
}

/** Descriptors of shared memory that the process may only read. */
export function readOnlyDescriptors(pid: number): number[] {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => Number(name)).filter((fd) => {
    const flags = /^flags:\s+(\d+)/m.exec(Deno.readTextFileSync(`/proc/${pid}/fdinfo/${fd}`))![1];
    return Deno.readLinkSync(`/proc/${pid}/fd/${fd}`).startsWith("/memfd:") &&
      (parseInt(flags, 8) & 3) === 0;
  });
}
