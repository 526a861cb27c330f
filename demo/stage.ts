/**
 * The network of the demo: three namespaces, of which the client's is this process's own.
 *
 *     host                                   client
 *       eth0 198.18.0.1/16  ───────────────  eth0 198.18.0.2/16, .3, .4
 *       eth1 192.0.2.1/24                    lo   203.0.113.2/32, far away as seen from the host
 *         │            router                eth1 198.51.100.2/24
 *         └──── eth0 192.0.2.2/24              │
 *               eth1 198.51.100.1/24 ──────────┘
 *
 * The host's default route is via the client, or via the router when a scene moves it.
 */

import { setTimeout as delay } from "node:timers/promises";
import { Appliance, type Counters, type Lab } from "./lab.ts";
import { flood, nowMillis, Traffic } from "./traffic.ts";

/** Datagrams per second of a scene's traffic. */
const RATE = 500;
/** How long to wait for late answers. The neighbour of a held datagram may need a second request. */
const LINGER_MILLIS = 1500;
/** How much longer a scene may take while nothing is answered: the largest bound of any scene. */
const RECOVERY_MILLIS = 2000;
/** How often to check for that. */
const LOOK_MILLIS = 5;

/** UDP port of the echo service. */
export const ECHO_PORT = 7;
/** The appliance's address that clients send to. */
export const HOST_ADDRESS = "198.18.0.1";
/** The client's addresses in the subnet that it shares with the host. */
export const NEAR_ADDRESSES = ["198.18.0.2", "198.18.0.3", "198.18.0.4"] as const;
/** The client's address that the host reaches by its default route only. */
export const FAR_ADDRESS = "203.0.113.2";
/** The router's address towards the host. */
export const ROUTER_ADDRESS = "192.0.2.2";
/** Source addresses of the flood, in the connected subnet. Nobody answers ARP for them. */
const SPOOFED = { first: "198.18.64.0", prefix: "198.18.64.0/18" };

/** Options of the demo. */
export interface StageOptions {
  /** As for `tegula run`. */
  readonly provider: string;
  /** How long one scene's traffic lasts. */
  readonly sceneMillis: number;
  /** Called with each line that the appliance writes. */
  readonly onLine?: (line: string) => void;
}

/** A change in a scene. */
export interface Step {
  /** When, as a fraction of the scene's duration, not counting the time that steps take. */
  readonly at: number;
  act(): Promise<unknown>;
}

/** The traffic of a scene, and what happened meanwhile. */
export type Observation = Awaited<ReturnType<typeof observe>>;

/** The namespaces with the appliance running. */
export type Stage = Awaited<ReturnType<typeof buildStage>>;

/** Builds everything in `lab` and waits until the appliance is ready. */
export async function buildStage(lab: Lab, options: StageOptions) {
  const spaces = await network(lab);
  const args = ["--interface", "eth0", "--interface", "eth1", "--listen", `${ECHO_PORT}=echo`];
  const provider = ["--provider", options.provider];
  const appliance = await Appliance.start(spaces.host, [...args, ...provider], options);
  // The mode, as it logs it: `xdp native copy`.
  const mode = await appliance.mode("eth0");
  return { ...options, ...spaces, appliance, mode, usesXdp: mode.startsWith("xdp") };
}

/**
 * Sends from `sources` for the duration of a scene, and until answers come back after the last of `steps`,
 * which are done meanwhile.
 */
export async function observe(
  stage: Stage,
  sources: readonly string[],
  steps: readonly Step[],
) {
  const flows = sources.map((source) => ({ source, target: HOST_ADDRESS, port: ECHO_PORT }));
  const before = await stage.appliance.counters();
  const routed = await throughRouter(stage);
  const traffic = await Traffic.start({ flows, rate: RATE });
  const began = [];
  let sentBefore = 0;
  let at = 0;
  for (const step of steps) {
    await delay((step.at - at) * stage.sceneMillis);
    at = step.at;
    began.push(nowMillis());
    await step.act();
    sentBefore = traffic.progress().sent;
  }
  await delay((1 - at) * stage.sceneMillis);
  for (let i = 0; i < RECOVERY_MILLIS / LOOK_MILLIS && !traffic.isAnsweredFrom(sentBefore); i++) {
    await delay(LOOK_MILLIS);
  }
  const result = await traffic.stop({ lingerMillis: LINGER_MILLIS });
  const counted = grown(before, await stage.appliance.counters());
  return {
    ...result,
    /** When each step began, milliseconds since the epoch. */
    steps: began,
    /** By how much the appliance's counters grew, without those that did not. */
    counted,
    /** Packets that the router received from the host. */
    byRouter: await throughRouter(stage) - routed,
  };
}

/** One datagram from each of `sources` spoofed addresses. */
export function floodHost(sources: number): Promise<void> {
  return flood({ first: SPOOFED.first, sources, target: HOST_ADDRESS, port: ECHO_PORT });
}

async function throughRouter({ router }: Stage): Promise<number> {
  const [link] = JSON.parse(await router.ip("-s -j link show dev eth0"));
  return link.stats64.rx.packets;
}

function grown(before: Counters, after: Counters): Counters {
  const growth = [...after].map(([name, value]) =>
    [name, value - (before.get(name) ?? 0)] as const
  );
  return new Map(growth.filter(([, by]) => by !== 0));
}

/** Makes the namespaces and joins them. */
async function network(lab: Lab) {
  const host = await lab.namespace("host");
  const router = await lab.namespace("router");
  const client = await lab.here("client");
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
  // Answers take another path than requests, on purpose.
  const rpFilter = ["all", "eth0", "eth1"].map((name) => [`conf/${name}/rp_filter`, 0]);
  for (const namespace of [host, client, router]) {
    await namespace.sysctl(Object.fromEntries(rpFilter));
  }
  await router.sysctl({ ip_forward: 1 });
  // The client announces a new MAC, as in a failover, and answers ARP only for addresses of the interface
  // that is asked.
  await client.sysctl({ "conf/eth0/arp_notify": 1, "conf/eth0/arp_ignore": 1 });
  await client.batch([
    `address add ${FAR_ADDRESS}/32 dev lo`,
    `route add local ${SPOOFED.prefix} dev lo`,
  ]);
  await router.ip(`route add ${FAR_ADDRESS}/32 via 198.51.100.2`);
  await host.ip(`route add default via ${NEAR_ADDRESSES[0]} dev eth0`);
  return { host, client, router };
}
