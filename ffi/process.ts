// SPDX-License-Identifier: Apache-2.0
/**
 * Processes of Deno that are confined before their first instruction: apps, and the appliance.
 * `process.c` lists the walls in the order in which they are built; `policy.h` has the system calls.
 *
 * The child is the same Deno as the caller. It finds its descriptors in place (`FIRST_DESCRIPTOR`), and
 * talks to the caller over a channel of messages (`openChannel`, at both ends). What it writes to
 * standard output and error comes by a pipe, and what it is refused by a listener: the observer
 * (`tile.ts`) has copies of both, and gives them the app's name.
 *
 * The child dies with the *thread* that started it, so processes are started from the main thread. Workers in an
 * app's process have the same walls; its filter allows no further one. In the appliance each tile confines
 * itself, and an observer there counts what tiles are refused. The child's user has to be able to read Deno, its
 * libraries and what is in `read`, but need not be able to enter the folders above Deno.
 *
 *     observer.start(counters); // once in a process
 *     const child = processes.start({
 *       name: "echo",
 *       args: [...RUN_FLAGS, `--allow-read=${folder}`, `--allow-ffi=${library}`, `${folder}/app.js`],
 *       descriptors: [own.writable, theirs.readOnly, eventfd], // 4, 5 and 6 there
 *       read: [folder, library],
 *       memoryMib: 256,
 *     });
 *     for (const wall of child.missing) console.warn(`echo: ${wall}`);
 *     observer.hear({ name: "echo", slot, listener: child.listener, words: child.words });
 *     const channel = openChannel(child.channel);
 *     // From time to time: channel.receive(), child.wait(). At the end: kill(), wait(), close().
 *
 * `hear` has to follow `start` at once: until then an app waits in the first call that is refused.
 * The child can change the count of an eventfd that it shares, but not whether it blocks.
 */

import { exists, stringLists } from "./host.ts";
import {
  checked,
  ENOENT,
  ESRCH,
  int,
  libraryPath,
  POLLIN,
  POLLOUT,
  sealPath,
  SystemError,
} from "./library.ts";
import { Grant, Order, Process, Started, Step, Wall } from "./shared.ts";

/** The child's end of the channel. */
export const CHANNEL_DESCRIPTOR = 3;
/** Where the child finds the first of the descriptors that it is given; the others follow. */
export const FIRST_DESCRIPTOR = 4;

/** What starts a script without looking for anything but its files; permissions and the script follow. */
export const RUN_FLAGS: readonly string[] = [
  "run",
  "--no-prompt",
  "--cached-only",
  "--no-config",
  "--no-lock",
  "--no-npm",
  "--no-remote",
  "--no-check",
  "--no-code-cache",
  "--unstable-worker-options",
];

/**
 * Options for V8. By default it inlines what a function called often while it became warm. But a
 * peer's first datagram takes the slow path. Where a start saw many such datagrams, the fast path was
 * compiled with a call for each of its steps, which took twice the time for good. With these options
 * V8 inlines whatever is called.
 */
export const V8_FLAGS =
  "--v8-flags=--min-inlining-frequency=0,--max-inlined-bytecode-size-cumulative=2000";

/** The environment of a process that starts beside another, which serves meanwhile: see `seal.c`. */
export const SUCCESSOR_ENV = { TEGULA_SUCCESSOR: "1" };

/** Signals that end a process, and what each means for a process of Deno. */
export const SIGNALS: Readonly<Record<number, { readonly name: string; readonly says?: string }>> =
  {
    4: { name: "SIGILL", says: "it aborted" },
    5: { name: "SIGTRAP", says: "its heap overflowed?" },
    6: { name: "SIGABRT", says: "it aborted" },
    7: { name: "SIGBUS", says: "it crashed in native code" },
    8: { name: "SIGFPE", says: "it crashed in native code" },
    9: { name: "SIGKILL", says: "by somebody, or the kernel was out of memory" },
    11: { name: "SIGSEGV", says: "it crashed in native code" },
    15: { name: "SIGTERM" },
    31: { name: "SIGSYS" },
  };

