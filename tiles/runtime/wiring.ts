// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance's regions and their users. `regionsOf` lists every region with its size and writer. The
 * master creates them, and hands them to the appliance and the apps. In the appliance, `wire` maps them
 * and determines which of them each tile writes and reads, and which tiles it wakes.
 */

import { f64, type Region, slice, type View } from "../../ffi/region.ts";
import { SLOT_BYTES } from "../../ffi/tile.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import type { BesideSetup, ServiceSetup } from "../app/host.ts";
import { METRICS_BYTES } from "../app/regions.ts";
import { type PeerSetup, RECENT_PEERS_BYTES, requestsBytes } from "../net/app_link.ts";
import { SOLICIT_LINK_BYTES } from "../net/arp_queue.ts";
import { CAPTURE_BYTES } from "../net/capture.ts";
import { frameRecordBytes } from "../net/handover.ts";
import { ROUTE_CACHE_BYTES } from "../net/route_cache.ts";
import type { NetSetup } from "../net/tile.ts";
import { TRAFFIC_BYTES } from "../net/traffic.ts";
import { CONTROL_BYTES, SNAPSHOT_BYTES } from "./control.ts";
import type { Handed } from "./handed.ts";
import { HEALTH, HEALTH_BYTES } from "./health.ts";
import { appLinkBytes, type LinkShape, netLinkBytes } from "./link.ts";
import {
  type Grants,
  LARGE_BUFFERS,
  LINK_DEPTH,
  linkShapeOf,
  type PortRange,
  portsOf,
  portsServed,
  RING_ENTRIES,
  SOCKET_FRAMES,
  SPARE_FRAMES,
  type TilePlan,
  umemBytes,
} from "./plan.ts";
import { Life, TILE_COUNTERS, TILE_REGION_BYTES, type TileKind, TileReader } from "./tile.ts";

/** Slots of apps that are processes: more than there are at any time. */
export const APP_SLOTS = 256;
/** The regions that the master itself keeps through all replacements. */
export const APP_REFUSALS = "refused calls of apps";
export const KEPT_REGIONS: ReadonlyMap<string, number> = new Map([
  [APP_REFUSALS, APP_SLOTS * SLOT_BYTES],
  [HEALTH, HEALTH_BYTES],
]);

/** The region with the counts of former tiles, in the order of `tilesOf`. */
export const PAST_COUNTERS = "past counters";

/** The counts of the `i`-th tile's predecessors. */
export function pastCounters(view: View, i: number): Float64Array {
  return f64(slice(view, i * TILE_COUNTERS * 8, TILE_COUNTERS * 8));
}

/** An app and the ports on which it answers. */
export interface AppPlan
  extends
    Pick<ServiceSetup, "name" | "module" | "options" | "refuseSources" | "mostPerSecond">,
    Pick<PeerSetup, "sendTo"> {
  /** The app that this is an instance of, its number from 0 on, and how many there are. */
  readonly app: string;
  readonly instance?: number;
  readonly instances?: number;
  readonly ports: readonly PortRange[];
  /** Those of its ports that no other instance has. */
  readonly ownPorts?: readonly PortRange[];
  readonly grants: Grants;
  /** How many datagrams its links hold in each direction. */
  readonly depth?: number;
  /** Whether it runs inside each net tile, instead of in its own process. */
  readonly inline: boolean;
  /** The most private memory of its process, in MiB; none for an inline app. */
  readonly memoryMib?: number;
  readonly stateBytes?: number;
  /** Whether it requests the time of each packet, not of its burst. */
  readonly packetTimes?: boolean;
  /** Its slow side, if any: URL of the module, and addresses where it accepts TCP on the app's ports. */
  readonly beside?: { readonly module: string; readonly tcp: readonly string[] };
}

