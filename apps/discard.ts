/** Discard (RFC 863): takes every datagram and says nothing. */

import type { App } from "../tiles/app/contract.ts";

/** Makes the discard service. */
export default function create(): App {
  return { receive() {} };
}
