// SPDX-License-Identifier: Apache-2.0
/**
 * The binding that every tile has: to wake another tile, to wait until woken, and to give up
 * everything else (`confine`). `policy.h` has the policy of each role.
 */

import type { Clock } from "../tiles/app/contract.ts";
import { checked, cString, EMFILE, int, libraryPath, nothing, POLLIN, textOf } from "./library.ts";
import { u32, type View } from "./region.ts";
import { Confined, Keep, OBSERVED_CALLS, Role as RoleNumber } from "./shared.ts";

/** The kind of a tile; decides which system calls it keeps. */
export type Role = keyof typeof RoleNumber;

const PR_SET_NAME = 15;
const F_DUPFD_CLOEXEC = 1030;

/** Bytes of a slot's counters. */
export const SLOT_BYTES = OBSERVED_CALLS * 4;

/** What a tile may keep. */
export interface Confinement {
  /** The tile's name, for what its thread writes to standard error. */
  readonly name: string;
  /** Its slot in the observer's counters. */
  readonly slot: number;
  readonly role: Role;
  /** The only sockets that the tile may send and receive on. */
  readonly fds: Int32Array;
  /** Keep CAP_NET_ADMIN (the netlink tile, for NTF_USE); all other capabilities are dropped. */
  readonly keepNetAdmin?: boolean;
  /** Keep adjtimex(2), which can only read without a capability (for an inline app with the clock). */
  readonly keepClock?: boolean;
}

export type TileLibrary = ReturnType<typeof openTile>;

/** Counts refused system calls, in the master and in the appliance. */
export type Observer = ReturnType<typeof openObserver>;

export function openTile(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_tile_wake: nothing("i32"),
    tegula_tile_confine: int("i32", "buffer", "i32", "i32", "buffer", "i32"),
    tegula_tile_call_name: nothing("i32", "buffer", "u32"),
    tegula_tile_thread: int(),
    tegula_tile_be_prompt: int("i32"),
    // libc's
    poll: int("buffer", "usize", "i32"),
    eventfd_read: int("i32", "buffer"),
    malloc_trim: int("usize"),
    fcntl: int("i32", "i32", "i32"),
    prctl: int("i32", "buffer", "usize", "usize", "usize"),
  });
  const pollSet = new Int32Array(2);
  const count = new Uint8Array(8);
  return {
    /** Wakes the tile that waits on `eventfd`. */
    wake: symbols.tegula_tile_wake,
    /**
     * Blocks until `eventfd` is written or `timeoutMs` passed (-1: no limit, 0: does not block, as the
     * eventfd is non-blocking), and resets it. Returns 1 if it was written, 0 on timeout or a signal.
     */
    wait(eventfd: number, timeoutMs: number): number {
      pollSet[0] = eventfd;
      pollSet[1] = POLLIN;
      if (timeoutMs !== 0 && symbols.poll(pollSet, 1n, timeoutMs) <= 0) return 0;
      return symbols.eventfd_read(eventfd, count) === 0 ? 1 : 0;
    },
    /** Duplicates `fd`. Throws SystemError. */
    duplicate(fd: number): number {
      const copy = symbols.fcntl(fd, F_DUPFD_CLOEXEC, 0);
      return checked(copy < 0 ? -EMFILE : copy, "duplicate a descriptor");
    },
    /** Whether `fd` is readable, or has a connection to accept. */
    readable(fd: number): boolean {
      pollSet[0] = fd;
      pollSet[1] = POLLIN;
      return symbols.poll(pollSet, 1n, 0) > 0;
    },
    /** The name of a system call, by its number on this architecture: "openat". */
    callName(number: number): string {
      const name = new Uint8Array(64);
      symbols.tegula_tile_call_name(number, name, name.length);
      return textOf(name);
    },
    /**
     * The calling thread's number in `/proc`, also in a PID namespace, by which another process can
     * see whether the thread still runs.
     */
    thread: symbols.tegula_tile_thread,
    /**
     * Sets whether the calling thread runs immediately when it wakes, even if other threads never
     * pause (Linux 6.12). Returns 0, or -errno.
     */
    bePrompt: (prompt: boolean): number => symbols.tegula_tile_be_prompt(prompt ? 1 : 0),
    /** Returns malloc's free memory to the kernel (malloc_trim(3)). Takes milliseconds. */
    trim: () => void symbols.malloc_trim(0n),
    /** Names the calling thread, for ps, top and perf, by 15 bytes after the last slash. */
    nameThread(name: string): void {
      symbols.prctl(PR_SET_NAME, cString(name.replace(/.*\//, "")), 0n, 0n, 0n);
    },
    /**
     * Gives up, for this thread and for good: signals, capabilities, new privileges, files
     * (landlock, if the kernel has it) and all system calls that the role does not need. Refused
     * calls fail with EPERM, and are counted if there is an observer (`openObserver`) and the
     * kernel supports listeners (Linux 5.0). All modules must be loaded and all eventfds exist by
     * then. Throws SystemError on failure; the tile must not continue then.
     */
    confine(
      { name, slot, role, fds, keepNetAdmin = false, keepClock = false }: Confinement,
    ): { readonly landlock: boolean; readonly observed: boolean } {
      const keep = (keepNetAdmin ? Keep.netAdmin : 0) | (keepClock ? Keep.clock : 0);
      const label = cString(name);
      const done = checked(
        symbols.tegula_tile_confine(RoleNumber[role], fds, fds.length, keep, label, slot),
        `confine the ${role} tile`,
      );
      return {
        landlock: (done & Confined.landlock) !== 0,
        observed: (done & Confined.observed) !== 0,
      };
    },
  };
}

/** The observer writes here until the process ends, so it must not be garbage-collected. */
let observed: Uint32Array<SharedArrayBuffer>;

export function openObserver(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_tile_observe: int("buffer", "i32"),
    tegula_tile_observe_process: int("i32", "buffer", "i32", "i32", "i32"),
    tegula_tile_observe_pause: nothing("i32"),
  });
  return {
    /**
     * Counts the calls that a process's filter refuses (`listener`, or -1) in its `slot`. Writes
     * the lines of the process (the pipe `words`) to standard error under its `name`, at most 50 a
     * second; or, if `verbatim`, unchanged and at most 1,000 a second, for an appliance, whose
     * lines name their tiles. If the name begins with a level for the journal, as in `<3>dns`, so
     * do the lines. The observer copies both descriptors, and closes its copies when the process
     * has ended. The slot of an ended process can be reused. Throws SystemError if the observer
     * does not run, or descriptors run out.
     */
    hear({ name, verbatim = false, slot, listener, words }: {
      readonly name: string;
      readonly verbatim?: boolean;
      readonly slot: number;
      readonly listener: number;
      readonly words: number;
    }): void {
      const label = cString(name);
      checked(
        symbols.tegula_tile_observe_process(slot, label, verbatim ? 1 : 0, listener, words),
        `observe the process of ${name}`,
      );
    },
    /**
     * Stops answering calls and writing lines until `resume`. Called before this process executes
     * another program, so that no call of a child is half answered. The new program calls `hear`
     * again. Between `pause` and `resume`, `hear` would block for ever.
     */
    pause: (): void => symbols.tegula_tile_observe_pause(1),
    resume: (): void => symbols.tegula_tile_observe_pause(0),
    /**
     * Starts the process's observer, a thread that counts refused system calls of confined tiles in
     * `counters`: `OBSERVED_CALLS` for each slot. Must be called once, before any tile confines
     * itself. Throws SystemError.
     */
    start(counters: Uint32Array<SharedArrayBuffer>): void {
      observed = counters;
      checked(
        symbols.tegula_tile_observe(observed, observed.length / OBSERVED_CALLS),
        "start the observer of refused system calls",
      );
    },
  };
}

