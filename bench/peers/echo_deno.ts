// SPDX-License-Identifier: Apache-2.0
/** UDP echo on Deno's own UDP socket, as its documentation shows it. */
const socket = Deno.listenDatagram({
  transport: "udp",
  hostname: "0.0.0.0",
  port: Number(Deno.args[0]),
});
console.log("ready");
for await (const [payload, peer] of socket) await socket.send(payload, peer);
