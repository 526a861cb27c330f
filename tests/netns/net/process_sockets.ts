// SPDX-License-Identifier: Apache-2.0
/**
 * The AF_XDP sockets of another process, for what only the kernel can tell of them.
 */

const AF_XDP = 44;
const SOL_SOCKET = 1;
const SO_DOMAIN = 39;
const SYS_PIDFD_OPEN = 434n;
const SYS_PIDFD_GETFD = 438n;

const libc = Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
}).symbols;

/** Reads an option into `value`; false when there is no such option. */
export type ReadOption = (level: number, option: number, value: ArrayBufferView) => boolean;

/** What `read` makes of the options of each AF_XDP socket of a process. */
export function xdpSockets<T>(pid: number, read: (option: ReadOption) => T): T[] {
  const pidfd = Number(libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n));
  const found = [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
    const fd = Number(libc.syscall(SYS_PIDFD_GETFD, BigInt(pidfd), BigInt(name), 0n));
    const option: ReadOption = (level, number, value) => {
      const length = Uint32Array.of(value.byteLength);
      return libc.getsockopt(fd, level, number, value as Uint8Array<ArrayBuffer>, length) === 0;
    };
    const domain = new Int32Array(1);
    const isOurs = option(SOL_SOCKET, SO_DOMAIN, domain) && domain[0] === AF_XDP;
    const result = isOurs ? [read(option)] : [];
    libc.close(fd);
    return result;
  });
  libc.close(pidfd);
  return found;
}
