/**
 * Where benchmarks of a service play: two namespaces and the veth pair between them. The load
 * generator (C, AF_XDP) has one core, the service, Tegula's or what it stands beside, the other.
 *
 *     generator  g0 198.18.0.1/24 ───── e0 198.18.0.2/24  service
 *       requests from 198.19.0.0/18                       198.19.0.0/16 via 198.18.0.1
 */

import type { Lab, LabProcess, Namespace } from "../demo/lab.ts";
import type { Programs } from "./programs.ts";

/** Address of the service, and the interface that it is on. */
export const ADDRESS = "198.18.0.2";
export const INTERFACE = "e0";
/** The gateway to those who ask. */
const GATEWAY = "198.18.0.1";
/** Processors of the generator and of the service. */
const GENERATOR_CPU = "0";
const SERVICE_CPU = "1";
/** A million routes are copied before an appliance is ready. */
const START_MILLIS = 60_000;

/** What the generator prints. Round trips, in nanoseconds, are there when one was in flight. */
export interface Load {
  /** Answers that came while everything warmed up. */
  readonly warm_up: number;
  readonly sent: number;
  readonly answered: number;
  readonly mismatched: number;
  readonly kpps: number;
  readonly p50?: number;
  readonly p99?: number;
}

/** What the generator is asked for: see `c/generator.c`. */
export interface Asked {
  readonly window: number;
  readonly millis: number;
  readonly port: number;
  readonly peers?: number;
  readonly ports?: number;
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
   * Lays a track; `name` tells its namespaces from those of others. With more `queues` the service can have
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
    // Resolving the gateway is not what is measured.
    const [{ address: gateway }] = JSON.parse(await generator.ip("-j link show dev g0"));
    await service.ip(
      `neighbor replace ${GATEWAY} lladdr ${gateway} dev ${INTERFACE} nud permanent`,
    );
    const [{ address: mac }] = JSON.parse(await service.ip(`-j link show dev ${INTERFACE}`));
    return new Track({ generator, service, mac }, programs);
  }

  /** Runs a program where those are who ask. */
  ask(command: readonly string[]): Promise<string> {
    return this.#generator.run(["taskset", "--cpu-list", GENERATOR_CPU, ...command]);
  }

  /** Starts a service, does what there is to do with it once it says that it is ready, ends it. */
  async during<T>(
    start: readonly string[],
    body: (service: LabProcess) => Promise<T>,
    { env = {}, isReady = ready }: {
      env?: Record<string, string>;
      isReady?: (service: LabProcess, start: readonly string[]) => Promise<void>;
    } = {},
  ): Promise<T> {
    const command = ["taskset", "--cpu-list", SERVICE_CPU, ...start];
    const service = this.service.spawn(command, { env });
    try {
      await isReady(service, start);
      return await body(service);
    } finally {
      service.kill("SIGTERM");
      await service.ended();
    }
  }

  /** One run of the generator. Throws Error when an answer was wrong, or there was none. */
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

  /** Starts a client that asks at a constant rate (`c/client.c`). */
  client({ port, ports, rate }: { port: number; ports: number; rate: number }): LabProcess {
    const { client, object } = this.programs;
    const asked = [object, "g0", this.#mac, ADDRESS, port, ports, rate].map(String);
    const command = ["taskset", "--cpu-list", GENERATOR_CPU, client, ...asked];
    return this.#generator.spawn(command, { stdin: "piped" });
  }

  /** What the generator can send when its requests are dropped unanswered: nobody can be faster. */
  async ceiling(asked: Omit<Asked, "window">): Promise<Load> {
    const { sink, object } = this.programs;
    const start = [sink, object, INTERFACE, String(asked.port)];
    return await this.during(start, () => this.load({ ...asked, window: 0 }));
  }
}

/** Waits until a service says that it is ready, on whichever of its outputs. */
async function ready(service: LabProcess, start: readonly string[]): Promise<void> {
  await Promise.any([
    service.stdout.find("ready", { timeoutMs: START_MILLIS }),
    service.stderr.find("ready:", { timeoutMs: START_MILLIS }),
  ]).catch(() => {
    throw new Error(`${start.join(" ")} did not start: ${service.stderr.all.join("\n")}`);
  });
}
