/**
 * This program: its version, and the command line that starts it.
 */

import project from "../deno.json" with { type: "json" };
import { ROOT } from "../ffi/library.ts";

/** The version in deno.json, where a release changes it. */
export const VERSION: string = project.version;

/**
 * The flags that the program needs of Deno. `scripts/run` and the launcher use the same. Without
 * --cached-only, Deno asks npm's registry in the background about packages that it has already.
 */
export const DENO_FLAGS = [
  "run",
  "--no-prompt",
  "--cached-only",
  "--unstable-worker-options",
  "--allow-all",
] as const;

/** The command line, without arguments, that runs this program as it is installed now. */
export function selfCommand(): string[] {
  const packed = Deno.env.get("TEGULA_EXECUTABLE");
  return packed === undefined ? sameCommand() : [packed];
}

/** The command line, without arguments, that runs the very files that this process runs. */
export function sameCommand(): string[] {
  if (Deno.build.standalone) return [Deno.execPath()];
  return [Deno.execPath(), ...DENO_FLAGS, `${ROOT}main.ts`];
}
