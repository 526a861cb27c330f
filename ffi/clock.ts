/**
 * The host's clock, read for an app that was granted it.
 */

import type { Clock } from "../tiles/app/contract.ts";
import { checked } from "./errno.ts";
import { libraryPath } from "./paths.ts";

/** What adjtimex(2) returns: a leap second is to be added or removed, or nobody keeps the clock. */
const [TIME_INS, TIME_DEL, TIME_ERROR] = [1, 2, 5];
/** 64-bit words of struct timex, of which the fourth is the maximum error in microseconds. */
const TIMEX_WORDS = 26;
const MAX_ERROR = 3;
const CLOCK_REALTIME = 0;

/** Opens the library at `path`. */
export function openClock(path = libraryPath()): Clock {
  const { symbols } = Deno.dlopen(path, {
    clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
    adjtimex: { parameters: ["buffer"], result: "i32" },
  });
  /** struct timespec: seconds, low word and high word, then nanoseconds. */
  const time = new Uint32Array(4);
  const timex = new BigInt64Array(TIMEX_WORDS);
  return {
    now() {
      symbols.clock_gettime(CLOCK_REALTIME, time);
      return (time[1] * 2 ** 32 + time[0]) * 1e9 + time[2];
    },
    status() {
      timex.fill(0n); // no modes: reads, and sets nothing
      // libc's -1 is EPERM, the one way in which reading can fail.
      const state = checked(symbols.adjtimex(timex), "read the kernel's clock state");
      return {
        synchronised: state !== TIME_ERROR,
        maxErrorMicros: Number(timex[MAX_ERROR]),
        leap: state === TIME_INS ? 1 : state === TIME_DEL ? -1 : 0,
      };
    },
  };
}
