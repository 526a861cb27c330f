// SPDX-License-Identifier: Apache-2.0
/**
 * The scenes of the demo. Each changes the host's network while clients keep sending, and limits how long
 * answers may be missing.
 */

import { setTimeout as delay } from "node:timers/promises";
import { Appliance, type Counters, type Lab } from "./lab.ts";
import { flood, nowMillis, startTraffic } from "./traffic.ts";

// The network: three namespaces; this process is in the client's.
//
//     host                                   client
//       eth0 198.18.0.1/16  ───────────────  eth0 198.18.0.2/16, .3, .4
//       eth1 192.0.2.1/24                    lo   203.0.113.2/32, far away as seen from the host
//         │            router                eth1 198.51.100.2/24
//         └──── eth0 192.0.2.2/24              │
//               eth1 198.51.100.1/24 ──────────┘
//
// The host's default route is via the client, or via the router when a scene moves it.

/** Datagrams per second of a scene's traffic. */
const RATE = 500;
/** How long to wait for late answers. The neighbour of a queued datagram may need a second request. */
const LINGER_MILLIS = 1500;
/** How much longer a scene may take while nothing is answered: the largest bound of any scene. */
const RECOVERY_MILLIS = 2000;
/** The interval of checks for answers. */
const LOOK_MILLIS = 5;

export const ECHO_PORT = 7;
/** The appliance's address that clients send to. */
export const HOST_ADDRESS = "198.18.0.1";
/** The client's addresses in the subnet that it shares with the host. */
const NEAR_ADDRESSES = ["198.18.0.2", "198.18.0.3", "198.18.0.4"] as const;
/** The client's address that the host reaches by its default route only. */
export const FAR_ADDRESS = "203.0.113.2";
/** The router's address towards the host. */
const ROUTER_ADDRESS = "192.0.2.2";
/** Source addresses of the flood, in the connected subnet. Nobody answers ARP for them. */
const SPOOFED = { first: "198.18.64.0", prefix: "198.18.64.0/18" };

interface StageOptions {
  readonly provider: string;
  /** How long one scene's traffic lasts. */
  readonly sceneMillis: number;
  /** Called with each line that the appliance writes. */
  readonly onLine?: (line: string) => void;
}

interface Step {
  /** When, as a fraction of the scene's duration, not counting the time that steps take. */
  readonly at: number;
  act(): Promise<unknown>;
}

/** The traffic of a scene, and what happened meanwhile. */
type Observation = Awaited<ReturnType<typeof observe>>;

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
 * Sends from `sources` for the duration of a scene while `steps` are done, and until answers come
 * back after the last step.
 */
async function observe(
  stage: Stage,
  sources: readonly string[],
  steps: readonly Step[],
) {
  const flows = sources.map((source) => ({ source, target: HOST_ADDRESS, port: ECHO_PORT }));
  const before = await stage.appliance.counters();
  const routed = await throughRouter(stage);
  const traffic = await startTraffic({ flows, rate: RATE });
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
    /** The increase of the appliance's counters, without zeros. */
    counted,
    /** Packets that the router received from the host. */
    byRouter: await throughRouter(stage) - routed,
  };
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
  // Answers deliberately take another path than requests.
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

// Scenes.

export type Outcome = ReturnType<typeof judge>;

export interface Scene {
  /** Its name, also in the JSON output, so it must not change. */
  readonly name: string;
  readonly change: string;
  play(stage: Stage): Promise<Outcome>;
}

/** A datagram sent less than this before the first step may be lost by it. */
const IN_FLIGHT_MILLIS = 250;
const SPOOFED_SOURCES = 4000;
/** Half of the kernel's default gc_thresh3, which all namespaces of a host share. */
const KERNEL_NEIGHBORS = 512;

const NEW_MAC = "02:00:5e:00:53:02";
const VIA_CLIENT = `default via ${NEAR_ADDRESSES[0]} dev eth0`;
const VIA_ROUTER = `via ${ROUTER_ADDRESS} dev eth1`;

