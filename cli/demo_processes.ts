/**
 * The two programs that the demo and the tests talk to, each in its namespace: the appliance, which is
 * the real `tegula run`, and the plain-socket client.
 *
 * @module
 */

import type { ClientCommand, Exchanged, ExchangeOptions } from "./client.ts";
import type { FloodOptions, Progress, TrafficOptions, TrafficResult } from "./client_traffic.ts";
import { Exit, UserError } from "./errors.ts";
import type { LabProcess, Namespace, SpawnOptions } from "./lab.ts";
import { selfCommand } from "./self.ts";

/** How long the appliance may take to be ready on a busy machine. */
const START_MILLIS = 30_000;

/** Counters by name, every tile's added up. */
export type Counters = ReadonlyMap<string, number>;

/** A running `tegula run`. */
export class Appliance {
  /** The process, for what only a test wants. */
  readonly process: LabProcess;

  private constructor(process: LabProcess) {
    this.process = process;
  }

  /** Starts `tegula run ARGS…` and does not wait. */
  static launch(
    namespace: Namespace,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Appliance {
    return new Appliance(namespace.spawn([...selfCommand(), "run", ...args], options));
  }

  /** Starts `tegula run ARGS…` and waits until it is ready. Throws UserError when it gives up. */
  static async start(
    namespace: Namespace,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Promise<Appliance> {
    const appliance = Appliance.launch(namespace, args, options);
    await appliance.ready();
    return appliance;
  }

  /** Settles when it is ready. Throws UserError with its own words when it is not to be. */
  async ready(): Promise<void> {
    const { stderr } = this.process;
    try {
      await stderr.find("ready:", { timeoutMs: START_MILLIS });
    } catch (error) {
      if (!stderr.ended) throw error;
      const { code } = await this.process.ended();
      const sentence = stderr.all.find((line) => line.startsWith("tegula: "))?.slice(8);
      const said = sentence ?? (stderr.all.join("\n") || "it said nothing");
      throw new UserError(`the appliance did not start: ${said}`, code || Exit.failure);
    }
  }

  /** In which mode an interface is served, as the appliance says: `xdp native copy`. */
  async mode(interfaceName: string): Promise<string> {
    const line = await this.process.stderr.find(`${interfaceName}: `);
    return line.slice(interfaceName.length + 2).replace(/ *[(;,].*$/, "").trim();
  }

  /** Its counters now. */
  async counters(): Promise<Counters> {
    const from = this.process.stderr.all.length;
    this.process.kill("SIGUSR2");
    const line = await this.process.stderr.find("counters: ", { from });
    const sums = new Map<string, number>();
    addUp(JSON.parse(line.slice("counters: ".length)), sums);
    return sums;
  }

  /** Ends it and says how it ended and how long that took. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<{ code: number; millis: number }> {
    const begin = performance.now();
    this.process.kill(signal);
    const { code } = await this.process.ended();
    return { code, millis: performance.now() - begin };
  }
}

/** Adds up every number in a tree of objects under the name that it has there. */
function addUp(tree: Record<string, unknown>, sums: Map<string, number>): void {
  for (const [name, value] of Object.entries(tree)) {
    if (typeof value === "number") sums.set(name, (sums.get(name) ?? 0) + value);
    else if (typeof value === "object" && value !== null) addUp({ ...value }, sums);
  }
}

/** By how much counters have grown; those that have not are left out. */
export function grown(before: Counters, after: Counters): Counters {
  const growth = [...after].map(([name, value]) =>
    [name, value - (before.get(name) ?? 0)] as const
  );
  return new Map(growth.filter(([, by]) => by !== 0));
}

/** A running `tegula client`. One command at a time. */
export class Client {
  readonly process: LabProcess;

  constructor(namespace: Namespace) {
    this.process = namespace.spawn([...selfCommand(), "client"], { stdin: "piped" });
  }

  /** Begins to send. */
  async start(traffic: TrafficOptions): Promise<void> {
    await this.#ask({ do: "start", ...traffic });
  }

  /** How far the traffic is. */
  progress(): Promise<Progress> {
    return this.#ask({ do: "progress" });
  }

  /** Stops sending and says what came of it. */
  stop({ lingerMillis = 1000 } = {}): Promise<TrafficResult> {
    return this.#ask({ do: "stop", lingerMillis });
  }

  /** One datagram from each of many source addresses; returns how many went out. */
  async flood(options: FloodOptions): Promise<number> {
    return (await this.#ask<{ sent: number }>({ do: "flood", ...options })).sent;
  }

  /** One datagram and its answer. */
  exchange(options: ExchangeOptions): Promise<Exchanged> {
    return this.#ask({ do: "exchange", ...options });
  }

  async #ask<Reply extends object>(command: ClientCommand): Promise<Reply> {
    const from = this.process.stdout.all.length;
    await this.process.write(JSON.stringify(command));
    const line = await this.process.stdout.find("{", { from, timeoutMs: 60_000 });
    const reply = JSON.parse(line) as Reply & { error?: string };
    if (reply.error !== undefined) throw new Error(`the client could not: ${reply.error}`);
    return reply;
  }
}
