// SPDX-License-Identifier: Apache-2.0
/** A STUN server on node:dgram. */
import { createSocket } from "node:dgram";
import { answerTo, wordOf } from "./binding.mjs";

const socket = createSocket("udp4");
socket.on("message", (request, { address, port }) => {
  const answer = answerTo(request, wordOf(address), port);
  if (answer !== null) socket.send(answer, port, address);
});
socket.bind(Number(process.argv[2]), () => console.log("ready"));
