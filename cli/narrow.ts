/**
 * What main may do, by Deno's permissions. Those that were granted for everything can only be given
 * up for everything, so `tegula run` becomes itself once more (execve, same process) with lists that
 * name just what it needs; after boot it gives up what only booting needed, and is left with what a
 * restart of a tile takes: the tiles' modules and their libraries.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { describeErrno } from "../ffi/errno.ts";
import type { Host } from "../ffi/host.ts";
import { type LibraryName, libraryPath } from "../ffi/paths.ts";
import {
  LIBRARIES,
  placePermissions,
  type StatusPlaces,
  TILE_FOLDERS,
} from "../tiles/runtime/permissions.ts";
import { Exit, UserError } from "./errors.ts";

/** Set in the environment of the process that has been narrowed. */
const MARK = "TEGULA_NARROWED";
/** Tiles that can be restarted in place (`appliance.ts`). */
const RESTARTABLE = ["netlink", "app", "status"] as const;
/** Libraries that only booting, or main itself, opens. */
const BOOT_LIBRARIES: readonly LibraryName[] = ["host", "region", "udp", "xsk"];
/** The folder that the program is in. */
const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The permissions of a narrowed main; `boot` are those given up after boot. */
export interface Permissions {
  readonly read: readonly string[];
  readonly ffi: readonly string[];
  readonly write: readonly string[];
  readonly net: readonly string[];
}

/** What a run needs besides the program itself. */
export interface Needs {
  /** Paths of the users' own apps. */
  readonly appModules: readonly string[];
  /** Files that the command line names. */
  readonly files: readonly string[];
  /** Where the status tile listens. */
  readonly places: StatusPlaces;
}

/** What main keeps for as long as it runs. */
export function kept({ appModules, places }: Needs): Permissions {
  const { read, write, net } = placePermissions(places);
  return {
    read: [...TILE_FOLDERS.map((folder) => ROOT + folder), ...appModules, ...read],
    ffi: [...new Set(RESTARTABLE.flatMap((kind) => LIBRARIES[kind]))].map((name) =>
      libraryPath(name)
    ),
    write,
    net,
  };
}

/** What main has besides until it has booted. */
export function bootOnly({ files }: Needs): Pick<Permissions, "read" | "ffi"> {
  return {
    read: [`${ROOT}cli`, `${ROOT}deno.json`, `${ROOT}main.ts`, ...files],
    ffi: BOOT_LIBRARIES.map((name) => libraryPath(name)),
  };
}

/** Deno's flags for a main that has both. */
export function flags(needs: Needs): string[] {
  const [always, once] = [kept(needs), bootOnly(needs)];
  return [
    `--allow-read=${[...always.read, ...once.read].join(",")}`,
    `--allow-ffi=${[...always.ffi, ...once.ffi].join(",")}`,
    `--allow-env=${MARK},TEGULA_EXECUTABLE,NOTIFY_SOCKET`,
    ...always.write.map((path) => `--allow-write=${path}`),
    ...always.net.length === 0 ? [] : [`--allow-net=${always.net.join(",")}`],
  ];
}

/** Whether this process is the one that has been narrowed. */
export function isNarrow(): boolean {
  return Deno.env.get(MARK) !== undefined;
}

/**
 * Starts the program anew in this process, with `args` and the narrow permissions. Does not return;
 * throws UserError when the system refuses.
 */
export function becomeNarrow(
  host: Host,
  args: readonly string[],
  needs: Needs,
): never {
  Deno.env.set(MARK, "1");
  // An appliance talks to nobody of its own accord.
  Deno.env.set("DENO_NO_UPDATE_CHECK", "1");
  const failed = host.exec([
    Deno.execPath(),
    "run",
    "--no-prompt",
    "--cached-only",
    "--unstable-worker-options",
    ...flags(needs),
    `${ROOT}main.ts`,
    ...args,
  ]);
  throw new UserError(`cannot start ${Deno.execPath()}: ${describeErrno(failed)}`, Exit.failure);
}

/** Gives up what only booting needed. After this main can restart tiles and do nothing else. */
export function settle(needs: Needs): void {
  const [always, once] = [kept(needs), bootOnly(needs)];
  for (const path of once.read) Deno.permissions.revokeSync({ name: "read", path });
  for (const path of once.ffi) Deno.permissions.revokeSync({ name: "ffi", path });
  for (const name of ["env", "run", "sys", "import"] as const) {
    Deno.permissions.revokeSync({ name });
  }
  // What is kept of these was never granted but by name.
  if (always.write.length === 0) Deno.permissions.revokeSync({ name: "write" });
  if (always.net.length === 0) Deno.permissions.revokeSync({ name: "net" });
}
