/**
 * An ordinary program with ordinary sockets, to see that the kernel still serves those:
 *
 *     peer.ts udp ADDRESS PORT WORD    answers each datagram with WORD
 *     peer.ts tcp ADDRESS PORT         sends back what each connection sends
 *     peer.ts tcp-ask ADDRESS PORT N   sends N bytes over a connection, checks that they come back
 *
 * @module
 */

import { createSocket } from "node:dgram";

const [role, hostname, port, what] = Deno.args;

if (role === "udp") {
  const family = hostname.includes(":") ? "udp6" : "udp4";
  const socket = createSocket(family);
  socket.on("message", (_payload, from) => socket.send(what, from.port, from.address));
  socket.bind(Number(port), hostname, () => console.log("serving"));
} else if (role === "tcp") {
  const listener = Deno.listen({ hostname, port: Number(port) });
  console.log("serving");
  for await (const connection of listener) {
    connection.readable.pipeTo(connection.writable).catch(() => {});
  }
} else if (role === "tcp-ask") {
  const sent = new Uint8Array(Number(what)).map((_, i) => i * 7);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  const writer = connection.writable.getWriter();
  const written = writer.write(sent).then(() => writer.close());
  let at = 0;
  for await (const chunk of connection.readable) {
    for (const byte of chunk) if (byte !== sent[at++]) throw new Error(`byte ${at} differs`);
  }
  await written;
  if (at !== sent.length) throw new Error(`${at} of ${sent.length} bytes came back`);
  console.log("all bytes came back");
} else {
  throw new Error(`unknown role ${role}`);
}
