/**
 * Where the control socket of an appliance is: what its start decides, and what `--live` looks for.
 */

import { accessSync, constants } from "node:fs";
import { resolve } from "node:path";
import type { Host } from "../ffi/host.ts";
import { Exit, UserError } from "./errors.ts";
import { listenControl, reasonOf, removeControl } from "./listen.ts";

/** Sockets are here unless the configuration says otherwise; systemd makes it for the service. */
const FOLDER = "/run/tegula";
/** Instead of a path: no control socket. */
const NO_CONTROL = "none";

/**
 * The path to listen at, null for none: what was `asked` for, else `/run/tegula/INTERFACE.sock` of the
 * first interface, where that can be had. Throws UserError when what was asked for cannot be had.
 */
export async function placeControl(
  asked: string | undefined,
  { interfaces, host, ours = null }: {
    interfaces: readonly string[];
    host: Host;
    ours?: string | null;
  },
): Promise<string | null> {
  if (asked === NO_CONTROL) return null;
  if (asked !== undefined) {
    const path = resolve(asked);
    if (path === ours) return path;
    const why = await isServed(path) ? "another tegula is asked there" : whyNotAt(host, path);
    if (why === null) return path;
    throw new UserError(
      `cannot be asked at ${path}: ${why}; give --control another path, or ${NO_CONTROL}`,
      Exit.usage,
    );
  }
  const path = `${FOLDER}/${interfaces[0]}.sock`;
  if (path === ours) return path;
  return isWritable(FOLDER) && !await isServed(path) ? path : null;
}

/** The socket to ask: `asked`, else the only one that is served in the usual folder. Throws UserError. */
export async function findControl(asked: string | undefined): Promise<string> {
  if (asked !== undefined) return asked;
  const served: string[] = [];
  for (const path of socketsIn(FOLDER)) if (await isServed(path)) served.push(path);
  if (served.length === 1) return served[0];
  const found = served.length === 0
    ? `no running tegula found in ${FOLDER}`
    : `several run: ${served.join(", ")}`;
  throw new UserError(`${found}; name its socket with --control PATH`, Exit.usage);
}

/** Whether somebody listens at `path`; what a dead process left there is not served. */
async function isServed(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    return error instanceof Deno.errors.PermissionDenied;
  }
}

/** Why nobody can listen at `path`; null when one can. */
function whyNotAt(host: Host, path: string): string | null {
  try {
    host.close(listenControl(host, path));
    removeControl(path);
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

function isWritable(folder: string): boolean {
  try {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o755 });
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function socketsIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => `${folder}/${name}`)
      .filter((path) => path.endsWith(".sock")).sort();
  } catch {
    return [];
  }
}