/**
 * MiB that V8 reserves for an isolate, which the kernel counts as data although they are unused. Measured
 * with Deno 2.9.6 as VmData less RssAnon, stacks of threads included: 531, 1,048 and 2,088 for 1, 2 and 4.
 */
const RESERVED_MIB = 530;

export interface ProcessOptions {
  /**
   * What it is. The appliance stays in the caller's network namespace; its filter lets tiles start in
   * it and confine themselves, and has no listener (`ConfinedProcess.listener` is -1).
   */
  readonly role?: "app" | "appliance";
  /** What the log calls it. */
  readonly name: string;
  /** Arguments of Deno: `RUN_FLAGS`, permissions, the script, and its arguments. None is empty. */
  readonly args: readonly string[];
  /**
   * Its environment, besides what keeps Deno from looking around: HOME and PATH lead nowhere, and so does
   * DENO_DIR where none is given.
   */
  readonly env?: { readonly [name: string]: string };
  /**
   * The caller's descriptors that it gets a copy of, from `FIRST_DESCRIPTOR` on. Twice as many have to
   * be within the caller's limit (RLIMIT_NOFILE), else the start fails with EMFILE or EINVAL.
   */
  readonly descriptors?: readonly number[];
  /** Absolute paths of files and folders that exist, which the kernel lets it read. */
  readonly read?: readonly string[];
  /** The same, to write and, in folders, to make and to remove. */
  readonly write?: readonly string[];
  /** Leave it in the caller's network namespace, with sockets of IP. */
  readonly net?: boolean;
  /** With `net`: the ports to which TCP is bounded, in either direction; none: it is not bounded. */
  readonly ports?: readonly number[];
  /** Let it accept connections of listening sockets that it is given. */
  readonly accept?: boolean;
  /** Let it watch files (inotify): all that its user may read, as landlock does not bound this. */
  readonly watch?: boolean;
  /** Leave it CAP_NET_ADMIN, where the caller has that; for the appliance alone. */
  readonly netAdmin?: boolean;
  /** Let it ask how exact the host's clock is (adjtimex). */
  readonly clock?: boolean;
  /**
   * Its user and group, where the caller may choose (default 65534). Threads are counted by user, so
   * give each process its own.
   */
  readonly uid?: number;
  /**
   * Descriptors that it may have beside those it is given (default 48; an appliance 512): Deno has 20
   * with one worker, and 8 more with each.
   */
  readonly spareDescriptors?: number;
  /**
   * Bounds what it allocates beside what V8 reserves for one isolate; a worker is one more. Coarse: beyond
   * it an allocation fails, and V8 ends the process. Without, there is no bound.
   */
  readonly memoryMib?: number;
}

/** How a process ended: by itself with `status`, or by `signal`, the other being 0. */
export interface Ending {
  readonly status: number;
  readonly signal: number;
}

/**
 * What is known of a process that was started; all of it is JSON. Its descriptors are open until
 * `ConfinedProcess.close`, also when it has ended.
 */
export interface KnownProcess {
  readonly name: string;
  readonly pid: number;
  /** Readable when it has ended; for poll(2). */
  readonly pidfd: number;
  /** The caller's end of the channel, for `openChannel`. */
  readonly channel: number;
  /** What it writes, and the listener of its filter or -1: for `Observer.hear`, which copies both. */
  readonly words: number;
  readonly listener: number;
  /** Walls that the system has no way to build here, one clause each: "it is in the host's …". */
  readonly missing: readonly string[];
}

/** The descriptors of a process that are open. */
export function openOf({ pidfd, channel, words, listener }: KnownProcess): number[] {
  return [pidfd, channel, words, listener].filter((fd) => fd >= 0);
}

