/**
 * The kernel sockets that stand behind the served ports: one per port, read and written in bursts by
 * a net tile. Two bindings on one library: the master opens sockets, a net tile can only use them.
 */

import { libraryPath } from "./paths.ts";
import { SETSOCKOPT, sizeBuffers } from "./socket_options.ts";

/** Words of a datagram's descriptor: those of a link (`tiles/runtime/link.ts`), times left out. */
export const UDP_DESCRIPTOR_WORDS = 8;

/** In the length word: the datagram was longer than its buffer. */
export const UDP_TRUNCATED = 0x80000000;

/** Bytes a receive buffer must have. */
export const UDP_BUFFER_BYTES = 65536;

/** Datagrams in a burst, at most. */
export const UDP_BURST = 64;

/**
 * Bytes of a socket's buffers, and of those of all sockets together: with many ports each has less, but
 * room for a few of the largest datagrams.
 */
const RECEIVE_BUFFER = { most: 8 << 20, least: 256 << 10, together: 256 << 20 };
const SEND_BUFFER = { most: 4 << 20, least: 256 << 10, together: 128 << 20 };

/** Bytes for each of `sockets`. */
function share({ most, least, together }: typeof RECEIVE_BUFFER, sockets: number): number {
  return Math.max(least, Math.min(most, Math.floor(together / sockets)));
}

/** Main's side. */
export interface UdpSetup {
  /**
   * A non-blocking socket on 0.0.0.0:`port` in the calling thread's namespace, shared with nobody, one
   * of so many that `sockets` says. Returns the descriptor, or -errno (-EADDRINUSE: another program has
   * the port).
   */
  open(port: number, sockets?: number): number;
  /** Closes it. */
  close(fd: number): void;
}

/** The net tile's side. Addresses and ports in host order. */
export interface Udp {
  /**
   * Takes up to `count` (at most `UDP_BURST`) datagrams for `port`, the i-th into `memory` at byte
   * `buffers[i]`, `UDP_BUFFER_BYTES` long. `out` gets the time (CLOCK_REALTIME ns, low, high), then
   * per datagram 8 words: offset, length (| UDP_TRUNCATED), source, destination, source port << 16 |
   * destination port, ifindex, 0, 0. Returns how many; 0 when none waits; -errno.
   */
  receive(
    fd: number,
    port: number,
    memory: Uint8Array,
    buffers: Uint32Array,
    count: number,
    out: Uint32Array,
  ): number;
  /**
   * Sends up to `count` (at most `UDP_BURST`) datagrams of `descriptors`, the same 8 words each: from
   * source (0: as the kernel chooses) out of interface (0: as the kernel routes). Returns how many
   * from the start the kernel took, 0 when it takes none now, or -errno when it refused the first:
   * skip that one and go on.
   */
  send(fd: number, memory: Uint8Array, descriptors: Uint32Array, count: number): number;
  /** A descriptor for poll(2) that is readable while any of `fds` has something, or -errno. */
  watch(fds: Int32Array): number;
  /**
   * Stores which of the sockets of a `watch` have something, by their index in its list: at most `most`,
   * and `UDP_BURST`, others the next time. Returns how many, or -errno; never blocks.
   */
  ready(watch: number, indices: Uint32Array, most: number): number;
}

/** Opens the library at `path` for the master. */
export function openUdpSetup(path = libraryPath()): UdpSetup {
  const { symbols } = Deno.dlopen(path, {
    tegula_udp_open: { parameters: ["i32"], result: "i32" },
    // libc's
    setsockopt: SETSOCKOPT,
    close: { parameters: ["i32"], result: "i32" },
  });
  return {
    open(port, sockets = 1) {
      const fd = symbols.tegula_udp_open(port);
      const [receive, send] = [share(RECEIVE_BUFFER, sockets), share(SEND_BUFFER, sockets)];
      if (fd >= 0) sizeBuffers(symbols.setsockopt, { fd, receive, send });
      return fd;
    },
    close(fd) {
      symbols.close(fd);
    },
  };
}

/** Opens the library at `path` for a net tile. */
export function openUdp(path = libraryPath()): Udp {
  const { symbols } = Deno.dlopen(path, {
    tegula_udp_receive: {
      parameters: ["i32", "i32", "buffer", "buffer", "i32", "buffer"],
      result: "i32",
    },
    tegula_udp_send: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
    tegula_udp_watch: { parameters: ["buffer", "i32"], result: "i32" },
    tegula_udp_ready: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  });
  return {
    receive: symbols.tegula_udp_receive,
    send: symbols.tegula_udp_send,
    watch: (fds) => symbols.tegula_udp_watch(fds, fds.length),
    ready: symbols.tegula_udp_ready,
  };
}
