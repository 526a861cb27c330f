/**
 * The lines that a process writes, collected as they come, with a bounded wait for the one that
 * matters.
 */

import { within } from "../tiles/runtime/delay.ts";

/** The lines of a stream, without their ends, as they come. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  for await (const lines of lineBatches(stream)) yield* lines;
}

/** The same, those together that came together: a wait for each of a million lines takes its time. */
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

/** Lines of a stream. Reading begins at once and goes on to the end. */
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
   * The first line, from the `from`-th on, that begins with `prefix`. Throws after `timeoutMs`, or
   * when the stream has ended without it, and then shows what there was instead.
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
    const why = this.#ended ? "the process ended" : "waited in vain";
    return `no line "${prefix}…": ${why}; the last lines were:\n${this.all.slice(-12).join("\n")}`;
  }
}
