/**
 * A burst on its way out: a row of words for each datagram, filled step by step from the app's
 * descriptor to a finished frame (`transmit.ts`, and one at a time `holding.ts`).
 *
 * Each step is a loop over the rows in a function of its own. That is for V8's sake: of an innermost
 * loop that is small enough and calls nothing it lifts out what does not change, of others not.
 */

/** Most datagrams of a burst; a power of two. */
export const BURST = 64;

/** Words of a row, and log2 of that: row `i` begins at `i << ROW_SHIFT`. */
export const ROW_WORDS = 8;
export const ROW_SHIFT = 3;

/**
 * Word offsets in a row. The first five are the descriptor, read once from the app's memory, which
 * the app could change between a check and its use.
 */
export const Row = {
  offset: 0,
  length: 1,
  source: 2,
  destination: 3,
  ports: 4,
  /** Its cache entry; or SLOW; or a refusal. */
  entry: 5,
  /** Its frame, and the sum of the payload there. */
  frame: 6,
  sum: 7,
} as const;

/** Instead of an entry: there is none to be sent by at once. */
export const SLOW = -1;

/** Instead of an entry, before one is looked for: it would be of no use, the payload is in no frame. */
export const NO_FRAME = -2;

/** Refusals are below this: `REFUSED` − the number of the counter to move. */
export const REFUSED = -3;

/** Rows for one burst. */
export function makeRows(): Int32Array {
  return new Int32Array(BURST << ROW_SHIFT);
}
