/**
 * This program: its version, and how it starts itself again, for the demo and for its appliance in
 * another network namespace.
 */

import project from "../deno.json" with { type: "json" };
import { ROOT } from "../ffi/paths.ts";

/** As in deno.json, which is where a release changes it. */
export const VERSION: string = project.version;

/**
 * Deno's flags that the program needs; `scripts/run`, the launcher and `selfCommand` agree on them. Deno
 * asks npm's registry about packages that it has, in the background, unless it may only use its cache.
 */
export const DENO_FLAGS = [
  "run",
  "--no-prompt",
  "--cached-only",
  "--unstable-worker-options",
  "--allow-all",
] as const;

/** The beginning of a command line that runs this program as it is installed; arguments follow. */
export function selfCommand(): string[] {
  const packed = Deno.env.get("TEGULA_EXECUTABLE");
  return packed === undefined ? sameCommand() : [packed];
}

/** The same of the very files that this process runs. */
export function sameCommand(): string[] {
  if (Deno.build.standalone) return [Deno.execPath()];
  return [Deno.execPath(), ...DENO_FLAGS, `${ROOT}main.ts`];
}
