// SPDX-License-Identifier: Apache-2.0
/**
 * The log output of tiles and apps: `console`, the `log` of an app's context, and errors. A confined
 * thread has no terminal, so main writes the lines, with the tile's name. Their number is limited, as
 * an app might log every datagram. A line may contain input from a client, so control characters are
 * escaped: it can neither forge a line nor control a terminal.
 */

/** The importance of a line for operators: priorities of syslog(3). */
export const Level = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 } as const;

export type Log = (text: string, level?: number) => void;

/** Whether a field of a message is a level. It may be absent. */
export function isLevel(value: unknown): value is number | undefined {
  return value === undefined || Object.values<unknown>(Level).includes(value);
}

/** Levels of the methods of a console; the others are `info`. */
const LEVELS: { readonly [method: string]: number } = {
  ...{ error: Level.error, assert: Level.error, warn: Level.warning, debug: Level.debug },
};

/** Lines a second; further ones are dropped. */
const LINES_A_SECOND = 50;
/** The longest line, in UTF-16 units. */
export const LONGEST_LINE = 4096;

/** Methods that write their arguments. */
const SAYING = "log info debug warn error dir dirxml table trace group groupCollapsed".split(" ");

/** Deno's own formatting of a console's arguments. It is bound before `takeAway`. */
const { inspectArgs } = (Deno as unknown as Record<symbol, {
  inspectArgs(said: readonly unknown[]): string;
}>)[(Deno as unknown as { internal: symbol }).internal];

/** Writes its arguments by `log`, as Deno's console would, at most `most` lines a second. */
export function bounded(
  log: Log,
  now: () => number = () => performance.now(),
  most = LINES_A_SECOND,
): (level: number | undefined, ...said: unknown[]) => void {
  let begun = -Infinity;
  let lines = 0;
  return (level, ...said) => {
    const time = now();
    if (time - begun >= 1000) [begun, lines] = [time, 0];
    if (lines > most) return;
    const text = clipped(formatted(said)).split("\n");
    const fits = text.slice(0, most - lines);
    lines += text.length;
    if (fits.length > 0) log(fits.join("\n"), level);
    if (fits.length === text.length) return;
    lines = most + 1;
    log(`it writes more than ${most} lines in a second: the rest is left out`, Level.warning);
  };
}

/** Writes each line by `log` once, at most `most` different ones. */
export function once(log: Log, most = Infinity): Log {
  const seen = new Set<string>();
  return (line, level) => {
    if (seen.size >= most || seen.has(line)) return;
    seen.add(line);
    log(line, level);
  };
}

/** `line`, truncated to the length that the log accepts. */
export function clipped(line: string): string {
  return line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)}…` : line;
}

/** All methods of a console, to replace Deno's. */
export function consoleTo(
  log: Log,
  now?: () => number,
): Record<string, (...said: unknown[]) => void> {
  const say = bounded(log, now);
  const methods = Object.keys(console).filter((name) =>
    typeof console[name as keyof Console] === "function"
  );
  return {
    // Counting, timing and the like do nothing.
    ...Object.fromEntries(methods.map((name) => [
      name,
      SAYING.includes(name)
        ? (...said: unknown[]) => say(LEVELS[name] ?? Level.info, ...said)
        : () => {},
    ])),
    assert: (condition, ...said) => {
      const [first, ...rest] = said;
      if (condition) return;
      if (typeof first === "string") say(Level.error, `assertion failed: ${first}`, ...rest);
      else say(Level.error, "assertion failed:", ...said);
    },
  };
}

/** All values in one text, as in Deno's console. A value that a directive cannot format is left as it is. */
function formatted(said: readonly unknown[]): string {
  try {
    return inspectArgs(said);
  } catch {
    return said.map((each) => typeof each === "string" ? each : Deno.inspect(each)).join(" ");
  }
}

/** Control characters except tab. Lines are split before. */
const CONTROL = /[^\P{Cc}\t]/gu;

/** `text` with the name of the tile before each line, and with escaped control characters. */
export function inName(name: string, text: string): string {
  return text.split("\n").map((line) => `${name}: ${spelledOut(line)}`).join("\n");
}

export function spelledOut(line: string): string {
  return line.replace(
    CONTROL,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** Removes globals that no permission controls and that no tile or app may use. */
export function takeAway(): void {
  // Deno's operations, some of which check no permission. Node's modules take hundreds of them when
  // they are loaded, except in a worker.
  Reflect.deleteProperty(Deno, (Deno as unknown as { internal: symbol }).internal);
  // Lines go through the log.
  for (const stream of [Deno.stdin, Deno.stdout, Deno.stderr]) stream.close();
  // Only the worker's own module posts messages, since main must read them whatever their size.
  Reflect.deleteProperty(globalThis, "postMessage");
  // In the appliance a nested worker would start outside of the thread's filter or end the process; the
  // memory of an app's process has no room for it.
  Reflect.deleteProperty(globalThis, "Worker");
  // Files that Deno shares between all apps, without a limit.
  for (const name of ["caches", "CacheStorage", "Cache"]) Reflect.deleteProperty(globalThis, name);
}

// Errors. They are read with care: an app may throw any value, whose getters and toString() may throw, too.

/** An app does not start because of an error in it, or in its configuration. */
export class AppError extends Error {
  readonly app: string;

  constructor(app: string, message: string) {
    super(message);
    this.app = app;
  }
}

/** An error's class, message and stack. Other values have only a text. */
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

/** The same in one line, for the log. */
export function sentenceOf(thrown: unknown): string {
  const { name, message } = readThrown(thrown);
  return firstLine(name === undefined || name === "Error" ? message : `${name}: ${message}`);
}

/** The same without the class, for errors of a configuration, a zone or an app. */
export function wordsOf(thrown: unknown): string {
  const { name = "", message } = readThrown(thrown);
  return firstLine(message || name);
}

/** The first line of a text, with escaped control characters. */
export function firstLine(text: string): string {
  return spelledOut(text.split("\n")[0]);
}

/** Rejects with the first uncaught error or rejection, until `signal` is aborted. */
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
