/** How long something may take that normally takes milliseconds. */
const PATIENCE_MILLIS = 5000;

/** Looks again and again until `look` gives something; throws after `timeoutMs`. */
export async function eventually<T>(
  what: string,
  look: () => Promise<T | undefined>,
  { timeoutMs = PATIENCE_MILLIS } = {},
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
  }
}
