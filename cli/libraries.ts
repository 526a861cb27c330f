/**
 * Opening native parts, with a sentence for where they were not built.
 */

import { type Host, openHost } from "../ffi/host.ts";
import { type LibraryName, libraryPath } from "../ffi/paths.ts";
import { openRegions, type Regions } from "../ffi/region.ts";
import { openTile, type TileLibrary } from "../ffi/tile.ts";
import { openUdpSetup, type UdpSetup } from "../ffi/udp.ts";
import { openXsk, openXskSetup, type Xsk, type XskSetup } from "../ffi/xsk.ts";
import { Exit, messageOf, UserError } from "./errors.ts";

/** What main has open. */
export interface MainLibraries {
  readonly regions: Regions;
  readonly host: Host;
  readonly xskSetup: XskSetup;
  /** For statistics. */
  readonly xsk: Xsk;
  readonly udpSetup: UdpSetup;
  /** To wake tiles. */
  readonly tile: TileLibrary;
}

/** Opens them. Throws UserError. */
export function openLibraries(): MainLibraries {
  return {
    regions: load("region", openRegions),
    host: load("host", openHost),
    xskSetup: load("xsk", openXskSetup),
    xsk: load("xsk", openXsk),
    udpSetup: load("udp", openUdpSetup),
    tile: load("tile", openTile),
  };
}

/** Opens one library, or throws UserError with what to do. */
export function load<Library>(name: LibraryName, open: (path: string) => Library): Library {
  const path = libraryPath(name);
  try {
    return open(path);
  } catch (error) {
    throw new UserError(
      `cannot load ${path}: ${messageOf(error)}; build it with 'deno task build'`,
      Exit.system,
    );
  }
}
