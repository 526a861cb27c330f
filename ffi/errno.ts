/**
 * Error numbers of the kernel, by name. The native functions return a count or 0, or -errno; what a
 * person reads is made from it here.
 */

import { constants } from "node:os";
import { getSystemErrorMap } from "node:util";

/** The errors that the code asks for by name; compare with what a native function returned, negated. */
export const {
  EACCES,
  EADDRINUSE,
  EAFNOSUPPORT,
  EBUSY,
  EEXIST,
  EHOSTUNREACH,
  EINVAL,
  ENODEV,
  ENETUNREACH,
  ENOBUFS,
  EOPNOTSUPP,
  EPERM,
} = constants.errno;

/** Name and meaning by number, negated. */
const ERRORS = getSystemErrorMap();
// Which of its two names the kernel's own pages give to this one.
ERRORS.set(-EOPNOTSUPP, ["EOPNOTSUPP", "operation not supported"]);

/** The name of error `n`, which may have either sign: `errnoName(-16)` is `"EBUSY"`. */
export function errnoName(n: number): string {
  return ERRORS.get(-Math.abs(n))?.[0] ?? `errno ${Math.abs(n)}`;
}

/** The name and its meaning: `describeErrno(-1)` is `"EPERM, operation not permitted"`. */
export function describeErrno(n: number): string {
  return ERRORS.get(-Math.abs(n))?.join(", ") ?? errnoName(n);
}

/** A native call that failed where failing is not expected: what was tried, and the system's word. */
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

/** Hands `result` on, or throws a {@linkcode SystemError} when it is -errno. */
export function checked(result: number, tried: string): number {
  if (result < 0) throw new SystemError(tried, result);
  return result;
}
