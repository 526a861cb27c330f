/**
 * AF_XDP: the XDP program and its maps, UMEMs, sockets and rings. Two bindings on one library: main
 * loads, attaches and opens (`XskSetup`); a net tile moves descriptors (`Xsk`) and cannot name the
 * rest. Programs, UMEMs and sockets are small slot numbers into tables of the library, which all
 * threads of the process share.
 *
 * @module
 */

import { EBUSY } from "./errno.ts";
import type { View } from "./view.ts";

/** Words that `Xsk.receive` writes before the first descriptor: time low, time high. */
export const RECEIVE_HEADER_WORDS = 2;

/** Values that `Xsk.statistics` writes, by index. The first six are those of XDP_STATISTICS. */
export const XskStatistic = {
  rxDropped: 0,
  rxInvalidDescriptors: 1,
  txInvalidDescriptors: 2,
  rxRingFull: 3,
  rxFillRingEmpty: 4,
  txRingEmpty: 5,
  /** Frames that the XDP program handed to this queue's socket. */
  redirected: 6,
} as const;

/** How many values `Xsk.statistics` writes. */
export const XSK_STATISTICS = 7;

/** How a UMEM is cut. Sizes of rings are powers of two. */
export interface UmemOptions {
  /** Bytes of a frame: 2048 or 4096. */
  readonly frameBytes: number;
  /** Bytes that the kernel leaves free before each received frame, besides its own 256. */
  readonly headroom: number;
  /** Fill ring entries of every socket on this UMEM. */
  readonly fill: number;
  /** Completion ring entries of every socket on this UMEM. */
  readonly completion: number;
}

/** Which queue a socket binds to, and how. */
export interface SocketOptions {
  readonly ifname: string;
  /** What `ifname` must still name: it is libxdp that wants a name. */
  readonly ifindex: number;
  readonly queue: number;
  /** All sockets of a UMEM have the mode of its first. */
  readonly mode: "zero-copy" | "copy";
  /** Receive ring entries, a power of two. */
  readonly rx: number;
  /** Transmit ring entries, a power of two. */
  readonly tx: number;
}

/** Main's side. Where nothing else is said a function returns 0 or a slot, or -errno. */
export interface XskSetup {
  /** Loads the XDP program with maps of its own, for `queues` queues of `ifindex`. Program slot. */
  load(ifindex: number, queues: number): number;
  /** Descriptor of the program's `filter` map, to be mapped and written by `Filter`. */
  filterFd(program: number): number;
  /**
   * Attaches by bpf_link, which goes when this process does. -EBUSY: another program is there, for
   * longer than the link of a predecessor that was killed takes to go.
   */
  attach(program: number, mode: "native" | "generic"): number;
  /** The XDP program attached to `ifindex` by whomever; its name is "" when it may not be read. */
  attached(ifindex: number): { readonly id: number; readonly name: string } | null;
  /** Takes the program off its interface; it stays loaded. */
  detach(program: number): void;
  /** Detaches, and lets go of program and maps. Its sockets must be closed. */
  unload(program: number): void;
  /** Registers `view` (page-aligned, as the inside of a region is) as a UMEM. UMEM slot. */
  createUmem(view: View, options: UmemOptions): number;
  /** Lets go of a UMEM; -EBUSY while a socket uses it. */
  deleteUmem(umem: number): number;
  /**
   * Opens a socket on a queue, with rings of its own on a shared UMEM. Waits up to a second while
   * the queue's former socket is being released. Socket slot, or -errno: EBUSY (a socket is there),
   * EOPNOTSUPP or EINVAL (the driver or the queue cannot), ENODEV (the interface was renamed or went).
   */
  open(umem: number, options: SocketOptions): number;
  /** Puts the socket into the program's map: from now on frames of its queue come to it. */
  register(program: number, slot: number): number;
  /** Whether the kernel says that the socket is in zero-copy mode. */
  isZeroCopy(slot: number): boolean;
  /**
   * Closes a socket, which no net tile may use any more. The queue of a UMEM's first socket stays
   * taken until the last of its sockets is closed.
   */
  close(slot: number): void;
}

/** The net tile's side. Offsets are bytes from the start of the UMEM. */
export interface Xsk {
  /** The socket's descriptor, for `wait` and `confine`. */
  fd(slot: number): number;
  /**
   * Takes up to `most` received frames: `descriptors` gets the time (CLOCK_REALTIME ns, low, high)
   * when there were any, then (offset, length) of each. Returns how many.
   */
  receive(slot: number, descriptors: Uint32Array, most: number): number;
  /** Puts frames on the fill ring, and wakes the driver when it asks. How many it took. */
  fill(slot: number, frames: Uint32Array, count: number): number;
  /** Puts (offset, length) pairs on the transmit ring, and kicks once when needed. How many it took. */
  transmit(slot: number, descriptors: Uint32Array, count: number): number;
  /** Takes up to `most` frames off the completion ring: their offsets as they were transmitted. */
  complete(slot: number, frames: Uint32Array, most: number): number;
  /** Makes the kernel look at both rings: when frames wait on the transmit ring or fill starved. */
  kick(slot: number): void;
  /** Writes `XSK_STATISTICS` totals; what an older kernel does not count stays 0. 0, or -errno. */
  statistics(slot: number, out: Float64Array): number;
  /**
   * poll(2) over `count` entries of `pollSet`, each two words: descriptor, events | revents << 16.
   * Returns how many have revents, 0 on time-out or a signal, -errno.
   */
  wait(pollSet: Int32Array, count: number, timeoutMs: number): number;
}

