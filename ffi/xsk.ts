// SPDX-License-Identifier: Apache-2.0
/**
 * AF_XDP: the XDP program and its maps, UMEMs, sockets and rings. Two bindings of one library: the
 * master loads and attaches the program, and creates and binds sockets (`XskSetup`); a net tile
 * only maps the rings of a socket and moves descriptors (`Xsk`). The master identifies programs,
 * maps, links and sockets by descriptor, which it can pass to another process. A net tile
 * identifies a socket by its slot in the library's table.
 *
 *     const fd = setup.prepare(umem, { frameBytes, headroom, ring });
 *     const slot = xsk.adopt(fd, umem, ring); // here or, with the descriptor, in another process
 *     setup.bind(fd, { ifindex, queue, mode });
 *     setup.register(program, queue, fd);
 *
 * Since Linux 6.4 a socket can be adopted at any time, by one process after the other; before 6.4, only
 * until it is bound (EBUSY). A successor adopts, waits for the end of its predecessor, and resumes.
 */

import { checked, EBUSY, EEXIST, ENOBUFS, int, libraryPath, nothing, textOf } from "./library.ts";
import { u8, type View } from "./region.ts";
import { SETSOCKOPT, sizeBuffers } from "./sockets.ts";

/** The descriptors of a loaded XDP program and its maps. */
export interface XdpProgram {
  readonly program: number;
  /** The filter map, which describes our frames; mapped and written by `Filter`. */
  readonly filter: number;
  readonly sockets: number;
  /** The map of frames redirected to each queue's socket, 64 bits per queue. */
  readonly redirected: number;
}

/** Sizes of frames and rings. */
interface SocketOptions {
  /** Bytes of a frame: 2048 or 4096. */
  readonly frameBytes: number;
  /** Bytes that the kernel leaves free before each received frame, in addition to its own 256. */
  readonly headroom: number;
  /** Entries of each of the four rings, a power of two. */
  readonly ring: number;
}

/** The queue that a socket is bound to, and the mode. */
interface BindOptions {
  readonly ifindex: number;
  readonly queue: number;
  readonly mode: "zero-copy" | "copy";
}

/** The master's side. Unless noted, functions return 0 or a descriptor, or -errno. */
export type XskSetup = ReturnType<typeof openXskSetup>;

/** The net tile's side. Offsets are bytes from the start of the UMEM. */
export interface Xsk {
  /**
   * Maps the rings, of `ring` entries, of a socket that was prepared on `memory`; the descriptor must stay
   * open. Returns the slot, for one thread, or -errno: EBUSY if it is bound and Linux is older than 6.4.
   */
  adopt(fd: number, memory: View, ring: number): number;
  /** Continues at the rings' cursors. Their previous user must have ended. */
  resume(slot: number): void;
  /** Writes `XSK_CURSORS` words. */
  cursors(slot: number, out: Uint32Array): void;
  /**
   * Writes `VISIBLE_HEADER_WORDS` with the number of frames in the fill, receive, transmit and
   * completion rings, and then their offsets. `out` has room for four full rings. The kernel holds
   * further frames of a predecessor: fill producer - rx consumer, and tx producer - completion consumer,
   * count them all. Returns the number of offsets; -EINVAL if a ring's cursors are impossible.
   */
  visible(slot: number, out: Uint32Array): number;
  /** The socket's descriptor, for `wait` and `confine`; -1 for a memory slot. */
  fd(slot: number): number;
  /**
   * Takes up to `most` received frames. If there are any, `descriptors` gets the time
   * (CLOCK_REALTIME ns, low, high), then (offset, length) of each. Returns how many.
   */
  receive(slot: number, descriptors: Uint32Array, most: number): number;
  /**
   * Writes the time of each of the `count` frames that `descriptors` got last, low and high: when the XDP
   * program saw it, if the filter enables times and the driver leaves room for them; else the burst's time.
   */
  times(slot: number, descriptors: Uint32Array, count: number, out: Uint32Array): void;
  /** Prefetches the cache lines of `words` at the first `count` indices of `at`. */
  prefetch(words: Int32Array, at: Uint32Array, count: number): void;
  /** The current time by the clock of `receive`, in units of 256 ns: a signed word. */
  ticks(): number;
  /** Puts frames on the fill ring, and wakes the driver if needed. Returns how many fit. */
  fill(slot: number, frames: Uint32Array, count: number): number;
  /**
   * Puts (offset, length) pairs on the transmit ring, and wakes the kernel if needed, also if
   * `count` is 0. Returns how many fit.
   */
  transmit(slot: number, descriptors: Uint32Array, count: number): number;
  /**
   * Takes up to `most` frames from the completion ring, by their transmitted offsets. Puts the
   * first `again` of them on the fill ring, as `fill` does, which accepts any offset in a frame.
   * Returns how many there were | how many the fill ring took << 16.
   */
  complete(slot: number, frames: Uint32Array, most: number, again: number): number;
  /** Writes `XSK_STATISTICS` totals; what an older kernel does not count stays as it is. Returns 0, or -errno. */
  statistics(slot: number, out: BigUint64Array): number;
  /**
   * Calls poll(2) on `count` entries of `pollSet`, each two words: descriptor, events | revents <<
   * 16. Returns how many have revents, 0 on timeout, -1 on a signal or an error.
   */
  wait(pollSet: Int32Array, count: number, timeoutMs: number): number;

