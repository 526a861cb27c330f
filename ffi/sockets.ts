// SPDX-License-Identifier: Apache-2.0
/**
 * Sockets of the kernel. First those behind the served ports: the master opens them, net tiles read and
 * write them in bursts. Then rtnetlink sockets of the netlink tile.
 */

import { checked, int, libraryPath } from "./library.ts";

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

/** The net tile's side. Addresses and ports in host order. */
export interface Udp {
  /**
   * Takes up to `count` (at most `BURST`) datagrams for `port`, the i-th into `memory` at byte
   * `buffers[i]`, `UDP_BUFFER_BYTES` long. `out` gets the time (CLOCK_REALTIME ns, low, high), then
   * per datagram a `UdpDescriptor`. Returns how many; 0 when none waits; -errno.
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
   * Sends up to `count` (at most `BURST`) datagrams of `descriptors`, a `UdpDescriptor` each: from
   * source (0: as the kernel chooses) out of interface (0: as the kernel routes). Returns how many
   * from the start the kernel took, 0 when it takes none now, or -errno when it refused the first:
   * skip that one and continue.
   */
  send(fd: number, memory: Uint8Array, descriptors: Uint32Array, count: number): number;
  /** A descriptor for poll(2) that is readable while any of `fds` is, or -errno. */
  watch(fds: Int32Array): number;
  /**
   * Stores which of the sockets of a `watch` are readable, by their index in its list: at most `most`,
   * and `BURST`, others the next time. Returns how many, or -errno; never blocks.
   */
  ready(watch: number, indices: Uint32Array, most: number): number;
}

/** Opens the library at `path` for the master. */
export function openUdpSetup(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_udp_open: int("i32"),
    // libc's
    setsockopt: SETSOCKOPT,
    close: int("i32"),
  });
  return {
    /**
     * A non-blocking socket on 0.0.0.0:`port` in the calling thread's namespace, shared with nobody.
     * `sockets`: how many there will be in all. Returns the descriptor, or -errno (-EADDRINUSE:
     * another program has the port).
     */
    open(port: number, sockets = 1): number {
      const fd = symbols.tegula_udp_open(port);
      const [receive, send] = [share(RECEIVE_BUFFER, sockets), share(SEND_BUFFER, sockets)];
      if (fd >= 0) sizeBuffers(symbols.setsockopt, { fd, receive, send });
      return fd;
    },
    /** Whether the kernel notes when it receives each datagram, for `UdpDescriptor`. */
    setTimes(fd: number, wanted: boolean): void {
      const value = wanted ? 1 : 0;
      setNumber(symbols.setsockopt, { fd, level: SOL_SOCKET, option: SO_TIMESTAMPNS, value });
    },
    close(fd: number): void {
      symbols.close(fd);
    },
  };
}

/** Opens the library at `path` for a net tile. */
export function openUdp(path = libraryPath()): Udp {
  const { symbols } = Deno.dlopen(path, {
    tegula_udp_receive: int("i32", "i32", "buffer", "buffer", "i32", "buffer"),
    tegula_udp_send: int("i32", "buffer", "buffer", "i32"),
    tegula_udp_watch: int("buffer", "i32"),
    tegula_udp_ready: int("i32", "buffer", "i32"),
  });
  return {
    receive: symbols.tegula_udp_receive,
    send: symbols.tegula_udp_send,
    watch: (fds) => symbols.tegula_udp_watch(fds, fds.length),
    ready: symbols.tegula_udp_ready,
  };
}

/** libc's setsockopt(2), as bindings name it to `Deno.dlopen`. Here a refused option is not an error. */
export const SETSOCKOPT = int("i32", "i32", "i32", "buffer", "u32");
type SetSocketOption = Deno.StaticForeignLibraryInterface<{ set: typeof SETSOCKOPT }>["set"];

/** Numbers of asm-generic/socket.h. */
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_TIMESTAMPNS = 35;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;

/** Sets an option that is a number. Whether it was taken. */
function setNumber(
  set: SetSocketOption,
  { fd, level, option, value }: { fd: number; level: number; option: number; value: number },
): boolean {
  const number = Int32Array.of(value);
  return set(fd, level, option, number, number.byteLength) === 0;
}

