/**
 * The demo's scenes. Each changes something about the host's network while clients go on asking, and
 * says by its bound what they may notice of that.
 *
 * @module
 */

import {
  FAR_ADDRESS,
  HOST_ADDRESS,
  NEAR_ADDRESSES,
  type Observation,
  ROUTER_ADDRESS,
  type Stage,
} from "./demo_stage.ts";

/** What a scene showed. */
export interface Outcome extends Observation {
  /** Milliseconds from the last change to the first answer after the last loss; 0: nothing lost. */
  readonly recoveredMillis: number;
  /** What was not as it must be; empty when the scene ended well. */
  readonly failures: readonly string[];
}

/** A scene. */
export interface Scene {
  /** Its name in the JSON output, which stays as it is. */
  readonly name: string;
  /** What changes, for people. */
  readonly change: string;
  play(stage: Stage): Promise<Outcome>;
}

/** What a scene's clients may notice. */
interface Bound {
  /** Milliseconds from the last step to the last loss's end; absent: nothing may be lost. */
  readonly recoveredMillis?: number;
}

/** How much earlier than the first step a datagram may be sent that falls victim to it. */
const IN_FLIGHT_MILLIS = 100;
/** Distinct source addresses of the flood. */
const SPOOFED_SOURCES = 4000;
/** Half of the kernel's default gc_thresh3, which all namespaces of a host share. */
const KERNEL_NEIGHBORS = 512;

const NEW_MAC = "02:00:5e:00:53:02";
const VIA_CLIENT = `default via ${NEAR_ADDRESSES[0]} dev eth0`;
const VIA_ROUTER = `via ${ROUTER_ADDRESS} dev eth1`;

/** All scenes, in the order in which they are played. */
export const SCENES: readonly Scene[] = [
  {
    name: "nothing known",
    change: "the first datagram makes Tegula ask for its neighbour",
    play: nothingKnown,
  },
  {
    name: "neighbour changes MAC",
    change: `client: ip link set eth0 address ${NEW_MAC}`,
    play: neighborMoves,
  },
  {
    name: "default route moves",
    change: `host: ip route replace default ${VIA_ROUTER}, and back`,
    play: defaultMoves,
  },
  {
    name: "specific route",
    change: `host: ip route add ${FAR_ADDRESS} ${VIA_ROUTER}, then del`,
    play: specificRoute,
  },
  {
    name: "interface down and up",
    change: "host: ip link set eth0 down, then up",
    play: interfaceDown,
  },
  {
    name: "blackhole route",
    change: `host: ip route add blackhole ${FAR_ADDRESS}, then del`,
    play: blackhole,
  },
  {
    name: "spoofed flood",
    change: `${SPOOFED_SOURCES} datagrams from as many spoofed neighbours`,
    play: spoofedFlood,
  },
];

/**
 * The host does not know the client, and the client's own ARP does not give it away. Not the address
 * that is the host's gateway, which may be asked for before there is traffic.
 */
async function nothingKnown(stage: Stage): Promise<Outcome> {
  await pinHost(stage);
  const known = await stage.host.ip(`neigh show ${NEAR_ADDRESSES[1]} dev eth0`);
  const observed = await stage.observe([NEAR_ADDRESSES[1]], []);
  await unpinHost(stage);
  // Answers wait while the kernel asks, as many as the hold queue takes for one neighbour.
  return judge(observed, { recoveredMillis: 500 }, [
    [observed.gaps[0]?.first !== 0, "the first datagram was lost"],
    [known === "", `the host knew its neighbour before: ${known.trim()}`],
    [!usesXdp(stage) || observed.counted.has("solicits"), "no neighbour was asked for"],
  ]);
}

/** The client's interface takes another MAC and says so by gratuitous ARP. */
async function neighborMoves(stage: Stage): Promise<Outcome> {
  const observed = await stage.observe([NEAR_ADDRESSES[0]], [
    { at: 0.4, act: () => stage.client.ip(`link set eth0 address ${NEW_MAC}`) },
  ]);
  const [neighbor] = JSON.parse(await stage.host.ip(`-j neigh show ${NEAR_ADDRESSES[0]} dev eth0`));
  return judge(observed, { recoveredMillis: 1000 }, [
    [neighbor?.lladdr === NEW_MAC, "the host's kernel did not learn the new MAC"],
  ]);
}

/** The default route moves to the router, on another interface, and back. */
async function defaultMoves(stage: Stage): Promise<Outcome> {
  const before = await stage.throughRouter();
  const observed = await stage.observe([FAR_ADDRESS], [
    { at: 0.3, act: () => stage.host.ip(`route replace default ${VIA_ROUTER}`) },
    { at: 0.7, act: () => stage.host.ip(`route replace ${VIA_CLIENT}`) },
  ]);
  return judge(observed, {}, [await tookRouter(stage, before, observed)]);
}

/** A more specific route leads by the router for a while. */
async function specificRoute(stage: Stage): Promise<Outcome> {
  const before = await stage.throughRouter();
  const observed = await stage.observe([FAR_ADDRESS], [
    { at: 0.3, act: () => stage.host.ip(`route add ${FAR_ADDRESS}/32 ${VIA_ROUTER}`) },
    { at: 0.7, act: () => stage.host.ip(`route del ${FAR_ADDRESS}/32 ${VIA_ROUTER}`) },
  ]);
  return judge(observed, {}, [await tookRouter(stage, before, observed)]);
}