  release(slot: number): void;
  /**
   * Makes a slot with rings in plain memory, for the same calls without a socket; `inject`
   * simulates the kernel. Returns the slot, or -errno.
   */
  memorySlot(memory: View, options: Pick<SocketOptions, "frameBytes" | "ring">): number;
  /**
   * For a memory slot: moves all sent frames to the completion ring, and up to `count` frames from the
   * fill ring to the receive ring, by pairs (offset in the frame, length). Replaces the first word of
   * each pair by the UMEM offset, where the caller then writes the bytes. Returns how many it moved.
   */
  inject(slot: number, pairs: Uint32Array, count: number): number;
}

const NAME_BYTES = 16;

/** The most that a frame being sent in copy mode takes from the send buffer. */
const SENT_FRAME_BYTES = 4096;

/** libxdp's xdp_attach_mode. */
const ATTACH_MODES = { native: 1, generic: 2 } as const;

/** The longest busy poll, and the most frames that it receives, as in the kernel's examples. */
const BUSY_POLL_MICROS = 20;
const BUSY_POLL_FRAMES = 64;

/**
 * The kernel releases some resources with a delay: the link of a killed process, or the queue and
 * locked memory of a closed socket. So errors for "in use" are retried for a while.
 */
const PAUSE_MILLIS = 10;
const ATTACH_TRIES = 30;
const BIND_TRIES = 100;

function insist(tries: number, attempt: () => number): number {
  const never = new Int32Array(new SharedArrayBuffer(4));
  let result = attempt();
  for (let i = 1; i < tries && (result === -EBUSY || result === -ENOBUFS); i++) {
    Atomics.wait(never, 0, 0, PAUSE_MILLIS);
    result = attempt();
  }
  return result;
}

interface PreparedSocket {
  /** The memory that it registered as a UMEM; null: it shares the UMEM of the socket `first`. */
  readonly umem: View | null;
  readonly first: number;
  /** The address at which the native side mapped its receive ring. */
  readonly mapped: BigUint64Array<ArrayBuffer>;
}

