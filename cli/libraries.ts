/**
 * The native parts that main opens.
 */

import { type Host, openHost } from "../ffi/host.ts";
import { libraryPath } from "../ffi/paths.ts";
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

/** Opens them, or throws UserError with what to do. */
export function openLibraries(): MainLibraries {
  try {
    return {
      regions: openRegions(libraryPath("region")),
      host: openHost(libraryPath("host")),
      xskSetup: openXskSetup(libraryPath("xsk")),
      xsk: openXsk(libraryPath("xsk")),
      udpSetup: openUdpSetup(libraryPath("udp")),
      tile: openTile(libraryPath("tile")),
    };
  } catch (error) {
    throw new UserError(
      `a native part cannot be loaded: ${messageOf(error)}; build it with 'deno task build'`,
      Exit.system,
    );
  }
}
