/**
 * rtnetlink sockets: open, join groups, receive in batches, send. No message is looked into here; the
 * codec is TypeScript. Runs as an ordinary user.
 */

import { checked } from "./errno.ts";
import { libraryPath } from "./paths.ts";
import { setNumber, SETSOCKOPT, sizeBuffers } from "./socket_options.ts";

/** In `lengths`: the message did not fit its slot. */
export const TRUNCATED = 0xffffffff;

/** Numbers of sys/socket.h; struct sockaddr_nl is its family, then the port id, then groups. */
const AF_INET = 2;
const AF_NETLINK = 16;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOCKADDR_NL_WORDS = 3;
/** Of linux/netlink.h. */
const SOL_NETLINK = 270;
const NETLINK_GET_STRICT_CHK = 12;
/** POLLIN (poll.h). */
const POLLIN = 1;
/** The kernel's address. */
const KERNEL = Uint32Array.of(AF_NETLINK, 0, 0);

/** How a socket is opened. */
export interface NetlinkOptions {
  /** Multicast groups (RTNLGRP_*) to join before anything is received. */
  readonly groups: readonly number[];
  /** Bytes of receive buffer wanted: SO_RCVBUFFORCE, else SO_RCVBUF up to the system's limit. */
  readonly receiveBuffer: number;
  /** NETLINK_GET_STRICT_CHK, so that dumps honour their filters; older kernels ignore it. */
  readonly strict: boolean;
}

/** The netlink tile's native calls. */
export interface NetlinkLibrary {
  /** A NETLINK_ROUTE socket, non-blocking, in the calling thread's namespace. Throws SystemError. */
  open(options: NetlinkOptions): number;
  /** The port id that the kernel gave the socket: what replies carry in nlmsg_pid. 0: it is none. */
  portId(fd: number): number;
  /**
   * Takes up to `lengths.length` (at most 64) datagrams, datagram i to `buffer` at i × `slotBytes`.
   * `lengths[i]` is its size in bytes, `TRUNCATED` when it did not fit, 0 when it did not come from
   * the kernel. Returns how many, 0 when none waits, -ENOBUFS after an overrun, -errno.
   */
  receive(fd: number, buffer: Uint8Array, lengths: Uint32Array, slotBytes: number): number;
  /** Sends the first `length` bytes of `buffer` to the kernel. `length`, or -1. */
  send(fd: number, buffer: Uint8Array, length: number): number;
  /**
   * poll(2) over what `pollSet` made. Returns how many are ready, 0 on time-out, -1 on a signal or an
   * error.
   */
  wait(pollSet: Int32Array, timeoutMs: number): number;
  /** The socket that `probe` sends from; open it before the tile confines itself. */
  openProbe(): number;
  /**
   * Sends an empty UDP datagram to the discard port of `address` (host order), out of interface
   * `ifindex` as if it were on-link there: the kernel resolves the neighbour, no capability needed.
   * 0, or -errno. `fd` is from `openProbe`.
   */
  probe(fd: number, ifindex: number, address: number): number;
  /**
   * Has the calling thread run at once when it wakes, also where others never pause (Linux 6.12).
   * 0, or -errno.
   */
  bePrompt(): number;
  /** Closes a descriptor of this library. */
  close(fd: number): void;
}

/** Descriptors to be polled for reading: of each a `struct pollfd`, itself and what is waited for. */
export function pollSet(descriptors: readonly number[]): Int32Array<ArrayBuffer> {
  return Int32Array.from(descriptors.flatMap((fd) => [fd, POLLIN]));
}

/** Opens the library at `path`. */
export function openNetlink(path = libraryPath()): NetlinkLibrary {
  const { symbols } = Deno.dlopen(path, {
    tegula_netlink_open: { parameters: ["buffer", "i32"], result: "i32" },
    tegula_netlink_receive: {
      parameters: ["i32", "buffer", "buffer", "i32", "u32"],
      result: "i32",
    },
    tegula_netlink_probe: { parameters: ["i32", "i32", "u32"], result: "i32" },
    tegula_netlink_be_prompt: { parameters: [], result: "i32" },
    // libc's
    setsockopt: SETSOCKOPT,
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
    getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "isize" },
    poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
  });
  return {
    open({ groups, receiveBuffer, strict }) {
      const { setsockopt, tegula_netlink_open: open } = symbols;
      const fd = checked(open(Int32Array.from(groups), groups.length), "open a netlink socket");
      sizeBuffers(setsockopt, { fd, receive: receiveBuffer });
      if (strict) {
        setNumber(setsockopt, { fd, level: SOL_NETLINK, option: NETLINK_GET_STRICT_CHK, value: 1 });
      }
      return fd;
    },
    portId(fd) {
      const address = new Uint32Array(SOCKADDR_NL_WORDS);
      const length = Uint32Array.of(address.byteLength);
      const isKnown = symbols.getsockname(fd, address, length) === 0;
      return isKnown && (address[0] & 0xffff) === AF_NETLINK ? address[1] : 0;
    },
    receive: (fd, buffer, lengths, slotBytes) =>
      symbols.tegula_netlink_receive(fd, buffer, lengths, lengths.length, slotBytes),
    send: (fd, buffer, length) =>
      Number(symbols.sendto(fd, buffer, BigInt(length), 0, KERNEL, KERNEL.byteLength)),
    wait: (pollSet, timeoutMs) => symbols.poll(pollSet, BigInt(pollSet.length / 2), timeoutMs),
    openProbe() {
      const fd = symbols.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (fd < 0) throw new Error("cannot open a probe socket");
      return fd;
    },
    probe: symbols.tegula_netlink_probe,
    bePrompt: symbols.tegula_netlink_be_prompt,
    close(fd) {
      symbols.close(fd);
    },
  };
}