/** Opens the library at `path` for the master. */
export function openXskSetup(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_xsk_load: int("u32", "buffer"),
    tegula_xsk_attach: int("i32", "i32", "i32"),
    tegula_xsk_join: int("buffer", "i32", "i32"),
    tegula_xsk_leave: int("i32"),
    tegula_xsk_attached: { parameters: ["i32", "buffer"], result: "u32" },
    tegula_xsk_prepare: int("u32", "buffer"),
    tegula_xsk_map: int("i32", "buffer"),
    tegula_xsk_umem: int("i32", "buffer", "u32", "u32", "u32"),
    tegula_xsk_bind: int("i32", "u32", "u32", "i32", "i32"),
    tegula_xsk_register: int("i32", "u32", "i32"),
    tegula_xsk_poll_busily: int("i32", "i32", "i32"),
    tegula_xsk_statistics_of: int("i32", "buffer", "buffer"),
    tegula_xsk_close: nothing("i32", "buffer"),
    // libc's
    setsockopt: SETSOCKOPT,
    close: int("i32"),
  });
  const sockets = new Map<number, PreparedSocket>();

  /** The socket that registered `memory` as a UMEM, or -1. */
  function firstOn(memory: View): number {
    const found = [...sockets].find(([, { umem }]) =>
      umem?.buffer === memory.buffer && umem.byteOffset === memory.byteOffset
    );
    return found?.[0] ?? -1;
  }

  return {
    /** Loads the XDP program with maps for `queues` queues. Throws SystemError. */
    load(queues: number): XdpProgram {
      const fds = new Int32Array(4);
      checked(symbols.tegula_xsk_load(queues, fds), "load the XDP program");
      const [program, filter, sockets, redirected] = fds;
      return { program, filter, sockets, redirected };
    },
    /** Releases program and maps; an attached program stays until it is detached. */
    unload(program: XdpProgram): void {
      for (const fd of Object.values(program)) symbols.close(fd);
    },
    /**
     * Attaches by a bpf_link, which ends with this process, and returns it. Retries while the link
     * of a killed predecessor disappears; -EBUSY: another program stays attached.
     */
    attach: ({ program }: XdpProgram, ifindex: number, mode: "native" | "generic"): number =>
      insist(ATTACH_TRIES, () => {
        const link = symbols.tegula_xsk_attach(program, ifindex, mode === "native" ? 1 : 0);
        return link === -EEXIST ? -EBUSY : link;
      }),
    /** Detaches the program of `link` from its interface; it stays loaded. */
    detach(link: number): void {
      symbols.close(link);
    },
    /**
     * Attaches as one of the programs that libxdp's dispatcher runs on `ifindex`, after the others.
     * Replaces programs of ours that a killed Tegula left. The program stays until `leave`, also
     * after this process ends. The sockets must be bound first, to prove that no running Tegula has
     * the queues. Returns 0, or -errno; -EEXIST: the dispatcher is attached in the other mode.
     */
    join(
      { program, filter, sockets, redirected }: XdpProgram,
      ifindex: number,
      mode: "native" | "generic",
    ): number {
      const wanted = ATTACH_MODES[mode];
      const there = symbols.tegula_xsk_leave(ifindex);
      if (there < 0) return there;
      if (there !== 0 && there !== wanted) return -EEXIST;
      const fds = Int32Array.of(program, filter, sockets, redirected);
      return symbols.tegula_xsk_join(fds, ifindex, wanted);
    },
    /** Removes our programs from the dispatcher of `ifindex`; others stay. */
    leave: symbols.tegula_xsk_leave,
    /** The XDP program attached to `ifindex`, ours or another; its name is "" if it is not readable. */
    attached(ifindex: number): { readonly id: number; readonly name: string } | null {
      const name = new Uint8Array(NAME_BYTES);
      const id = symbols.tegula_xsk_attached(ifindex, name);
      if (id === 0) return null;
      return { id, name: textOf(name) };
    },
    /**
     * Creates a socket with four rings and `memory` (page-aligned, as in a region) as its UMEM.
     * Further sockets on the same memory share the first one's UMEM and mode; the first must be
     * bound before them. A socket receives nothing until it is bound. ENOBUFS: the limit on locked
     * memory is too low; EAFNOSUPPORT: the kernel has no AF_XDP.
     */
    prepare(memory: View, { frameBytes, headroom, ring }: SocketOptions): number {
      const mapped = new BigUint64Array(1);
      const fd = symbols.tegula_xsk_prepare(ring, mapped);
      if (fd < 0) return fd;
      const first = firstOn(memory);
      if (first < 0) {
        const bytes = u8(memory);
        const error = symbols.tegula_xsk_umem(fd, bytes, bytes.length, frameBytes, headroom);
        if (error < 0) {
          symbols.tegula_xsk_close(fd, mapped);
          return error;
        }
      }
      sockets.set(fd, { umem: first < 0 ? memory : null, first, mapped });
      sizeBuffers(symbols.setsockopt, { fd, send: ring * SENT_FRAME_BYTES });
      return fd;
    },
    /**
     * Continues with a bound socket that this process created before it executed another program.
     * Before Linux 6.4 it has no statistics (-EBUSY).
     */
    inherit(fd: number): void {
      const mapped = new BigUint64Array(1);
      symbols.tegula_xsk_map(fd, mapped);
      sockets.set(fd, { umem: null, first: -1, mapped });
    },
    /**
     * Binds a prepared socket to a queue. Waits up to a second while the queue's former socket is
     * being released. EBUSY: the queue has a socket; EOPNOTSUPP or EINVAL: the driver or the queue
     * does not support it; ENODEV: the interface is gone. After an error the socket and its mappings
     * are unchanged, and it can be bound in another way. A bound socket stays bound to its queue.
     */
    bind(fd: number, { ifindex, queue, mode }: BindOptions): number {
      const { first } = sockets.get(fd)!;
      const zeroCopy = mode === "zero-copy" ? 1 : 0;
      return insist(
        BIND_TRIES,
        () => symbols.tegula_xsk_bind(fd, ifindex, queue, zeroCopy, first),
      );
    },
    /** Puts a bound socket into the program's map, so that it receives the frames of its queue. */
    register: ({ sockets }: XdpProgram, queue: number, fd: number): number =>
      symbols.tegula_xsk_register(sockets, queue, fd),
    /**
     * Lets system calls of the net tile drive the driver, instead of interrupts
     * (SO_PREFER_BUSY_POLL and related options). A tile that has adopted the socket notices when it
     * resumes. -ENOPROTOOPT: the kernel is older than 5.11.
     */
    pollBusily: (fd: number): number =>
      symbols.tegula_xsk_poll_busily(fd, BUSY_POLL_MICROS, BUSY_POLL_FRAMES),
    /** Writes `XSK_STATISTICS` totals; what an older kernel does not count stays as it is. Returns 0, or -errno. */
    statistics: (fd: number, out: BigUint64Array): number =>
      symbols.tegula_xsk_statistics_of(fd, sockets.get(fd)!.mapped, out),
    /**
     * Closes a socket. Its queue is free when all processes have closed its descriptor and unmapped
     * its rings: those that adopted it must end or release it.
     */
    close(fd: number): void {
      symbols.tegula_xsk_close(fd, sockets.get(fd)!.mapped);
      sockets.delete(fd);
    },
  };
}

