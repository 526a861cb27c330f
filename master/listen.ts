/**
 * The listening sockets of the status tile: made by the master, which keeps them while status tiles come
 * and go.
 */

import { accessSync, constants } from "node:fs";
import { resolve } from "node:path";
import { Exit, UserError } from "../cli/errors.ts";
import type { Host } from "../ffi/host.ts";
import { describeErrno, SystemError } from "../ffi/library.ts";

/** Who may connect to the control socket: the user that Tegula runs as, and the socket's group. */
const CONTROL_MODE = 0o660;
/** The folder of control sockets, unless the configuration says otherwise. systemd makes it for the service. */
export const CONTROL_FOLDER = "/run/tegula";
/** The value of `control` that means no control socket. */
const NO_CONTROL = "none";

/** What the status tile listens on; null: not at all. */
export interface StatusAddresses {
  /** Path of the control socket. */
  readonly control: string | null;
  /** `address:port` of the metrics. */
  readonly metrics: string | null;
}

/** A listening control socket, in place of one that was left at `path`. Throws SystemError. */
export function listenControl(host: Pick<Host, "listenUnix">, path: string): number {
  return host.listenUnix(path, CONTROL_MODE);
}

/** A socket that listens at `endpoint`, `address:port`. Throws SystemError. */
export function listenMetrics(host: Pick<Host, "listenTcp">, endpoint: string): number {
  const [address, port] = endpoint.split(":");
  return host.listenTcp(address, Number(port));
}

/** Removes the control socket that this process has made. */
export function removeControl(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Why one cannot listen there, without the address. Throws what is no SystemError. */
export function reasonOf(error: unknown): string {
  if (error instanceof SystemError) return describeErrno(error.errno);
  throw error;
}

/**
 * The path to listen at, null for none: what was `asked` for, else `/run/tegula/INTERFACE.sock` of the
 * first interface, where that can be had. Throws UserError when what was asked for cannot be had.
 */
export async function controlPath(
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
  const path = `${CONTROL_FOLDER}/${interfaces[0]}.sock`;
  if (path === ours) return path;
  return isWritable(CONTROL_FOLDER) && !await isServed(path) ? path : null;
}

/** Whether somebody listens at `path`; what a dead process left there is not served. */
export async function isServed(path: string): Promise<boolean> {
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
