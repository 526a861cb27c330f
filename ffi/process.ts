// SPDX-License-Identifier: Apache-2.0
/**
 * Processes of Deno that are confined before their first instruction: apps, and the appliance.
 * `process.c` lists the walls in the order in which they are built; `policy.h` has the system calls.
 *
 * The child runs the caller's Deno. Its given descriptors begin at `FIRST_DESCRIPTOR`, and it
 * exchanges messages with the caller over a channel (`openChannel`, at both ends). The observer
 * (`tile.ts`) reads its standard output and error from a pipe, and its refused calls from a
 * listener, and reports both under the app's name.
 *
 * The child dies with the *thread* that started it, so processes are started from the main thread. Workers
 * in an app's process have the same walls; its filter allows no second filter. In the appliance each tile
 * confines itself, and an observer there counts the tiles' refused calls. The child's user must be able to
 * read Deno, its libraries and the paths in `read`, but need not be able to enter the folders above Deno.
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
 * Call `hear` directly after `start`: until then an app blocks in its first refused call. The child
 * can change the count of a shared eventfd, but not whether it blocks.
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
/** The number of the first given descriptor in the child; the others follow. */
export const FIRST_DESCRIPTOR = 4;

/** Arguments that start a script and make Deno read nothing else; permissions and the script follow. */
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
 * Options for V8. By default it inlines the functions that were called often during warm-up. But a
 * peer's first datagram takes the slow path. After many such datagrams at the start, V8 compiled
 * the fast path with a call for each of its steps, which then always took twice the time. With
 * these options V8 inlines all calls.
 */
export const V8_FLAGS =
  "--v8-flags=--min-inlining-frequency=0,--max-inlined-bytecode-size-cumulative=2000";

/** The environment of a process that starts while its predecessor serves: see `seal.c`. */
export const SUCCESSOR_ENV = { TEGULA_SUCCESSOR: "1" };

/** Signals that end a process, and their usual cause in a Deno process. */
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
 * MiB that V8 reserves for an isolate; the kernel counts them as data although they are unused. Measured
 * with Deno 2.9.6 as VmData less RssAnon, with thread stacks: 531, 1,048 and 2,088 for 1, 2 and 4 isolates.
 */
const RESERVED_MIB = 530;

export interface ProcessOptions {
  /**
   * Its kind. The appliance stays in the caller's network namespace. Its filter allows tiles to
   * start and to confine themselves, and has no listener (`ConfinedProcess.listener` is -1).
   */
  readonly role?: "app" | "appliance";
  /** Its name in the log. */
  readonly name: string;
  /** Arguments of Deno: `RUN_FLAGS`, permissions, the script, and its arguments. None may be empty. */
  readonly args: readonly string[];
  /**
   * Its environment, besides variables that keep Deno from reading other files: HOME, PATH and, by
   * default, DENO_DIR name paths that do not exist.
   */
  readonly env?: { readonly [name: string]: string };
  /**
   * The caller's descriptors to copy to the child, from `FIRST_DESCRIPTOR` on. Twice as many must
   * fit into the caller's RLIMIT_NOFILE, else the start fails with EMFILE or EINVAL.
   */
  readonly descriptors?: readonly number[];
  /** Absolute paths of existing files and folders that it may read. */
  readonly read?: readonly string[];
  /** Likewise, to write and, in folders, to create and remove. */
  readonly write?: readonly string[];
  /** Whether it stays in the caller's network namespace and may open IP sockets. */
  readonly net?: boolean;
  /** With `net`: the ports to which TCP is limited, in either direction; none: no limit. */
  readonly ports?: readonly number[];
  /** Whether it may accept connections of given listening sockets. */
  readonly accept?: boolean;
  /** Whether it may watch files (inotify): all that its user may read, as landlock does not cover inotify. */
  readonly watch?: boolean;
  /** Whether it keeps CAP_NET_ADMIN, if the caller has it; only for the appliance. */
  readonly netAdmin?: boolean;
  /** Whether it may read the state of the host's clock (adjtimex). */
  readonly clock?: boolean;
  /**
   * Its user and group, if the caller may change them (default 65534). The kernel counts threads by
   * user, so give each process its own.
   */
  readonly uid?: number;
  /**
   * Descriptors that it may open besides the given ones (default 48; an appliance 512): Deno uses
   * 20 with one worker, and 8 more for each further one.
   */
  readonly spareDescriptors?: number;
  /**
   * Limits its memory, not counting V8's reservation for one isolate; a worker is another isolate.
   * When an allocation exceeds the limit, it fails and V8 aborts. By default there is no limit.
   */
  readonly memoryMib?: number;
}

/** How a process ended: it exited with `status`, or `signal` killed it; the other is 0. */
export interface Ending {
  readonly status: number;
  readonly signal: number;
}

