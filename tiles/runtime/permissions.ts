/**
 * What a worker of the appliance is given, before it gives it up: the library, and the files that it reads.
 * And what an app may be granted.
 */

import { libraryPath } from "../../ffi/library.ts";

/** As Deno takes them: paths, names of variables, `address:port` or `unix:path`. */
export interface Permissions {
  readonly ffi: readonly string[];
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly env: readonly string[];
  readonly net: readonly string[];
}

/** What the configuration grants an app. An inline app is granted `read` and `clock` alone. */
export interface Grants extends Omit<Permissions, "ffi"> {
  /** The host's clock (`ffi/tile.ts`). */
  readonly clock: boolean;
  /** Whether the app keeps all this once it runs. */
  readonly keep: boolean;
}

/** Nothing. */
export const NO_GRANTS: Grants = {
  read: [],
  write: [],
  env: [],
  net: [],
  clock: false,
  keep: false,
};

/** The folder that this program is in: the sources, or what is built for processes. */
const FOLDER = decodeURI(new URL("../../", import.meta.url).pathname);
/** Folders of the program that tiles' modules are in. */
export const TILE_FOLDERS = ["apps", "ffi", "netbase", "tiles"];

/** Deno's flags for what a process is granted. What cannot be said is thrown as what `error` makes of it. */
export function permissionFlags(
  permissions: Partial<Permissions>,
  error: (sentence: string) => Error,
): string[] {
  const { read = [], write = [], env = [], net = [], ffi = [] } = permissions;
  return Object.entries({ read, write, env, net, ffi }).flatMap(([name, all]) => {
    // Deno splits values at commas, and has no way to write one that is meant.
    const split = all.find((each) => each.includes(","));
    if (split === undefined) return all.length === 0 ? [] : [`--allow-${name}=${all.join(",")}`];
    throw error(
      `cannot allow ${name} of ${split}: Deno takes the comma in it for the end; take another path`,
    );
  });
}

/** What a worker may do at its start. `read`: what is granted besides the program. */
export function workerPermissions(read: readonly string[]): Permissions {
  const folders = TILE_FOLDERS.map((folder) => FOLDER + folder);
  return { ffi: [libraryPath()], read: [...folders, ...read], write: [], env: [], net: [] };
}
