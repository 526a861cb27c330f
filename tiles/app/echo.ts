/** Echo (RFC 862): every datagram goes back as it came. @module */

import type { App, AppContext } from "./contract.ts";

/** Makes the echo service. It never answers to a port that is served here: two would never stop. */
export default function create(context: AppContext): App {
  return {
    receive(requests, out) {
      for (let i = 0; i < requests.count; i++) {
        if (context.serves(requests.sourcePort(i))) continue;
        const size = requests.size(i);
        const at = out.reserve(size);
        if (at < 0) continue;
        out.copy(i, at);
        out.reply(i, at, size);
      }
    },
  };
}
