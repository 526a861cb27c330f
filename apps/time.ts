// SPDX-License-Identifier: Apache-2.0
/**
 * Time (RFC 868): answers a datagram with the seconds since 1900-01-01 00:00 UTC, 32 bits, big-endian.
 */

import type { App, AppContext } from "../tiles/app/contract.ts";

/** Seconds from 1900 to the Unix epoch (RFC 868). */
const UNIX_EPOCH = 2_208_988_800;

/** Makes the time service. */
export default function create(context: AppContext): App {
  return {
    receive(requests, out) {
      const seconds = Math.floor(Date.now() / 1000) + UNIX_EPOCH;
      while (requests.next()) {
        if (context.mayLoop(requests)) continue;
        const at = out.reserve(4);
        if (at < 0) continue;
        out.bytes[at] = seconds / 0x1000000;
        out.bytes[at + 1] = seconds >>> 16;
        out.bytes[at + 2] = seconds >>> 8;
        out.bytes[at + 3] = seconds;
        out.reply(at, 4);
      }
    },
  };
}
