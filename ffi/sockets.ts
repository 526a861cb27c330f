// SPDX-License-Identifier: Apache-2.0
/**
 * The kernel's sockets behind the served ports, which the master opens, and net tiles read and
 * write in bursts. Also rtnetlink sockets of the netlink tile.
 */

import { checked, int, libraryPath } from "./library.ts";

/**
 * Bytes of a socket's buffer, and of the buffers of all sockets together. With many ports each gets
 * less, but enough for a few of the largest datagrams.
 */
const RECEIVE_BUFFER = { most: 8 << 20, least: 256 << 10, together: 256 << 20 };
const SEND_BUFFER = { most: 4 << 20, least: 256 << 10, together: 128 << 20 };

/** Bytes for each of the `sockets`. */
function share({ most, least, together }: typeof RECEIVE_BUFFER, sockets: number): number {
  return Math.max(least, Math.min(most, Math.floor(together / sockets)));
}

/** The net tile's side. Addresses and ports in host order. */
export interface Udp {
  /**
   * Receives up to `count` (at most `BURST`) datagrams for `port`, the i-th into `memory` at byte
   * `buffers[i]`, `UDP_BUFFER_BYTES` long. `out` gets the time (CLOCK_REALTIME ns, low, high), then
   * a `UdpDescriptor` per datagram. Returns how many, 0 if none is queued, or -errno.
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
   * Sends up to `count` (at most `BURST`) datagrams of `descriptors`, a `UdpDescriptor` each. With
   * source 0 the kernel chooses the source address, with interface 0 it routes. Returns how many
   * the kernel took, in order, 0 if its buffer is full, or -errno if it refused the first: skip
   * that one and continue.
   */
  send(fd: number, memory: Uint8Array, descriptors: Uint32Array, count: number): number;
  /** A descriptor for poll(2) that is readable while any of `fds` is, or -errno. */
  watch(fds: Int32Array): number;
  /**
   * Stores the indices of readable sockets in the list of `watch`, at most `most` and `BURST` of
   * them; the next call returns others. Returns how many, or -errno; never blocks.
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
     * Opens a non-blocking socket on 0.0.0.0:`port` in the calling thread's namespace. The port is
     * exclusive. `sockets`: how many there will be in all. Returns the descriptor, or -errno
     * (-EADDRINUSE: another program has the port).
     */
    open(port: number, sockets = 1): number {
      const fd = symbols.tegula_udp_open(port);
      const [receive, send] = [share(RECEIVE_BUFFER, sockets), share(SEND_BUFFER, sockets)];
      if (fd >= 0) sizeBuffers(symbols.setsockopt, { fd, receive, send });
      return fd;
    },
    /** Sets whether the kernel timestamps received datagrams, for `UdpDescriptor`. */
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

/** libc's setsockopt(2), for `Deno.dlopen`. Here a refused option is not an error. */
export const SETSOCKOPT = int("i32", "i32", "i32", "buffer", "u32");
type SetSocketOption = Deno.StaticForeignLibraryInterface<{ set: typeof SETSOCKOPT }>["set"];

/** Numbers of asm-generic/socket.h. */
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_TIMESTAMPNS = 35;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;

/** Sets a numeric option. Returns whether the kernel accepted it. */
function setNumber(
  set: SetSocketOption,
  { fd, level, option, value }: { fd: number; level: number; option: number; value: number },
): boolean {
  const number = Int32Array.of(value);
  return set(fd, level, option, number, number.byteLength) === 0;
}

/** Sets buffer sizes. Without CAP_NET_ADMIN, the system's limit applies. */
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
/** Numbers of linux/netlink.h. */
const SOL_NETLINK = 270;
const NETLINK_GET_STRICT_CHK = 12;
/** The kernel's address. */
const KERNEL = Uint32Array.of(AF_NETLINK, 0, 0);

export interface NetlinkOptions {
  /** Multicast groups (RTNLGRP_*) to join before anything is received. */
  readonly groups: readonly number[];
  /** Bytes of the receive buffer: SO_RCVBUFFORCE, else SO_RCVBUF up to the system's limit. */
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
    /** Opens a non-blocking NETLINK_ROUTE socket in the calling thread's namespace. Throws SystemError. */
    open({ groups, receiveBuffer, strict }: NetlinkOptions): number {
      const { setsockopt, tegula_netlink_open: open } = symbols;
      const fd = checked(open(Int32Array.from(groups), groups.length), "open a netlink socket");
      sizeBuffers(setsockopt, { fd, receive: receiveBuffer });
      if (strict) {
        setNumber(setsockopt, { fd, level: SOL_NETLINK, option: NETLINK_GET_STRICT_CHK, value: 1 });
      }
      return fd;
    },
    /** The port id of the socket, which replies carry in nlmsg_pid; 0 if it is not a netlink socket. */
    portId(fd: number): number {
      const address = new Uint32Array(SOCKADDR_NL_WORDS);
      const length = Uint32Array.of(address.byteLength);
      const isKnown = symbols.getsockname(fd, address, length) === 0;
      return isKnown && (address[0] & 0xffff) === AF_NETLINK ? address[1] : 0;
    },
    /**
     * Receives up to `lengths.length` (at most 64) datagrams, datagram i to `buffer` at i ×
     * `slotBytes`. `lengths[i]` is its size in bytes, `NETLINK_TRUNCATED` if it did not fit, 0 if it is
     * not from the kernel. Returns how many, 0 if none is queued, -ENOBUFS after an overrun, or -errno.
     */
    receive: (fd: number, buffer: Uint8Array, lengths: Uint32Array, slotBytes: number): number =>
      symbols.tegula_netlink_receive(fd, buffer, lengths, lengths.length, slotBytes),
    /** Sends the first `length` bytes of `buffer` to the kernel. Returns `length`, or -1. */
    send: (fd: number, buffer: Uint8Array, length: number): number =>
      Number(symbols.sendto(fd, buffer, BigInt(length), 0, KERNEL, KERNEL.byteLength)),
    /**
     * Calls poll(2) on an array of `pollSet`. Returns how many are ready, 0 on timeout, -1 on a
     * signal or an error.
     */
    wait: (pollSet: Int32Array, timeoutMs: number): number =>
      symbols.poll(pollSet, BigInt(pollSet.length / 2), timeoutMs),
    close(fd: number): void {
      symbols.close(fd);
    },
  };
}