/**
 * The calls that the observer has counted in a slot of its counters at `view`, by their numbers on
 * this architecture. Such a call is unexpected: a defect of the policy or of an app.
 */
export function refusedCalls(view: View, slot: number) {
  const refused: { readonly call: number; readonly count: number }[] = [];
  u32(view).subarray(slot * OBSERVED_CALLS, (slot + 1) * OBSERVED_CALLS).forEach((count, call) => {
    if (count > 0) refused.push({ call, count });
  });
  return refused;
}

/** States of adjtimex(2): a leap second will be inserted or deleted, or the clock is not synchronised. */
const [TIME_INS, TIME_DEL, TIME_ERROR] = [1, 2, 5];
/** 64-bit words of struct timex; the fourth is the maximum error in microseconds. */
const TIMEX_WORDS = 26;
const MAX_ERROR = 3;
const CLOCK_REALTIME = 0;

/** Opens the library at `path` for an app that was granted the host's clock. */
export function openClock(path = libraryPath()): Clock {
  const { symbols } = Deno.dlopen(path, {
    clock_gettime: int("i32", "buffer"),
    adjtimex: int("buffer"),
  });
  /** struct timespec: seconds, low word and high word, then nanoseconds. */
  const time = new Uint32Array(4);
  const timex = new BigInt64Array(TIMEX_WORDS);
  return {
    now() {
      symbols.clock_gettime(CLOCK_REALTIME, time);
      return (time[1] * 2 ** 32 + time[0]) * 1e9 + time[2];
    },
    status() {
      timex.fill(0n); // modes = 0: only read
      // libc returns -1, which is -EPERM, the only error of a read.
      const state = checked(symbols.adjtimex(timex), "read the kernel's clock state");
      return {
        synchronised: state !== TIME_ERROR,
        maxErrorMicros: Number(timex[MAX_ERROR]),
        leap: state === TIME_INS ? 1 : state === TIME_DEL ? -1 : 0,
      };
    },
  };
}
