/**
 * Waiting in an event loop: the status tile's, main's. Node has the same, but the first module of
 * Node's costs a tile 1.8 MiB.
 */

/** Resolves after `millis` milliseconds. */
export function delay(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis));
}
