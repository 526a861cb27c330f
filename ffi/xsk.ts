/**
 * AF_XDP: the XDP program and its maps, UMEMs, sockets and rings. Two bindings on one library: main
 * loads, attaches and opens (`XskSetup`); a net tile moves descriptors (`Xsk`) and cannot name the
 * rest. Sockets are small slot numbers into a table of the library, which all threads of the process
 * share; programs, maps and links are descriptors.
 */

import { checked, EBUSY, EEXIST } from "./errno.ts";
import { SETSOCKOPT, sizeBuffers } from "./socket_options.ts";
import { u8, type View } from "./view.ts";

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
  /** Frames that were taken off the receive ring. */
  received: 6,
} as const;

/** How many values `Xsk.statistics` writes. */
export const XSK_STATISTICS = 7;

/** A loaded XDP program with maps of its own; all are descriptors. */
export interface XdpProgram {
  readonly program: number;
  /** What is ours; to be mapped, and written by `Filter`. */
  readonly filter: number;
  /** The socket of each queue. */
  readonly sockets: number;
  /** 64 bits per queue: frames handed to its socket. To be mapped. */
  readonly redirected: number;
}

/** How memory is cut into frames, which queue a socket binds to, and how. */
export interface SocketOptions {
  /** Bytes of a frame: 2048 or 4096. */
  readonly frameBytes: number;
  /** Bytes that the kernel leaves free before each received frame, besides its own 256. */
  readonly headroom: number;
  /** Entries of each of the four rings, a power of two. */
  readonly ring: number;
  readonly ifname: string;
  /** What `ifname` must still name: it is libxdp that wants a name. */
  readonly ifindex: number;
  readonly queue: number;
  /** All sockets on the same memory have the mode of the first. */
  readonly mode: "zero-copy" | "copy";
}

/** Main's side. Where nothing else is said a function returns 0, a slot or a descriptor, or -errno. */
export interface XskSetup {
  /** Loads the XDP program with maps for `queues` queues. Throws SystemError. */
  load(queues: number): XdpProgram;
  /** Lets go of program and maps; where it is attached it stays until it is detached. */
  unload(program: XdpProgram): void;
  /**
   * Attaches by a bpf_link, which goes when this process does, and returns it. -EBUSY: another
   * program is there, for longer than the link of a predecessor that was killed takes to go.
   */
  attach(program: XdpProgram, ifindex: number, mode: "native" | "generic"): number;
  /** Takes the program off the interface that `link` has it on; it stays loaded. */
  detach(link: number): void;
  /**
   * Attaches as one of those that libxdp's dispatcher runs on `ifindex`, after the others and in place
   * of any of ours, which a Tegula that was killed left. It stays until `leave`, whatever becomes of
   * this process. So it takes open sockets on the queues first: who has them is no other that lives.
   * 0, or -errno; -EEXIST: the dispatcher there is attached in the other mode.
   */
  join(program: XdpProgram, ifindex: number, mode: "native" | "generic"): number;
  /** Takes ours out of the dispatcher of `ifindex`; what else it runs stays. */
  leave(ifindex: number): number;
  /** The XDP program attached to `ifindex` by whomever; its name is "" when it may not be read. */
  attached(ifindex: number): { readonly id: number; readonly name: string } | null;
  /**
   * Opens a socket on a queue, with rings of its own and `memory` (page-aligned, as the inside of a
   * region is) as its UMEM, which all sockets on the same memory share. Waits up to a second while the
   * queue's former socket is being released. Socket slot, or -errno: EBUSY (a socket is there),
   * EOPNOTSUPP or EINVAL (the driver or the queue cannot), ENODEV (the interface was renamed or went),
   * ENOBUFS (that much memory may not be locked).
   */
  open(memory: View, options: SocketOptions): number;
  /** Puts the socket into the program's map: from now on frames of its queue come to it. */
  register(program: XdpProgram, slot: number): number;
  /**
   * Lets the net tile's own calls drive the driver, in place of interrupts (SO_PREFER_BUSY_POLL and
   * what belongs to it). -ENOPROTOOPT: the kernel is older than 5.11.
   */
  pollBusily(slot: number): number;
  /**
   * Closes a socket, which no net tile may use any more. The queue of the first socket on its memory
   * stays taken until the last is closed.
   */
  close(slot: number): void;
}

