/**
 * Where the demo plays. Three namespaces:
 *
 *     host                                   client
 *       eth0 198.18.0.1/16  ───────────────  eth0 198.18.0.2/16, .3, .4
 *       eth1 192.0.2.1/24                    lo   203.0.113.2/32, far away as seen from the host
 *         │            router                eth1 198.51.100.2/24
 *         └──── eth0 192.0.2.2/24              │
 *               eth1 198.51.100.1/24 ──────────┘
 *
 * The host's default route leads by the client itself, or by the router when a scene moves it.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import type { Flow, TrafficResult } from "./client_traffic.ts";
import { Appliance, Client, type Counters, grown } from "./demo_processes.ts";
import { Lab, type Namespace } from "./lab.ts";

/** Datagrams per second of a scene's traffic. */
const RATE = 500;
/** How long late answers are waited for; a held datagram's neighbour may need a second request. */
const LINGER_MILLIS = 1500;

/** UDP port of the echo service. */
export const ECHO_PORT = 7;
/** The appliance's address that is asked. */
export const HOST_ADDRESS = "198.18.0.1";
/** The client's addresses in the subnet that it shares with the host. */
export const NEAR_ADDRESSES = ["198.18.0.2", "198.18.0.3", "198.18.0.4"] as const;
/** The client's address that the host reaches by its default route only. */
export const FAR_ADDRESS = "203.0.113.2";
/** The router's address towards the host. */
export const ROUTER_ADDRESS = "192.0.2.2";
/** Source addresses of the flood: in the connected subnet, and nobody there answers for them. */
export const SPOOFED = { first: "198.18.64.0", prefix: "198.18.64.0/18" } as const;

/** What the demo was asked for. */
export interface StageOptions {
  /** Given to `tegula run`, when set. */
  readonly provider?: string;
  /** How long one scene's traffic lasts. */
  readonly sceneMillis: number;
  /** Ends every wait when the demo is to end. */
  readonly signal: AbortSignal;
  /** Called with each line that the appliance writes. */
  readonly onLine?: (line: string) => void;
}

/** Something done at a point of a scene, as a fraction of its duration. */
export interface Step {
  readonly at: number;
  act(): Promise<unknown>;
}

/** Traffic while steps were taken. */
export interface Observation extends TrafficResult {
  /** When each step began and ended, milliseconds since the epoch. */
  readonly steps: readonly { readonly beganMillis: number; readonly endedMillis: number }[];
  /** By how much the appliance's counters grew; those that did not are left out. */
  readonly counted: Counters;
}

/** The namespaces with the appliance and the clients running. */
export class Stage implements AsyncDisposable {
  readonly host: Namespace;
  readonly client: Namespace;
  readonly router: Namespace;
  readonly appliance: Appliance;
  /** In which mode the appliance serves, as it says itself: `xdp native copy`. */
  readonly mode: string;
  readonly #lab: Lab;
  readonly #options: StageOptions;
  readonly #traffic: Client;
  readonly #flooder: Client;

  private constructor(
    lab: Lab,
    options: StageOptions,
    parts: { host: Namespace; client: Namespace; router: Namespace; appliance: Appliance },
    mode: string,
  ) {
    this.#lab = lab;
    this.#options = options;
    ({ host: this.host, client: this.client, router: this.router } = parts);
    this.appliance = parts.appliance;
    this.mode = mode;
    this.#traffic = new Client(this.client);
    this.#flooder = new Client(this.client);
  }

