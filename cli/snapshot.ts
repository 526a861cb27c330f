/**
 * A mirror of this moment, for the commands that look at the kernel's network state the way Tegula
 * does: heap memory, the netlink library, no privileges.
 */

import { SystemError } from "../ffi/errno.ts";
import { openNetlink } from "../ffi/netlink.ts";
import { heapView } from "../ffi/view.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NetbaseWriter } from "../netbase/netbase_writer.ts";
import { Mirror, type MirrorOptions } from "../tiles/netlink/mirror.ts";
import { Exit, UserError } from "./errors.ts";
import { load } from "../master/libraries.ts";

/** The kernel's state as mirrored, and what goes on following it. */
export type Snapshot = ReturnType<typeof openMirror>;

/**
 * Mirrors the kernel's state of the namespace that this process is in. What is not supported is said
 * on standard error, or to `log`. Throws UserError.
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
    throw new UserError(`${error.message}; the kernel's network state cannot be read`, Exit.system);
  }
}
