/**
 * The listening sockets of the status tile: made by the master, which keeps them while status tiles come
 * and go.
 */

import { describeErrno, SystemError } from "../ffi/errno.ts";
import type { Host } from "../ffi/host.ts";

/** Who may connect to the control socket: the user that Tegula runs as, and the socket's group. */
const CONTROL_MODE = 0o660;

/** Where the status tile is found; null: not at all. */
export interface StatusPlaces {
  /** Path of the control socket. */
  readonly control: string | null;
  /** `address:port` of the metrics. */
  readonly metrics: string | null;
}

/** A listening control socket, in place of one that was left at `path`. Throws SystemError. */
export function listenControl(host: Pick<Host, "listenUnix">, path: string): number {
  return host.listenUnix(path, CONTROL_MODE);
}

/** A socket that listens at `place`, `address:port`. Throws SystemError. */
export function listenMetrics(host: Pick<Host, "listenTcp">, place: string): number {
  const [address, port] = place.split(":");
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

/** Why one cannot listen there, without the place. Throws what is no SystemError. */
export function reasonOf(error: unknown): string {
  if (error instanceof SystemError) return describeErrno(error.errno);
  throw error;
}
