/**
 * Waiting in an event loop, of the status tile or the master. Node has the same, but the first module of
 * Node's costs a tile 1.8 MiB.
 */

/** Resolves after `millis` milliseconds. */
export function delay(millis: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, millis));
}

/**
 * Whether `promise` settles within `millis`, which may be Infinity. Throws what it rejects with by then; what
 * it rejects with later is lost.
 */
export async function within(promise: Promise<unknown>, millis: number): Promise<boolean> {
  const settled = promise.then(() => true);
  if (millis === Infinity) return await settled;
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(late.resolve, millis, false);
  try {
    return await Promise.race([settled, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
