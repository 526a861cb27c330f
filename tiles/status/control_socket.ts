/**
 * The control socket: a Unix stream socket, one JSON object a line each way, answers in the order of
 * the requests. What can be asked is `answers.ts`'s; docs/control.md tells it to users.
 */

import { STATUS } from "../runtime/counters.ts";
import type { Answers } from "./answers.ts";
import { type Connection, type Listener, serveConnections } from "./connections.ts";

/** Connections at a time. */
const MOST_CONNECTIONS = 64;
/** Characters of a request. */
const MOST_REQUEST = 1 << 16;
/** How long a request may take to come once it has begun. */
const REQUEST_MILLIS = 30_000;
/** How long nothing may come, or be read of an answer: a pager is left alone for minutes. */
const IDLE_MILLIS = 300_000;

/** What a conversation is made with; how long its peer may take, other than usual. */
interface ConversationParts {
  readonly answers: Answers;
  readonly requestMillis?: number;
  readonly idleMillis?: number;
}

/** Serves whoever connects, until the listener is closed. */
export function serveControl(
  listener: Listener,
  { counters, ...parts }: ConversationParts & { readonly counters: Float64Array },
): Promise<void> {
  return serveConnections(listener, {
    most: MOST_CONNECTIONS,
    counters,
    gauge: STATUS.index.control_connections,
    converse: (connection) => converse(connection, parts),
  });
}

async function converse(
  connection: Connection,
  { answers, requestMillis = REQUEST_MILLIS, idleMillis = IDLE_MILLIS }: ConversationParts,
): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  // The reader has the same time for each part of an answer.
  const write = async (text: string) => {
    if (text === "") return;
    connection.allow(idleMillis);
    await connection.write(text);
  };
  connection.allow(idleMillis);
  for (;;) {
    const chunk = await connection.read();
    if (chunk === null) return;
    const hadBegun = rest !== "";
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
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
      await write(ready);
      ready = "";
      for await (const part of answer) await write(part);
    }
    await write(ready);
    if (rest === "") connection.allow(idleMillis);
    else if (lines.length > 0 || !hadBegun) connection.allow(requestMillis);
  }
}
