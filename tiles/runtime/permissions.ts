/**
 * What each kind of tile's worker is given before it gives it up: the libraries that it opens and the
 * modules that it reads (DESIGN: the table of tiles). Nothing else, and neither once its loop runs.
 */

import { type LibraryName, libraryPath } from "../../ffi/paths.ts";
import type { TileKind } from "./tile.ts";

/** As Deno takes them: paths, names of variables, `address:port` or `unix:path`. */
export interface Permissions {
  readonly ffi: readonly string[];
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly env: readonly string[];
  readonly net: readonly string[];
}

/** What is granted by name, besides what every tile of a kind has. */
export interface Grants extends Omit<Permissions, "ffi"> {
  /** The host's clock (`ffi/clock.ts`). */
  readonly clock: boolean;
  /** Whether the tile keeps all this once it runs; its thread can then still work on files. */
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

/** All that any of `all` grants. */
export function together(all: readonly Grants[]): Grants {
  const list = (name: "read" | "write" | "env" | "net") => [
    ...new Set(all.flatMap((grants) => grants[name])),
  ];
  return {
    ...{ read: list("read"), write: list("write"), env: list("env"), net: list("net") },
    clock: all.some(({ clock }) => clock),
    keep: all.some(({ keep }) => keep),
  };
}

/** Which libraries a tile opens. */
export const LIBRARIES: { readonly [kind in TileKind]: readonly LibraryName[] } = {
  netlink: ["tile", "netlink"],
  net: ["tile", "xsk", "udp"],
  app: ["tile"],
  status: ["tile"],
};

/** Which libraries an appliance's process opens, its tiles' among them. */
export const APPLIANCE_LIBRARIES: readonly LibraryName[] = [
  ...new Set<LibraryName>(["host", "region", ...LIBRARIES.netlink, ...LIBRARIES.net]),
];

/** The folder that this program is in: the sources, or what is built for processes. */
const FOLDER = decodeURI(new URL("../../", import.meta.url).pathname);
/** Folders of the program that tiles' modules are in. */
export const TILE_FOLDERS = ["apps", "ffi", "netbase", "tiles"];

/** Deno's flags for what a process is granted. What cannot be said is thrown as what `error` makes of it. */
export function permissionFlags(
  { read, write, env, net, ffi }: Permissions,
  error: (sentence: string) => Error,
): string[] {
  return Object.entries({ read, write, env, net, ffi }).flatMap(([name, all]) => {
    // Deno splits values at commas, and has no way to write one that is meant.
    const split = all.find((each) => each.includes(","));
    if (split === undefined) return all.length === 0 ? [] : [`--allow-${name}=${all.join(",")}`];
    throw error(
      `cannot allow ${name} of ${split}: Deno takes the comma in it for the end; take another path`,
    );
  });
}

/** What a worker may do at its start. */
export function permissions(kind: TileKind, { read, write, env, net }: Grants): Permissions {
  const folders = TILE_FOLDERS.map((folder) => FOLDER + folder);
  const ffi = LIBRARIES[kind].map((name) => libraryPath(name));
  return { ffi, read: [...folders, ...read], write, env, net };
}
