/**
 * What main may do, by Deno's permissions. Those that were granted for everything can only be given
 * up for everything, so `tegula run`, when it has read and checked what it is told, becomes
 * `narrowed.ts` (execve, same process) with lists that name just what it needs, and without the
 * modules that reading took; after boot it gives up what only booting needed, and is left with what a
 * restart of a tile takes: the tiles' modules and their libraries.
 */

import { describeErrno, E2BIG } from "../ffi/errno.ts";
import type { Host } from "../ffi/host.ts";
import { type LibraryName, libraryPath, ROOT } from "../ffi/paths.ts";
import {
  type Grants,
  LIBRARIES,
  type Permissions,
  placeGrants,
  TILE_FOLDERS,
  together,
} from "../tiles/runtime/permissions.ts";
import { startGrants } from "../tiles/runtime/wiring.ts";
import { Exit, UserError } from "./errors.ts";
import type { Run } from "./serve.ts";

/** Tiles that can be restarted in place (`appliance.ts`). */
const RESTARTABLE = ["netlink", "app", "status"] as const;
/** Libraries that only booting, or main itself, opens. */
const BOOT_LIBRARIES: readonly LibraryName[] = ["host", "region", "udp", "xsk"];
/**
 * What V8 is told. It inlines what a function called often while that got warm; but the first datagram
 * of a peer goes the long way, so where a start sees many, the short way was compiled with a call for
 * each of its steps, and stayed so at twice the time. With this it inlines whatever is called.
 */
export const V8_FLAGS =
  "--v8-flags=--min-inlining-frequency=0,--max-inlined-bytecode-size-cumulative=2000";
/** By which descriptor the narrowed process finds what it is to serve. */
const TOLD = "TEGULA_RUN";
/** What the program itself reads of the environment. */
const BOOT_ENVIRONMENT = [TOLD, "NOTIFY_SOCKET"];

/** What a run needs besides the program itself. */
export interface Needs {
  /** What tiles are granted that can be restarted: the users' own apps, where the status tile listens. */
  readonly grants: Grants;
  /** Files that apps inside net tiles read as they start. */
  readonly files: readonly string[];
}

/** What serving `run` needs. */
export function needsOf({ apps, places }: Pick<Run, "apps" | "places">): Needs {
  return {
    grants: together([startGrants(apps.filter(({ inline }) => !inline)), placeGrants(places)]),
    files: startGrants(apps.filter(({ inline }) => inline)).read,
  };
}

/** What main keeps for as long as it runs. */
export function kept({ grants }: Needs): Permissions {
  const { read, write, env, net } = grants;
  const names = new Set(RESTARTABLE.flatMap((kind) => LIBRARIES[kind]));
  return {
    read: [...TILE_FOLDERS.map((folder) => ROOT + folder), ...read],
    ffi: [...names].map((name) => libraryPath(name)),
    write,
    env,
    net,
  };
}

/** What main has besides until it has booted. */
export function bootOnly(needs: Needs): Pick<Permissions, "read" | "ffi" | "env"> {
  const { read, ffi, env } = kept(needs);
  const others = (all: readonly string[], known: readonly string[]) =>
    all.filter((each) => !known.includes(each));
  return {
    read: others(needs.files, read),
    ffi: others(BOOT_LIBRARIES.map((name) => libraryPath(name)), ffi),
    env: others(BOOT_ENVIRONMENT, env),
  };
}

/** Deno's flags for a main that has both. Throws UserError. */
export function flags(needs: Needs): string[] {
  const [always, once] = [kept(needs), bootOnly(needs)];
  return [
    ...flag("read", [...always.read, ...once.read]),
    ...flag("ffi", [...always.ffi, ...once.ffi]),
    ...flag("env", [...always.env, ...once.env]),
    ...flag("write", always.write),
    ...flag("net", always.net),
  ];
}

/** One of them. Deno splits its values at commas, and has no way to write one that is meant. */
function flag(name: keyof Permissions, all: readonly string[]): string[] {
  const split = all.find((each) => each.includes(","));
  if (split !== undefined) {
    throw new UserError(
      `cannot allow ${name} of ${split}: Deno takes the comma in it for the end; take another path`,
      Exit.usage,
    );
  }
  return all.length === 0 ? [] : [`--allow-${name}=${all.join(",")}`];
}

/**
 * Becomes the process that serves `run`, with the narrow permissions. `args` are for whoever lists
 * processes. Does not return; throws UserError when the system refuses.
 */
export function becomeNarrow(host: Host, run: Run, args: readonly string[]): never {
  Deno.env.set(TOLD, String(host.hand(JSON.stringify(run))));
  // An appliance talks to nobody of its own accord.
  Deno.env.set("DENO_NO_UPDATE_CHECK", "1");
  const failed = host.exec([
    Deno.execPath(),
    "run",
    "--no-prompt",
    "--cached-only",
    "--unstable-worker-options",
    V8_FLAGS,
    ...flags(needsOf(run)),
    `${ROOT}cli/narrowed.ts`,
    ...args,
  ]);
  // Of all arguments only grants can be as long.
  if (failed === -E2BIG) {
    throw new UserError(
      "what apps are granted by name is more than Deno's command line holds; grant the folder that " +
        "files are in, in place of each",
      Exit.usage,
    );
  }
  throw new UserError(`cannot start ${Deno.execPath()}: ${describeErrno(failed)}`, Exit.failure);
}

/** What the narrowed process is to serve. */
export function told(host: Host): Run {
  return JSON.parse(host.handed(Number(Deno.env.get(TOLD))));
}

/** Gives up what only booting needed. After this main can restart tiles and do nothing else. */
export function settle(needs: Needs): void {
  const [always, once] = [kept(needs), bootOnly(needs)];
  for (const path of once.read) Deno.permissions.revokeSync({ name: "read", path });
  for (const path of once.ffi) Deno.permissions.revokeSync({ name: "ffi", path });
  for (const variable of once.env) Deno.permissions.revokeSync({ name: "env", variable });
  for (const name of ["run", "sys", "import"] as const) {
    Deno.permissions.revokeSync({ name });
  }
  // What is kept of these was never granted but by name.
  if (always.write.length === 0) Deno.permissions.revokeSync({ name: "write" });
  if (always.net.length === 0) Deno.permissions.revokeSync({ name: "net" });
  if (always.env.length === 0) Deno.permissions.revokeSync({ name: "env" });
}