export const SCENES: readonly Scene[] = [
  {
    // The client does not use ARP here, so the host cannot learn its address from a request. NEAR_ADDRESSES[0]
    // is the host's gateway, which Tegula may have solicited before.
    name: "nothing known",
    change: "the first datagram makes Tegula ask for its neighbour",
    async play(stage) {
      await pinHost(stage);
      const known = await stage.host.ip(`neigh show ${NEAR_ADDRESSES[1]} dev eth0`);
      const observed = await observe(stage, [NEAR_ADDRESSES[1]], []);
      await unpinHost(stage);
      // Answers wait while the kernel solicits, as many as the ARP queue takes for one neighbour.
      return judge(observed, 500, [
        [observed.gap?.first !== 0, "the first datagram was lost"],
        [known === "", `the host knew its neighbour before: ${known.trim()}`],
        [!stage.usesXdp || observed.counted.has("solicits"), "no neighbour was asked for"],
      ]);
    },
  },
  {
    // The client's interface gets another MAC and announces it by gratuitous ARP.
    name: "neighbour changes MAC",
    change: `client: ip link set eth0 address ${NEW_MAC}`,
    async play(stage) {
      const [near] = NEAR_ADDRESSES;
      const observed = await observe(stage, [near], [
        { at: 0.4, act: () => stage.client.ip(`link set eth0 address ${NEW_MAC}`) },
      ]);
      const [neighbor] = JSON.parse(await stage.host.ip(`-j neigh show ${near} dev eth0`));
      return judge(observed, 1000, [
        [neighbor?.lladdr === NEW_MAC, "the host's kernel did not learn the new MAC"],
      ]);
    },
  },
  {
    name: "default route moves",
    change: `host: ip route replace default ${VIA_ROUTER}, and back`,
    async play(stage) {
      const observed = await observe(stage, [FAR_ADDRESS], [
        { at: 0.3, act: () => stage.host.ip(`route replace default ${VIA_ROUTER}`) },
        { at: 0.7, act: () => stage.host.ip(`route replace ${VIA_CLIENT}`) },
      ]);
      return judge(observed, 0, [tookRouter(observed)]);
    },
  },
  {
    name: "specific route",
    change: `host: ip route add ${FAR_ADDRESS} ${VIA_ROUTER}, then del`,
    async play(stage) {
      const observed = await observe(stage, [FAR_ADDRESS], [
        { at: 0.3, act: () => stage.host.ip(`route add ${FAR_ADDRESS}/32 ${VIA_ROUTER}`) },
        { at: 0.7, act: () => stage.host.ip(`route del ${FAR_ADDRESS}/32 ${VIA_ROUTER}`) },
      ]);
      return judge(observed, 0, [tookRouter(observed)]);
    },
  },
  {
    // When the interface goes down the kernel removes its routes and neighbours, and the default route does
    // not come back by itself. The client has the host's MAC as a permanent entry, so its own ARP neither
    // delays requests nor tells the host its address.
    name: "interface down and up",
    change: "host: ip link set eth0 down, then up",
    async play(stage) {
      await pinHost(stage);
      const observed = await observe(stage, [NEAR_ADDRESSES[0]], [
        { at: 0.3, act: () => stage.host.ip("link set eth0 down") },
        { at: 0.5, act: () => stage.host.ip("link set eth0 up") },
      ]);
      await stage.host.ip(`route replace ${VIA_CLIENT}`);
      await unpinHost(stage);
      return judge(observed, 2000, [
        [observed.answered < observed.sent, "the interface was down but nothing was lost"],
      ]);
    },
  },
  {
    // Each answer that the blackhole drops is counted.
    name: "blackhole route",
    change: `host: ip route add blackhole ${FAR_ADDRESS}, then del`,
    async play(stage) {
      const observed = await observe(stage, [FAR_ADDRESS], [
        { at: 0.3, act: () => stage.host.ip(`route add blackhole ${FAR_ADDRESS}/32`) },
        { at: 0.5, act: () => stage.host.ip(`route del blackhole ${FAR_ADDRESS}/32`) },
      ]);
      const lost = observed.sent - observed.answered;
      const count = (name: string) => observed.counted.get(name) ?? 0;
      // With sockets, the kernel may refuse what Tegula was about to send when the route appeared.
      const counted = count("tx_drop_blackhole") +
        (stage.usesXdp ? 0 : count("tx_drop_socket_error"));
      return judge(observed, 500, [
        [lost > 0, "the blackhole route existed but nothing was lost"],
        [counted === lost, `${lost} answers were lost, but ${counted} were counted as blackholed`],
      ]);
    },
  },
  {
    // Known clients do not notice a burst from neighbours that do not exist.
    name: "spoofed flood",
    change: `${SPOOFED_SOURCES} datagrams from as many spoofed neighbours`,
    async play(stage) {
      const spoofed = { first: SPOOFED.first, sources: SPOOFED_SOURCES };
      const observed = await observe(stage, NEAR_ADDRESSES, [
        { at: 0.3, act: () => flood({ ...spoofed, target: HOST_ADDRESS, port: ECHO_PORT }) },
      ]);
      const held = (await stage.host.ip("neigh show dev eth0")).trim().split("\n").length;
      return judge(observed, 0, [
        [
          !stage.usesXdp || held <= KERNEL_NEIGHBORS,
          `the kernel's neighbour table grew to ${held}`,
        ],
      ]);
    },
  },
];

