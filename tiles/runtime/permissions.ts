/**
 * What each kind of tile's worker is given before it gives it up: the libraries that it opens and the
 * modules that it reads (DESIGN: the table of tiles). Nothing else, and neither once its loop runs.
 *
 * @module
 */

import { type LibraryName, libraryPath } from "../../ffi/paths.ts";
import type { TileKind } from "./tile.ts";

/** What a worker may do at its start, as Deno takes it: paths, names, `address:port`, `unix:path`. */
export interface TilePermissions {
  readonly ffi: string[];
  readonly read: string[];
  readonly write: string[];
  readonly env: string[];
  readonly net: string[];
}

/** What is granted by name, besides what every tile of a kind has. */
export interface Grants {
  readonly read: readonly string[];
  readonly write: readonly string[];
  readonly env: readonly string[];
  readonly net: readonly string[];
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
  const list = (of: (grants: Grants) => readonly string[]) => [...new Set(all.flatMap(of))];
  return {
    read: list(({ read }) => read),
    write: list(({ write }) => write),
    env: list(({ env }) => env),
    net: list(({ net }) => net),
    clock: all.some(({ clock }) => clock),
    keep: all.some(({ keep }) => keep),
  };
}

/** Where the status tile is found; null: not at all. */
export interface StatusPlaces {
  /** Path of the control socket. */
  readonly control: string | null;
  /** `address:port` of the metrics. */
  readonly metrics: string | null;
}

/** Which libraries a tile opens. */
export const LIBRARIES: { readonly [kind in TileKind]: readonly LibraryName[] } = {
  netlink: ["tile", "netlink"],
  net: ["tile", "xsk", "udp"],
  app: ["tile"],
  status: ["tile"],
};

/** Folders of the program that tiles' modules are in. */
export const TILE_FOLDERS = ["ffi", "netbase", "tiles"];

/** What listening at `places` takes. */
export function placeGrants({ control, metrics }: StatusPlaces): Grants {
  const paths = control === null ? [] : [control];
  const net = [...paths.map((path) => `unix:${path}`), ...metrics === null ? [] : [metrics]];
  return { ...NO_GRANTS, read: paths, write: paths, net };
}

/** The libraries of a tile of a kind. */
export function libraries(kind: TileKind, { clock }: Grants): readonly LibraryName[] {
  return clock ? [...LIBRARIES[kind], "clock"] : LIBRARIES[kind];
}

/** The permissions of a worker of the program in the folder `root`. */
export function permissions(
  kind: TileKind,
  { root, grants }: { root: string; grants: Grants },
): TilePermissions {
  return {
    ffi: libraries(kind, grants).map((name) => libraryPath(name)),
    read: [...TILE_FOLDERS.map((folder) => `${root}/${folder}`), ...grants.read],
    write: [...grants.write],
    env: [...grants.env],
    net: [...grants.net],
  };
}