/** Opens the library at `path` for a net tile. */
export function openXsk(path = libraryPath()): Xsk {
  const { symbols } = Deno.dlopen(path, {
    adopt: { name: "tegula_xsk_adopt", ...int("i32", "buffer", "u32") },
    resume: { name: "tegula_xsk_resume", ...nothing("i32") },
    release: { name: "tegula_xsk_release", ...nothing("i32") },
    cursors: { name: "tegula_xsk_cursors", ...nothing("i32", "buffer") },
    visible: { name: "tegula_xsk_visible", ...int("i32", "buffer") },
    memory: { name: "tegula_xsk_memory", ...int("buffer", "u32", "u32") },
    inject: { name: "tegula_xsk_inject", ...int("i32", "buffer", "u32") },
    fd: { name: "tegula_xsk_fd", ...int("i32") },
    receive: { name: "tegula_xsk_receive", ...int("i32", "buffer", "u32") },
    times: { name: "tegula_xsk_times", ...nothing("i32", "buffer", "u32", "buffer") },
    prefetch: { name: "tegula_xsk_prefetch", ...nothing("buffer", "buffer", "u32") },
    ticks: { name: "tegula_xsk_ticks", ...int() },
    fill: { name: "tegula_xsk_fill", ...int("i32", "buffer", "u32") },
    transmit: { name: "tegula_xsk_transmit", ...int("i32", "buffer", "u32") },
    complete: { name: "tegula_xsk_complete", ...int("i32", "buffer", "u32", "u32") },
    statistics: { name: "tegula_xsk_statistics", ...int("i32", "buffer") },
    wait: { name: "tegula_xsk_wait", ...int("buffer", "i32", "i32") },
  });
  return {
    ...symbols,
    adopt: (fd, memory, ring) => symbols.adopt(fd, u8(memory), ring),
    memorySlot: (memory, { frameBytes, ring }) => symbols.memory(u8(memory), frameBytes, ring),
  };
}