/** Gives the client a permanent entry with the host's MAC, so that it does not use ARP. */
export async function pinHost({ host, client }: Pick<Stage, "host" | "client">): Promise<void> {
  const [{ address }] = JSON.parse(await host.ip("-j link show dev eth0"));
  await client.ip(`neigh replace ${HOST_ADDRESS} lladdr ${address} dev eth0 nud permanent`);
}

/** Lets the client use ARP again. */
async function unpinHost({ client }: Stage): Promise<void> {
  await client.ip(`neigh del ${HOST_ADDRESS} dev eth0`);
}

type Condition = readonly [holds: boolean, failure: string];

/** Whether answers went through the router while its route was set. */
function tookRouter({ answered, byRouter }: Observation): Condition {
  return [
    byRouter > answered / 5,
    `only ${byRouter} of ${answered} answers went through the router`,
  ];
}

/**
 * Checks an observation against the scene's conditions and its bound: milliseconds from the last step to the
 * end of the last loss, 0 if nothing may be lost.
 */
function judge(
  observed: Observation,
  allowedMillis: number,
  conditions: readonly Condition[],
) {
  const { sent, answered, mismatched, gap, steps } = observed;
  const lost = sent - answered;
  const changed = steps.at(-1) ?? gap?.fromMillis ?? 0;
  const backAfter = gap === null ? 0 : (gap.untilMillis ?? Infinity) - changed;
  // Milliseconds from the last change to the first answer after the last loss; 0: nothing lost.
  const recoveredMillis = Math.max(0, Math.round(backAfter));
  const all: Condition[] = [
    ...conditions,
    [answered > 0, `${sent} sent, ${answered} answered`],
    [mismatched === 0, `${mismatched} answers differ from what was sent`],
    [allowedMillis > 0 || lost === 0, `${lost} lost, none allowed; ${drops(observed)}`],
    [
      allowedMillis === 0 || recoveredMillis <= allowedMillis,
      `recovered after ${recoveredMillis} ms, at most ${allowedMillis} allowed`,
    ],
    [
      gap === null || steps.length === 0 || gap.fromMillis >= steps[0] - IN_FLIGHT_MILLIS,
      "something was lost before anything had changed",
    ],
  ];
  const failures = all.filter(([holds]) => !holds).map(([, failure]) => failure);
  return { ...observed, recoveredMillis, failures };
}

function drops({ counted }: Observation): string {
  const found = [...counted].filter(([name]) => /(rx|tx)_drop_/.test(name));
  return `the appliance counted ${found.map(([name, by]) => `${name} ${by}`).join(", ") || "none"}`;
}
