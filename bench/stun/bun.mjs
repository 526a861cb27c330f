// SPDX-License-Identifier: Apache-2.0
/** A STUN server on Bun's own UDP socket. */
import { answerTo, wordOf } from "./binding.mjs";

const { Bun, process } = globalThis;

await Bun.udpSocket({
  port: Number(process.argv[2]),
  socket: {
    data(socket, request, port, address) {
      const answer = answerTo(request, wordOf(address), port);
      if (answer !== null) socket.send(answer, port, address);
    },
  },
});
console.log("ready");
