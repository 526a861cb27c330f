// SPDX-License-Identifier: Apache-2.0
/** UDP echo on Bun's own UDP socket, as its documentation shows it. */
const { Bun, process } = globalThis;

await Bun.udpSocket({
  port: Number(process.argv[2]),
  socket: {
    data(socket, payload, port, address) {
      socket.send(payload, port, address);
    },
  },
});
console.log("ready");