/** The setup of an appliance. Plain data, for master and appliance. */
export interface ApplianceSetup {
  readonly plan: TilePlan;
  readonly apps: readonly AppPlan[];
  /** Interfaces with AF_XDP, in the order of the plan's shares. */
  readonly attached: readonly {
    readonly name: string;
    readonly ifindex: number;
    readonly transmitQueues: number;
    /** Whether its frames may carry a bare pseudo-header sum as their UDP checksum. */
    readonly partialChecksums: boolean;
  }[];
  /** Interfaces that must exist, be up and have an address before Tegula answers. */
  readonly interfaces: readonly string[];
  /** Served ports with a kernel socket. */
  readonly sockets: readonly number[];
  /** The slot in "refused calls of apps" of each app that is a process. */
  readonly slots: Readonly<Record<string, number>>;
  /** Whether the NIC verifies the UDP checksums of frames. */
  readonly trustChecksums: boolean;
  /** Whether a predecessor serves until this one is ready, so that it can warm up. */
  readonly hasPredecessor: boolean;
  /** The running program, for the metrics: version and commit; the latter is "" if unknown. */
  readonly build: { readonly version: string; readonly commit: string };
  /** The listeners of the status tile. Without either there is no status tile. */
  readonly listens: { readonly control: boolean; readonly metrics: boolean };
}

/** The version of all regions that outlive an appliance. An upgrade takes over only regions of the same version. */
export const REGIONS_VERSION = 5;

interface RegionPlan {
  readonly name: string;
  readonly bytes: number;
  /** Its writer: the appliance, the master, or the app of this name. */
  readonly writer: "appliance" | "master" | { readonly app: string };
  /** Whether each appliance gets a new one. Other regions are taken over. */
  readonly fresh: boolean;
}

type Wiring = ReturnType<typeof wire>;
/** A tile that runs in a worker of the appliance. */
export type WorkerHandle = Wiring["workers"][number];
export type NetlinkSetup = ReturnType<Wiring["netlinkSetup"]>;
export type StatusSetup = ReturnType<Wiring["statusSetup"]>;

/** The grants of all inline apps together: their modules and files, and the clock. */
export function inlineGrants(apps: readonly AppPlan[]): Pick<Grants, "read" | "clock"> {
  const inline = apps.filter((app) => app.inline);
  const modules = inline.map(({ module }) => decodeURIComponent(new URL(module).pathname));
  return {
    read: [...new Set([...modules, ...inline.flatMap(({ grants }) => grants.read)])],
    clock: inline.some(({ grants }) => grants.clock),
  };
}

export function netName(n: number): string {
  return `net${n}`;
}

/** The name of an app's tile region, metrics and log: `echo`, or `echo@net0` for an inline app. */
function instanceName(app: AppPlan, net: string): string {
  return app.inline ? `${app.name}@${net}` : app.name;
}

/** The name of an app's slow side. */
export function besideName(app: string): string {
  return `${app} beside`;
}

/** The shape of an app's links. A lone app's payloads stay in the UMEM; otherwise each instance gets copies. */
export function linkShape(
  { depth = LINK_DEPTH }: Pick<AppPlan, "depth">,
  apps: readonly AppPlan[],
): LinkShape {
  const isAlone = apps.every(({ app, inline }) => !inline && app === apps[0].app);
  return linkShapeOf(depth, { isAlone });
}

/** Kinds and names of all tiles, in the order of their slots for refused calls. */
export function tilesOf(
  { plan: { frames }, apps, listens }: Pick<ApplianceSetup, "plan" | "apps" | "listens">,
): { readonly kind: TileKind; readonly name: string; readonly inside?: string }[] {
  const nets = frames.map((_, n) => netName(n));
  const hasStatus = listens.control || listens.metrics;
  return [
    { kind: "netlink", name: "netlink" },
    ...hasStatus ? [{ kind: "status", name: "status" } as const] : [],
    ...nets.map((name) => ({ kind: "net", name }) as const),
    ...apps.filter(({ inline }) => !inline).map(({ name }) => ({ kind: "app", name }) as const),
    ...nets.flatMap((net) =>
      apps.filter(({ inline }) => inline)
        .map((app) => ({ kind: "app", name: instanceName(app, net), inside: net }) as const)
    ),
  ];
}

