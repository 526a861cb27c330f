/**
 * Where the native libraries lie: in `build/` beside the program, whatever the working directory is.
 */

import { fileURLToPath } from "node:url";

/** The native libraries, each `build/libtegula_NAME.so`, made by `deno task build`. */
export type LibraryName = "host" | "netlink" | "region" | "tile" | "udp" | "xsk";

/** The absolute path of a library: what `Deno.dlopen` and a worker's `ffi` permission are given. */
export function libraryPath(name: LibraryName): string {
  return fileURLToPath(new URL(`../build/libtegula_${name}.so`, import.meta.url));
}
