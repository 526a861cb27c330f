/** Echo (RFC 862): every datagram goes back as it came. */

import type { App, AppContext } from "../tiles/app/contract.ts";

/** Makes the echo service. */
export default function create(context: AppContext): App {
  return {
    receive(requests, out) {
      while (requests.next()) {
        // Two echoes would never stop.
        if (!context.mayLoop(requests)) out.reflect();
      }
    },
  };
}
