/**
 * Opening native parts, with a sentence for where they were not built.
 */

import { Exit, messageOf, UserError } from "../cli/errors.ts";
import { openHost } from "../ffi/host.ts";
import { libraryPath } from "../ffi/library.ts";
import { openProcesses } from "../ffi/process.ts";
import { openRegions } from "../ffi/region.ts";
import { openUdpSetup } from "../ffi/sockets.ts";
import { openObserver, openTile } from "../ffi/tile.ts";
import { openXskSetup } from "../ffi/xsk.ts";

/** What the master has open. */
export type MainLibraries = ReturnType<typeof openLibraries>;

/** Opens what the master needs. Throws UserError. */
export function openLibraries() {
  return {
    regions: load(openRegions),
    host: load(openHost),
    xskSetup: load(openXskSetup),
    udpSetup: load(openUdpSetup),
    processes: load(openProcesses),
    /** To wake tiles. */
    tile: load(openTile),
    observer: load(openObserver),
  };
}

/** Opens one part of the library, or throws UserError with what to do. */
export function load<Library>(open: (path: string) => Library): Library {
  const path = libraryPath();
  try {
    return open(path);
  } catch (error) {
    throw new UserError(
      `cannot load ${path}: ${messageOf(error)}; build it with 'deno task build'`,
      Exit.system,
    );
  }
}
