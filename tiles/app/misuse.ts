/**
 * What an app is told that uses its answers in a way that the contract (`contract.ts`) does not have:
 * in the same words wherever it runs, and thrown, so that it is counted and logged as its error.
 */

/** A handler that gave a promise, as an `async` function does without being one by its type. */
export class PromiseError extends TypeError {
  readonly #handler: string;

  /** What `handler` gave is not waited for. */
  constructor(handler: string, promise: Promise<unknown>) {
    super(
      `its ${handler}() gave a promise: it must not be async, for a promise never settles there`,
    );
    // Where one settles nevertheless, as in a test or at the end, nobody wants to know how.
    promise.catch(() => {});
    this.#handler = handler;
  }

  /** Whether `thrown` is such an error; unlike `instanceof` it calls nothing of an app's. */
  static is(thrown: unknown): thrown is PromiseError {
    return typeof thrown === "object" && thrown !== null && #handler in thrown;
  }
}

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

/** What `call` throws before `next` has gone to a datagram, and where there is none. */
export function noDatagram(call: "reply" | "reflect"): TypeError {
  return new TypeError(
    `${call}() is about the datagram at hand, and there is none: next() goes to one, in receive()`,
  );
}
