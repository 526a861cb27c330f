/** How a process ended, in words. */

import { constants } from "node:os";
import type { Ending } from "../ffi/process.ts";

const NAMES = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]));

/** "it ended with status 1", "it was ended by SIGSEGV". */
export function describeEnding({ status, signal }: Ending): string {
  if (signal === 0) return `it ended with status ${status}`;
  return `it was ended by ${NAMES.get(signal as never) ?? `signal ${signal}`}`;
}
