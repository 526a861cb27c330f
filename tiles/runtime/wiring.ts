// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance's regions and their users. `regionsOf` lists every region with its size and writer. The master creates
 * them, and hands them to the appliance and the apps. In the appliance, `Wiring` maps them and decides which of them each
 * tile writes and reads, and which tiles it wakes.
 */

import { f64, type Region, slice, type View } from "../../ffi/region.ts";
import { refusedCallsBytes } from "../../ffi/tile.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import type { BesideSetup } from "../app/beside.ts";
import type { ServiceSetup } from "../app/host.ts";
import { METRICS_BYTES } from "../app/regions.ts";
import { type PeerSetup, RECENT_PEERS_BYTES, requestsBytes } from "../net/app_port.ts";
import { SOLICIT_LINK_BYTES } from "../net/arp_queue.ts";
import { CAPTURE_BYTES } from "../net/capture.ts";
import { frameRecordBytes } from "../net/handover.ts";
import { ROUTE_CACHE_BYTES } from "../net/route_cache.ts";
import type { NetSetup } from "../net/tile.ts";
import { TRAFFIC_BYTES } from "../net/traffic.ts";
import type { NetlinkSetup } from "../netlink/tile.ts";
import type { StatusSetup } from "../status/tile.ts";
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
import {
  Life,
  TILE_COUNTERS,
  TILE_REGION_BYTES,
  type TileKind,
  TileReader,
  type WorkerKind,
} from "./tile.ts";

/** Slots of apps that are processes: more than there are at once. */
export const APP_SLOTS = 256;
/** The regions that the master itself keeps, whatever else is replaced. */
export const APP_REFUSALS = "refused calls of apps";
export const KEPT_REGIONS: ReadonlyMap<string, number> = new Map([
  [APP_REFUSALS, refusedCallsBytes(APP_SLOTS)],
  [HEALTH, HEALTH_BYTES],
]);

/** The region with the counts of former tiles, in the order of `tilesOf`. */
export const PAST_COUNTERS = "past counters";

/** The counts of the `i`-th tile's predecessors. */
export function pastCounters(view: View, i: number): Float64Array {
  return f64(slice(view, i * TILE_COUNTERS * 8, TILE_COUNTERS * 8));
}

/** An app and the ports that it answers on. */
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
  /** Whether it runs inside each net tile, instead of a process of its own. */
  readonly inline: boolean;
  /** The most memory of its own that its process may have, in MiB; none inline. */
  readonly memoryMib?: number;
  readonly stateBytes?: number;
  /** Its slow side, if it has one: URL of the module, and addresses where it accepts TCP on the app's ports. */
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
    /** Whether its frames may carry a bare pseudo-header sum for a UDP checksum. */
    readonly partialChecksums: boolean;
  }[];
  /** Interfaces that must exist, be up and have an address before anything is answered. */
  readonly interfaces: readonly string[];
  /** Served ports with a kernel socket. */
  readonly sockets: readonly number[];
  /** The slot in "refused calls of apps" of each app that is a process. */
  readonly slots: Readonly<Record<string, number>>;
  /** Whether UDP checksums of frames are left to the NIC. */
  readonly trustChecksums: boolean;
  /** Whether a predecessor serves until this one is ready, so that it can warm up. */
  readonly isBeside: boolean;
  /** What runs, for the metrics: version and commit, the latter "" if it is unknown. */
  readonly build: { readonly version: string; readonly commit: string };
  /** What the status tile listens on. Without either there is no status tile. */
  readonly listens: { readonly control: boolean; readonly metrics: boolean };
}

/**
 * The version of all regions that outlast an appliance. Raise it with each change of their layout or meaning. After an
 * upgrade they are taken over only if it is the same.
 */
export const REGIONS_VERSION = 5;

interface RegionPlan {
  readonly name: string;
  readonly bytes: number;
  /** Who can write it: the appliance, the master, or the app of this name. */
  readonly writer: "appliance" | "master" | { readonly app: string };
  /** Whether each appliance gets a new one. Others are taken over. */
  readonly fresh: boolean;
}

/** A tile as the appliance has it, whether it runs or not. */
interface TileHandle {
  readonly kind: TileKind;
  readonly name: string;
  /** Its index in `tilesOf`, and its slot of counters of refused calls. */
  readonly slot: number;
  readonly reader: TileReader;
  /** -1 of an inline app, which its net tile calls. */
  readonly eventfd: number;
}

export interface WorkerHandle extends TileHandle {
  readonly kind: WorkerKind;
  readonly region: Region;
}

