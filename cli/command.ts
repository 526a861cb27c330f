// SPDX-License-Identifier: Apache-2.0
/**
 * Code that all commands share. They read their options with `parseArgs` of node:util, whose errors
 * become one sentence, and write to standard output.
 */

import project from "../deno.json" with { type: "json" };
import { parseArgs } from "node:util";
import { attempt, inWords, ROOT } from "../ffi/library.ts";
import { parseAddress } from "../netbase/route.ts";

/** An option for parseArgs, with its help. */
interface Option {
  readonly type: "string" | "boolean";
  readonly short?: string;
  readonly multiple?: boolean;
  readonly default?: string | boolean;
  /** Its value: a name in capitals (PATH and FILE, IF: an interface), or the possible values, as in "a|b". */
  readonly value?: string;
  readonly help: string;
}
export type Options = Readonly<Record<string, Option>>;
type Config<T extends Options> = { options: T; allowPositionals: true; strict: true };

export type Given<T extends Options> = ReturnType<typeof parseArgs<Config<T>>>;

/** A command. Its help, man page and shell completions are generated from this. */
export interface Declaration<T extends Options = Options> {
  readonly name: string;
  /** The words after its name on a command line, for each way to use it. */
  readonly usage: readonly string[];
  /** Paragraphs, with an empty line between them. */
  readonly about: string;
  /** The possible words of its first argument, if there are few. */
  readonly words?: Readonly<Record<string, string>>;
  readonly options: T;
  /** The most arguments. */
  readonly positionals?: number;
  /** Its exit statuses, unless they are 0 and the error's. */
  readonly status?: string;
}

export interface Command {
  (args: string[]): Promise<number>;
  /** With the option --help. */
  readonly declaration: Declaration;
}

/**
 * Makes a command. It parses its options and arguments and passes them to `run`, or prints its help if it is
 * given --help. It throws UserError (status 2) for an unknown option, a missing value or an extra argument.
 */
export function command<T extends Options>(
  declaration: Declaration<T>,
  run: (given: Given<T>, args: string[]) => number | Promise<number>,
): Command {
  const { name, positionals = 0 } = declaration;
  const options = { ...declaration.options, help: HELP_OPTION };
  const withHelp = { ...declaration, options };
  const fail = (what: string) => new UserError(`${what}; see 'tegula ${name} --help'`);
  const parse = (args: string[]) => {
    try {
      return parseArgs({ args, options, allowPositionals: true, strict: true });
    } catch (error) {
      const said = messageOf(error);
      // For a value that begins with a dash, Node's message has three lines.
      const [, option] = /dash use '(--[\w-]+)=/.exec(said) ?? [];
      if (option !== undefined) {
        throw fail(`${option} takes a value; if it begins with a dash, write ${option}=-…`);
      }
      const known = Object.keys(options).map((each) => `--${each}`).join(", ");
      throw fail(`${said.split(". ")[0]} (options: ${known})`);
    }
  };
  const parsed = async (args: string[]) => {
    const given = parse(args);
    const [extra] = given.positionals.slice(positionals);
    if (extra !== undefined) throw fail(`'${excerpt(extra)}' is one argument too many`);
    if (!("help" in given.values)) return await run(given as Given<T>, args);
    say(helpText(withHelp));
    return Exit.ok;
  };
  return Object.assign(parsed, { declaration: withHelp });
}

export const JSON_OPTION = {
  type: "boolean",
  short: "j",
  help: "print JSON, with iproute2's field names",
} as const;
const HELP_OPTION = { type: "boolean", short: "h", help: "print this" } as const;
/** Columns of a help text, and the highest indent of the second column of its lists. */
const [WIDTH, MOST_INDENT] = [80, 22];

function helpText({ name, usage, about, words = {}, options, status }: Declaration): string {
  const rows = [
    ...Object.entries(words),
    ...Object.entries(options).map(([option, declared]) =>
      [optionText(option, declared), declared.help] as const
    ),
  ];
  return [
    usage.map((each, i) => `${i === 0 ? "usage:" : "      "} tegula ${name} ${each}`).join("\n"),
    ...about.split("\n\n").map((paragraph) => wrapped(paragraph)),
    listText(rows),
    ...status === undefined ? [] : [wrapped(`Exit status: ${status}`)],
  ].join("\n\n");
}

