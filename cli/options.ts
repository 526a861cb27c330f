/**
 * Reading a command's options with node's `parseArgs`, its errors turned into one sentence that says
 * what was given and what is allowed.
 *
 * @module
 */

import { parseArgs, type ParseArgsConfig } from "node:util";
import { Exit, UserError } from "./errors.ts";

type Options = NonNullable<ParseArgsConfig["options"]>;

/**
 * Parses `args` by `options`. Throws UserError (status 2) for an option that is unknown or lacks its
 * value, and for positional arguments that are not among the first `positionals`.
 */
export function parseOptions<T extends Options>(
  args: string[],
  { command, options, positionals = 0 }: { command: string; options: T; positionals?: number },
) {
  const fail = (what: string) =>
    new UserError(`${what}; see 'tegula ${command} --help'`, Exit.usage);
  try {
    const parsed = parseArgs({ args, options, allowPositionals: true, strict: true });
    if (parsed.positionals.length > positionals) {
      throw fail(`'${parsed.positionals[positionals]}' is one argument too many`);
    }
    return parsed;
  } catch (error) {
    if (error instanceof UserError) throw error;
    const known = Object.keys(options).map((name) => `--${name}`).join(", ");
    const said = error instanceof Error ? error.message.split(". ")[0] : String(error);
    throw fail(`${said} (options: ${known})`);
  }
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
