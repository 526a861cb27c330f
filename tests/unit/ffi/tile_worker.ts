// SPDX-License-Identifier: Apache-2.0
/**
 * A tile in the making, for `tile_test.ts`: confines itself in the role it is told, then
 * tries what it must not do (`attempts`), does what honest code may do at any time (`honest`), works
 * hard for a while (`busy`) and ends by an error that nobody catches, ends the process (`abort`,
 * `overflow`), or
 * asks which descriptors it reaches (`descriptors`).
 */

/// <reference lib="deno.worker" />

import { errnoName } from "../../../ffi/library.ts";
import { openNetlink, openUdp, openUdpSetup } from "../../../ffi/sockets.ts";
import { openTile, type Role } from "../../../ffi/tile.ts";

/** What the child sends to begin with. */
export interface Task {
  readonly role: Role;
  readonly work: "attempts" | "descriptors" | "busy" | "honest" | "abort" | "overflow";
  /** Of the observer's counters. */
  readonly slot: number;
  readonly keepNetAdmin: boolean;
  /** An eventfd of the child's main thread. */
  readonly eventfd: number;
  /** How long `busy` continues at least, and for how many turns. */
  readonly milliseconds: number;
  readonly turns: number;
}

/** x86-64's. */
const SYS_GETTIMEOFDAY = 96n;
const PROT_READ = 1;
const MAP_SHARED = 1;
const F_SETFL = 4;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const O_RDWR = 2;
const IN_NONBLOCK = 0o4000;