/** The grants of all inline apps together: their modules and files, and the clock. */
export function inlineGrants(apps: readonly AppPlan[]): Pick<Grants, "read" | "clock"> {
  const inline = apps.filter((app) => app.inline);
  const modules = inline.map(({ module }) => decodeURIComponent(new URL(module).pathname));
  return {
    read: [...new Set([...modules, ...inline.flatMap(({ grants }) => grants.read)])],
    clock: inline.some(({ grants }) => grants.clock),
  };
}

/** Name of the n-th net tile. */
export function netName(n: number): string {
  return `net${n}`;
}

/** The name of an app's tile region, metrics and log: `echo`, or `echo@net0` for an inline app. */
function instanceName(app: AppPlan, net: string): string {
  return app.inline ? `${app.name}@${net}` : app.name;
}

/** What the slow side of an app is called. */
export function besideName(app: string): string {
  return `${app} beside`;
}

/**
 * The shape of an app's links. If there is only one app its payloads stay in the UMEM, where its instances may read those of
 * each other. Else each instance gets copies.
 */
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
    fresh("refused calls", refusedCallsBytes(tiles.length)),
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

/** Every region of an appliance in its process, and who gets what of it. */
export class Wiring {
  readonly netbase: Region;
  readonly control: Region;
  readonly snapshot: Region;
  /** Written by the observer: refused system calls by tile, in the order of `tiles`. */
  readonly refusedCalls: Region;
  /** Every tile there is, in the order in which they are started. */
  readonly tiles: readonly TileHandle[];
  /** Those that run in workers. */
  readonly workers: readonly WorkerHandle[];
  readonly netlink: WorkerHandle;
  readonly nets: readonly WorkerHandle[];
  readonly status: WorkerHandle | null;
  readonly #setup: ApplianceSetup;
  readonly #handed: Handed<unknown>;
  /** Every port that an app answers on. */
  readonly #served: readonly number[];
  readonly #regions = new Map<string, Region>();

  constructor(setup: ApplianceSetup, handed: Handed<unknown>) {
    this.#setup = setup;
    this.#handed = handed;
    this.#served = portsServed(setup.apps);
    for (const { name, writer } of regionsOf(setup)) {
      const region = writer === "appliance" ? handed.region(name) : null;
      // Regions of other writers are only read here.
      const view = region?.reader ?? handed.view(name);
      this.#regions.set(name, region ?? { writer: view, reader: view });
    }
    this.netbase = this.#region("netbase");
    this.control = this.#region("control");
    this.snapshot = this.#region("snapshot");
    this.refusedCalls = this.#region("refused calls");
    this.tiles = tilesOf(setup).map(({ kind, name, inside }, slot) => ({
      ...{ kind, name, slot },
      reader: new TileReader(this.#region(`tile ${name}`).reader),
      eventfd: inside === undefined ? handed.fd(`eventfd ${name}`) : -1,
    }));
    this.workers = this.tiles.flatMap((tile) => {
      const { kind, name } = tile;
      return kind === "app" ? [] : [{ ...tile, kind, region: this.#region(`tile ${name}`) }];
    });
    this.netlink = this.workers[0];
    this.nets = this.workers.filter(({ kind }) => kind === "net");
    this.status = this.workers.find(({ kind }) => kind === "status") ?? null;
  }

  #region(name: string): Region {
    return this.#regions.get(name)!;
  }

  #tile(name: string): TileHandle {
    return this.tiles.find((tile) => tile.name === name)!;
  }

  /** Names of the apps in net tile `name` that have not started; of any other tile, its own name. */
  starting(name: string): string[] {
    const late = this.#setup.apps
      .filter(({ inline }) => inline)
      .filter((app) => this.#tile(instanceName(app, name)).reader.life === Life.booting);
    return late.length === 0 ? [name] : late.map((app) => app.name);
  }

  netlinkSetup(): NetlinkSetup {
    const status = this.status === null ? [] : [this.status];
    return {
      netbase: this.netbase.writer,
      readers: [...this.nets, ...status].map(({ region }) => region.reader),
      solicits: this.nets.map(({ name }) => this.#region(`solicit ${name}`).reader),
      filters: this.#setup.attached.map(({ ifindex, name }) => ({
        ifindex,
        view: this.#handed.view(`filter ${name}`),
      })),
      ports: this.#served,
      eventfd: this.netlink.eventfd,
      wakes: this.nets.map(({ region, eventfd }) => ({ tile: region.reader, eventfd })),
      control: this.control.reader,
      snapshot: this.snapshot.writer,
    };
  }

