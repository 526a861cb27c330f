// SPDX-License-Identifier: Apache-2.0
/**
 * The client of the tests, in its own process because it lives in its own namespace. It reads one JSON
 * command a line on standard input and answers each with one JSON line on standard output, in order. It
 * ends with its input.
 */

import { fileURLToPath } from "node:url";
import {
  bind,
  flood,
  type FloodOptions,
  send,
  startTraffic,
  type Traffic,
  type TrafficOptions,
  type TrafficResult,
} from "../../demo/traffic.ts";
import type { LabProcess, Namespace } from "../../demo/lab.ts";
import { linesOf } from "../../cli/command.ts";

/** One datagram, and how to wait for its answer. */
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

/** The answer. */
export interface Exchanged {
  /** Bytes, as hexadecimal digits; null if nothing arrived in time. */
  readonly answer: string | null;
  /** The sender, `address:port`. */
  readonly from: string | null;
}

/** A running client. One command at a time. */
export class Client {
  readonly process: LabProcess;

  constructor(namespace: Namespace) {
    const flags = ["run", "--allow-all", "--no-check"];
    const command = [Deno.execPath(), ...flags, fileURLToPath(import.meta.url)];
    this.process = namespace.spawn(command, { stdin: "piped" });
  }

  /** Starts to send. */
  async start(traffic: TrafficOptions): Promise<void> {
    await this.#ask({ do: "start", ...traffic });
  }

  /** The progress of the traffic. */
  progress(): Promise<ReturnType<Traffic["progress"]>> {
    return this.#ask({ do: "progress" });
  }

  /** Stops sending and returns the result, once all is answered or `lingerMillis` have passed. */
  stop({ lingerMillis = 20_000 } = {}): Promise<TrafficResult> {
    return this.#ask({ do: "stop", lingerMillis });
  }

  /** One datagram from each of many source addresses. */
  async flood(options: FloodOptions): Promise<void> {
    await this.#ask({ do: "flood", ...options });
  }

  /** One datagram and its answer. */
  exchange(options: ExchangeOptions): Promise<Exchanged> {
    return this.#ask({ do: "exchange", ...options });
  }

  async #ask<Reply extends object>(command: Command): Promise<Reply> {
    const from = this.process.stdout.all.length;
    await this.process.write(JSON.stringify(command));
    const line = await this.process.stdout.find("{", { from, timeoutMs: 60_000 });
    const reply = JSON.parse(line) as Reply & { error?: string };
    if (reply.error !== undefined) throw new Error(`the client could not: ${reply.error}`);
    return reply;
  }
}

/** A command on standard input. */
type Command =
  | ({ readonly do: "start" } & TrafficOptions)
  | { readonly do: "progress" }
  | { readonly do: "stop"; readonly lingerMillis: number }
  | ({ readonly do: "flood" } & FloodOptions)
  | ({ readonly do: "exchange" } & ExchangeOptions);

let traffic: Traffic | null = null;

async function run(command: Command): Promise<object> {
  switch (command.do) {
    case "start":
      traffic = await startTraffic(command);
      return {};
    case "progress":
      return running().progress();
    case "stop": {
      const stopping = running();
      traffic = null;
      return await stopping.stop(command);
    }
    case "flood":
      await flood(command);
      return {};
    case "exchange":
      return await exchange(command);
  }
}

function running(): Traffic {
  if (traffic === null) throw new Error("there is no traffic");
  return traffic;
}

/** Sends one datagram from its own socket and waits for the answer. */
async function exchange(options: ExchangeOptions): Promise<Exchanged> {
  const socket = await bind(options.source, options.sourcePort);
  const answer = Promise.withResolvers<Exchanged>();
  socket.once("message", (payload, from) => {
    answer.resolve({ answer: payload.toString("hex"), from: `${from.address}:${from.port}` });
  });
  const nothing = { answer: null, from: null };
  const timer = setTimeout(() => answer.resolve(nothing), options.timeoutMs);
  try {
    await send(socket, Uint8Array.fromHex(options.payload), options);
    return await answer.promise;
  } finally {
    clearTimeout(timer);
    socket.close();
  }
}

if (import.meta.main) {
  for await (const line of linesOf(Deno.stdin.readable)) {
    const reply = await run(JSON.parse(line) as Command)
      .catch((error) => ({ error: error instanceof Error ? error.message : String(error) }));
    console.log(JSON.stringify(reply));
  }
}
