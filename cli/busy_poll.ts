/**
 * Busy polling (the kernel's Documentation/networking/napi.rst): where it was asked for, the calls of the net tiles drive
 * the drivers of their AF_XDP sockets, and interrupts may stay off for as long as they do.
 */

import { describeErrno } from "../ffi/errno.ts";
import type { XskSetup } from "../ffi/xsk.ts";
import type { Attachment } from "../tiles/runtime/attachment.ts";
import { Exit, UserError } from "./errors.ts";

/** Puts every open socket into it. That it cannot be had ends the start: it was asked for. */
export function pollBusily(
  attachments: readonly Attachment[],
  { xskSetup, log }: { xskSetup: XskSetup; log: (line: string) => void },
): void {
  for (const { name, sockets } of attachments) {
    for (const { fd, queue } of sockets) {
      const refused = xskSetup.pollBusily(fd);
      if (refused === 0) continue;
      throw new UserError(
        `cannot poll queue ${queue} of ${name} busily: ${describeErrno(refused)}; it takes ` +
          "Linux 5.11 and CAP_NET_ADMIN, or leave busy polling out",
        Exit.system,
      );
    }
    if (sockets.length === 0) continue;
    log(
      `${name}: busy polling; its interrupts stay off for as long as napi_defer_hard_irqs and ` +
        `gro_flush_timeout in /sys/class/net/${name} say (docs/operating.md)`,
    );
  }
}
