/**
 * A mirror of the kernel's network state as it is now, for commands that show what Tegula sees. It needs
 * heap memory and no privileges.
 */

import { SystemError } from "../ffi/library.ts";
import { heapView } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { load } from "../master/libraries.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { Mirror, type MirrorOptions } from "../tiles/netlink/mirror.ts";
import { Exit, UserError } from "./errors.ts";

/** The mirrored state, and the mirror that goes on to follow the kernel. */
export type Snapshot = ReturnType<typeof openMirror>;

/**
 * Mirrors the kernel's state of the network namespace of this process. Logs what is not supported, to
 * standard error by default. Throws UserError.
 */
export function openMirror(
  { log = (line) => console.error(`tegula: ${line}`), ...options }: Partial<
    Pick<MirrorOptions, "log" | "neighbors">
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
