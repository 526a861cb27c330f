// SPDX-License-Identifier: Apache-2.0
/**
 * Calls that only the master makes: eventfds for tiles, capabilities and limits, queries of
 * drivers, notifications to systemd, and descriptors that the event loop waits for.
 */

import {
  attempt,
  checked,
  cString,
  EBADF,
  ENOENT,
  int,
  libraryPath,
  pollSet,
  textOf,
} from "./library.ts";
import { Confinement } from "./shared.ts";
import type { TileLibrary } from "./tile.ts";

/** Capability numbers of capability.h. */
export const CAP_NET_BIND_SERVICE = 10;
export const CAP_NET_ADMIN = 12;
export const CAP_NET_RAW = 13;
export const CAP_IPC_LOCK = 14;
export const CAP_SYS_ADMIN = 21;
export const CAP_BPF = 39;

/** Capabilities that a master keeps, if it was started with them. It gives up all others. */
const MASTER_CAPABILITIES: readonly number[] = [
  1, // CAP_DAC_OVERRIDE: root reads granted files and makes sockets in folders of other users
  5, // CAP_KILL: to end processes of other users
  ...[6, 7, 8], // CAP_SETGID, CAP_SETUID, CAP_SETPCAP: to set the user and the bounding set of a process
  CAP_NET_BIND_SERVICE,
  CAP_NET_ADMIN,
  CAP_NET_RAW,
  CAP_IPC_LOCK, // UMEMs beyond RLIMIT_MEMLOCK
  CAP_SYS_ADMIN, // namespaces of a process; XDP before Linux 5.8
  24, // CAP_SYS_RESOURCE: limits of a process above the master's
  38, // CAP_PERFMON, with CAP_BPF: BPF calls, which needed CAP_SYS_ADMIN before Linux 5.8
  CAP_BPF,
];

/** Hardware types of linux/if_arp.h. */
const ARPHRD_ETHER = 1;
const ARPHRD_LOOPBACK = 772;

/** Requests of linux/sockios.h and linux/ethtool.h, and sizes of the ethtool structures. */
const SIOCGIFHWADDR = 0x8927;
const SIOCETHTOOL = 0x8946;
const ETHTOOL_GDRVINFO = 0x3;
const ETHTOOL_GFLAGS = 0x25;
const ETHTOOL_GCHANNELS = 0x3c;
const DRVINFO_BYTES = 196;
const FLAGS_BYTES = 8;
/** A flag: the driver removes tags from received frames. */
const ETH_FLAG_RXVLAN = 1 << 8;
const CHANNELS_BYTES = 36;
/** struct ifreq: the name, then the value. */
const IFREQ_BYTES = 40;
const IFNAMSIZ = 16;

/** Of fcntl.h. */
const [F_SETFD, FD_CLOEXEC] = [2, 1];

const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

/** For `notify`: numbers of sys/socket.h, and the length of sun_path. */
const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 0o2000002;
const MSG_NOSIGNAL = 0x4000;
const LONGEST_PATH = 107;

/**
 * How the program that replaces this one is confined, with all of its threads and children. It must
 * keep everything that any of them will ever need: no later exec can give it back.
 */
interface MasterConfinement {
  /** Existing files and folders that it may write, and create and remove files in. It may read and execute all. */
  readonly write: readonly string[];
  /** Whether TCP sockets may be bound, and connected. Sockets that were handed over keep working. */
  readonly bindTcp?: boolean;
  readonly connectTcp?: boolean;
}

/** The master's own calls. Interfaces are looked up in the calling thread's network namespace. */
export type Host = ReturnType<typeof openHost>;

/** Whether a set from {@linkcode Host.capabilities} contains `capability`. */
export function hasCapability(set: number, capability: number): boolean {
  return Math.floor(set / 2 ** capability) % 2 === 1;
}

/** Whether `path` exists. */
export function exists(path: string): boolean {
  return attempt(() => Deno.statSync(path), null) !== null;
}

