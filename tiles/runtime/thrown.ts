/**
 * What was thrown, read with care: an app may throw anything, whose getters and toString() throw too.
 */

import { spelledOut } from "./console.ts";

/** An app does not start, which is for whoever wrote it to mend. */
export class AppError extends Error {
  readonly app: string;

  constructor(app: string, message: string) {
    super(message);
    this.app = app;
  }
}

/** An error's class, words and stack; of what is no error there is but its text. */
export function readThrown(thrown: unknown): { name?: string; message: string; stack: string } {
  try {
    if (!(thrown instanceof Error)) return { message: String(thrown), stack: String(thrown) };
    const { name, message, stack } = thrown;
    return { name: String(name), message: String(message), stack: String(stack ?? message) };
  } catch {
    const message = "something that cannot be read";
    return { message, stack: message };
  }
}

/** The same in a line, which is fit for the log. */
export function sentenceOf(thrown: unknown): string {
  const { name, message } = readThrown(thrown);
  return firstLine(name === undefined || name === "Error" ? message : `${name}: ${message}`);
}

/** The same without the class, for whoever has to mend what it is about: a configuration, a zone, an app. */
export function wordsOf(thrown: unknown): string {
  const { name = "", message } = readThrown(thrown);
  return firstLine(message || name);
}

/** The first line of a text, its control characters spelled out. */
export function firstLine(text: string): string {
  return spelledOut(text.split("\n")[0]);
}

/** Rejects with what is thrown where nobody awaits it, until `signal` is aborted. */
export function uncaught(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (event: Event, thrown: unknown) => {
      event.preventDefault();
      reject(thrown);
    };
    addEventListener("error", (event) => fail(event, event.error), { signal });
    addEventListener("unhandledrejection", (event) => fail(event, event.reason), { signal });
  });
}
