// SPDX-License-Identifier: Apache-2.0
/** Echo (RFC 862): returns every datagram unchanged. */

import type { App, AppContext } from "../tiles/app/contract.ts";

/** Makes the echo service. */
export default function create(context: AppContext): App {
  return {
    receive(requests, out) {
      while (requests.next()) {
        // Two echo services would answer each other forever.
        if (!context.mayLoop(requests)) out.reflect();
      }
    },
  };
}