/** An option as the help names it, for example `-w, --write FILE`. */
export function optionText(name: string, { short, value }: Option): string {
  const names = short === undefined ? `--${name}` : `-${short}, --${name}`;
  return value === undefined ? names : `${names} ${value}`;
}

/** Formats names and their help in two columns. */
export function listText(rows: readonly (readonly [name: string, help: string])[]): string {
  const indent = Math.min(MOST_INDENT, Math.max(...rows.map(([name]) => name.length)) + 4);
  return rows.map(([name, help]) => {
    const text = wrapped(help, indent);
    return name.length + 4 > indent
      ? `  ${name}\n${" ".repeat(indent)}${text}`
      : `  ${name}`.padEnd(indent) + text;
  }).join("\n");
}

/** Wraps a paragraph, and indents all lines but the first by `indent`. */
export function wrapped(text: string, indent = 0, width = WIDTH): string {
  const line = new RegExp(`(.{1,${width - indent}})(?:\\s+|$)`, "g");
  return text.replaceAll(/\s+/g, " ").replaceAll(line, `$1\n${" ".repeat(indent)}`).trimEnd();
}

/**
 * Returns the words of `allowed` that `given` abbreviates, as with `ip`. `neighbour` is accepted for
 * `neighbor`.
 */
export function abbreviated<T extends string>(given: string, allowed: readonly T[]): T[] {
  const text = given.replace("neighbour", "neighbor");
  const whole = allowed.find((each) => each === text);
  if (whole !== undefined) return [whole];
  return text === "" ? [] : allowed.filter((each) => each.startsWith(text));
}

/** Returns a command's first argument, which must be or abbreviate one of `allowed`. Throws UserError. */
export function word<const T extends string>(
  given: string | undefined,
  { command, allowed }: { command: string; allowed: readonly T[] },
): T {
  const [found, ...others] = abbreviated(given ?? "", allowed);
  if (found !== undefined && others.length === 0) return found;
  const what = given === undefined ? `${command} what?` : `cannot ${command} '${excerpt(given)}':`;
  throw new UserError(`${what} ${allowed.join(", ")}`);
}

/** Returns the value of an option, which must be one of `allowed`. Throws UserError. */
export function oneOf<const T extends string>(
  value: string,
  { option, allowed }: { option: string; allowed: readonly T[] },
): T {
  const found = allowed.find((each) => each === value);
  if (found !== undefined) return found;
  throw new UserError(
    `--${option} takes ${allowed.join(", ")}, not '${excerpt(value)}'`,
  );
}

/** Parses an argument, `what`, that must be an IPv4 address. Returns it in host order. Throws UserError. */
export function address(text: string | undefined, what: string): number {
  const found = parseAddress(text ?? "");
  if (found >= 0) return found;
  const given = text === undefined ? "is missing" : `is not an IPv4 address: '${excerpt(text)}'`;
  throw new UserError(`${what} ${given} (for example 192.0.2.1)`);
}

/** Parses an option that must be a whole number from `least` to `most`. Throws UserError. */
export function wholeNumber(
  value: string,
  { option, least, most }: { option: string; least: number; most: number },
): number {
  const number = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
  if (number >= least && number <= most) return number;
  throw new UserError(
    `--${option} takes a whole number from ${least} to ${most}, not '${excerpt(value)}'`,
  );
}

/**
 * Prints a line to standard output with `write`. `console.log` would not notice that the reader is
 * gone, and `tegula monitor | head -1` would never end.
 */
export function say(text: string): void {
  write(new TextEncoder().encode(`${text}\n`));
}

/**
 * Writes all of `bytes`, to standard output by default. Ends the process with status 0 if the reader has
 * gone. Throws UserError for any other error.
 */
export function write(
  bytes: Uint8Array,
  { to = Deno.stdout, name = "standard output" }: {
    to?: Pick<Deno.FsFile, "writeSync">;
    name?: string;
  } = {},
): void {
  try {
    for (let at = 0; at < bytes.length;) at += to.writeSync(bytes.subarray(at));
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) Deno.exit(Exit.ok);
    throw new UserError(`cannot write ${name}: ${messageOf(error)}`, Exit.failure);
  }
}