/** A limit of a process, by its name in /proc/PID/limits. */
export function softLimit(name: string, pid: number | "self" = "self"): number {
  const limits = Deno.readTextFileSync(`/proc/${pid}/limits`);
  const [, limit] = new RegExp(`^${name}\\s+(\\S+)`, "m").exec(limits)!;
  return limit === "unlimited" ? Infinity : Number(limit);
}

/** Encodes strings for `make_lists` of `native.h`. Throws TypeError if one is empty or contains a zero byte. */
export function stringLists(...lists: readonly (readonly string[])[]): Uint8Array<ArrayBuffer> {
  for (const text of lists.flat()) {
    if (text === "" || text.includes("\0")) {
      throw new TypeError(`an argument, variable or path is ${text === "" ? "empty" : "not text"}`);
    }
  }
  return new TextEncoder().encode(
    lists.map((list) => list.map((text) => `${text}\0`).join("") + "\0").join(""),
  );
}

export function openHost(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_host_ask: int("u32", "buffer", "buffer"),
    tegula_host_log: int("buffer", "u32"),
    tegula_host_read_thread: int("i32", "buffer", "buffer", "u32"),
    tegula_host_threads: int("i32"),
    tegula_host_listen_unix: int("buffer", "i32"),
    tegula_host_exec: int("buffer", "u32", "buffer"),
    tegula_host_lock_folder: int("buffer"),
    tegula_host_listen_tcp: int("buffer", "i32"),
    // Functions of libc, to which the library is linked.
    eventfd: int("u32", "i32"),
    wait: { name: "poll", nonblocking: true, ...int("buffer", "usize", "i32") },
    if_nametoindex: { parameters: ["buffer"], result: "u32" },
    if_indextoname: { parameters: ["u32", "buffer"], result: "pointer" },
    fcntl: int("i32", "i32", "i32"),
    socket: int("i32", "i32", "i32"),
    sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
    close: int("i32"),
  });

  const page = new Uint8Array(4096);

  /** The kernel's answer to `request` about `ifname`, in `data` or a struct ifreq; null if it refused. */
  function ask(ifname: string, request: number, data: DataView | null = null): DataView | null {
    const about = new Uint8Array(IFREQ_BYTES);
    const name = cString(ifname);
    if (name.length > IFNAMSIZ) return null;
    about.set(name);
    if (symbols.tegula_host_ask(request, about, data) < 0) return null;
    return data ?? new DataView(about.buffer);
  }

  /** The answer of the driver of `ifname` to an ETHTOOL_* request; null if it refused. */
  function askDriver(ifname: string, command: number, bytes: number): DataView | null {
    const data = new DataView(new ArrayBuffer(bytes));
    data.setUint32(0, command, true);
    return ask(ifname, SIOCETHTOOL, data);
  }

  /** Sets close-on-exec, which `execKeeping` had cleared. */
  function closeOnExec(fds: readonly number[]): void {
    for (const fd of fds) symbols.fcntl(fd, F_SETFD, FD_CLOEXEC);
  }

  return {
    closeOnExec,
    /** A new eventfd, non-blocking, closed on exec. Throws Error. */
    eventfd(): number {
      // Non-blocking, so that it delays neither its writer nor its reader.
      const fd = symbols.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      if (fd < 0) throw new Error("cannot make an eventfd; are too many files open?");
      return fd;
    },
    /** Effective capabilities of this thread as a bit set in a double, for `hasCapability`. */
    capabilities(): number {
      const status = Deno.readTextFileSync("/proc/thread-self/status");
      return parseInt(status.match(/^CapEff:\s*(\w+)$/m)![1], 16);
    },
    /** Tries to start `count` threads at once, at most 1024, and returns how many could be started. */
    threads: symbols.tegula_host_threads,
    /** Whether the thread with this number (`TileLibrary.thread`) still runs. */
    isRunning: (thread: number): boolean =>
      symbols.tegula_host_read_thread(thread, cString("stat"), page, 1) > 0,
    /**
     * The file `name` ("status", "stat") of a thread of this process under /proc/self/task
     * (proc(5)); null if there is no such thread.
     */
    readThread(thread: number, name: string): string | null {
      const length = symbols.tegula_host_read_thread(thread, cString(name), page, page.length);
      return length < 0 ? null : new TextDecoder().decode(page.subarray(0, length));
    },
    /**
     * Opens a Unix socket that listens at `path`; users with write permission by `mode` may
     * connect. Replaces a socket that no process serves, and nothing else. Like the socket of
     * `listenTcp` it is non-blocking, closes on exec, and can be handed over. Throws SystemError:
     * EADDRINUSE if a process serves the socket, ENOTSOCK if `path` is not a socket.
     */
    listenUnix: (path: string, mode: number): number =>
      checked(symbols.tegula_host_listen_unix(cString(path), mode), `listen at ${path}`),
    /** Opens a TCP socket that listens at a numeric `address`. Throws SystemError. */
    listenTcp: (address: string, port: number): number =>
      checked(
        symbols.tegula_host_listen_tcp(cString(address), port),
        `listen on port ${port} of ${address}`,
      ),
    /** Index of the interface `ifname`, 0 when there is none. */
    ifindex: (ifname: string): number => symbols.if_nametoindex(cString(ifname)),
    /** Whether an interface with this index exists. */
    exists: (ifindex: number): boolean =>
      symbols.if_indextoname(ifindex, new Uint8Array(IFNAMSIZ)) !== null,
    /** Queues of `ifname`, combined ones included (ETHTOOL_GCHANNELS); 0 if the driver does not report them. */
    channels(ifname: string): { readonly rx: number; readonly tx: number } {
      const channels = askDriver(ifname, ETHTOOL_GCHANNELS, CHANNELS_BYTES);
      if (channels === null) return { rx: 0, tx: 0 };
      const [rx, tx, combined] = [20, 24, 32].map((at) => channels.getUint32(at, true));
      return { rx: rx + combined, tx: tx + combined };
    },
    /** The driver of `ifname` (ETHTOOL_GDRVINFO), "" if unknown. */
    driver(ifname: string): string {
      const info = askDriver(ifname, ETHTOOL_GDRVINFO, DRVINFO_BYTES);
      if (info === null) return "";
      return textOf(new Uint8Array(info.buffer, 4, 32));
    },
    /** Whether `ifname` strips VLAN tags from received frames (rx-vlan-offload). */
    stripsTags(ifname: string): boolean {
      const flags = askDriver(ifname, ETHTOOL_GFLAGS, FLAGS_BYTES);
      return flags !== null && (flags.getUint32(4, true) & ETH_FLAG_RXVLAN) !== 0;
    },
    /** Whether frames on `ifname` have Ethernet headers: on loopback they do, on a tun device they do not. */
    hasEthernetHeaders(ifname: string): boolean {
      const hardware = ask(ifname, SIOCGIFHWADDR)?.getUint16(IFNAMSIZ, true);
      return hardware === ARPHRD_ETHER || hardware === ARPHRD_LOOPBACK;
    },
    /**
     * Replaces this program by another: `argv` is its path and arguments, `env` its environment.
     * SIGUSR1 is blocked, and only `fds` stay open. Must be called by a main isolate with all
     * permissions. Children survive, because they die with the main thread (`process.ts`), which
     * continues. A `confinement` removes all that it does not list for good: new privileges,
     * capabilities, files (landlock). Returns only on error: -EPERM if the caller is not the main
     * thread, -ENOENT if a folder does not exist. The caller may be confined by then, and can only end.
     */
    execKeeping(
      argv: readonly string[],
      env: { readonly [name: string]: string },
      fds: readonly number[],
      confinement?: MasterConfinement,
    ): number {
      const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
      const { write = [], bindTcp, connectTcp } = confinement ?? {};
      if (!write.every(exists)) return -ENOENT;
      const strings = stringLists(argv, variables, write);
      const confined = new Uint32Array(Object.keys(Confinement).length);
      for (const each of MASTER_CAPABILITIES) {
        confined[Confinement.capabilitiesLow + (each >> 5)] |= 1 << (each & 31);
      }
      confined[Confinement.tcp] = (bindTcp ? 1 : 0) | (connectTcp ? 2 : 0);
      const areOpen = fds.every((fd) => symbols.fcntl(fd, F_SETFD, 0) === 0);
      const failed = areOpen
        ? symbols.tegula_host_exec(strings, strings.length, confinement ? confined : null)
        : -EBADF;
      closeOnExec(fds);
      return failed;
    },
    /**
     * Calls poll(2) on a separate thread. `pollSet` has two words per descriptor, as in `struct
     * pollfd`: the descriptor, and the events to wait for, with the returned events in the upper half.
     * Neither `pollSet` nor its descriptors may change meanwhile: to end the wait, write to an eventfd
     * in the set. Resolves with the number of ready descriptors, 0 after `timeoutMs` (-1: no limit).
     */
    async waitAny(pollSet: Int32Array<ArrayBuffer>, timeoutMs: number): Promise<number> {
      const ready = await symbols.wait(pollSet, BigInt(pollSet.length / 2), timeoutMs);
      return Math.max(0, ready); // a signal is no reason
    },
    /**
     * Writes a line to standard error without blocking. Returns false if it was not written whole,
     * because the pipe or the disk is full.
     */
    log(line: string): boolean {
      const bytes = new TextEncoder().encode(`${line}\n`);
      return symbols.tegula_host_log(bytes, bytes.length) === 0;
    },
    /**
     * Locks the folder at `path` and returns a descriptor. The lock lasts until the descriptor is
     * closed, also across `execKeeping`. Returns -errno if another process has locked it, or if it is
     * not a folder that this user owns and only this user can write. Does not follow a symbolic link.
     */
    lockFolder: (path: string): number => symbols.tegula_host_lock_folder(cString(path)),
    close: (fd: number): void => void symbols.close(fd),
    /** Notifies systemd, for example of "READY=1" (sd_notify(3)). Does nothing without $NOTIFY_SOCKET. */
    notify(message: string): void {
      // A leading '@' stands for the zero byte of an abstract name.
      const path = new TextEncoder().encode(Deno.env.get("NOTIFY_SOCKET")?.replace(/^@/, "\0"));
      if (path.length === 0 || path.length > LONGEST_PATH) return;
      const address = Uint8Array.of(AF_UNIX, 0, ...path);
      const text = new TextEncoder().encode(message);
      const fd = symbols.socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
      symbols.sendto(fd, text, BigInt(text.length), MSG_NOSIGNAL, address, address.length);
      symbols.close(fd);
    },
  };
}