const libc = Deno.dlopen("libc.so.6", {
  syscall: {
    parameters: ["i64", "i64", "buffer", "i64", "i64", "buffer", "i64"],
    result: "i64",
  },
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "isize" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  gettid: { parameters: [], result: "i32" },
  abort: { parameters: [], result: "void" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  __errno_location: { parameters: [], result: "pointer" },
}).symbols;

const tile = openTile();
const udp = openUdp();
const udpSetup = openUdpSetup();
const netlink = openNetlink();

/** x86-64 numbers of system calls that no tile may make whatever the arguments. */
const FORBIDDEN: Record<string, number> = {
  open: 2,
  openat: 257,
  openat2: 437,
  stat: 4,
  readlink: 89,
  unlink: 87,
  chdir: 80,
  ioctl: 16,
  dup: 32,
  close: 3,
  pipe2: 293,
  socket: 41,
  connect: 42,
  bind: 49,
  listen: 50,
  accept4: 288,
  setsockopt: 54,
  clone: 56,
  fork: 57,
  execve: 59,
  execveat: 322,
  kill: 62,
  tkill: 200,
  tgkill: 234,
  ptrace: 101,
  process_vm_readv: 310,
  process_vm_writev: 311,
  pidfd_open: 434,
  capset: 126,
  prctl: 157,
  seccomp: 317,
  setuid: 105,
  prlimit64: 302,
  mount: 165,
  unshare: 272,
  setns: 308,
  bpf: 321,
  io_uring_setup: 425,
  memfd_create: 319,
  perf_event_open: 298,
  eventfd2: 290,
  epoll_ctl: 233,
  "open (x32)": 0x40000002,
};

/** Runs one call and says how it ended: "ok" or the error's name. */
function outcome(call: () => number | bigint): string {
  const location = new Deno.UnsafePointerView(libc.__errno_location()!);
  return Number(call()) >= 0 ? "ok" : errnoName(location.getInt32());
}

/** A system call with a descriptor or number first, memory second and fifth. */
function syscall(number: number, first = 0, size = 0, flags = 0): bigint {
  const memory = new Uint8Array(4096);
  return libc.syscall(
    BigInt(number),
    BigInt(first),
    memory,
    BigInt(size),
    BigInt(flags),
    memory,
    16n,
  );
}

/** A socket on the first port from `from` on that nobody has. */
function openUdpSocket(from: number): { fd: number; port: number } {
  for (let port = from; port < from + 1000; port++) {
    const fd = udpSetup.open(port);
    if (fd >= 0) return { fd, port };
  }
  throw new Error(`no port is free from ${from} on`);
}

/** What is there before the tile confines itself: sockets of its own and of others, and a file. */
function prepare() {
  const { fd: own, port } = openUdpSocket(17_001);
  return {
    own,
    port,
    other: openUdpSocket(port + 1).fd,
    ownNetlink: netlink.open({ groups: [], receiveBuffer: 65536, strict: true }),
    file: libc.open(new TextEncoder().encode("/dev/null\0"), O_RDWR),
    // An anonymous inode, as an eventfd is, but none.
    inotify: Number(syscall(294, IN_NONBLOCK)),
  };
}

/** Each thing tried, by name, with how it ended. */
function attempts(
  { own, port, other, ownNetlink, file, inotify }: ReturnType<typeof prepare>,
  eventfd: number,
): Record<string, string> {
  const results: Record<string, string> = {};
  const attempt = (name: string, call: () => number | bigint) => results[name] = outcome(call);
  for (const [name, number] of Object.entries(FORBIDDEN)) attempt(name, () => syscall(number));
  attempt("fcntl F_SETFL", () => syscall(72, own, F_SETFL));
  attempt("mmap of a file", () => libc.mmap(null, 4096n, PROT_READ, MAP_SHARED, file, 0n));
  attempt("write to stdout", () => syscall(1, 1, 1));
  attempt("write to a file", () => syscall(1, file, 1));
  attempt("read from a file", () => syscall(0, file, 1));
  attempt("write to its socket", () => syscall(1, own, 1));
  attempt("read from an anonymous inode", () => syscall(0, inotify, 64));
  for (const [whose, fd] of [["own", own], ["other's", other]] as const) {
    attempt(`sendto on ${whose}`, () => syscall(44, fd, 1));
    attempt(`recvfrom on ${whose}`, () => syscall(45, fd, 1));
    attempt(`sendmmsg on ${whose}`, () => syscall(307, fd, 0));
    attempt(`recvmmsg on ${whose}`, () => syscall(299, fd, 0));
    attempt(`getsockopt on ${whose}`, () => syscall(55, fd, SOL_SOCKET, SO_ERROR));
    attempt(`sendmsg on ${whose}`, () => syscall(46, fd));
    attempt(`recvmsg on ${whose}`, () => syscall(47, fd));
  }
  const memory = new Uint8Array(1 << 16);
  const datagram = Uint32Array.of(0, 4, 0x7f000001, 0x7f000001, port << 16 | port, 0, 0, 0);
  const received = new Uint32Array(2 + 8);
  results["udp.send"] = String(udp.send(own, memory, datagram, 1));
  results["udp.receive"] = String(udp.receive(own, port, memory, Uint32Array.of(0), 1, received));
  // RTM_GETLINK of an interface that does not exist: the answer is an error message.
  const request = Uint32Array.of(32, 18 | 1 << 16, 1, 0, 0, 0x7fffffff, 0, 0);
  results["netlink.send"] = String(netlink.send(ownNetlink, new Uint8Array(request.buffer), 32));
  results["netlink.receive"] = String(
    netlink.receive(ownNetlink, memory, new Uint32Array(1), 65536),
  );
  tile.wake(eventfd);
  return results;
}

/** Confines itself to some of many sockets; says which descriptors were listed, and which it reaches. */
function descriptors(): Record<string, string> {
  const sockets = Array.from({ length: 200 }, (_, i) => openUdpSocket(18_001 + i).fd);
  // Runs of every length, with gaps of every length, and in no order.
  const listed = sockets.filter((_, i) => i < 40 ? i % 2 === 0 : Math.random() < 0.7);
  listed.sort(() => Math.random() - 0.5);
  const eventfds = [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name))
    .filter((fd) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${fd}`) === "anon_inode:[eventfd]";
      } catch {
        return false;
      }
    });
  tile.confine({ name: "net", slot: 0, role: "net", fds: Int32Array.from(listed) });
  const all = Array.from({ length: Math.max(...sockets) + 10 }, (_, fd) => fd);
  const reached = (call: (fd: number) => bigint) =>
    JSON.stringify(all.filter((fd) => outcome(() => call(fd)) !== "EPERM"));
  const inOrder = (fds: number[]) => JSON.stringify(fds.toSorted((a, b) => a - b));
  return {
    listed: inOrder(listed),
    getsockopt: reached((fd) => syscall(55, fd, SOL_SOCKET, SO_ERROR)),
    recvmmsg: reached((fd) => syscall(299, fd, 0)),
    eventfds: inOrder(eventfds),
    write: reached((fd) => syscall(1, fd, 0)),
    read: reached((fd) => syscall(0, fd, 0)),
  };
}

/** Everything that keeps a Deno worker busy: garbage, messages, timers, locks, compiled code. */
function busy({ eventfd, milliseconds, turns: least }: Task): void {
  const end = performance.now() + milliseconds;
  const kept: unknown[] = [];
  let turns = 0;
  function turn(): void {
    turns++;
    self.postMessage({ type: "ping" });
    for (let i = 0; i < 100_000; i++) kept[i % 5000] = { at: [i, turns], text: `x${i}` };
    structuredClone(kept.slice(0, 100));
    new Uint8Array(1 << 21).fill(turns);
    new SharedArrayBuffer(1 << 20);
    crypto.getRandomValues(new Uint8Array(64));
    new Date().toString();
    JSON.parse(JSON.stringify(kept.slice(0, 100)));
    new Function("x", `return x * ${turns} + Math.sin(x)`)(turns);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    tile.wake(eventfd);
    if (tile.wait(eventfd, 1000) !== 1) throw new Error("the eventfd was not written");
    if (tile.wait(eventfd, 1) !== 0) throw new Error("the eventfd was not emptied");
    if (performance.now() < end || turns < least) setTimeout(turn, 0);
    else setTimeout(fail, 0);
  }
  function fail(): void {
    self.postMessage({ type: "done", turns });
    throw new Error("an error nobody catches");
  }
  turn();
}

/** What an app does that means no harm, each of which takes the runtime to the kernel. */
const HONEST: Record<string, () => unknown> = {
  "digest of a megabyte": async () =>
    (await crypto.subtle.digest("SHA-256", new Uint8Array(1 << 20))).byteLength,
  "generate a key":
    async () => (await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, [
      "sign",
    ])
      .then(({ privateKey }) => privateKey.type)),
  "time zone": () => new Intl.DateTimeFormat().resolvedOptions().timeZone,
  "year": () => new Date(Date.now()).getFullYear(),
  "the clock by a system call": () =>
    outcome(() =>
      libc.syscall(
        SYS_GETTIMEOFDAY,
        0n,
        null,
        0n,
        0n,
        null,
        0n,
      )
    ),
  "stat without a permission": () => Deno.stat("/etc/passwd"),
  "statSync without a permission": () => Deno.statSync("/etc/passwd"),
  "execPath": () => Deno.execPath().endsWith("deno"),
  "memory": () => Deno.memoryUsage().rss >= 0,
  "timer": () => new Promise((resolve) => setTimeout(resolve, 5, "fired")),
  "node:crypto": async () =>
    (await import("node:crypto")).createHash("md5").update("x").digest("hex").length,
  "garbage": () => {
    let kept: unknown[] = [];
    for (let i = 0; i < 3e6; i++) {
      if (kept.length > 1e5) kept = [];
      kept.push({ i });
    }
    return "done";
  },
  "WebAssembly": () =>
    new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0)) instanceof
      WebAssembly.Module,
  "a nested worker": () => typeof Worker,
};

function prepareRuntime(): void {
  new Date().getTimezoneOffset();
  Reflect.deleteProperty(globalThis, "Worker");
  for (const name of ["read", "write", "net", "env", "sys", "run"] as const) {
    Deno.permissions.revokeSync({ name });
  }
}

async function honest(): Promise<void> {
  const results: Record<string, string> = {};
  for (const [name, work] of Object.entries(HONEST)) {
    try {
      results[name] = String(await work());
    } catch (error) {
      results[name] = (error as Error).name;
    }
  }
  self.postMessage({ type: "attempts", results });
}

/** Takes memory until V8 has none left. */
function overflow(): void {
  const kept: unknown[] = [];
  for (;;) kept.push(new Array(1000).fill(kept.length));
}

/** Says something as libraries do when they give up, and aborts. */
function abort(): void {
  const words = new TextEncoder().encode("last words\x1b[2J\nof one\n");
  libc.write(2, words, BigInt(words.length));
  libc.abort();
}

self.onmessage = ({ data }: MessageEvent<Task>) => {
  const { role, work, keepNetAdmin, eventfd, slot } = data;
  if (work === "descriptors") {
    const results = descriptors();
    tile.wake(eventfd);
    return self.postMessage({ type: "attempts", results });
  }
  const prepared = prepare();
  // As `worker.ts` does before it confines a tile.
  if (work === "honest") prepareRuntime();
  const { own, ownNetlink } = prepared;
  const fds = role === "netlink" ? [ownNetlink] : [];
  const { landlock, observed } = tile.confine({
    name: role,
    slot,
    role,
    fds: Int32Array.from([own, ...fds]),
    keepNetAdmin,
  });
  self.postMessage({ type: "confined", landlock, observed, tid: libc.gettid() });
  if (work === "busy") return busy(data);
  if (work === "honest") return void honest();
  if (work === "abort") return abort();
  if (work === "overflow") return overflow();
  self.postMessage({ type: "attempts", results: attempts(prepared, eventfd) });
};