// Errors that the operator can fix: one sentence and an exit status. All other exceptions are
// defects, and are printed with their stacks.

/** Exit statuses of `tegula` from 0 on, and what they mean. `docs/operating/incidents.md` lists them, too. */
export const EXIT_STATUSES = {
  ok: "it ended as requested",
  failure: "any other reason, for example that the running tegula does not answer",
  usage: "wrong usage or configuration, or no running tegula was found",
  privilege: "a privilege is missing",
  interface: "an interface: none has that name, or its MTU does not fit",
  port: "a port: another program has it",
  xdp: "XDP or AF_XDP: another XDP program is attached, or the kernel has no AF_XDP",
  system: "the system lacks something: a library, /proc, memory, or a limit is too low",
  warning: "tegula check has found warnings, and no failure",
  starting: "tegula status: it is starting",
  draining: "tegula status: it is draining",
  unwell: "tegula status: it is unwell",
  notRunning: "tegula status: no tegula runs here",
} as const;

export const Exit = Object.fromEntries(
  Object.keys(EXIT_STATUSES).map((name, status) => [name, status]),
) as { readonly [name in keyof typeof EXIT_STATUSES]: number };

export function messageOf(error: unknown): string {
  return error instanceof Error ? inWords(error.message) : String(error);
}

/** The problem with a file that the user named, and its fix, from Deno's `error`. */
export function fileTrouble(error: unknown): string {
  const next = error instanceof Deno.errors.PermissionDenied
    ? "; run this as root, or as a user who may use it"
    : error instanceof Deno.errors.NotFound
    ? "; check the path"
    : "";
  return `${messageOf(error)}${next}`;
}

const LONGEST_CONFIG = 16 * 2 ** 20;

/** Reads a configuration file. Throws an error that `fileTrouble` explains. */
export async function configText(path: string): Promise<string> {
  const { isFile, isDirectory, size } = await Deno.stat(path);
  // A pipe or a device might never end, and a reader would wait for ever.
  if (!isFile && !isDirectory) throw new Error(`${path}: it is not a file`);
  if (size > LONGEST_CONFIG) throw new Error(`${path}: it is longer than ${LONGEST_CONFIG} bytes`);
  return await Deno.readTextFile(path);
}

/** The most characters of a value that an error shows. */
const MOST_SHOWN = 64;

/** A value for an error message, truncated if it is long. */
export function excerpt(value: string): string {
  const [start] = new RegExp(`^[^]{0,${MOST_SHOWN}}`, "u").exec(value)!;
  return start.length < value.length ? `${start}…` : value;
}

/** An error that the operator can fix: one sentence, and the exit status, by default that of wrong usage. */
export class UserError extends Error {
  override readonly name = "UserError";
  readonly status: number;

  constructor(message: string, status: number = Exit.usage) {
    super(message);
    this.status = status;
  }
}

// This program: its version, and the command line that starts it.

/** The version from deno.json, which a release changes. */
export const VERSION: string = project.version;

/** The commit that it was built from; "" if unknown. */
export const COMMIT = attempt(() => Deno.readTextFileSync(`${ROOT}build/commit`).trim(), "");

/**
 * The program's flags for Deno. `scripts/run` and the launcher use the same. Without --cached-only,
 * Deno queries npm's registry in the background for packages that it already has.
 */
export const DENO_FLAGS = [
  "run",
  "--no-prompt",
  "--cached-only",
  "--unstable-worker-options",
  "--allow-all",
] as const;

/** The command line, without arguments, of the installed program. */
export function selfCommand(): string[] {
  const packed = Deno.env.get("TEGULA_EXECUTABLE");
  return packed === undefined ? sameCommand() : [packed];
}

/** The command line, without arguments, that runs this process's own files. */
export function sameCommand(): string[] {
  if (Deno.build.standalone) return [Deno.execPath()];
  return [Deno.execPath(), ...DENO_FLAGS, `${ROOT}main.ts`];
}

// Lines of a stream.

/** Yields the lines of a stream, without line ends. */
export async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  for await (const lines of lineBatches(stream)) yield* lines;
}

/** Yields lines in batches as they arrive. Awaiting each of a million lines would be slow. */
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