/** A process that was started. */
export interface ConfinedProcess extends KnownProcess {
  /** Looks whether it has ended, without waiting, and reaps it. Null when not. Throws SystemError. */
  wait(): Ending | null;
  /** Ends it; nothing when it has ended already. Throws SystemError. */
  kill(): void;
  /** Closes `pidfd`, `channel`, `words` and `listener`, once it is reaped. To be called once. */
  close(): void;
}

export type Processes = ReturnType<typeof openProcesses>;

/** An end of a channel: whole messages, in order, of at most `MESSAGE_BYTES`. */
export type Channel = ReturnType<typeof openChannel>;

/** The longest message of a channel. */
export const MESSAGE_BYTES = 65_536;

/**
 * With two cores an app takes some twenty threads, and an appliance fifty; in a handover there are two
 * of each. Users depend on the master's PID, which a master in another PID namespace may have, too.
 */
const MOST_THREADS = { app: 256, appliance: 1024 };
const SPARE_DESCRIPTORS = { app: 48, appliance: 512 };

/** Files of Deno's own: it, the loader, and the libraries that it is linked to, as the caller has them. */
function ownFiles(): { readonly execute: readonly string[]; readonly read: readonly string[] } {
  const maps = Deno.readTextFileSync("/proc/self/maps");
  const mapped = new Set(Array.from(maps.matchAll(/ (\/.*)$/gm), ([, path]) => path));
  const named = (pattern: RegExp) => [...mapped].filter((path) => pattern.test(path));
  const cache = "/etc/ld.so.cache";
  return {
    // Whatever is at its path by now.
    execute: ["/proc/self/exe", ...named(/\/ld-[^/]*\.so[^/]*$/)],
    read: [
      ...named(/\/lib(c|m|dl|rt|pthread|gcc_s)[.-][^/]*so[^/]*$/),
      sealPath(),
      ...(exists(cache) ? [cache] : []),
    ],
  };
}

