/**
 * Where the program lies, and in `build/` its native libraries, whatever the working directory is.
 */

/** The folder that the program is in, with a slash at its end. */
export const ROOT = import.meta.dirname!.replace(/ffi$/, "");

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
export function libraryPath(name: LibraryName): string {
  return `${ROOT}build/libtegula_${name}.so`;
}
