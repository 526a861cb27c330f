// SPDX-License-Identifier: Apache-2.0
/**
 * The track of the benchmarks of a service: two namespaces and a veth pair between them. The load generator (C, AF_XDP) has
 * one core, and the service, Tegula or a peer, the other.
 *
 *     generator  g0 198.18.0.1/24 ───── e0 198.18.0.2/24  service
 *       requests from 198.19.0.0/18                       198.19.0.0/16 via 198.18.0.1
 */

import type { Lab, LabProcess, Namespace } from "../demo/lab.ts";
import type { Programs } from "./programs.ts";

/** Address and interface of the service. */
export const ADDRESS = "198.18.0.2";
export const INTERFACE = "e0";
/** The gateway to the clients. */
const GATEWAY = "198.18.0.1";
/** Processors of the generator and of the service. */
const GENERATOR_CPU = "0";
const SERVICE_CPU = "1";
/** An appliance copies up to a million routes before it is ready. */
const START_MILLIS = 60_000;

/** The generator's output; round trips are in nanoseconds, and missing if there was no answer. */
export interface Load {
  /** Answers during the warm-up. */
  readonly warm_up: number;
  readonly sent: number;
  readonly answered: number;
  readonly mismatched: number;
  readonly kpps: number;
  readonly p50?: number;
  readonly p99?: number;
}

/** Options of the generator; see `c/generator.c`. */
export interface Asked {
  readonly window: number;
  readonly millis: number;
  readonly port: number;
  readonly peers?: number;
  readonly ports?: number;
  /** A file, or "stun". */
  readonly queries?: string;
}

/** Two namespaces, joined. */
export class Track {
  readonly #generator: Namespace;
  readonly service: Namespace;
  readonly programs: Programs;
  /** MAC address of the service's interface. */
  readonly #mac: string;

  private constructor(
    { generator, service, mac }: { generator: Namespace; service: Namespace; mac: string },
    programs: Programs,
  ) {
    this.#generator = generator;
    this.service = service;
    this.#mac = mac;
    this.programs = programs;
  }

  /**
   * Makes a track. `name` is part of the names of its namespaces. With more `queues` the service can have
   * more net tiles; what it sends itself still comes by the first, where the generator has its socket.
   */
  static async lay(
    lab: Lab,
    programs: Programs,
    { name = "service", queues = 1 } = {},
  ): Promise<Track> {
    const generator = await lab.namespace(`${name}-generator`);
    const service = await lab.namespace(name);
    const many = `numrxqueues ${queues} numtxqueues 1`;
    await generator.ip(
      `link add g0 ${many} type veth peer name ${INTERFACE} ${many} netns ${service.name}`,
    );
    await generator.batch([`address add ${GATEWAY}/24 dev g0`, "link set g0 up"]);
    await service.batch([`address add ${ADDRESS}/24 dev ${INTERFACE}`, `link set ${INTERFACE} up`]);
    await service.ip(`route add 198.19.0.0/16 via ${GATEWAY}`);
    // The resolution of the gateway is not measured.
    const [{ address: gateway }] = JSON.parse(await generator.ip("-j link show dev g0"));
    await service.ip(
      `neighbor replace ${GATEWAY} lladdr ${gateway} dev ${INTERFACE} nud permanent`,
    );
    const [{ address: mac }] = JSON.parse(await service.ip(`-j link show dev ${INTERFACE}`));
    return new Track({ generator, service, mac }, programs);
  }

  /** Runs a program in the clients' namespace. */
  ask(command: readonly string[]): Promise<string> {
    return this.#generator.run(["taskset", "--cpu-list", GENERATOR_CPU, ...command]);
  }

  /** Starts a program in the clients' namespace. */
  startClient(command: readonly string[]): LabProcess {
    return this.#generator.spawn(["taskset", "--cpu-list", GENERATOR_CPU, ...command]);
  }

  /** Starts a program in the service's namespace. */
  start(command: readonly string[], env: Record<string, string> = {}): LabProcess {
    return this.service.spawn(["taskset", "--cpu-list", SERVICE_CPU, ...command], { env });
  }

  /** Starts a service, runs `body` once it is ready, and ends it. */
  async during<T>(
    start: readonly string[],
    body: (service: LabProcess) => Promise<T>,
    { env = {}, isReady = ready }: {
      env?: Record<string, string>;
      isReady?: (service: LabProcess, start: readonly string[]) => Promise<void>;
    } = {},
  ): Promise<T> {
    const service = this.start(start, env);
    try {
      await isReady(service, start);
      return await body(service);
    } finally {
      service.kill("SIGTERM");
      await service.ended();
    }
  }

  /** One run of the generator. Throws Error if an answer was wrong, or if there was none. */
  async load({ window, millis, port, peers, ports, queries }: Asked): Promise<Load> {
    const { generator, object } = this.programs;
    const load: Load = JSON.parse(
      await this.ask([
        generator,
        ...(peers === undefined ? [] : ["-p", String(peers)]),
        ...(ports === undefined ? [] : ["-P", String(ports)]),
        ...(queries === undefined ? [] : ["-q", queries]),
        ...[object, "g0", this.#mac, ADDRESS, String(port), String(window), String(millis)],
      ]),
    );
    if (window === 0 || (load.answered > 0 && load.mismatched === 0)) return load;
    throw new Error(`wrong answers, or none: ${JSON.stringify(load)}`);
  }

  /** Starts a client with a constant rate (`c/client.c`). */
  client({ port, ports, rate }: { port: number; ports: number; rate: number }): LabProcess {
    const { client, object } = this.programs;
    const asked = [object, "g0", this.#mac, ADDRESS, port, ports, rate].map(String);
    const command = ["taskset", "--cpu-list", GENERATOR_CPU, client, ...asked];
    return this.#generator.spawn(command, { stdin: "piped" });
  }

  /** The rate of the generator if its requests are dropped: the limit for all contestants. */
  async ceiling(asked: Omit<Asked, "window">): Promise<Load> {
    const { sink, object } = this.programs;
    const start = [sink, object, INTERFACE, String(asked.port)];
    return await this.during(start, () => this.load({ ...asked, window: 0 }));
  }
}

/** Waits until a service writes that it is ready, to stdout or stderr. */
async function ready(service: LabProcess, start: readonly string[]): Promise<void> {
  await Promise.any([
    service.stdout.find("ready", { timeoutMs: START_MILLIS }),
    service.stderr.find("ready:", { timeoutMs: START_MILLIS }),
  ]).catch(() => {
    throw new Error(`${start.join(" ")} did not start: ${service.stderr.all.join("\n")}`);
  });
}
