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
  readonly write: string[];
  /** As `--allow-net` takes them: `address:port`, and `unix:path`. */
  readonly net: string[];
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
export function placePermissions(
  { control, metrics }: StatusPlaces,
): Pick<TilePermissions, "read" | "write" | "net"> {
  const paths = control === null ? [] : [control];
  return {
    read: paths,
    write: paths,
    net: [...paths.map((path) => `unix:${path}`), ...metrics === null ? [] : [metrics]],
  };
}

/** The permissions of a worker. `appModule` is the file of an app tile's app. */
export function permissions(
  kind: TileKind,
  { root, appModule, places = { control: null, metrics: null } }: {
    root: string;
    appModule?: string;
    places?: StatusPlaces;
  },
): TilePermissions {
  const { read, write, net } = placePermissions(places);
  return {
    ffi: LIBRARIES[kind].map((name) => libraryPath(name)),
    read: [
      ...TILE_FOLDERS.map((folder) => `${root}/${folder}`),
      ...(appModule === undefined ? [] : [appModule]),
      ...read,
    ],
    write,
    net,
  };
}
