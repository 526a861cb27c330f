// SPDX-License-Identifier: Apache-2.0
/**
 * An ordinary program with ordinary sockets, to check that the kernel still serves those:
 *
 *     peer.ts udp ADDRESS PORT [WORD]  answers each datagram with WORD, or with what it says
 *     peer.ts witness ADDRESS PORT     tells who sends each datagram and what it says, and sends it back
 *     peer.ts sink ADDRESS PORT        tells how late each datagram is that carries a time
 *     peer.ts tcp ADDRESS PORT         sends back what each connection sends
 *     peer.ts tcp-ask ADDRESS PORT N   sends N bytes over a connection, checks that they come back
 */

import { createSocket } from "node:dgram";

const [role, hostname, port, what] = Deno.args;

if (role === "udp") {
  const family = hostname.includes(":") ? "udp6" : "udp4";
  const socket = createSocket(family);
  socket.on("message", (payload, from) => socket.send(what ?? payload, from.port, from.address));
  socket.bind(Number(port), hostname, () => console.log("serving"));
} else if (role === "witness") {
  const socket = createSocket("udp4");
  socket.on("message", (payload, from) => {
    console.log(`from ${from.address}:${from.port}: ${payload}`);
    socket.send(payload, from.port, from.address);
  });
  socket.bind(Number(port), hostname, () => console.log("serving"));
} else if (role === "sink") {
  const socket = createSocket("udp4");
  socket.on("message", (payload) => {
    const now = performance.timeOrigin + performance.now();
    console.log(`late ${(now - payload.readDoubleBE()).toFixed(3)}`);
  });
  socket.bind(Number(port), hostname, () => console.log("serving"));
} else if (role === "tcp") {
  const listener = Deno.listen({ hostname, port: Number(port) });
  console.log("serving");
  for await (const connection of listener) sendBack(connection).catch(() => {});
} else if (role === "tcp-ask") {
  const sent = new Uint8Array(Number(what)).map((_, i) => i * 7);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  const written = writeAll(connection, sent).then(() => connection.closeWrite());
  let at = 0;
  const buffer = new Uint8Array(65_536);
  for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
    for (let i = 0; i < n; i++) if (buffer[i] !== sent[at++]) throw new Error(`byte ${at} differs`);
  }
  await written;
  if (at !== sent.length) throw new Error(`${at} of ${sent.length} bytes came back`);
  connection.close();
  console.log("all bytes came back");
} else {
  throw new Error(`unknown role ${role}`);
}

async function sendBack(connection: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(65_536);
  for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
    await writeAll(connection, buffer.subarray(0, n));
  }
  connection.close();
}

async function writeAll(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}