/** Every region of an appliance and its apps. */
export function regionsOf(setup: ApplianceSetup): RegionPlan[] {
  const { plan: { frames }, apps } = setup;
  const nets = frames.map((_, n) => netName(n));
  const tiles = tilesOf(setup);
  const by =
    (writer: RegionPlan["writer"], { fresh }: { fresh: boolean }) =>
    (name: string, bytes: number): RegionPlan => ({ name, bytes, writer, fresh });
  const fresh = by("appliance", { fresh: true });
  const lasting = by("appliance", { fresh: false });
  const ofApp = (app: string) => by({ app }, { fresh: false });
  return [
    fresh("netbase", NETBASE_BYTES),
    fresh("control", CONTROL_BYTES),
    fresh("snapshot", SNAPSHOT_BYTES),
    fresh("refused calls", tiles.length * SLOT_BYTES),
    by("master", { fresh: true })(PAST_COUNTERS, tiles.length * TILE_COUNTERS * 8),
    ...[...KEPT_REGIONS].map((region) => by("master", { fresh: false })(...region)),
    ...tiles.flatMap(({ kind, name, inside }) => {
      const ofNet = kind === "net" || inside !== undefined;
      const own = ofNet ? lasting : kind === "app" ? ofApp(name) : fresh;
      const tile = own(`tile ${name}`, TILE_REGION_BYTES);
      return kind === "app" ? [tile, own(`metrics ${name}`, METRICS_BYTES)] : [tile];
    }),
    ...apps.filter(({ beside }) => beside !== undefined).map(({ name }) =>
      ofApp(name)(`metrics ${besideName(name)}`, METRICS_BYTES)
    ),
    ...nets.flatMap((net, n) => [
      lasting(`umem ${net}`, umemBytes(frames[n])),
      lasting(`frames ${net}`, frameRecordBytes(frames[n])),
      lasting(`traffic ${net}`, TRAFFIC_BYTES),
      fresh(`routes ${net}`, ROUTE_CACHE_BYTES),
      fresh(`solicit ${net}`, SOLICIT_LINK_BYTES),
      fresh(`capture ${net}`, CAPTURE_BYTES),
      ...apps.map((app) => lasting(`peers ${instanceName(app, net)} ${net}`, RECENT_PEERS_BYTES)),
      ...apps.filter(({ inline }) => !inline).flatMap((app) => {
        const { name } = app;
        const shape = linkShape(app, apps);
        return [
          lasting(`requests ${name} ${net}`, requestsBytes(shape)),
          lasting(`link ${net} to ${name}`, netLinkBytes(shape)),
          ofApp(name)(`link ${name} to ${net}`, appLinkBytes(shape)),
        ];
      }),
    ]),
  ];
}

