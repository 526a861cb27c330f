/**
 * What an app is told that uses its answers in a way that the contract (`contract.ts`) does not have:
 * in the same words wherever it runs, and thrown, so that it is counted and logged as its error.
 */

/** Throws RangeError unless `size` bytes at `offset` lie within the `room` bytes reserved at `at`. */
export function checkWithin(
  offset: number,
  size: number,
  { at, room }: { at: number; room: number },
): void {
  if (offset >= at && size >= 0 && offset - at + size <= room) return;
  throw new RangeError(
    `an answer of ${size} bytes at ${offset} is not within what was reserved: ${room} at ${at}`,
  );
}
