/** Echo (RFC 862): every datagram goes back as it came. */

import type { App, AppContext } from "./contract.ts";

/** Makes the echo service. It never answers to a port that is served here: two would never stop. */
export default function create(context: AppContext): App {
  return {
    receive(requests, out) {
      while (requests.next()) {
        if (!context.serves(requests.sourcePort)) out.reflect();
      }
    },
  };
}