/** Makes buffers as large as asked with CAP_NET_ADMIN, else at most as large as the system's limit. */
export function sizeBuffers(
  set: SetSocketOption,
  { fd, receive = 0, send = 0 }: { fd: number; receive?: number; send?: number },
): void {
  const size = (value: number, force: number, option: number) =>
    value === 0 ||
    setNumber(set, { fd, level: SOL_SOCKET, option: force, value }) ||
    setNumber(set, { fd, level: SOL_SOCKET, option, value });
  size(receive, SO_RCVBUFFORCE, SO_RCVBUF);
  size(send, SO_SNDBUFFORCE, SO_SNDBUF);
}

/** Numbers of sys/socket.h; struct sockaddr_nl is its family, then the port id, then groups. */
const AF_NETLINK = 16;
const SOCKADDR_NL_WORDS = 3;
/** Of linux/netlink.h. */
const SOL_NETLINK = 270;
const NETLINK_GET_STRICT_CHK = 12;
/** The kernel's address. */
const KERNEL = Uint32Array.of(AF_NETLINK, 0, 0);

export interface NetlinkOptions {
  /** Multicast groups (RTNLGRP_*) to join before anything is received. */
  readonly groups: readonly number[];
  /** Bytes of receive buffer wanted: SO_RCVBUFFORCE, else SO_RCVBUF up to the system's limit. */
  readonly receiveBuffer: number;
  /** NETLINK_GET_STRICT_CHK, so that dumps honour their filters; older kernels ignore it. */
  readonly strict: boolean;
}

export type NetlinkLibrary = ReturnType<typeof openNetlink>;

export function openNetlink(path = libraryPath()) {
  const { symbols } = Deno.dlopen(path, {
    tegula_netlink_open: int("buffer", "i32"),
    tegula_netlink_receive: int("i32", "buffer", "buffer", "i32", "u32"),
    // libc's
    setsockopt: SETSOCKOPT,
    getsockname: int("i32", "buffer", "buffer"),
    sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
    poll: int("buffer", "usize", "i32"),
    close: int("i32"),
  });
  return {
    /** A NETLINK_ROUTE socket, non-blocking, in the calling thread's namespace. Throws SystemError. */
    open({ groups, receiveBuffer, strict }: NetlinkOptions): number {
      const { setsockopt, tegula_netlink_open: open } = symbols;
      const fd = checked(open(Int32Array.from(groups), groups.length), "open a netlink socket");
      sizeBuffers(setsockopt, { fd, receive: receiveBuffer });
      if (strict) {
        setNumber(setsockopt, { fd, level: SOL_NETLINK, option: NETLINK_GET_STRICT_CHK, value: 1 });
      }
      return fd;
    },
    /** The port id of the socket, which replies carry in nlmsg_pid; 0: it is not a netlink socket. */
    portId(fd: number): number {
      const address = new Uint32Array(SOCKADDR_NL_WORDS);
      const length = Uint32Array.of(address.byteLength);
      const isKnown = symbols.getsockname(fd, address, length) === 0;
      return isKnown && (address[0] & 0xffff) === AF_NETLINK ? address[1] : 0;
    },
    /**
     * Takes up to `lengths.length` (at most 64) datagrams, datagram i to `buffer` at i × `slotBytes`.
     * `lengths[i]` is its size in bytes, `NETLINK_TRUNCATED` when it did not fit, 0 when it did not come from
     * the kernel. Returns how many, 0 when none waits, -ENOBUFS after an overrun, -errno.
     */
    receive: (fd: number, buffer: Uint8Array, lengths: Uint32Array, slotBytes: number): number =>
      symbols.tegula_netlink_receive(fd, buffer, lengths, lengths.length, slotBytes),
    /** Sends the first `length` bytes of `buffer` to the kernel. `length`, or -1. */
    send: (fd: number, buffer: Uint8Array, length: number): number =>
      Number(symbols.sendto(fd, buffer, BigInt(length), 0, KERNEL, KERNEL.byteLength)),
    /**
     * poll(2) over what `pollSet` made. Returns how many are ready, 0 on time-out, -1 on a signal or an
     * error.
     */
    wait: (pollSet: Int32Array, timeoutMs: number): number =>
      symbols.poll(pollSet, BigInt(pollSet.length / 2), timeoutMs),
    close(fd: number): void {
      symbols.close(fd);
    },
  };
}