/** Calls back when descriptors are readable: one thread of Deno's pool waits for all of them. */
export class Watcher {
  /** Ends the current wait, so that the next one includes new descriptors. */
  readonly #eventfd: number;
  readonly #host: Pick<Host, "waitAny">;
  readonly #tile: Pick<TileLibrary, "wake" | "wait">;
  readonly #callbacks = new Map<number, () => void>();
  #isWaiting = false;

  constructor(host: Pick<Host, "eventfd" | "waitAny">, tile: Pick<TileLibrary, "wake" | "wait">) {
    this.#host = host;
    this.#tile = tile;
    this.#eventfd = host.eventfd();
  }

  /**
   * Calls `callback` whenever `fd` is readable or hung up, until `forget`. Spurious calls are
   * possible, for example if the descriptor's number was reused.
   */
  watch(fd: number, callback: () => void): void {
    this.#callbacks.set(fd, callback);
    if (this.#isWaiting) this.#tile.wake(this.#eventfd);
    else this.#run();
  }

  /** Stops watching `fd`. Must be called before `fd` is closed. */
  forget(fd: number): void {
    this.#callbacks.delete(fd);
    if (this.#isWaiting) this.#tile.wake(this.#eventfd);
  }

  async #run(): Promise<void> {
    this.#isWaiting = true;
    while (this.#callbacks.size > 0) {
      const fds = [this.#eventfd, ...this.#callbacks.keys()];
      const set = pollSet(fds);
      await this.#host.waitAny(set, -1);
      if (set[1] >>> 16 !== 0) this.#tile.wait(this.#eventfd, 0);
      for (const [i, fd] of fds.entries()) {
        if (i > 0 && set[2 * i + 1] >>> 16 !== 0) this.#callbacks.get(fd)?.();
      }
    }
    this.#isWaiting = false;
  }
}
