/** Signatures first; the implementation follows. @module */

import type { NetbaseReader } from "./netbase.ts";

/** The outcome of a route decision. Made once, filled by {@linkcode decide}. */
export interface Decision {
  /** RTN_* or KIND_UNSUPPORTED, KIND_OVERFLOW; RTN_UNSPEC: no route. Never a group: a member. */
  kind: number;
  /** Next hop id (of the member, for a group); 0: none. */
  nextHop: number;
  /** Next hop id of the group that the member was chosen from; 0: none. */
  group: number;
  /** Whom to resolve: the gateway; 0: the destination itself is on-link. Host order. */
  gateway: number;
  /** Outgoing interface; for `local` the loopback device. 0: none. */
  ifindex: number;
  /** Source address to use, host order; 0: none could be chosen. */
  source: number;
  /** The route's MTU, else the interface's. */
  mtu: number;
  /** Record of the interface, or -1. Good until the reader's next quiescent state. */
  interfaceRecord: number;
}

/** A decision with nothing in it. */
export declare function emptyDecision(): Decision;

/**
 * Decides what becomes of a packet to `destination` from `source` (0: choose one), as the kernel
 * does in `ip_route_output_key_hash`. `flowHash`: 32 well-mixed bits. Returns `out.kind`.
 */
export declare function decide(
  reader: NetbaseReader,
  destination: number,
  source: number,
  flowHash: number,
  out: Decision,
): number;