/** The net tile's side. Offsets are bytes from the start of the UMEM. */
export interface Xsk {
  /** The socket's descriptor, for `wait` and `confine`. */
  fd(slot: number): number;
  /** Maps the rings, of `ring` entries each, of an open socket, and touches none. Its slot, or -errno. */
  adopt(fd: number, { ring }: { ring: number }): number;
  /** Goes on where whoever had the rings before has left them, and has ended. */
  resume(slot: number): void;
  /**
   * Writes the cursors of the rings, consumers before the producers that follow them: fill producer and
   * consumer, rx producer and consumer, tx producer and consumer, completion producer and consumer.
   */
  cursors(slot: number, out: Uint32Array): void;
  /** Writes an offset in each frame that stands in the fill, rx, tx or completion ring. How many. */
  visible(slot: number, out: Uint32Array): number;
  /**
   * Takes up to `most` received frames: `descriptors` gets the time (CLOCK_REALTIME ns, low, high)
   * when there were any, then (offset, length) of each. Returns how many.
   */
  receive(slot: number, descriptors: Uint32Array, most: number): number;
  /** Has the cache lines of `words` at the first `count` indices of `at` on their way. */
  prefetch(words: Int32Array, at: Uint32Array, count: number): void;
  /** Puts frames on the fill ring, and wakes the driver when it asks. How many it took. */
  fill(slot: number, frames: Uint32Array, count: number): number;
  /**
   * Puts (offset, length) pairs on the transmit ring, and has the kernel go on with what is on it where
   * it must be told, also when `count` is 0. How many it took.
   */
  transmit(slot: number, descriptors: Uint32Array, count: number): number;
  /**
   * Takes up to `most` frames off the completion ring: their offsets as they were transmitted. The
   * first `again` of them go onto the fill ring from hand to hand, as `fill` does, to which all bytes of
   * a frame are one. How many there were | how many the fill ring took << 16.
   */
  complete(slot: number, frames: Uint32Array, most: number, again: number): number;
  /** Writes `XSK_STATISTICS` totals; what an older kernel does not count stays as it is. 0, or -errno. */
  statistics(slot: number, out: BigUint64Array): number;
  /**
   * poll(2) over `count` entries of `pollSet`, each two words: descriptor, events | revents << 16.
   * Returns how many have revents, 0 on time-out, -1 on a signal or an error.
   */
  wait(pollSet: Int32Array, count: number, timeoutMs: number): number;
}

const NAME_BYTES = 16;

/** In copy mode a frame on its way out counts against the send buffer with at most this much. */
const SENT_FRAME_BYTES = 4096;

/** libxdp's xdp_attach_mode. */
const ATTACH_MODES = { native: 1, generic: 2 } as const;

