// SPDX-License-Identifier: Apache-2.0
/** UDP echo on node:dgram, as its documentation shows it. */
import { createSocket } from "node:dgram";

const socket = createSocket("udp4");
socket.on("message", (payload, peer) => socket.send(payload, peer.port, peer.address));
socket.bind(Number(process.argv[2]), () => console.log("ready"));
