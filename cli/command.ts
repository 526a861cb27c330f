/**
 * Reading a command's options with node's `parseArgs`, its errors turned into one sentence that says
 * what was given and what is allowed.
 */

import { parseAddress } from "../tiles/netlink/addresses.ts";
import { Exit, messageOf, UserError } from "./errors.ts";
import { parseArgs, type ParseArgsConfig } from "node:util";

type Options = NonNullable<ParseArgsConfig["options"]>;
type Config<T extends Options> = { options: T; allowPositionals: true; strict: true };

/** What a command was given, by the options that it has. */
export type Given<T extends Options> = ReturnType<typeof parseArgs<Config<T>>>;

/**
 * A command, from arguments to exit status: reads its options, and at most so many positional arguments,
 * and gives them to `run`. With --help, which every command has, it prints `help` instead. It throws
 * UserError (status 2) for an option that is unknown or lacks its value, and for what is too much.
 */
export function command<T extends Options>(
  { name, help, options, positionals = 0 }: {
    readonly name: string;
    readonly help: string;
    readonly options: T;
    readonly positionals?: number;
  },
  run: (given: Given<T>, args: string[]) => number | Promise<number>,
): (args: string[]) => Promise<number> {
  const all = { ...options, help: { type: "boolean", short: "h" } } as const;
  const fail = (what: string) => new UserError(`${what}; see 'tegula ${name} --help'`, Exit.usage);
  const parse = (args: string[]) => {
    try {
      return parseArgs({ args, options: all, allowPositionals: true, strict: true });
    } catch (error) {
      const said = messageOf(error);
      // Where a value begins with a dash it says how to write that, in three lines.
      const [, option] = /dash use '(--[\w-]+)=/.exec(said) ?? [];
      if (option !== undefined) {
        throw fail(`${option} takes a value; one that begins with a dash is written ${option}=-…`);
      }
      const known = Object.keys(all).map((each) => `--${each}`).join(", ");
      throw fail(`${said.split(". ")[0]} (options: ${known})`);
    }
  };
  return async (args) => {
    const given = parse(args);
    const [extra] = given.positionals.slice(positionals);
    if (extra !== undefined) throw fail(`'${extra}' is one argument too many`);
    if (!("help" in given.values)) return await run(given as Given<T>, args);
    say(help);
    return Exit.ok;
  };
}

/** A word that is given behind a command, one of `allowed`. Throws UserError. */
export function word<const T extends string>(
  given: string | undefined,
  { command, allowed }: { command: string; allowed: readonly T[] },
): T {
  const found = allowed.find((each) => each === given);
  if (found !== undefined) return found;
  const what = given === undefined ? `${command} what?` : `cannot ${command} '${given}':`;
  throw new UserError(`${what} ${allowed.join(", ")}`, Exit.usage);
}

/** An option that must be one of `allowed`. */
export function oneOf<const T extends string>(
  value: string,
  { option, allowed }: { option: string; allowed: readonly T[] },
): T {
  const found = allowed.find((each) => each === value);
  if (found !== undefined) return found;
  throw new UserError(
    `--${option} takes ${allowed.join(", ")}, not '${value}'`,
    Exit.usage,
  );
}

/** An argument that must be an IPv4 address, `what`; in host order. */
export function address(text: string | undefined, what: string): number {
  const found = parseAddress(text ?? "");
  if (found >= 0) return found;
  const given = text === undefined ? "is missing" : `is no IPv4 address: '${text}'`;
  throw new UserError(`${what} ${given} (such as 192.0.2.1)`, Exit.usage);
}

/** An option that must be a whole number from `least` to `most`. */
export function wholeNumber(
  value: string,
  { option, least, most }: { option: string; least: number; most: number },
): number {
  const number = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
  if (number >= least && number <= most) return number;
  throw new UserError(
    `--${option} takes a whole number from ${least} to ${most}, not '${value}'`,
    Exit.usage,
  );
}

/** Prints a text and a line's end. See `write`. */
export function say(text: string): void {
  write(new TextEncoder().encode(`${text}\n`));
}

/**
 * Writes all of `bytes`, to standard output unless told otherwise. Ends the process when whoever read has
 * gone, which is no failure; throws UserError when it cannot be written for another reason.
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
