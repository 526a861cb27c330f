// SPDX-License-Identifier: Apache-2.0
/**
 * A mirror of the kernel's current network state, for commands that show what Tegula sees. It needs
 * only heap memory, and no privileges.
 */

import type { Host } from "../ffi/host.ts";
import { SystemError } from "../ffi/library.ts";
import { heapView } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { load } from "../master/confinement.ts";
import { unfit } from "../master/preflight.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { RT_TABLE_MAIN, RTN_UNICAST } from "../netbase/route.ts";
import { Mirror, type MirrorOptions } from "../tiles/netlink/mirror.ts";
import { Exit, UserError } from "./command.ts";

/** The mirrored state, and the mirror that continues to follow the kernel. */
export type Snapshot = ReturnType<typeof openMirror>;

/**
 * Mirrors the kernel's state of this process's network namespace. Logs unsupported state, to
 * standard error by default. Throws UserError.
 */
export function openMirror(
  { log = (line) => console.error(`tegula: ${line}`), ...options }: Partial<
    Pick<MirrorOptions, "log" | "neighborChanged">
  > = {},
) {
  const library = load(openNetlink);
  const view = heapView(NETBASE_BYTES);
  const writer = new NetbaseWriter(view, { readers: [], seed: 0 });
  try {
    const mirror = new Mirror({ library, writer, log, ...options });
    mirror.sync();
    return { library, mirror, writer, reader: new NetbaseReader(view) };
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new UserError(`cannot read the kernel's network state: ${error.message}`, Exit.system);
  }
}

// The interfaces that `tegula run` uses if none is named: those of the default routes of table
// `main`, except those on which AF_XDP does not work.

/** Returns and logs the default interfaces. Throws UserError if there are none, or defaults are not allowed. */
export function takeDefaults(
  host: Host,
  { isAllowed, log }: { isAllowed: boolean; log: (line: string) => void },
): readonly string[] {
  const wanted = "no interface: give at least one --interface NAME; 'ip link' lists them";
  if (!isAllowed) throw new UserError(wanted);
  const live = openMirror({ log: () => {} });
  live.mirror.close();
  const { names, says } = findDefaults(host, live);
  if (names.length === 0) throw new UserError(`${wanted} (${says})`);
  log(`no interface is named: taking ${says}`);
  return names;
}

/** Finds the default interfaces, in the order of their routes, and explains the choice in a sentence. */
export function findDefaults(
  host: Host,
  { reader, writer }: Pick<Snapshot, "reader" | "writer">,
): { names: readonly string[]; says: string } {
  const { interfaces } = reader;
  const defaults = [...writer.rib.routes()].filter((route) =>
    route.table === RT_TABLE_MAIN && route.prefixLength === 0 && route.tos === 0 &&
    route.type === RTN_UNICAST && !route.unsupported
  );
  const ways = defaults.flatMap(({ hops, ifindex }) =>
    hops?.map((hop) => hop.ifindex) ?? [ifindex]
  );
  const records = [...new Set(ways)]
    .map((ifindex) => interfaces.find(ifindex))
    .filter((record) => record >= 0);
  const found = records.map((record) => {
    const name = interfaces.name(record);
    const why = interfaces.isLoopback(record)
      ? "it is loopback"
      : interfaces.vlan(record) !== 0
      ? "it is a VLAN device; name the device below it"
      : unfit(host, name);
    return { name, why };
  });
  const names = found.filter(({ why }) => why === null).map(({ name }) => name);
  const passed = found.filter(({ why }) => why !== null).map(({ name, why }) => `${name}: ${why}`);
  const not = passed.length === 0 ? "" : ` (not ${passed.join(", ")})`;
  const says = names.length > 0
    ? `${names.join(", ")}, where the default route goes${not}`
    : passed.length > 0
    ? `AF_XDP does not work where the default route goes: ${passed.join(", ")}`
    : "there is no default route";
  return { names, says };
}
