/**
 * What the master itself is kept from. It becomes its own program once more, so that every thread that it
 * will ever have inherits it: no new privileges, no capability but those that it works with, files to be
 * written in a few addresses alone, and TCP only where somebody was granted it. Its children inherit that,
 * too: what a reload would have to add takes a restart.
 */

import { dirname } from "node:path";
import { Exit, messageOf, sameCommand, UserError } from "../cli/command.ts";
import { exists, type Host, openHost } from "../ffi/host.ts";
import { describeErrno, libraryPath } from "../ffi/library.ts";
import { openProcesses } from "../ffi/process.ts";
import { openRegions, u8 } from "../ffi/region.ts";
import { openUdpSetup } from "../ffi/sockets.ts";
import { openObserver, openTile } from "../ffi/tile.ts";
import { openXskSetup } from "../ffi/xsk.ts";
import type { Carried, Run } from "./master.ts";

/** In the environment of a confined master: what it may. */
const CONFINED = "TEGULA_CONFINED";

/** What a master may, besides what every one may. */
interface Allowed {
  /** Files and folders that it, or an app, may write. */
  readonly write: readonly string[];
  readonly net: boolean;
}

/** What serving `run` takes. */
function allowedFor({ apps, addresses }: Run): Allowed {
  const { control, metrics } = addresses;
  return {
    write: [
      ...apps.flatMap(({ grants }) => grants.write),
      ...control === null ? [] : [dirname(control)],
    ],
    net: metrics !== null || apps.some(({ grants }) => grants.net.length > 0),
  };
}

/** What every master may write: devices, what is temporary, BPF's files, and of its children. */
function alwaysWritten(): string[] {
  const given = Deno.env.get("RUNTIME_DIRECTORY")?.split(":")[0];
  return [
    "/dev/null",
    Deno.env.get("TMPDIR") ?? "/tmp",
    "/sys/fs/bpf",
    // A process writes down there who it is in a user namespace, and what goes first without memory.
    "/proc",
    ...given === undefined ? [] : [given],
    // The launcher of a new version unpacks itself there.
    Deno.env.get("TEGULA_CACHE") ?? Deno.env.get("CACHE_DIRECTORY") ?? "",
  ].filter(exists);
}

/** Whether this master is confined already. */
export function isConfined(): boolean {
  return Deno.env.has(CONFINED);
}

/**
 * Becomes the same program, confined for `run`. `carried` is a variable that it finds, and `fds` stay open.
 * Does not return. Throws UserError.
 */
export function becomeConfined(
  run: Run,
  { host, args, carried, fds }: {
    host: Host;
    args: readonly string[];
    carried: Readonly<Record<string, string>>;
    fds: readonly number[];
  },
): never {
  const allowed = allowedFor(run);
  const { write, net } = allowed;
  const program = sameCommand();
  const failed = host.execKeeping(
    [...program, "run", ...args],
    { ...Deno.env.toObject(), ...carried, [CONFINED]: JSON.stringify(allowed) },
    fds,
    { write: [...alwaysWritten(), ...write.filter(exists)], bindTcp: net, connectTcp: net },
  );
  throw new UserError(`cannot execute ${program[0]}: ${describeErrno(failed)}`, Exit.system);
}

/** Refuses to go on by a `run` for which this master is confined too much. Throws UserError. */
export function checkConfinement(run: Run): void {
  const text = Deno.env.get(CONFINED);
  if (text === undefined) return;
  const { write, net }: Allowed = JSON.parse(text);
  const wanted = allowedFor(run);
  const more = wanted.write.find((path) =>
    !write.some((allowed) => path === allowed || path.startsWith(`${allowed}/`))
  );
  if (more === undefined && (net || !wanted.net)) return;
  const what = more === undefined ? "TCP, for metrics or an app," : `writing ${more}`;
  throw new UserError(
    `${what} was not configured when it was started, and it gave that up: it takes a restart, which ` +
      "loses what comes meanwhile",
    Exit.usage,
  );
}

// What the master leaves to the program that it becomes: a memfd with JSON, and open descriptors.

/** The variable with the descriptor and length of the memfd. */
const CARRIED = "TEGULA_CARRIED";

/** Leaves `what` to the program that this one becomes: a variable for it, and a descriptor to keep open. */
export function leave(what: Run | Carried, { regions }: Pick<MainLibraries, "regions">) {
  const text = new TextEncoder().encode(JSON.stringify(what));
  const { writable, readOnly } = regions.createShared("carried", text.length);
  u8(regions.mapShared(writable, text.length)).set(text);
  regions.close(writable);
  return { carried: { [CARRIED]: `${readOnly} ${text.length}` }, fd: readOnly };
}

/** What a predecessor has left to this program; null: it is started anew. */
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