  /** Builds everything and waits until the appliance is ready. */
  static async build(options: StageOptions): Promise<Stage> {
    const lab = new Lab();
    try {
      const spaces = await network(lab);
      const provider = options.provider === undefined ? [] : ["--provider", options.provider];
      const args = ["--interface", "eth0", "--interface", "eth1", "--listen", `${ECHO_PORT}=echo`];
      const appliance = await Appliance.start(spaces.host, [...args, ...provider], options);
      options.signal.throwIfAborted();
      return new Stage(lab, options, { ...spaces, appliance }, await appliance.mode("eth0"));
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Sends from `sources` for the duration of a scene, takes `steps` meanwhile, and collects. */
  async observe(sources: readonly string[], steps: readonly Step[]): Promise<Observation> {
    const flows = sources.map((source): Flow => (
      { source, target: HOST_ADDRESS, port: ECHO_PORT }
    ));
    const before = await this.appliance.counters();
    const begin = performance.now();
    const until = (fraction: number) =>
      this.#wait(begin + fraction * this.#options.sceneMillis - performance.now());
    await this.#traffic.start({ flows, rate: RATE });
    const times = [];
    for (const step of steps) {
      await until(step.at);
      const beganMillis = performance.timeOrigin + performance.now();
      await step.act();
      times.push({ beganMillis, endedMillis: performance.timeOrigin + performance.now() });
    }
    await until(1);
    const result = await this.#traffic.stop({ lingerMillis: LINGER_MILLIS });
    return { ...result, steps: times, counted: grown(before, await this.appliance.counters()) };
  }

  /** One datagram from each of `sources` spoofed addresses; returns how many went out. */
  flood(sources: number): Promise<number> {
    const { first } = SPOOFED;
    return this.#flooder.flood({ first, sources, target: HOST_ADDRESS, port: ECHO_PORT });
  }

  /** Packets that the router has taken from the host. */
  async throughRouter(): Promise<number> {
    const [link] = JSON.parse(await this.router.ip("-s -j link show dev eth0"));
    return link.stats64.rx.packets;
  }

  /** Lets `millis` pass. Throws when the demo is to end. */
  async #wait(millis: number): Promise<void> {
    const { signal } = this.#options;
    await delay(Math.max(0, millis), undefined, { signal }).catch(() => {});
    signal.throwIfAborted();
  }

  /** Ends the appliance in order, then everything else. */
  async [Symbol.asyncDispose](): Promise<void> {
    const tooLong = setTimeout(() => this.appliance.process.kill("SIGKILL"), 3000);
    await this.appliance.stop();
    clearTimeout(tooLong);
    await this.#lab[Symbol.asyncDispose]();
  }
}

/** Makes the namespaces and joins them. */
async function network(lab: Lab) {
  const [host, client, router] = await Promise.all(
    ["host", "client", "router"].map((name) => lab.namespace(name)),
  );
  const near = NEAR_ADDRESSES.map((address) => `${address}/16`);
  await lab.join(
    { namespace: host, name: "eth0", addresses: [`${HOST_ADDRESS}/16`] },
    { namespace: client, name: "eth0", addresses: near },
  );
  await lab.join(
    { namespace: host, name: "eth1", addresses: ["192.0.2.1/24"] },
    { namespace: router, name: "eth0", addresses: [`${ROUTER_ADDRESS}/24`] },
  );
  await lab.join(
    { namespace: router, name: "eth1", addresses: ["198.51.100.1/24"] },
    { namespace: client, name: "eth1", addresses: ["198.51.100.2/24"] },
  );
  // Answers come back by another way than the requests went, on purpose.
  const rpFilter = ["all", "eth0", "eth1"].map((name) => [`conf/${name}/rp_filter`, 0]);
  for (const namespace of [host, client, router]) {
    await namespace.sysctl(Object.fromEntries(rpFilter));
  }
  await router.sysctl({ ip_forward: 1 });
  // The client announces a new MAC as a machine that takes over does, and answers ARP for what is
  // really its own only.
  await client.sysctl({ "conf/eth0/arp_notify": 1, "conf/eth0/arp_ignore": 1 });
  await client.batch([
    `address add ${FAR_ADDRESS}/32 dev lo`,
    `route add local ${SPOOFED.prefix} dev lo`,
  ]);
  await router.ip(`route add ${FAR_ADDRESS}/32 via 198.51.100.2`);
  await host.ip(`route add default via ${NEAR_ADDRESSES[0]} dev eth0`);
  return { host, client, router };
}
