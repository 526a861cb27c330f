/**
 * The host's clock, read for an app that was granted it.
 *
 * @module
 */

import { checked } from "./errno.ts";

/** What adjtimex(2) returns: a leap second is to be added or removed, or nobody keeps the clock. */
const [TIME_INS, TIME_DEL, TIME_ERROR] = [1, 2, 5];

/** The clock, as `tiles/app/contract.ts` gives it to an app. */
export interface Clock {
  /** Nanoseconds since 1970 UTC, to the 256 that a number of that size can tell apart. */
  now(): number;
  /** What the kernel says of its clock. Throws SystemError. */
  status(): {
    readonly synchronised: boolean;
    readonly maxErrorMicros: number;
    readonly leap: number;
  };
}

/** Opens the library at `path`. */
export function openClock(path: string): Clock {
  const { symbols } = Deno.dlopen(path, {
    tegula_clock_now: { parameters: ["buffer"], result: "i32" },
    tegula_clock_status: { parameters: ["buffer"], result: "i32" },
  });
  const words = new Uint32Array(2);
  return {
    now() {
      symbols.tegula_clock_now(words);
      return words[1] * 2 ** 32 + words[0];
    },
    status() {
      const state = checked(symbols.tegula_clock_status(words), "read the kernel's clock state");
      return {
        synchronised: state !== TIME_ERROR,
        maxErrorMicros: words[0],
        leap: state === TIME_INS ? 1 : state === TIME_DEL ? -1 : 0,
      };
    },
  };
}
