// SPDX-License-Identifier: Apache-2.0
/** A STUN server on Deno's own UDP socket. */
import { answerTo, wordOf } from "./binding.mjs";

const [port] = Deno.args.map(Number);
const socket = Deno.listenDatagram({ transport: "udp", hostname: "0.0.0.0", port });
console.log("ready");
for await (const [request, peer] of socket) {
  const { hostname, port } = peer as Deno.NetAddr;
  const answer = answerTo(request, wordOf(hostname), port);
  if (answer !== null) await socket.send(answer, peer);
}
