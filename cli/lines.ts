/**
 * Lines of a stream: as an iterator, in batches, or collected with a bounded wait for a particular one.
 */

import { within } from "../tiles/runtime/tile.ts";

/** Yields the lines of a stream, without line ends. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  for await (const lines of lineBatches(stream)) yield* lines;
}

/** Yields them in the batches that they arrive in. Awaiting each of a million lines would be slow. */
export async function* lineBatches(stream: ReadableStream<Uint8Array>): AsyncGenerator<string[]> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    if (lines.length > 0) yield lines;
  }
  if (rest !== "") yield [rest];
}

/** Collects the lines of a stream, from the constructor on and up to its end. */
export class Lines {
  /** All lines so far. */
  readonly all: string[] = [];
  /** Settles at the end of the stream. */
  readonly closed: Promise<void>;
  readonly #onLine: (line: string) => void;
  #ended = false;
  #changed = Promise.withResolvers<void>();

  constructor(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void = () => {}) {
    this.#onLine = onLine;
    this.closed = this.#read(stream);
  }

  /** Whether the stream has ended. */
  get ended(): boolean {
    return this.#ended;
  }

  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const line of linesOf(stream)) {
      this.all.push(line);
      this.#onLine(line);
      this.#wake();
    }
    this.#ended = true;
    this.#wake();
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }

  /**
   * Returns the first line from index `from` on that begins with `prefix`. Throws an Error with the last
   * lines after `timeoutMs`, or when the stream has ended without it.
   */
  async find(prefix: string, { from = 0, timeoutMs = 30_000 } = {}): Promise<string> {
    const deadline = performance.now() + timeoutMs;
    for (let at = from;; at++) {
      while (at >= this.all.length) {
        const left = deadline - performance.now();
        if (this.#ended || left <= 0) throw new Error(this.#missing(prefix));
        await within(this.#changed.promise, left);
      }
      if (this.all[at].startsWith(prefix)) return this.all[at];
    }
  }

  #missing(prefix: string): string {
    const why = this.#ended ? "the process ended" : "it timed out";
    return `no line "${prefix}…": ${why}; the last lines were:\n${this.all.slice(-12).join("\n")}`;
  }
}
