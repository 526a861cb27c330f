/**
 * `tegula client`: the client of the demo and of the tests, a process of its own because it lives in
 * another network namespace. It takes one JSON command a line on standard input and answers each with
 * one JSON line on standard output, in order; it ends with its input. Not meant for people, therefore
 * hidden.
 *
 * @module
 */

import { linesOf } from "./lines.ts";
import {
  bind,
  flood,
  type FloodOptions,
  send,
  Traffic,
  type TrafficOptions,
} from "./client_traffic.ts";

/** One datagram and the wait for its answer. */
export interface ExchangeOptions {
  /** Address to send from. */
  readonly source: string;
  /** Port to send from; 0 for any. */
  readonly sourcePort: number;
  readonly target: string;
  readonly port: number;
  /** Bytes, as hexadecimal digits. */
  readonly payload: string;
  readonly timeoutMs: number;
}

/** What came back. */
export interface Exchanged {
  /** Bytes, as hexadecimal digits; null when nothing came in time. */
  readonly answer: string | null;
  /** Who it came from, `address:port`. */
  readonly from: string | null;
}

/** A command on standard input. */
export type ClientCommand =
  | ({ readonly do: "start" } & TrafficOptions)
  | { readonly do: "progress" }
  | { readonly do: "stop"; readonly lingerMillis: number }
  | ({ readonly do: "flood" } & FloodOptions)
  | ({ readonly do: "exchange" } & ExchangeOptions);

/** Runs until standard input ends. Returns the exit status. */
export async function client(_args: readonly string[]): Promise<number> {
  const commands = new Commands();
  for await (const line of linesOf(Deno.stdin.readable)) {
    let reply: unknown;
    try {
      reply = await commands.run(JSON.parse(line) as ClientCommand);
    } catch (error) {
      reply = { error: error instanceof Error ? error.message : String(error) };
    }
    console.log(JSON.stringify(reply));
  }
  return 0;
}

class Commands {
  #traffic: Traffic | null = null;

  async run(command: ClientCommand): Promise<unknown> {
    switch (command.do) {
      case "start":
        this.#traffic = await Traffic.start(command);
        return {};
      case "progress":
        return this.#running().progress();
      case "stop": {
        const traffic = this.#running();
        this.#traffic = null;
        return await traffic.stop(command);
      }
      case "flood":
        return { sent: await flood(command) };
      case "exchange":
        return await exchange(command);
    }
  }

  #running(): Traffic {
    if (this.#traffic === null) throw new Error("there is no traffic");
    return this.#traffic;
  }
}

/** Sends one datagram from a socket of its own and waits for what comes back to it. */
async function exchange(options: ExchangeOptions): Promise<Exchanged> {
  const { source, sourcePort, target, port, timeoutMs } = options;
  const socket = await bind(source, sourcePort);
  const answer = Promise.withResolvers<Exchanged>();
  socket.once("message", (payload, from) => {
    answer.resolve({ answer: payload.toString("hex"), from: `${from.address}:${from.port}` });
  });
  const timer = setTimeout(() => answer.resolve({ answer: null, from: null }), timeoutMs);
  try {
    await send(socket, Uint8Array.fromHex(options.payload), { address: target, port });
    return await answer.promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}