/**
 * A started process as JSON. Its descriptors stay open until `ConfinedProcess.close`, also after
 * its end.
 */
export interface KnownProcess {
  readonly name: string;
  readonly pid: number;
  /** Readable when it has ended; for poll(2). */
  readonly pidfd: number;
  /** The caller's end of the channel, for `openChannel`. */
  readonly channel: number;
  /** The pipe of its output, and the listener of its filter or -1: for `Observer.hear`, which copies both. */
  readonly words: number;
  readonly listener: number;
  /** Walls that this system does not support, one clause each: "it is in the host's …". */
  readonly missing: readonly string[];
}

/** The open descriptors of a process. */
export function openOf({ pidfd, channel, words, listener }: KnownProcess): number[] {
  return [pidfd, channel, words, listener].filter((fd) => fd >= 0);
}

/** A process that was started. */
export interface ConfinedProcess extends KnownProcess {
  /** Reaps the process if it has ended; else returns null. Does not block. Throws SystemError. */
  wait(): Ending | null;
  /** Kills it, unless it has ended. Throws SystemError. */
  kill(): void;
  /** Closes `pidfd`, `channel`, `words` and `listener`. Must be called once, after it is reaped. */
  close(): void;
}

export type Processes = ReturnType<typeof openProcesses>;

/** An end of a channel: whole messages, in order, of at most `MESSAGE_BYTES`. */
export type Channel = ReturnType<typeof openChannel>;

/** The longest message of a channel. */
export const MESSAGE_BYTES = 65_536;

/**
 * With two cores an app has some twenty threads, and an appliance fifty; in a handover there are
 * two of each. Users depend on the master's PID, which a master in another PID namespace may share.
 */
const MOST_THREADS = { app: 256, appliance: 1024 };
const SPARE_DESCRIPTORS = { app: 48, appliance: 512 };

/** Deno's files: the program, the loader, and the libraries that the caller has loaded. */
function ownFiles(): { readonly execute: readonly string[]; readonly read: readonly string[] } {
  const maps = Deno.readTextFileSync("/proc/self/maps");
  const mapped = new Set(Array.from(maps.matchAll(/ (\/.*)$/gm), ([, path]) => path));
  const named = (pattern: RegExp) => [...mapped].filter((path) => pattern.test(path));
  const cache = "/etc/ld.so.cache";
  return {
    // This file, even if its path now names another.
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
     * Takes over a child that this process started before it executed its present program, with the
     * descriptors that `Host.execKeeping` kept open.
     */
    adopt,
    /**
     * Whether a process of this user and group can read the file at `path`, or read and enter the folder,
     * with the permissions of all folders above. If the caller cannot change its user, it checks for its own.
     */
    readableBy: (path: string, uid: number, gid = uid): boolean =>
      symbols.tegula_process_readable(stringLists([path]), uid, gid) === 0,
    /** Starts a process and returns when it executes Deno. Throws SystemError with the step that failed. */
    start({ name, args, descriptors = [], read = [], write = [], ...options }: ProcessOptions) {
      own ??= ownFiles();
      for (const granted of [...read, ...write]) {
        if (!exists(granted)) throw new SystemError(`grant ${name} ${granted}`, ENOENT);
      }
      const { role = "app", net, uid = 65534, memoryMib, ports = [] } = options;
      const variables = {
        NO_COLOR: "1",
        // Else Deno checks for a newer version half a second after the start.
        DENO_NO_UPDATE_CHECK: "1",
        // Each arena keeps the compiler's peak memory (mallopt(3)).
        MALLOC_ARENA_MAX: "2",
        DENO_DIR: "/nonexistent",
        ...options.env,
        HOME: "/nonexistent",
        PATH: "",
        // By descriptor: the child's user may be unable to enter the library's folder.
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

/** Opens an end of a channel. Uses functions of libc, to which the library at `path` is linked. */
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
     * The next message; null if none has arrived, undefined if the other end is closed. The bytes
     * are valid until the next call. Descriptors that the other end sends are not received.
     */
    receive(): Uint8Array<ArrayBuffer> | null | undefined {
      if (ready(POLLIN) === 0) return null;
      const count = Number(symbols.read(fd, room, BigInt(room.length)));
      return count > 0 ? room.subarray(0, count) : count === 0 ? undefined : null;
    },
    /**
     * Sends a message without blocking. Returns false if the other end is closed, or the channel is
     * full.
     */
    send(message: Uint8Array<ArrayBuffer>): boolean {
      if ((ready(POLLOUT) & POLLOUT) === 0) return false;
      return Number(symbols.write(fd, message, BigInt(message.length))) === message.length;
    },
  };
}
