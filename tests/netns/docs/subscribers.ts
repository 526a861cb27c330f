// SPDX-License-Identifier: Apache-2.0
/**
 * Subscribers of docs/examples/broadcast.ts, each with a socket of its own: `subscribers.ts ADDRESS COUNT`
 * subscribes all of them, and says of each round how many it reached.
 */

import { createSocket } from "node:dgram";
import { once } from "node:events";

const [address, count] = Deno.args;
const reached = new Map<string, number>();
for (let i = 0; i < Number(count); i++) {
  const socket = createSocket("udp4");
  socket.on("message", (payload) => {
    const round = payload.toString();
    const sofar = (reached.get(round) ?? 0) + 1;
    reached.set(round, sofar);
    if (sofar === Number(count)) console.log(`${round} reached all`);
  });
  socket.bind();
  await once(socket, "listening");
  socket.send("me", 7, address);
}
console.log("subscribed");
