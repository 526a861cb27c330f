/**
 * What each kind of tile's worker is given before it gives it up: the libraries that it opens and the
 * modules that it reads (DESIGN: the table of tiles). Nothing else, and neither once its loop runs.
 *
 * @module
 */

import { type LibraryName, libraryPath } from "../../ffi/paths.ts";
import type { TileKind } from "./tile.ts";

/** What a worker may do at its start. Paths. */
export interface TilePermissions {
  readonly ffi: string[];
  readonly read: string[];
}

/** Which libraries a tile opens. */
export const LIBRARIES: { readonly [kind in TileKind]: readonly LibraryName[] } = {
  netlink: ["tile", "netlink"],
  net: ["tile", "xsk", "udp"],
  app: ["tile"],
};

/** Folders of the program that tiles' modules are in. */
export const TILE_FOLDERS = ["ffi", "netbase", "tiles"];

/** The permissions of a worker. `appModule` is the file of an app tile's app. */
export function permissions(
  kind: TileKind,
  { root, appModule }: { root: string; appModule?: string },
): TilePermissions {
  return {
    ffi: LIBRARIES[kind].map((name) => libraryPath(name)),
    read: [
      ...TILE_FOLDERS.map((folder) => `${root}/${folder}`),
      ...(appModule === undefined ? [] : [appModule]),
    ],
  };
}
