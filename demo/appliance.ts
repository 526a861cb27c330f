/**
 * The appliance as the demo and the tests have it: the real `tegula run`, in a namespace.
 */

import { Exit, UserError } from "../cli/errors.ts";
import type { LabProcess, Namespace, SpawnOptions } from "./lab.ts";
import { selfCommand } from "../cli/self.ts";

/** How long the appliance may take to be ready on a busy machine. */
const START_MILLIS = 30_000;

/** Counters by name, every tile's added up. */
export type Counters = ReadonlyMap<string, number>;

/** A running `tegula run`. */
export class Appliance {
  /** The process, for what only a test wants. */
  readonly process: LabProcess;

  protected constructor(process: LabProcess) {
    this.process = process;
  }

  /** Starts `tegula run ARGS…` and does not wait. */
  static launch(
    namespace: Pick<Namespace, "spawn">,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Appliance {
    return new this(namespace.spawn([...selfCommand(), "run", ...args], options));
  }

  /** Starts `tegula run ARGS…` and waits until it is ready. Throws UserError when it gives up. */
  static async start(
    namespace: Namespace,
    args: readonly string[],
    options: SpawnOptions = {},
  ): Promise<Appliance> {
    const appliance = this.launch(namespace, args, options);
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
    const tiles: Record<string, Record<string, number>> = JSON.parse(line.slice(10));
    const sums = new Map<string, number>();
    for (const [name, value] of Object.values(tiles).flatMap(Object.entries<number>)) {
      sums.set(name, (sums.get(name) ?? 0) + value);
    }
    return sums;
  }

  /**
   * Stops it by a signal; returns its exit status and how long that took. Throws UserError unless it
   * ends with status 0, or by SIGKILL where that was the signal.
   */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<{ code: number; millis: number }> {
    const begin = performance.now();
    this.process.kill(signal);
    const status = await this.process.ended();
    const expected = signal === "SIGKILL" ? status.signal === signal : status.success;
    if (!expected) throw badEnd(status, `after ${signal}`);
    return { code: status.code, millis: performance.now() - begin };
  }
}

/** The error of an appliance that ended otherwise than it was to; `when` completes the sentence. */
export function badEnd({ code, signal }: Deno.CommandStatus, when: string): UserError {
  const how = signal === null ? `ended with status ${code}` : `was ended by ${signal}`;
  return new UserError(`the appliance ${how} ${when}`, Exit.failure);
}