  statusSetup(): StatusSetup {
    const { listens, apps, attached, slots } = this.#setup;
    return {
      listeners: {
        control: listens.control ? this.#handed.fd("listen control") : null,
        metrics: listens.metrics ? this.#handed.fd("listen metrics") : null,
      },
      netbase: this.netbase.reader,
      control: this.control.reader,
      snapshot: this.snapshot.reader,
      refusedCalls: this.refusedCalls.reader,
      build: this.#setup.build,
      nets: this.nets.map(({ name }, n) => ({
        name,
        traffic: this.#region(`traffic ${name}`).reader,
        sockets: this.#setup.plan.shares.filter(({ netTile }) => netTile === n)
          .map(({ interface: i, queue }) => ({ interface: attached[i]?.name, queue }))
          .filter(({ interface: name }) => name !== undefined),
      })),
      captures: this.nets.map(({ name }) => this.#region(`capture ${name}`).reader),
      health: this.#region(HEALTH).reader,
      refusedCallsOfApps: this.#region(APP_REFUSALS).reader,
      tiles: this.tiles.map(({ kind, name }, i) => ({
        ...{ kind, name, region: this.#region(`tile ${name}`).reader },
        past: pastCounters(this.#region(PAST_COUNTERS).reader, i),
        ...(Object.hasOwn(slots, name) && { slot: slots[name] }),
      })),
      metrics: [
        ...this.tiles.filter(({ kind }) => kind === "app").map(({ name }) => [name, name]),
        ...apps.filter(({ beside }) => beside !== undefined)
          .map(({ name }) => [name, besideName(name)]),
      ].map(([app, tile]) => ({ app, tile, view: this.#region(`metrics ${tile}`).reader })),
      interfaces: attached.map(({ name }) => name),
      listen: apps.flatMap(({ name: app, ports }) =>
        ports.map(([port, last]) => ({ port, ...(last > port && { last }), app }))
      ),
    };
  }

  netSetup(n: number): NetSetup {
    const { attached, sockets, trustChecksums, plan: { frames, shares }, apps } = this.#setup;
    const net = netName(n);
    const own = (what: string) => this.#region(`${what} ${net}`).writer;
    const queues = attached.length === 0 ? [] : shares.filter(({ netTile }) => netTile === n);
    return {
      netbase: this.netbase.reader,
      umem: own("umem"),
      record: own("frames"),
      traffic: own("traffic"),
      routeCache: own("routes"),
      frames: frames[n],
      largeBuffers: LARGE_BUFFERS,
      sockets: queues.map(({ interface: i, queue }) => ({
        fd: this.#handed.fd(socketName(attached[i].name, queue)),
        ifindex: attached[i].ifindex,
        queue,
        receivesOnly: queue >= attached[i].transmitQueues,
        ring: RING_ENTRIES,
        fill: SOCKET_FRAMES,
        deepFill: SOCKET_FRAMES + Math.floor(SPARE_FRAMES / queues.length),
        tx: SOCKET_FRAMES,
        partialChecksums: attached[i].partialChecksums,
      })),
      trustChecksums,
      udp: sockets.map((port, i) => ({
        fd: this.#handed.fd(`udp ${port}`),
        port,
        receive: i % this.nets.length === n,
      })),
      apps: apps.filter(({ inline }) => !inline).map((app) => ({
        name: app.name,
        ports: portsOf(app.ports),
        net: this.#region(`link ${net} to ${app.name}`).writer,
        app: this.#region(`link ${app.name} to ${net}`).reader,
        requests: this.#region(`requests ${app.name} ${net}`).writer,
        shape: linkShape(app, apps),
        tile: this.#region(`tile ${app.name}`).reader,
        eventfd: this.#tile(app.name).eventfd,
        ...this.#peerSetup(app, n),
      })),
      inline: apps.filter(({ inline }) => inline).map((app) => ({
        ...this.#serviceSetup(app, net),
        ...{ instance: n, instances: this.nets.length },
        ...this.#peerSetup(app, n),
        region: this.#region(`tile ${instanceName(app, net)}`).writer,
      })),
      solicit: own("solicit"),
      capture: own("capture"),
      control: this.control.reader,
      netlinkTile: this.netlink.region.reader,
      netlinkEventfd: this.netlink.eventfd,
      eventfd: this.nets[n].eventfd,
      seed: randomSeed(),
      warmUp: this.#setup.isBeside,
    };
  }

  /** The peers that an app may send to through net tile `n`. */
  #peerSetup(app: AppPlan, n: number): PeerSetup {
    const heard = this.nets.map(({ name }) =>
      this.#region(`peers ${instanceName(app, name)} ${name}`)
    );
    return {
      recentPeers: heard[n].writer,
      otherRecentPeers: heard.filter((_, i) => i !== n).map(({ reader }) => reader),
      sendTo: app.sendTo,
    };
  }

  #serviceSetup(app: AppPlan, net: string): ServiceSetup {
    return {
      ...servicePlan(app, this.#served),
      metrics: this.#region(`metrics ${instanceName(app, net)}`).writer,
    };
  }
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
