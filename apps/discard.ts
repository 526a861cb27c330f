// SPDX-License-Identifier: Apache-2.0
/** Discard (RFC 863): receives every datagram and answers none. */

import type { App } from "../tiles/app/contract.ts";

/** Makes the discard service. */
export default function create(): App {
  return { receive() {} };
}
