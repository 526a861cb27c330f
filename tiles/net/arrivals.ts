/**
 * A burst on its way in: what a receive ring gave, and what became known of each frame since. Filled
 * by `xdp_port.ts`, `checks.ts` and `receive.ts` in turn, then handed on by `app_link.ts`.
 *
 * @module
 */

import { RECEIVE_HEADER_WORDS } from "../../ffi/xsk.ts";

/** Most frames taken from a receive ring, or put on a transmit ring, by one call. */
export const XDP_BURST = 64;

/** The burst at hand; made once. */
export class Arrivals {
  /** Time low, time high, then offset and length of each frame, as `Xsk.receive` writes them. */
  readonly frames = new Uint32Array(RECEIVE_HEADER_WORDS + 2 * XDP_BURST);
  /** Of each frame where its IPv4 header begins, or the number of the counter to move, negated. */
  readonly verdicts = new Int32Array(XDP_BURST);
  /** Of each good frame the interface that it came in on: a VLAN device when it was tagged. */
  readonly interfaces = new Int32Array(XDP_BURST);
  /** Of each good frame the app that it is for; of others their verdict. */
  readonly apps = new Int32Array(XDP_BURST);
}