/**
 * When the interface goes down the kernel withdraws its routes and forgets its neighbours; the
 * default route does not come back by itself. The client keeps the host's MAC, so that its own ARP
 * neither holds requests back nor tells the host who it is.
 */
async function interfaceDown(stage: Stage): Promise<Outcome> {
  await pinHost(stage);
  const observed = await stage.observe([NEAR_ADDRESSES[0]], [
    { at: 0.3, act: () => stage.host.ip("link set eth0 down") },
    { at: 0.5, act: () => stage.host.ip("link set eth0 up") },
  ]);
  await stage.host.ip(`route replace ${VIA_CLIENT}`);
  await unpinHost(stage);
  return judge(observed, { recoveredMillis: 2000 }, [
    [observed.answered < observed.sent, "the interface was down and nothing was lost"],
  ]);
}

/** What a blackhole swallows is counted as that, one by one. */
async function blackhole(stage: Stage): Promise<Outcome> {
  const observed = await stage.observe([FAR_ADDRESS], [
    { at: 0.3, act: () => stage.host.ip(`route add blackhole ${FAR_ADDRESS}/32`) },
    { at: 0.5, act: () => stage.host.ip(`route del blackhole ${FAR_ADDRESS}/32`) },
  ]);
  const lost = observed.sent - observed.answered;
  // By its own sockets the kernel may refuse what Tegula was about to send when the route came.
  const counters = usesXdp(stage) ? ["tx_drop_blackhole"] : ["tx_drop_blackhole", "tx_drop_socket"];
  const counted = counters.reduce((sum, name) => sum + (observed.counted.get(name) ?? 0), 0);
  return judge(observed, { recoveredMillis: 500 }, [
    [lost > 0, "the blackhole stood and nothing was lost"],
    [counted === lost, `${lost} answers were lost, ${counted} counted as that`],
  ]);
}

/** Clients that are known notice nothing of a burst from neighbours that do not exist. */
async function spoofedFlood(stage: Stage): Promise<Outcome> {
  let flooded = 0;
  const observed = await stage.observe(NEAR_ADDRESSES, [
    { at: 0.3, act: async () => flooded = await stage.flood(SPOOFED_SOURCES) },
  ]);
  const held = (await stage.host.ip("neigh show dev eth0")).trim().split("\n").length;
  return judge(observed, {}, [
    [flooded === SPOOFED_SOURCES, `only ${flooded} spoofed datagrams went out`],
    [!usesXdp(stage) || held <= KERNEL_NEIGHBORS, `the kernel's neighbour table grew to ${held}`],
  ]);
}

/** Gives the client the host's MAC for good, so that it does not use ARP. */
async function pinHost({ host, client }: Stage): Promise<void> {
  const [{ address }] = JSON.parse(await host.ip("-j link show dev eth0"));
  await client.ip(`neigh replace ${HOST_ADDRESS} lladdr ${address} dev eth0 nud permanent`);
}

/** Lets the client use ARP again. */
async function unpinHost({ client }: Stage): Promise<void> {
  await client.ip(`neigh del ${HOST_ADDRESS} dev eth0`);
}

/** Whether answers took the way by the router while they had to. */
async function tookRouter(
  stage: Stage,
  before: number,
  { answered }: Observation,
): Promise<[boolean, string]> {
  const took = await stage.throughRouter() - before;
  return [
    took > answered / 5,
    `only ${took} of ${answered} answers went by the router`,
  ];
}

/** Whether the appliance runs on AF_XDP. */
export function usesXdp(stage: Stage): boolean {
  return stage.mode.startsWith("xdp");
}

/** Holds what was observed against the bound, and against the scene's own conditions. */
function judge(
  observed: Observation,
  bound: Bound,
  conditions: readonly (readonly [holds: boolean, failure: string])[],
): Outcome {
  const { sent, answered, mismatched, gaps, steps } = observed;
  const lost = sent - answered;
  const recoveredMillis = recovery(observed);
  const failures = conditions.filter(([holds]) => !holds).map(([, failure]) => failure);
  if (sent === 0 || answered === 0) failures.push(`${sent} sent, ${answered} answered`);
  if (mismatched > 0) failures.push(`${mismatched} answers differ from what was sent`);
  if (bound.recoveredMillis === undefined) {
    if (lost > 0) failures.push(`${lost} lost, where nothing may be; ${drops(observed)}`);
  } else if (recoveredMillis > bound.recoveredMillis) {
    failures.push(`recovered after ${recoveredMillis} ms, allowed are ${bound.recoveredMillis}`);
  }
  const first = steps[0];
  if (
    first !== undefined && gaps.some((gap) => gap.fromMillis < first.beganMillis - IN_FLIGHT_MILLIS)
  ) {
    failures.push("something was lost before anything had changed");
  }
  return { ...observed, recoveredMillis, failures };
}

/** What the appliance counted as dropped. */
function drops({ counted }: Observation): string {
  const found = [...counted].filter(([name]) => name.includes("_drop_") || name.endsWith("_full"));
  return `the appliance counted ${found.map(([name, by]) => `${name} ${by}`).join(", ") || "none"}`;
}

/** Milliseconds from the last step to the end of the last gap; infinite when it did not end. */
function recovery({ gaps, steps }: Observation): number {
  const last = gaps.at(-1);
  if (last === undefined) return 0;
  if (last.untilMillis === null) return Infinity;
  const changed = steps.at(-1)?.beganMillis ?? gaps[0].fromMillis;
  return Math.max(0, Math.round(last.untilMillis - changed));
}
