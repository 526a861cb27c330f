/**
 * Standard output of the commands that print what they found. `console.log` will not do: it goes on in
 * silence when nobody reads any more, so that `tegula monitor | head -1` would never end.
 */

import { Exit, messageOf, UserError } from "./errors.ts";

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
