/**
 * What sockets are told by libc's setsockopt(2), where a refusal is no error: it was a wish. Every library
 * that opens sockets is linked to libc, so each binding has the call from its own.
 */

/** The call, as bindings name it to `Deno.dlopen`. */
export const SETSOCKOPT = {
  parameters: ["i32", "i32", "i32", "buffer", "u32"],
  result: "i32",
} as const;

/** The call: descriptor, level, option, value and its size. 0, or -1. */
export type SetSocketOption = (
  fd: number,
  level: number,
  option: number,
  value: BufferSource,
  bytes: number,
) => number;

/** Numbers of asm-generic/socket.h. */
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;

/** Sets an option that is a number. Whether it was taken. */
export function setNumber(
  set: SetSocketOption,
  { fd, level, option, value }: { fd: number; level: number; option: number; value: number },
): boolean {
  const number = Int32Array.of(value);
  return set(fd, level, option, number, number.byteLength) === 0;
}

/** Makes buffers as large as may be had: over the system's limit with CAP_NET_ADMIN, else up to it. */
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
