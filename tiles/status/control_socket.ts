/**
 * The control socket: a Unix stream socket, one JSON object a line each way, answers in the order of
 * the requests. What can be asked is `answers.ts`'s; docs/control.md tells it to users.
 */

import type { Answers } from "./answers.ts";

/** Who may connect: the user that Tegula runs as, and the socket's group. */
const MODE = 0o660;
/** Connections at a time; one more is closed at once. */
const MOST_CONNECTIONS = 64;
/** Characters of a request, and bytes read with one call. */
const MOST_REQUEST = 1 << 16;

/** Begins to listen at `path`, in place of a socket that was left there. Throws Error with the reason. */
export function listenControl(path: string): Deno.Listener<Deno.UnixConn> {
  try {
    if (!Deno.lstatSync(path).isSocket) throw new Error("what is there is no socket");
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  const listener = Deno.listen({ transport: "unix", path });
  Deno.chmodSync(path, MODE);
  return listener;
}

/** Serves whoever connects, for as long as the tile lives. */
export async function serveControl(
  listener: Deno.Listener<Deno.UnixConn>,
  answers: Answers,
): Promise<void> {
  let connections = 0;
  for await (const connection of listener) {
    if (connections === MOST_CONNECTIONS) {
      connection.close();
      continue;
    }
    connections++;
    converse(connection, answers)
      // Whoever goes away in the middle of an answer does not want it.
      .catch(() => {})
      .finally(() => {
        connections--;
        connection.close();
      });
  }
}

async function converse(connection: Deno.UnixConn, answers: Answers): Promise<void> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(MOST_REQUEST);
  let rest = "";
  for (;;) {
    const count = await connection.read(buffer);
    if (count === null) return;
    const lines = (rest + decoder.decode(buffer.subarray(0, count), { stream: true })).split("\n");
    rest = lines.pop()!;
    if (rest.length > MOST_REQUEST) return;
    // Answers that are there at once are written together: thousands of addresses come in one read.
    let ready = "";
    for (const line of lines) {
      const answer = answers.answer(line);
      if (typeof answer === "string") {
        ready += answer;
        continue;
      }
      await write(connection, ready);
      ready = "";
      for await (const part of answer) await write(connection, part);
    }
    await write(connection, ready);
  }
}

async function write(connection: Deno.UnixConn, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}