const NAME_BYTES = 16;

/**
 * What was let go a moment ago, the link of a process that was killed or the queue of a closed
 * socket, is released by the kernel a little later. So "in use" has to last before it is believed.
 */
const PAUSE_MILLIS = 10;
const ATTACH_TRIES = 30;
const BIND_TRIES = 100;

function insist(tries: number, attempt: () => number): number {
  const never = new Int32Array(new SharedArrayBuffer(4));
  let result = attempt();
  for (let i = 1; i < tries && result === -EBUSY; i++) {
    Atomics.wait(never, 0, 0, PAUSE_MILLIS);
    result = attempt();
  }
  return result;
}

/** Opens the library at `path` for main. */
export function openXskSetup(path: string): XskSetup {
  const { symbols } = Deno.dlopen(path, {
    tegula_xsk_load: { parameters: ["i32", "i32"], result: "i32" },
    tegula_xsk_filter_fd: { parameters: ["i32"], result: "i32" },
    tegula_xsk_attach: { parameters: ["i32", "i32"], result: "i32" },
    tegula_xsk_attached: { parameters: ["i32", "buffer"], result: "u32" },
    tegula_xsk_detach: { parameters: ["i32"], result: "i32" },
    tegula_xsk_unload: { parameters: ["i32"], result: "i32" },
    tegula_xsk_create_umem: {
      parameters: ["buffer", "u32", "u32", "u32", "u32", "u32"],
      result: "i32",
    },
    tegula_xsk_delete_umem: { parameters: ["i32"], result: "i32" },
    tegula_xsk_open: {
      parameters: ["i32", "buffer", "u32", "i32", "i32", "u32", "u32"],
      result: "i32",
    },
    tegula_xsk_register: { parameters: ["i32", "i32"], result: "i32" },
    tegula_xsk_is_zero_copy: { parameters: ["i32"], result: "i32" },
    tegula_xsk_close: { parameters: ["i32"], result: "i32" },
  });
  return {
    load: symbols.tegula_xsk_load,
    filterFd: symbols.tegula_xsk_filter_fd,
    attach: (program, mode) =>
      insist(ATTACH_TRIES, () => symbols.tegula_xsk_attach(program, mode === "native" ? 1 : 0)),
    attached(ifindex) {
      const name = new Uint8Array(NAME_BYTES);
      const id = symbols.tegula_xsk_attached(ifindex, name);
      if (id === 0) return null;
      return { id, name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))) };
    },
    detach(program) {
      symbols.tegula_xsk_detach(program);
    },
    unload(program) {
      symbols.tegula_xsk_unload(program);
    },
    createUmem(view, { frameBytes, headroom, fill, completion }) {
      const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
      return symbols.tegula_xsk_create_umem(
        bytes,
        view.byteLength,
        frameBytes,
        headroom,
        fill,
        completion,
      );
    },
    deleteUmem: symbols.tegula_xsk_delete_umem,
    open(umem, { ifname, ifindex, queue, mode, rx, tx }) {
      const name = new TextEncoder().encode(ifname + "\0");
      const zeroCopy = mode === "zero-copy" ? 1 : 0;
      return insist(
        BIND_TRIES,
        () => symbols.tegula_xsk_open(umem, name, ifindex, queue, zeroCopy, rx, tx),
      );
    },
    register: symbols.tegula_xsk_register,
    isZeroCopy: (slot) => symbols.tegula_xsk_is_zero_copy(slot) === 1,
    close(slot) {
      symbols.tegula_xsk_close(slot);
    },
  };
}

/** Opens the library at `path` for a net tile, or for main to read statistics. */
export function openXsk(path: string): Xsk {
  const { symbols } = Deno.dlopen(path, {
    tegula_xsk_fd: { parameters: ["i32"], result: "i32" },
    tegula_xsk_receive: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_fill: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_transmit: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_complete: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_kick: { parameters: ["i32"], result: "void" },
    tegula_xsk_statistics: { parameters: ["i32", "buffer"], result: "i32" },
    tegula_xsk_wait: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  });
  return {
    fd: symbols.tegula_xsk_fd,
    receive: symbols.tegula_xsk_receive,
    fill: symbols.tegula_xsk_fill,
    transmit: symbols.tegula_xsk_transmit,
    complete: symbols.tegula_xsk_complete,
    kick: symbols.tegula_xsk_kick,
    statistics: symbols.tegula_xsk_statistics,
    wait: symbols.tegula_xsk_wait,
  };
}
