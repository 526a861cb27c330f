// SPDX-License-Identifier: Apache-2.0
/**
 * The confinement of the master itself. It executes its own program again, so that all threads inherit the
 * confinement: no new privileges, only the capabilities that it uses, write access to a few paths, and TCP
 * only if granted. Children inherit it, too, so a reload cannot extend it; that requires a restart.
 */

import { dirname } from "node:path";
import { Exit, messageOf, sameCommand, UserError } from "../cli/command.ts";
import { exists, openHost } from "../ffi/host.ts";
import { describeErrno, libraryPath } from "../ffi/library.ts";
import { openProcesses } from "../ffi/process.ts";
import { openRegions } from "../ffi/region.ts";
import { openUdpSetup } from "../ffi/sockets.ts";
import { openObserver, openTile } from "../ffi/tile.ts";
import { openXskSetup } from "../ffi/xsk.ts";
import { isBelow } from "./app_files.ts";
import { shareJson } from "./inventory.ts";
import type { Carried } from "./master.ts";
import type { Run } from "./successor.ts";

/** The environment variable with a confined master's permissions. */
const CONFINED = "TEGULA_CONFINED";

/** Permissions of a master, besides those of every master. */
interface Allowed {
  /** Files and folders that the master or an app may write. */
  readonly write: readonly string[];
  readonly net: boolean;
}

function allowedFor({ apps, addresses }: Run): Allowed {
  const { control, metrics } = addresses;
  return {
    write: [
      ...apps.flatMap(({ grants }) => grants.write),
      ...control === null ? [] : [dirname(control)],
    ],
    net: metrics !== null ||
      apps.some(({ grants, beside }) => grants.net.length + (beside?.tcp.length ?? 0) > 0),
  };
}

/** Paths that every master may write: devices, temporary files, BPF files, and files of its children. */
function alwaysWritten(): string[] {
  const given = Deno.env.get("RUNTIME_DIRECTORY")?.split(":")[0];
  return [
    "/dev/null",
    Deno.env.get("TMPDIR") ?? "/tmp",
    "/sys/fs/bpf",
    // For the maps of user namespaces, and oom_score_adj.
    "/proc",
    ...given === undefined ? [] : [given],
    // The launcher of a new version unpacks there.
    Deno.env.get("TEGULA_CACHE") ?? Deno.env.get("CACHE_DIRECTORY") ?? "",
  ].filter(exists);
}

export function isConfined(): boolean {
  return Deno.env.has(CONFINED);
}

/** Executes the same program with the same arguments, confined for `run`. Does not return. Throws UserError. */
export function becomeConfined(run: Run, libraries: MainLibraries, args: readonly string[]): never {
  const { carried, fd } = leave(run, libraries);
  const allowed = allowedFor(run);
  const { write, net } = allowed;
  const program = sameCommand();
  const failed = libraries.host.execKeeping(
    [...program, "run", ...args],
    { ...Deno.env.toObject(), ...carried, [CONFINED]: JSON.stringify(allowed) },
    [fd],
    { write: [...alwaysWritten(), ...write.filter(exists)], bindTcp: net, connectTcp: net },
  );
  throw new UserError(`cannot execute ${program[0]}: ${describeErrno(failed)}`, Exit.system);
}

/** Throws UserError if `run` needs more than this master may do. */
export function checkConfinement(run: Run): void {
  const text = Deno.env.get(CONFINED);
  if (text === undefined) return;
  const { write, net }: Allowed = JSON.parse(text);
  const wanted = allowedFor(run);
  const more = wanted.write.find((path) => !isBelow(path, write));
  if (more === undefined && (net || !wanted.net)) return;
  const what = more === undefined ? "TCP, for metrics or an app," : `writing ${more}`;
  throw new UserError(
    `${what} was not configured at the start, so it gave up the permission: this requires a restart, which ` +
      "loses datagrams that arrive meanwhile",
  );
}

// The master passes its state to its next program: a memfd with JSON, and open descriptors.

/** The environment variable with the memfd's descriptor and length. */
const CARRIED = "TEGULA_CARRIED";

/** Prepares `what` for the next program. Returns an environment variable, and a descriptor to keep open. */
export function leave(what: Run | Carried, { regions }: Pick<MainLibraries, "regions">) {
  const { fd, bytes } = shareJson(regions, "carried", what);
  return { carried: { [CARRIED]: `${fd} ${bytes}` }, fd };
}

/** The state from the previous program; null if there was none. */
export function takeCarried(
  { regions }: Pick<MainLibraries, "regions">,
): Run | Carried | null {
  const text = Deno.env.get(CARRIED);
  if (text === undefined) return null;
  Deno.env.delete(CARRIED);
  const [fd, bytes] = text.split(" ").map(Number);
  const { buffer } = regions.mapShared(fd, bytes, { readOnly: true });
  regions.close(fd);
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 0, bytes).slice()));
}

// The parts of the shared library that the master uses.

export type MainLibraries = ReturnType<typeof openLibraries>;

/** Opens all parts that the master needs. Throws UserError. */
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

/** Opens one part of the library. Throws UserError with a fix. */
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
