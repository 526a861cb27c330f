// SPDX-License-Identifier: Apache-2.0
/**
 * Code that all bindings share: the path of the native library, and the kernel's error numbers by
 * name. Native functions return a count or 0, or -errno.
 */

/** The program's folder, with a trailing slash, also for modules in `build/program`. */
export const ROOT = import.meta.dirname!.replace(/(build\/program\/)?ffi$/, "");

/**
 * The modules of `apps`, `ffi`, `netbase` and `tiles` as plain JavaScript, made by `deno task build`
 * (`scripts/program.ts`). Confined processes run these, because they have no cache for TypeScript.
 */
export const PROGRAM = `${ROOT}build/program`;

/** The path of such a module below `root`, by its name in the source tree: "tiles/app/process.ts". */
export function programModule(source: string, root = ROOT): string {
  return `${root}build/program/${source.replace(/\.ts$/, ".js")}`;
}

/** The absolute path of the native library, made by `deno task build`, for `ffi` permissions. */
export function libraryPath(root = ROOT): string {
  return `${root}build/libtegula.so`;
}

/** The absolute path of the library that a confined process starts with (`seal.c`). */
export function sealPath(root = ROOT): string {
  return `${root}build/libtegula_seal.so`;
}

/**
 * Name and meaning by number. Node has such a table, but the first Node module that a tile loads
 * costs 1.8 MiB, and every tile needs this.
 */
const ERRORS: { readonly [number: number]: readonly [name: string, meaning: string] } = {
  1: ["EPERM", "operation not permitted"],
  2: ["ENOENT", "not found"],
  3: ["ESRCH", "no such process"],
  4: ["EINTR", "interrupted system call"],
  5: ["EIO", "i/o error"],
  6: ["ENXIO", "no such device or address"],
  7: ["E2BIG", "argument list too long"],
  9: ["EBADF", "bad file descriptor"],
  10: ["ECHILD", "the process ended"],
  11: ["EAGAIN", "resource temporarily unavailable"],
  12: ["ENOMEM", "not enough memory"],
  13: ["EACCES", "permission denied"],
  14: ["EFAULT", "bad address in system call argument"],
  16: ["EBUSY", "resource busy or locked"],
  17: ["EEXIST", "file already exists"],
  19: ["ENODEV", "no such device"],
  20: ["ENOTDIR", "not a folder"],
  21: ["EISDIR", "it is a folder"],
  22: ["EINVAL", "invalid argument"],
  23: ["ENFILE", "file table overflow"],
  24: ["EMFILE", "too many open files"],
  28: ["ENOSPC", "no space left on device"],
  34: ["ERANGE", "result too large"],
  36: ["ENAMETOOLONG", "the path is too long"],
  38: ["ENOSYS", "function not implemented"],
  71: ["EPROTO", "protocol error"],
  88: ["ENOTSOCK", "not a socket"],
  90: ["EMSGSIZE", "message too long"],
  92: ["ENOPROTOOPT", "protocol not available"],
  93: ["EPROTONOSUPPORT", "protocol not supported"],
  95: ["EOPNOTSUPP", "operation not supported"],
  97: ["EAFNOSUPPORT", "address family not supported"],
  98: ["EADDRINUSE", "address already in use"],
  99: ["EADDRNOTAVAIL", "address not available"],
  100: ["ENETDOWN", "network is down"],
  101: ["ENETUNREACH", "network is unreachable"],
  105: ["ENOBUFS", "no buffer space available"],
  110: ["ETIMEDOUT", "connection timed out"],
  111: ["ECONNREFUSED", "connection refused"],
  113: ["EHOSTUNREACH", "host is unreachable"],
};

/** The errors that the code compares with the negated result of a native function. */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const E2BIG = 7;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const EMFILE = 24;
export const EOPNOTSUPP = 95;
export const EADDRINUSE = 98;
export const ENETUNREACH = 101;
export const ENOBUFS = 105;
export const EHOSTUNREACH = 113;

/** The name of error `n`, which may have either sign: `errnoName(-16)` is `"EBUSY"`. */
export function errnoName(n: number): string {
  return ERRORS[Math.abs(n)]?.[0] ?? `errno ${Math.abs(n)}`;
}

/** The name and its meaning: `describeErrno(-1)` is `"EPERM, operation not permitted"`. */
export function describeErrno(n: number): string {
  return ERRORS[Math.abs(n)]?.join(", ") ?? errnoName(n);
}

/**
 * Rewrites the message of a Deno error: `inWords("No such file or directory (os error 2): open
 * '/x'")` is `"/x: not found"`.
 */
export function inWords(message: string): string {
  const found = / \(os error (\d+)\)(?:: \w+ '(.*?)')?/.exec(message);
  if (found === null) return message;
  const [all, errno, path] = found;
  // Search from the end: the text before may be long and untrusted.
  const begin = message.lastIndexOf(":", found.index) + 1;
  const text = message.slice(begin, found.index);
  const meaning = ERRORS[Number(errno)]?.[1] ?? text.trimStart().toLowerCase();
  const space = text.startsWith(" ") ? " " : "";
  return message.slice(0, begin) + space + (path === undefined ? "" : `${path}: `) + meaning +
    message.slice(found.index + all.length);
}

/** What `work` returns, or `otherwise` if it throws, for example because a file or process does not exist. */
export function attempt<T, U = undefined>(work: () => T, otherwise?: U): T | U {
  try {
    return work();
  } catch {
    return otherwise as U;
  }
}

/** An unexpected failure of a native call: what was tried, and the system's error. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  /** The positive error number. */
  readonly errno: number;

  /** `tried` completes "cannot …". */
  constructor(tried: string, errno: number) {
    super(`cannot ${tried}: ${describeErrno(errno)}`);
    this.errno = Math.abs(errno);
  }
}

/** A C function that returns an `int`, for `Deno.dlopen`; and one that returns nothing. */
export function int<const Parameters extends readonly Deno.NativeType[]>(
  ...parameters: Parameters
) {
  return { parameters, result: "i32" } as const;
}
export function nothing<const Parameters extends readonly Deno.NativeType[]>(
  ...parameters: Parameters
) {
  return { parameters, result: "void" } as const;
}

/** Saved before an app's code runs, which may replace it. */
const encode = TextEncoder.prototype.encode.bind(new TextEncoder());

/** `text` as a string of C, with its terminating zero. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return encode(`${text}\0`);
}

/** The string of C at the beginning of `bytes`. */
export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\0.*/s, "");
}

/** Events of poll(2). */
export const [POLLIN, POLLOUT] = [1, 4];

/** Makes the array of `struct pollfd` by which poll(2) waits until one of `descriptors` is readable. */
export function pollSet(descriptors: readonly number[]): Int32Array<ArrayBuffer> {
  return Int32Array.from(descriptors.flatMap((fd) => [fd, POLLIN]));
}

/** Returns `result`, or throws a {@linkcode SystemError} if it is -errno. */
export function checked(result: number, tried: string): number {
  if (result < 0) throw new SystemError(tried, result);
  return result;
}
