/**
 * The appliance's rooms and the doors between them: makes every region, and says for each tile which
 * of them it writes, which it reads and whom it wakes. Every region goes to one writer.
 */

import type { Host } from "../../ffi/host.ts";
import { slice, type View } from "../../ffi/view.ts";
import type { Region, Regions } from "../../ffi/region.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { METRICS_BYTES } from "../app/metrics.ts";
import type { ServiceSetup } from "../app/service.ts";
import type { AppSetup } from "../app/tile.ts";
import { type PeerSetup, requestsBytes } from "../net/app_link.ts";
import { frameRecordBytes } from "../net/handover.ts";
import { HEADER_CACHE_BYTES } from "../net/header_cache.ts";
import { HEARD_BYTES } from "../net/heard.ts";
import type { NetSetup } from "../net/tile.ts";
import type { NetlinkSetup } from "../netlink/tile.ts";
import type { StatusSetup } from "../status/tile.ts";
import type { Attachment } from "./attachment.ts";
import { CAPTURE_BYTES } from "./capture_ring.ts";
import { CONTROL_BYTES } from "./control.ts";
import { appLinkBytes, type LinkShape, netLinkBytes, requestRing } from "./link.ts";
import { type Grants, NO_GRANTS, together } from "./permissions.ts";
import * as plan from "./plan.ts";
import { type PortRange, portsOf } from "./ports.ts";
import { refusedCallsBytes } from "./refused_calls.ts";
import { SNAPSHOT_BYTES } from "./snapshot.ts";
import { SOLICIT_LINK_BYTES } from "./solicit_link.ts";
import type { TileKind } from "./tile.ts";
import { Life, TILE_REGION_BYTES, TileReader } from "./tile_region.ts";

/** An app and the ports that it answers on. */
export interface AppPlan
  extends
    Pick<ServiceSetup, "name" | "module" | "options" | "refuseSources" | "mostPerSecond">,
    Pick<PeerSetup, "sendTo"> {
  /** The app that this is an instance of. */
  readonly app: string;
  readonly ports: readonly PortRange[];
  readonly grants: Grants;
  /** The most memory that its process may have, and bytes of its state, if it has one. */
  readonly memoryMib?: number;
  readonly stateBytes?: number;
  /** Whether it runs inside each net tile, instead of a tile of its own. */
  readonly inline: boolean;
}

/** A kernel socket that holds a served port. */
export interface PortSocket {
  readonly port: number;
  readonly fd: number;
}

/** What the wiring follows from. */
export interface WiringOptions {
  readonly regions: Pick<Regions, "create">;
  readonly host: Host;
  readonly plan: plan.TilePlan;
  readonly apps: readonly AppPlan[];
  /** Interfaces with their program loaded; none for the kernel's sockets alone. */
  readonly attachments: readonly Attachment[];
  /** Whether UDP checksums of frames are left to the NIC. */
  readonly trustChecksums: boolean;
  /** One for each served port that nobody else holds. */
  readonly sockets: readonly PortSocket[];
  /** What the status tile listens on; where that is nothing there is none. */
  readonly listeners: StatusSetup["listeners"];
}

/** What there is of a tile before and after its worker. */
export interface TileSeat {
  readonly kind: TileKind;
  readonly name: string;
  /** What its worker is granted besides what all of its kind have. */
  readonly grants: Grants;
  readonly region: Region;
  readonly reader: TileReader;
  readonly eventfd: number;
}

/** Where an app runs: in a tile of its own, or inside a net tile. */
interface AppPlace {
  readonly app: AppPlan;
  /** Its number among all apps. */
  readonly index: number;
  readonly seat: TileSeat;
  /** The numbers of its own (`../app/metrics.ts`). */
  readonly metrics: Region;
}

/** What starting `apps` takes: their modules, and what each is granted. */
export function startGrants(apps: readonly AppPlan[]): Grants {
  const modules = apps.map(({ module }) => decodeURIComponent(new URL(module).pathname));
  return together([{ ...NO_GRANTS, read: modules }, ...apps.map(({ grants }) => grants)]);
}

/** Every region of an appliance, and who gets what of it. */
export class Wiring {
  readonly netbase: Region;
  readonly control: Region;
  readonly snapshot: Region;
  /** Written by the observer: refused system calls by tile, in the order of `seats`. */
  readonly refusedCalls: Region;
  readonly netlink: TileSeat;
  readonly nets: readonly TileSeat[];
  /** Apps in tiles of their own. */
  readonly apps: readonly AppPlace[];
  /** Apps inside net tiles, by net tile. */
  readonly inline: readonly (readonly AppPlace[])[];
  readonly status: TileSeat | null;
  /** What AF_XDP has of each net tile's UMEM: the frames. It locks all of it, touched or not. */
  readonly frames: readonly View[];
  readonly #options: WiringOptions;
  /**
   * Of every link. Payloads stay in the UMEM where all in it is one app's: its instances may read each
   * other's. Else each instance is given copies of its own.
   */
  readonly #shape: LinkShape;
  /** Every port that an app answers on. */
  readonly #served: readonly number[];
  /** What each net tile has for itself. */
  readonly #rooms: readonly Record<
    "umem" | "record" | "headers" | "solicit" | "capture",
    Region
  >[];
  /** By app, then by net tile: addresses heard from. */
  readonly #heard: readonly (readonly Region[])[];
  /** Likewise of apps in tiles of their own: pairs of links, by who writes each. */
  readonly #links: readonly (readonly { net: Region; app: Region; requests: Region }[])[];

