// SPDX-License-Identifier: Apache-2.0
import { setTimeout as delay } from "node:timers/promises";

/** How long something may take that normally takes milliseconds: the machine may be busy. */
const PATIENCE_MILLIS = 30_000;
/** What one look counts for at most: while the machine stood still there was nothing to be seen. */
const LOOK_MILLIS = 1000;
/** Between two looks, for those that are waited for to run in. */
const PAUSE_MILLIS = 5;

/** Looks again and again until `look` gives something; throws after `timeoutMs`. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined>,
  { timeoutMs = PATIENCE_MILLIS } = {},
): Promise<T> {
  for (let left = timeoutMs;;) {
    const begin = performance.now();
    const found = await look();
    if (found !== undefined) return found;
    if (left <= 0) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await delay(PAUSE_MILLIS);
    left -= Math.min(LOOK_MILLIS, performance.now() - begin);
  }
}
