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

/** The native libraries, each `build/libtegula_NAME.so`, made by `deno task build`. */
export type LibraryName =
  | "host"
  | "netlink"
  | "process"
  | "region"
  | "seal"
  | "tile"
  | "udp"
  | "xsk";

/** The absolute path of a library: what `Deno.dlopen` and a worker's `ffi` permission are given. */
export function libraryPath(name: LibraryName, root = ROOT): string {
  return `${root}build/libtegula_${name}.so`;
}