/** Maps every region of an appliance in its process, and assigns them to tiles. */
export function wire(setup: ApplianceSetup, handed: Handed<unknown>) {
  const { plan: { frames, shares }, apps, attached, listens, slots } = setup;
  /** Every port on which an app answers. */
  const served = portsServed(apps);
  const regions = new Map<string, Region>();
  for (const { name, writer } of regionsOf(setup)) {
    const region = writer === "appliance" ? handed.region(name) : null;
    // Regions of other writers are only read here.
    const view = region?.reader ?? handed.view(name);
    regions.set(name, region ?? { writer: view, reader: view });
  }
  const writer = (name: string) => regions.get(name)!.writer;
  const reader = (name: string) => regions.get(name)!.reader;
  /** All tiles, in the order in which they are started. */
  const tiles = tilesOf(setup).map(({ kind, name, inside }, slot) => ({
    kind,
    name,
    /** Its index in `tilesOf`, and its slot of counters of refused calls. */
    slot,
    reader: new TileReader(reader(`tile ${name}`)),
    /** -1 of an inline app, which its net tile calls. */
    eventfd: inside === undefined ? handed.fd(`eventfd ${name}`) : -1,
  }));
  const tileOf = (name: string) => tiles.find((tile) => tile.name === name)!;
  const workers = tiles.flatMap((tile) => {
    const { kind, name } = tile;
    return kind === "app" ? [] : [{ ...tile, kind, region: regions.get(`tile ${name}`)! }];
  });
  const netlink = workers[0];
  const nets = workers.filter(({ kind }) => kind === "net");
  const status = workers.find(({ kind }) => kind === "status") ?? null;

  /** The peers to which an app may send through net tile `n`. */
  function peerSetup(app: AppPlan, n: number): PeerSetup {
    const heard = nets.map(({ name }) => `peers ${instanceName(app, name)} ${name}`);
    return {
      recentPeers: writer(heard[n]),
      otherRecentPeers: heard.filter((_, i) => i !== n).map(reader),
      sendTo: app.sendTo,
    };
  }

  return {
    ...{ workers, netlink, nets, status },
    netbase: reader("netbase"),
    control: regions.get("control")!,
    /** Written by the observer: refused system calls by tile, in the order of their slots. */
    refusedCalls: regions.get("refused calls")!,

    /** Names of the apps in net tile `name` that have not started; for any other tile, its own name. */
    starting(name: string): string[] {
      const late = apps.filter(({ inline }) => inline)
        .filter((app) => tileOf(instanceName(app, name)).reader.life === Life.booting);
      return late.length === 0 ? [name] : late.map((app) => app.name);
    },

    netlinkSetup() {
      return {
        netbase: writer("netbase"),
        readers: [...nets, ...(status === null ? [] : [status])].map(({ region }) => region.reader),
        solicits: nets.map(({ name }) => reader(`solicit ${name}`)),
        filters: attached.map(({ ifindex, name }) => ({
          ifindex,
          view: handed.view(`filter ${name}`),
        })),
        ports: served,
        packetTimes: apps.some(({ packetTimes }) => packetTimes),
        eventfd: netlink.eventfd,
        /** The tiles whose ARP queues may wait for a change of netbase. */
        wakes: nets.map(({ region, eventfd }) => ({ tile: region.reader, eventfd })),
        control: reader("control"),
        snapshot: writer("snapshot"),
      };
    },

    /** Read-only views. A predecessor may also accept connections on the listening sockets. */
    statusSetup() {
      return {
        listeners: {
          control: listens.control ? handed.fd("listen control") : null,
          metrics: listens.metrics ? handed.fd("listen metrics") : null,
        },
        netbase: reader("netbase"),
        control: reader("control"),
        snapshot: reader("snapshot"),
        refusedCalls: reader("refused calls"),
        build: setup.build,
        /** With the AF_XDP sockets of each net tile in order. */
        nets: nets.map(({ name }, n) => ({
          name,
          traffic: reader(`traffic ${name}`),
          sockets: shares.filter(({ netTile }) => netTile === n)
            .map(({ interface: i, queue }) => ({ interface: attached[i]?.name, queue }))
            .filter(({ interface: name }) => name !== undefined),
        })),
        captures: nets.map(({ name }) => reader(`capture ${name}`)),
        health: reader(HEALTH),
        refusedCallsOfApps: reader(APP_REFUSALS),
        tiles: tiles.map(({ kind, name }, i) => ({
          ...{ kind, name, region: reader(`tile ${name}`) },
          past: pastCounters(reader(PAST_COUNTERS), i),
          // For an app in its own process: its slot in `refusedCallsOfApps`.
          ...(Object.hasOwn(slots, name) && { slot: slots[name] }),
        })),
        /** Metrics that apps define, by tile. */
        metrics: [
          ...tiles.filter(({ kind }) => kind === "app").map(({ name }) => [name, name]),
          ...apps.filter(({ beside }) => beside !== undefined)
            .map(({ name }) => [name, besideName(name)]),
        ].map(([app, tile]) => ({ app, tile, view: reader(`metrics ${tile}`) })),
        interfaces: attached.map(({ name }) => name),
        listen: apps.flatMap(({ name: app, ports }) =>
          ports.map(([port, last]) => ({ port, ...(last > port && { last }), app }))
        ),
      };
    },

    netSetup(n: number): NetSetup {
      const net = netName(n);
      const own = (what: string) => writer(`${what} ${net}`);
      const queues = attached.length === 0 ? [] : shares.filter(({ netTile }) => netTile === n);
      return {
        netbase: reader("netbase"),
        umem: own("umem"),
        record: own("frames"),
        traffic: own("traffic"),
        routeCache: own("routes"),
        frames: frames[n],
        largeBuffers: LARGE_BUFFERS,
        sockets: queues.map(({ interface: i, queue }) => ({
          fd: handed.fd(socketName(attached[i].name, queue)),
          ifindex: attached[i].ifindex,
          queue,
          receivesOnly: queue >= attached[i].transmitQueues,
          ring: RING_ENTRIES,
          fill: SOCKET_FRAMES,
          deepFill: SOCKET_FRAMES + Math.floor(SPARE_FRAMES / queues.length),
          tx: SOCKET_FRAMES,
          partialChecksums: attached[i].partialChecksums,
        })),
        trustChecksums: setup.trustChecksums,
        udp: setup.sockets.map((port, i) => ({
          fd: handed.fd(`udp ${port}`),
          port,
          receive: i % nets.length === n,
        })),
        apps: apps.filter(({ inline }) => !inline).map((app) => ({
          ports: portsOf(app.ports),
          net: writer(`link ${net} to ${app.name}`),
          app: reader(`link ${app.name} to ${net}`),
          requests: writer(`requests ${app.name} ${net}`),
          shape: linkShape(app, apps),
          tile: reader(`tile ${app.name}`),
          eventfd: tileOf(app.name).eventfd,
          packetTimes: app.packetTimes,
          ...peerSetup(app, n),
        })),
        inline: apps.filter(({ inline }) => inline).map((app) => ({
          ...servicePlan(app, served),
          metrics: writer(`metrics ${instanceName(app, net)}`),
          ...{ instance: n, instances: nets.length },
          ...peerSetup(app, n),
          packetTimes: app.packetTimes,
          region: writer(`tile ${instanceName(app, net)}`),
        })),
        solicit: own("solicit"),
        capture: own("capture"),
        control: reader("control"),
        netlinkTile: netlink.region.reader,
        netlinkEventfd: netlink.eventfd,
        eventfd: nets[n].eventfd,
        seed: randomSeed(),
        warmUp: setup.hasPredecessor,
      };
    },
  };
}

/** An app's setup without its region for metrics. `served`: the ports of all apps. */
export function servicePlan(
  { name, module, options, refuseSources, mostPerSecond, ...plan }: AppPlan,
  served: readonly number[],
): Omit<ServiceSetup, "metrics"> {
  const { instance = 0, instances = 1 } = plan;
  const ownPorts = portsOf(plan.ownPorts ?? []);
  const own = new Set(ownPorts);
  return {
    ...{ name, module, options, refuseSources, mostPerSecond, instance, instances, ownPorts },
    ...{ ports: portsOf(plan.ports).filter((port) => !own.has(port)), served },
  };
}

/** The setup of an app's slow side, if it has one. */
export function besideSetup(plan: AppPlan): BesideSetup | undefined {
  const { beside } = plan;
  if (beside === undefined) return undefined;
  const { ports } = servicePlan(plan, []);
  const tcp = beside.tcp.flatMap((address) => ports.map((port) => ({ address, port })));
  return { module: beside.module, tcp };
}

/** The name of a queue's AF_XDP socket in a handed setup. */
export function socketName(interfaceName: string, queue: number): string {
  return `xsk ${interfaceName}/${queue}`;
}