/** How long one busy poll may last and how many frames it may bring, as the kernel's examples have it. */
const BUSY_POLL_MICROS = 20;
const BUSY_POLL_FRAMES = 64;

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
    tegula_xsk_load: { parameters: ["u32", "buffer"], result: "i32" },
    tegula_xsk_attach: { parameters: ["i32", "i32", "i32"], result: "i32" },
    tegula_xsk_join: { parameters: ["buffer", "i32", "i32"], result: "i32" },
    tegula_xsk_leave: { parameters: ["i32"], result: "i32" },
    tegula_xsk_attached: { parameters: ["i32", "buffer"], result: "u32" },
    tegula_xsk_open: {
      parameters: ["buffer", "u32", "u32", "u32", "buffer", "u32", "i32", "i32", "u32"],
      result: "i32",
    },
    tegula_xsk_register: { parameters: ["i32", "i32"], result: "i32" },
    tegula_xsk_poll_busily: { parameters: ["i32", "i32", "i32"], result: "i32" },
    tegula_xsk_close: { parameters: ["i32"], result: "void" },
    tegula_xsk_fd: { parameters: ["i32"], result: "i32" },
    // libc's
    setsockopt: SETSOCKOPT,
    close: { parameters: ["i32"], result: "i32" },
  });
  return {
    load(queues) {
      const fds = new Int32Array(4);
      checked(symbols.tegula_xsk_load(queues, fds), "load the XDP program");
      const [program, filter, sockets, redirected] = fds;
      return { program, filter, sockets, redirected };
    },
    unload(program) {
      for (const fd of Object.values(program)) symbols.close(fd);
    },
    attach: ({ program }, ifindex, mode) =>
      insist(ATTACH_TRIES, () => {
        const link = symbols.tegula_xsk_attach(program, ifindex, mode === "native" ? 1 : 0);
        return link === -EEXIST ? -EBUSY : link;
      }),
    detach(link) {
      symbols.close(link);
    },
    join({ program, filter, sockets, redirected }, ifindex, mode) {
      const wanted = ATTACH_MODES[mode];
      const there = symbols.tegula_xsk_leave(ifindex);
      if (there < 0) return there;
      if (there !== 0 && there !== wanted) return -EEXIST;
      const fds = Int32Array.of(program, filter, sockets, redirected);
      return symbols.tegula_xsk_join(fds, ifindex, wanted);
    },
    leave: symbols.tegula_xsk_leave,
    attached(ifindex) {
      const name = new Uint8Array(NAME_BYTES);
      const id = symbols.tegula_xsk_attached(ifindex, name);
      if (id === 0) return null;
      return { id, name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))) };
    },
    open(memory, { frameBytes, headroom, ring, ifname, ifindex, queue, mode }) {
      const bytes = u8(memory);
      const { length } = bytes;
      const name = new TextEncoder().encode(ifname + "\0");
      const zeroCopy = mode === "zero-copy" ? 1 : 0;
      const { tegula_xsk_open: open, tegula_xsk_fd: descriptor, setsockopt } = symbols;
      const slot = insist(
        BIND_TRIES,
        () => open(bytes, length, frameBytes, headroom, name, ifindex, queue, zeroCopy, ring),
      );
      if (slot < 0) return slot;
      sizeBuffers(setsockopt, { fd: descriptor(slot), send: ring * SENT_FRAME_BYTES });
      return slot;
    },
    register: ({ sockets }, slot) => symbols.tegula_xsk_register(sockets, slot),
    pollBusily: (slot) => symbols.tegula_xsk_poll_busily(slot, BUSY_POLL_MICROS, BUSY_POLL_FRAMES),
    close: symbols.tegula_xsk_close,
  };
}

/** Opens the library at `path` for a net tile, or for main to read statistics. */
export function openXsk(path: string): Xsk {
  const { symbols } = Deno.dlopen(path, {
    tegula_xsk_fd: { parameters: ["i32"], result: "i32" },
    tegula_xsk_receive: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_prefetch: { parameters: ["buffer", "buffer", "u32"], result: "void" },
    tegula_xsk_fill: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_transmit: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    tegula_xsk_complete: { parameters: ["i32", "buffer", "u32", "u32"], result: "i32" },
    tegula_xsk_statistics: { parameters: ["i32", "buffer"], result: "i32" },
    tegula_xsk_wait: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  });
  return {
    fd: symbols.tegula_xsk_fd,
    // Sockets that this process has opened itself, and is told of by slot: their rings are empty.
    adopt: (slot) => slot,
    resume() {},
    cursors: (_, out) => void out.fill(0),
    visible: () => 0,
    receive: symbols.tegula_xsk_receive,
    prefetch: symbols.tegula_xsk_prefetch,
    fill: symbols.tegula_xsk_fill,
    transmit: symbols.tegula_xsk_transmit,
    complete: symbols.tegula_xsk_complete,
    statistics: symbols.tegula_xsk_statistics,
    wait: symbols.tegula_xsk_wait,
  };
}