  constructor(options: WiringOptions) {
    this.#options = options;
    const { regions, plan: { frames }, apps } = options;
    const isAlone = apps.every(({ app, inline }) => !inline && app === apps[0].app);
    this.#shape = isAlone ? plan.LINK_SHAPE : plan.APART_LINK_SHAPE;
    this.#served = [...new Set(apps.flatMap(({ ports }) => portsOf(ports)))];
    this.netbase = regions.create("netbase", NETBASE_BYTES);
    this.control = regions.create("control", CONTROL_BYTES);
    this.snapshot = regions.create("snapshot", SNAPSHOT_BYTES);
    this.netlink = this.#seat("netlink", "netlink");
    const inside = startGrants(apps.filter(({ inline }) => inline));
    this.nets = frames.map((_, n) => this.#seat("net", `net${n}`, inside));
    this.apps = this.#places();
    this.inline = this.nets.map(({ name }) => this.#places(name));
    const { control, metrics } = options.listeners;
    this.status = control === null && metrics === null ? null : this.#seat("status", "status");
    this.refusedCalls = regions.create("refused calls", refusedCallsBytes(this.seats.length));
    this.#rooms = this.nets.map(({ name }, n) => ({
      umem: regions.create(`umem ${name}`, plan.umemBytes(frames[n])),
      record: regions.create(`frames ${name}`, frameRecordBytes(frames[n])),
      headers: regions.create(`headers ${name}`, HEADER_CACHE_BYTES),
      solicit: regions.create(`solicit ${name}`, SOLICIT_LINK_BYTES),
      capture: regions.create(`capture ${name}`, CAPTURE_BYTES),
    }));
    this.frames = this.#rooms.map(({ umem }, n) =>
      slice(umem.writer, 0, frames[n] * plan.FRAME_BYTES)
    );
    this.#heard = apps.map(({ name: app }) =>
      this.nets.map(({ name: net }) => regions.create(`heard ${app} ${net}`, HEARD_BYTES))
    );
    this.#links = this.apps.map(({ seat: { name: app } }) =>
      this.nets.map(({ name: net }) => ({
        net: regions.create(`link ${net} to ${app}`, netLinkBytes(this.#shape)),
        app: regions.create(`link ${app} to ${net}`, appLinkBytes(this.#shape)),
        requests: regions.create(`requests ${app} ${net}`, requestsBytes(this.#shape)),
      }))
    );
  }

  #seat(kind: TileKind, name: string, grants = NO_GRANTS): TileSeat {
    const { regions, host } = this.#options;
    const region = regions.create(`tile ${name}`, TILE_REGION_BYTES);
    const reader = new TileReader(region.reader);
    return { kind, name, grants, region, reader, eventfd: host.eventfd() };
  }

  /** The apps in tiles of their own, or, with the name of a net tile, those inside that. */
  #places(inside = ""): AppPlace[] {
    const { apps, regions } = this.#options;
    return apps.flatMap((app, index) => {
      if (app.inline !== (inside !== "")) return [];
      const seat = this.#seat(
        "app",
        app.inline ? `${app.name}@${inside}` : app.name,
        startGrants([app]),
      );
      return [{ app, index, seat, metrics: regions.create(`metrics ${seat.name}`, METRICS_BYTES) }];
    });
  }

  /** Every app, wherever it runs. */
  get #everywhere(): AppPlace[] {
    return [...this.apps, ...this.inline.flat()];
  }

  /** Every tile there is, in the order in which they are started. */
  get seats(): TileSeat[] {
    const status = this.status === null ? [] : [this.status];
    return [this.netlink, ...status, ...this.nets, ...this.#everywhere.map(({ seat }) => seat)];
  }

  /** Names of those that have not started of the apps in net tile `name`; of another tile its own. */
  starting(name: string): string[] {
    const inside = this.inline[this.nets.findIndex((net) => net.name === name)] ?? [];
    const late = inside.filter(({ seat }) => seat.reader.life !== Life.running);
    return late.length === 0 ? [name] : late.map(({ app }) => app.name);
  }

  netlinkSetup(): NetlinkSetup {
    const status = this.status === null ? [] : [this.status];
    return {
      netbase: this.netbase.writer,
      readers: [...this.nets, ...status].map(({ region }) => region.reader),
      solicits: this.#rooms.map(({ solicit }) => solicit.reader),
      filters: this.#options.attachments.map(({ ifindex, filter }) => ({ ifindex, view: filter })),
      ports: this.#served,
      eventfd: this.netlink.eventfd,
      wakes: this.nets.map(({ region, eventfd }) => ({ tile: region.reader, eventfd })),
      control: this.control.reader,
      snapshot: this.snapshot.writer,
    };
  }

  statusSetup(): StatusSetup {
    const { listeners, apps, attachments } = this.#options;
    return {
      listeners,
      netbase: this.netbase.reader,
      control: this.control.reader,
      snapshot: this.snapshot.reader,
      refusedCalls: this.refusedCalls.reader,
      captures: this.#rooms.map(({ capture }) => capture.reader),
      tiles: this.seats.map(({ kind, name, region }) => ({ kind, name, region: region.reader })),
      metrics: this.#everywhere
        .map(({ seat: { name }, metrics }) => ({ name, view: metrics.reader })),
      interfaces: attachments.map(({ name }) => name),
      listen: apps.flatMap(({ name: app, ports }) =>
        ports.map(([port, last]) => ({ port, ...(last > port && { last }), app }))
      ),
    };
  }

  /**
   * For net tile `n`, once its sockets are open. `partialChecksums` is by interface, and `slots` by the
   * descriptor of a socket.
   */
  netSetup(
    n: number,
    { partialChecksums, slots }: {
      partialChecksums: readonly boolean[];
      slots: ReadonlyMap<number, number>;
    },
  ): NetSetup {
    const { attachments, sockets, trustChecksums, plan: { frames } } = this.#options;
    const { umem, record, headers, solicit, capture } = this.#rooms[n];
    return {
      netbase: this.netbase.reader,
      umem: umem.writer,
      record: record.writer,
      headers: headers.writer,
      frameBytes: plan.FRAME_BYTES,
      frames: frames[n],
      largeBuffers: plan.LARGE_BUFFERS,
      headroom: plan.HEADROOM_BYTES,
      sockets: attachments.flatMap(({ ifindex, sockets: open }, i) =>
        open.filter(({ netTile }) => netTile === n).map(({ fd, queue }) => ({
          fd,
          slot: slots.get(fd)!,
          ifindex,
          queue,
          fill: plan.RING_ENTRIES,
          tx: plan.RING_ENTRIES,
          partialChecksums: partialChecksums[i],
        }))
      ),
      trustChecksums,
      udp: sockets.map(({ fd, port }, i) => ({ fd, port, receive: i % this.nets.length === n })),
      apps: this.apps.map(({ app, index, seat }, a) => ({
        name: seat.name,
        ports: portsOf(app.ports),
        net: this.#links[a][n].net.writer,
        app: this.#links[a][n].app.reader,
        requests: this.#links[a][n].requests.writer,
        shape: this.#shape,
        tile: seat.region.reader,
        eventfd: seat.eventfd,
        ...this.#peerSetup(index, n),
      })),
      inline: this.inline[n].map((place) => ({
        ...this.#serviceSetup(place),
        ...this.#peerSetup(place.index, n),
        region: place.seat.region.writer,
      })),
      solicit: solicit.writer,
      capture: capture.writer,
      control: this.control.reader,
      netlinkTile: this.netlink.region.reader,
      netlinkEventfd: this.netlink.eventfd,
      eventfd: this.nets[n].eventfd,
      seed: randomSeed(),
    };
  }

  /** To whom app number `index` may send by net tile `n`. */
  #peerSetup(index: number, n: number): PeerSetup {
    const heard = this.#heard[index];
    return {
      heard: heard[n].writer,
      heardElsewhere: heard.filter((_, i) => i !== n).map(({ reader }) => reader),
      sendTo: this.#options.apps[index].sendTo,
    };
  }

  #serviceSetup({ app, metrics }: AppPlace): ServiceSetup {
    const { name, module, ports, options, refuseSources, mostPerSecond } = app;
    return {
      ...{ name, module, options, refuseSources, mostPerSecond },
      ...{ ports: portsOf(ports), served: this.#served },
      metrics: metrics.writer,
    };
  }

  appSetup(a: number): AppSetup {
    return {
      ...this.#serviceSetup(this.apps[a]),
      eventfd: this.apps[a].seat.eventfd,
      nets: this.nets.map((net, n) => ({
        own: this.#links[a][n].app.writer,
        peer: this.#links[a][n].net.reader,
        payloads: requestRing(this.#links[a][n].net.reader, this.#shape) ??
          this.#rooms[n].umem.reader,
        shape: this.#shape,
        tile: net.region.reader,
        eventfd: net.eventfd,
      })),
    };
  }
}
