/**
 * Where the program lies, and in `build/` its native libraries, whatever the working directory is.
 */

/** The folder that the program is in, with a slash at its end: also seen from `build/program`. */
export const ROOT = import.meta.dirname!.replace(/(build\/program\/)?ffi$/, "");

/**
 * The modules of `apps`, `ffi`, `netbase` and `tiles` as plain JavaScript, made by `deno task build`
 * (`scripts/program.ts`): what a process of its own runs, as it has no cache for TypeScript.
 */
export const PROGRAM = `${ROOT}build/program`;

/** The path of such a module below `root`, by its name in the source tree: "tiles/app/process.ts". */
export function programModule(source: string, root = ROOT): string {
  return `${root}build/program/${source.replace(/\.ts$/, ".js")}`;
}

/** The absolute path of the native library, made by `deno task build`: what `ffi` permissions are given. */
export function libraryPath(root = ROOT): string {
  return `${root}build/libtegula.so`;
}

/** The absolute path of the library that a confined process starts with (`seal.c`). */
export function sealPath(root = ROOT): string {
  return `${root}build/libtegula_seal.so`;
}