export function openProcesses(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_process_start: int("buffer", "u32", "buffer", "buffer", "buffer"),
    tegula_process_readable: int("buffer", "i32", "i32"),
    tegula_process_wait: int("i32", "buffer"),
    tegula_process_kill: int("i32"),
    // libc's
    close: int("i32"),
  });
  const seal = stringLists([sealPath()]);
  let own: ReturnType<typeof ownFiles> | undefined;

  const adopt = (known: KnownProcess): ConfinedProcess => {
    const { name, pidfd } = known;
    return {
      ...known,
      wait() {
        const how = new Int32Array(2);
        const ended = checked(symbols.tegula_process_wait(pidfd, how), `wait for ${name}`);
        return ended === 0 ? null : { status: how[0], signal: how[1] };
      },
      kill() {
        const error = symbols.tegula_process_kill(pidfd);
        if (error !== -ESRCH) checked(error, `end ${name}`);
      },
      close() {
        for (const fd of openOf(known)) symbols.close(fd);
      },
    };
  };

  return {
    /**
     * Takes over a process that this one started before it executed its present program, and whose
     * descriptors it kept (`Host.execKeeping`).
     */
    adopt,
    /**
     * Whether a process of this user and group can read the file at `path`, or read and enter the folder:
     * each folder on its way has to let it through. A caller that cannot choose the user asks for its own.
     */
    readableBy: (path: string, uid: number, gid = uid): boolean =>
      symbols.tegula_process_readable(stringLists([path]), uid, gid) === 0,
    /** Returns when the process executes Deno. Throws SystemError, with the step that failed. */
    start({ name, args, descriptors = [], read = [], write = [], ...options }: ProcessOptions) {
      own ??= ownFiles();
      for (const granted of [...read, ...write]) {
        if (!exists(granted)) throw new SystemError(`grant ${name} ${granted}`, ENOENT);
      }
      const { role = "app", net, uid = 65534, memoryMib, ports = [] } = options;
      const variables = {
        NO_COLOR: "1",
        // Else Deno asks its makers for a newer one, half a second after the start.
        DENO_NO_UPDATE_CHECK: "1",
        // Each arena keeps what the compiler had at its most (mallopt(3)).
        MALLOC_ARENA_MAX: "2",
        DENO_DIR: "/nonexistent",
        ...options.env,
        HOME: "/nonexistent",
        PATH: "",
        // By its descriptor, which the child's user can open whatever folder it lies in.
        LD_PRELOAD: `/proc/self/fd/${FIRST_DESCRIPTOR + descriptors.length}`,
        TEGULA_SEAL: role === "app" && net ? "net" : role,
      };
      const deno = Deno.execPath().replace(/ \(deleted\)$/, "");
      const strings = stringLists(
        [deno, `tegula: ${name}`, ...args],
        Object.entries(variables).map(([variable, value]) => `${variable}=${value}`),
        own.execute,
        [...own.read, ...read],
        write,
        ports.map(String),
      );
      const granted: { readonly [grant in keyof typeof Grant]?: boolean } = {
        ...options,
        write: write.length > 0,
        netAdmin: role === "appliance" && options.netAdmin,
      };
      const grants = Object.entries(Grant).filter(([name]) => granted[name as keyof typeof Grant]);
      const words: { readonly [word in keyof typeof Order]: number } = {
        process: Process[role],
        grants: grants.reduce((bits, [, bit]) => bits | bit, 0),
        uid,
        threads: MOST_THREADS[role],
        spare: options.spareDescriptors ?? SPARE_DESCRIPTORS[role],
        dataMib: memoryMib === undefined ? 0 : memoryMib + RESERVED_MIB,
        count: descriptors.length,
      };
      const head = Object.keys(Order).map((word) => words[word as keyof typeof Order]);
      const order = Int32Array.of(...head, ...descriptors);
      const out = new Int32Array(Object.keys(Started).length);
      const error = symbols.tegula_process_start(strings, strings.length, seal, order, out);
      const started = Object.fromEntries(
        Object.entries(Started).map(([word, at]) => [word, out[at]]),
      ) as { [word in keyof typeof Started]: number };
      if (error < 0) {
        const [, doing] = Object.values(Step)[started.step];
        throw new SystemError(`start the process of ${name} (${doing})`, error);
      }
      const missing = Object.values(Wall).filter(([bit]) => (started.missing & bit) !== 0)
        .map(([, means]) => means);
      const { step: _, ...known } = started;
      return adopt({ name, ...known, missing });
    },
  };
}

/** Opens an end of a channel. The functions are libc's, which the library at `path` is linked to. */
export function openChannel(fd: number, path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    poll: int("buffer", "usize", "i32"),
    read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  });
  const pollSet = new Int32Array([fd, 0]);
  const room = new Uint8Array(MESSAGE_BYTES);
  const ready = (events: number): number => {
    pollSet[1] = events;
    return symbols.poll(pollSet, 1n, 0) > 0 ? pollSet[1] >>> 16 : 0;
  };
  return {
    /**
     * The next message, or null where there is none now, or undefined when the other end is closed. The
     * bytes are valid until the next call. Descriptors that the other end sends are not received.
     */
    receive(): Uint8Array<ArrayBuffer> | null | undefined {
      if (ready(POLLIN) === 0) return null;
      const count = Number(symbols.read(fd, room, BigInt(room.length)));
      return count > 0 ? room.subarray(0, count) : count === 0 ? undefined : null;
    },
    /**
     * Returns whether the message was sent: not if the other end is closed, or has not read earlier
     * ones. Never waits.
     */
    send(message: Uint8Array<ArrayBuffer>): boolean {
      if ((ready(POLLOUT) & POLLOUT) === 0) return false;
      return Number(symbols.write(fd, message, BigInt(message.length))) === message.length;
    },
  };
}
