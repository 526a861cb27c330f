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
  NO_GRANTS,
  type Permissions,
  TILE_FOLDERS,
  together,
} from "../tiles/runtime/permissions.ts";
import { startGrants } from "../tiles/runtime/wiring.ts";
import { Exit, UserError } from "./errors.ts";
import type { StatusPlaces } from "./listen.ts";
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
/** By which variable the narrowed process is told what to serve. */
const TOLD = "TEGULA_RUN";
/** What the program itself reads of the environment. */
const BOOT_ENVIRONMENT = [TOLD, "NOTIFY_SOCKET"];

/** What a run needs besides the program itself. */
export interface Needs {
  /** What tiles are granted that can be restarted, the users' own apps, and the control socket. */
  readonly grants: Grants;
  /** Files that apps inside net tiles read as they start. */
  readonly files: readonly string[];
}

/** What serving `run` needs. */
export function needsOf({ apps, places }: Pick<Run, "apps" | "places">): Needs {
  return {
    grants: together([startGrants(apps.filter(({ inline }) => !inline)), controlGrants(places)]),
    files: startGrants(apps.filter(({ inline }) => inline)).read,
  };
}

/** What making and removing the control socket takes. */
export function controlGrants({ control }: Pick<StatusPlaces, "control">): Grants {
  const paths = control === null ? [] : [control];
  return { ...NO_GRANTS, read: paths, write: paths };
}

/** What main keeps for as long as it runs. */
export function kept({ grants }: Needs): Permissions {
  const { read, write, env, net } = grants;
  const names = new Set(RESTARTABLE.flatMap((kind) => LIBRARIES[kind]));
  return {
    read: [...TILE_FOLDERS.map((folder) => ROOT + folder), ...read],
    ffi: [...names].map((name) => libraryPath(name)),
    env,
    write,
    net,
  };
}

/** What main has until it has booted. */
export function booting(needs: Needs): Permissions {
  const { read, ffi, env, ...others } = kept(needs);
  // Of a folder that is kept nothing can be given up alone: the whole folder would go with it.
  const files = needs.files.filter((file) => !read.some((kept) => file.startsWith(`${kept}/`)));
  return {
    read: [...read, ...files],
    ffi: [...ffi, ...BOOT_LIBRARIES.map((name) => libraryPath(name))],
    env: [...env, ...BOOT_ENVIRONMENT],
    ...others,
  };
}

/** Deno's flags for that. Throws UserError. */
export function flags(needs: Needs): string[] {
  return Object.entries(booting(needs)).flatMap(([name, all]: [string, readonly string[]]) => {
    // Deno splits values at commas, and has no way to write one that is meant.
    const split = all.find((each) => each.includes(","));
    if (split === undefined) return all.length === 0 ? [] : [`--allow-${name}=${all.join(",")}`];
    throw new UserError(
      `cannot allow ${name} of ${split}: Deno takes the comma in it for the end; take another path`,
      Exit.usage,
    );
  });
}

/**
 * Becomes the process that serves `run`, with the narrow permissions. `args` are for whoever lists
 * processes. Does not return; throws UserError when the system refuses.
 */
export function becomeNarrow(host: Host, run: Run, args: readonly string[]): never {
  Deno.env.set(TOLD, JSON.stringify(run));
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
  // Nothing else can be as long.
  if (failed === -E2BIG) {
    throw new UserError(
      "what apps are told and granted by name is more than a process can be handed; grant the folder " +
        "that files are in, in place of each, put long options into a file, and name ports by ranges",
      Exit.usage,
    );
  }
  throw new UserError(`cannot start ${Deno.execPath()}: ${describeErrno(failed)}`, Exit.failure);
}

/** What the narrowed process is to serve. */
export function told(): Run {
  return JSON.parse(Deno.env.get(TOLD)!);
}

/** Gives up what only booting needed. After this main can restart tiles and do nothing else. */
export function settle(needs: Needs): void {
  const always = kept(needs);
  for (const name of ["read", "ffi", "env", "write", "net"] as const) {
    const once = booting(needs)[name].filter((each) => !always[name].includes(each));
    for (const each of once) revoke({ name, path: each, variable: each });
    // What is kept was never granted but by name.
    if (always[name].length === 0) revoke({ name });
  }
  for (const name of ["run", "sys", "import"]) revoke({ name });
}

function revoke(descriptor: { name: string; path?: string; variable?: string }): void {
  Deno.permissions.revokeSync(descriptor as Deno.PermissionDescriptor);
}
