/**
 * The appliance: boots the tiles in the order of docs/architecture.md, watches them, stops them. This
 * is main's part. It sets up what needs privileges and moves no data.
 *
 * regions → netlink tile until the first full sync → XDP → net tiles → app tiles → sockets into the
 * XDP programs' maps: each step leaves a host that works, the last one moves the traffic.
 *
 * @module
 */

import { checked } from "../../ffi/errno.ts";
import type { Host } from "../../ffi/host.ts";
import { libraryPath } from "../../ffi/paths.ts";
import type { Region, Regions } from "../../ffi/region.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import type { UdpSetup } from "../../ffi/udp.ts";
import type { Xsk, XskSetup } from "../../ffi/xsk.ts";
import { NETBASE_BYTES } from "../../netbase/layout.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import type { AppSetup } from "../app/tile.ts";
import type { NetSetup } from "../net/tile.ts";
import type { NetlinkSetup } from "../netlink/tile.ts";
import { type Attachment, type Binding, OccupiedError, type Opened } from "./attachment.ts";
import { CONTROL_BYTES, ControlWriter } from "./control.ts";
import { APP, NET, NETLINK, readCounters } from "./counters.ts";
import { appLinkBytes, netLinkBytes } from "./link.ts";
import * as plan from "./plan.ts";
import { SOLICIT_LINK_BYTES } from "./solicit_link.ts";
import { type TilePermissions, TileWorker } from "./supervisor.ts";
import type { BootMessage, TileKind } from "./tile.ts";
import { TILE_REGION_BYTES, TileReader } from "./tile_region.ts";

/** The native parts that main has open. */
export interface MainLibraries {
  readonly regions: Regions;
  readonly host: Host;
  readonly xskSetup: XskSetup;
  readonly xsk: Xsk;
  readonly udpSetup: UdpSetup;
  readonly tile: TileLibrary;
}

/** An app and the ports that it answers on. */
export interface AppPlan {
  readonly name: string;
  /** URL of its module. */
  readonly module: string;
  readonly ports: readonly number[];
}

/** What an appliance is made from. */
export interface ApplianceOptions {
  readonly libraries: MainLibraries;
  /** Interfaces with their program loaded; none for the kernel's sockets alone. */
  readonly attachments: readonly Attachment[];
  readonly plan: plan.TilePlan;
  readonly apps: readonly AppPlan[];
  /** Kernel sockets, one for each served port that nobody else holds. */
  readonly sockets: readonly { readonly port: number; readonly fd: number }[];
  readonly confine: boolean;
  readonly keepNetAdmin: boolean;
  /** Root of the program's own modules, which is what tiles may read. */
  readonly modules: string;
  log(line: string): void;
  /** A tile ended that cannot be started again in place: the process has to end. */
  fatal(tile: string, message: string): void;
}

/** How an interface is attached, for the operator. */
export interface Attached {
  /** "xdp native copy" for example. */
  readonly mode: string;
  /** Why it is this mode and no better one. */
  readonly reason: string;
}

/** What main keeps of each tile. */
interface TileParts {
  readonly kind: TileKind;
  readonly name: string;
  readonly region: Region;
  readonly reader: TileReader;
  readonly eventfd: number;
  worker?: TileWorker;
}

const COUNTERS = { netlink: NETLINK, net: NET, app: APP } as const;
const LIBRARIES = {
  netlink: ["tile", "netlink"],
  net: ["tile", "xsk", "udp"],
  app: ["tile"],
} as const;
/** How long tiles have to drain and end; the loop's own limit is shorter. */
const STOP_MILLIS = 600;

/** A booting, running or stopping appliance. */
export class Appliance {
  /** The mirror, as everyone but the netlink tile sees it. */
  readonly netbase: NetbaseReader;
  readonly #options: ApplianceOptions;
  readonly #netbase: Region;
  readonly #controlRegion: Region;
  readonly #control: ControlWriter;
  readonly #netlink: TileParts;
  readonly #nets: readonly TileParts[];
  readonly #apps: readonly TileParts[];
  readonly #umems: readonly Region[];
  readonly #solicits: readonly Region[];
  #stopping = false;

  /** Makes every region; starts nothing. */
  constructor(options: ApplianceOptions) {
    this.#options = options;
    const { regions } = options.libraries;
    this.#netbase = regions.create("tegula-netbase", NETBASE_BYTES);
    this.netbase = new NetbaseReader(this.#netbase.reader);
    this.#controlRegion = regions.create("tegula-control", CONTROL_BYTES);
    this.#control = new ControlWriter(this.#controlRegion.writer);
    this.#netlink = this.#tile("netlink", "netlink");
    this.#nets = options.plan.frames.map((_, i) => this.#tile("net", `net${i}`));
    this.#apps = options.apps.map(({ name }) => this.#tile("app", name));
    this.#umems = options.plan.frames.map((frames, i) =>
      regions.create(
        `tegula-umem${i}`,
        frames * plan.FRAME_BYTES + plan.LARGE_BUFFERS * plan.LARGE_BUFFER_BYTES,
      )
    );
    this.#solicits = this.#nets.map(({ name }) =>
      regions.create(`tegula-solicit-${name}`, SOLICIT_LINK_BYTES)
    );
  }

  #tile(kind: TileKind, name: string): TileParts {
    const { regions, host } = this.#options.libraries;
    const region = regions.create(`tegula-tile-${name}`, TILE_REGION_BYTES);
    return { kind, name, region, reader: new TileReader(region.reader), eventfd: host.eventfd() };
  }

  /** Starts the netlink tile; resolves when netbase holds a first full copy of the kernel's state. */
  async startMirror(): Promise<void> {
    const { attachments, apps } = this.#options;
    const setup: NetlinkSetup = {
      netbase: this.#netbase.writer,
      readers: this.#nets.map(({ region }) => region.reader),
      solicits: this.#solicits.map(({ reader }) => reader),
      filters: attachments.map(({ ifindex, filter }) => ({ ifindex, view: filter })),
      ports: apps.flatMap(({ ports }) => ports),
      eventfd: this.#netlink.eventfd,
    };
    await this.#start(this.#netlink, { setup, module: "netlink/tile.ts" });
    this.netbase.refresh();
  }

  /**
   * Attaches the XDP programs and opens their sockets, in the best mode that works for all. Throws
   * what `Attachment.open` throws in the last, where not even copy mode works.
   */
  attach(): readonly Attached[] {
    const { attachments } = this.#options;
    if (attachments.length === 0) return [];
    let zeroCopy = "";
    try {
      this.#open("zero-copy");
      return attachments.map(() => ({ mode: "xdp zero-copy", reason: "the driver has it" }));
    } catch (error) {
      if (!(error instanceof Error) || error instanceof OccupiedError) throw error;
      zeroCopy = `no zero-copy: ${error.message}`;
    }
    return this.#open("copy").map(({ attach, reason }) => ({
      mode: `xdp ${attach} copy`,
      reason: reason === "" ? zeroCopy : `${zeroCopy}; no native mode: ${reason}`,
    }));
  }

  /** Opens all interfaces in one mode, or none. */
  #open(binding: Binding): Opened[] {
    const { attachments, libraries: { xskSetup }, plan: { shares } } = this.#options;
    const umems = this.#umems.map((region) =>
      checked(
        xskSetup.createUmem(region.writer, {
          frameBytes: plan.FRAME_BYTES,
          headroom: plan.HEADROOM_BYTES,
          fill: plan.RING_ENTRIES,
          completion: plan.RING_ENTRIES,
        }),
        "register a UMEM with the kernel",
      )
    );
    try {
      return attachments.map((attachment, i) => {
        const its = shares.filter((share) => share.interface === i)
          .map(({ queue, netTile }) => ({ queue, netTile, umem: umems[netTile] }));
        return attachment.open(its, binding);
      });
    } catch (error) {
      for (const attachment of attachments) attachment.close();
      for (const umem of umems) xskSetup.deleteUmem(umem);
      throw error;
    }
  }

  /** Starts net and app tiles, then lets the frames come. */
  async startTiles(partialChecksums: readonly boolean[]): Promise<void> {
    const links = this.#apps.map(({ name: app }) =>
      this.#nets.map(({ name: net }) => this.#link(net, app))
    );
    const nets = this.#nets.map((tile, n) =>
      this.#start(tile, {
        setup: this.#netSetup(n, { links, partialChecksums }),
        module: "net/tile.ts",
      })
    );
    await Promise.all(nets);
    const served = this.#options.apps.flatMap(({ ports }) => ports);
    const apps = this.#apps.map((tile, a) => {
      const { name, module, ports } = this.#options.apps[a];
      const setup: AppSetup = {
        name,
        module,
        ports,
        served,
        eventfd: tile.eventfd,
        nets: this.#nets.map((net, n) => ({
          own: links[a][n].app.writer,
          peer: links[a][n].net.reader,
          umem: this.#umems[n].reader,
          shape: plan.LINK_SHAPE,
          tile: net.region.reader,
          eventfd: net.eventfd,
        })),
      };
      return this.#start(tile, { setup, module: "app/tile.ts" });
    });
    await Promise.all(apps);
    for (const attachment of this.#options.attachments) attachment.serve();
  }

  #link(net: string, app: string): { net: Region; app: Region } {
    const { regions } = this.#options.libraries;
    return {
      net: regions.create(`tegula-${net}-${app}`, netLinkBytes(plan.LINK_SHAPE)),
      app: regions.create(`tegula-${app}-${net}`, appLinkBytes(plan.LINK_SHAPE)),
    };
  }

  #netSetup(
    n: number,
    { links, partialChecksums }: {
      links: { net: Region; app: Region }[][];
      partialChecksums: readonly boolean[];
    },
  ): NetSetup {
    const { attachments, apps, sockets, plan: { frames } } = this.#options;
    return {
      netbase: this.#netbase.reader,
      umem: this.#umems[n].writer,
      frameBytes: plan.FRAME_BYTES,
      frames: frames[n],
      largeBuffers: plan.LARGE_BUFFERS,
      headroom: plan.HEADROOM_BYTES,
      sockets: attachments.flatMap(({ ifindex, sockets }, i) =>
        sockets.filter(({ netTile }) => netTile === n).map(({ slot, queue }) => ({
          slot,
          ifindex,
          queue,
          fill: plan.RING_ENTRIES,
          tx: plan.RING_ENTRIES,
          partialChecksums: partialChecksums[i],
        }))
      ),
      udp: sockets.map(({ fd, port }, i) => ({
        fd,
        port,
        receive: i % this.#nets.length === n,
      })),
      apps: this.#apps.map((tile, a) => ({
        name: tile.name,
        ports: [...apps[a].ports],
        net: links[a][n].net.writer,
        app: links[a][n].app.reader,
        shape: plan.LINK_SHAPE,
        tile: tile.region.reader,
        eventfd: tile.eventfd,
      })),
      solicit: this.#solicits[n].writer,
      netlinkTile: this.#netlink.region.reader,
      netlinkEventfd: this.#netlink.eventfd,
      eventfd: this.#nets[n].eventfd,
    };
  }

  async #start(
    tile: TileParts,
    { setup, module }: { setup: unknown; module: string },
  ): Promise<void> {
    const { confine, keepNetAdmin } = this.#options;
    const boot: BootMessage = {
      kind: tile.kind,
      name: tile.name,
      libraries: Object.fromEntries(
        LIBRARIES[tile.kind].map((name) => [name, libraryPath(name)]),
      ),
      module: new URL(`../${module}`, import.meta.url).href,
      region: tile.region.writer,
      control: this.#controlRegion.reader,
      eventfd: tile.eventfd,
      confine: confine ? { keepNetAdmin: keepNetAdmin && tile.kind === "netlink" } : null,
      setup,
    };
    tile.worker = new TileWorker(boot, {
      permissions: this.#permissions(tile.kind, setup),
      events: {
        log: (line) => this.#options.log(`${tile.name}: ${line}`),
        failed: (message) => this.#failed(tile, message),
      },
    });
    await tile.worker.running;
  }

  #permissions(kind: TileKind, setup: unknown): TilePermissions {
    const read = ["ffi", "netbase", "tiles"].map((folder) => `${this.#options.modules}/${folder}`);
    if (kind === "app") read.push(new URL((setup as AppSetup).module).pathname);
    return { ffi: LIBRARIES[kind].map((name) => libraryPath(name)), read };
  }

  #failed(tile: TileParts, message: string): void {
    if (!this.#stopping) this.#options.fatal(tile.name, message);
  }

  /** Every tile's counters by its name. */
  counters(): Record<string, Record<string, number>> {
    const tiles = [this.#netlink, ...this.#nets, ...this.#apps];
    return Object.fromEntries(
      tiles.map(({ kind, name, reader }) => [
        name,
        readCounters(COUNTERS[kind].help, reader.counters),
      ]),
    );
  }

  /** Every queue that has an AF_XDP socket. */
  queues(): { interface: string; slot: number; netTile: number }[] {
    return this.#options.attachments.flatMap(({ name, sockets }) =>
      sockets.map(({ slot, netTile }) => ({ interface: name, slot, netTile }))
    );
  }

  /** Frames that net tile `n` has taken from its rings. */
  received(n: number): number {
    return this.#nets[n].reader.counters[NET.index.rx_frames];
  }

  /** Takes the XDP program off `name`: its traffic is the kernel's, whose sockets are served too. */
  giveBack(name: string): void {
    for (const attachment of this.#options.attachments) {
      if (attachment.name === name) attachment.detach();
    }
  }

  /** Gives the traffic back to the kernel, lets the tiles drain, ends them. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    const { attachments, libraries } = this.#options;
    for (const attachment of attachments) attachment.detach();
    const tiles = [...this.#apps, ...this.#nets, this.#netlink].filter(({ worker }) => worker);
    this.#control.stop();
    for (const { eventfd } of tiles) libraries.tile.wake(eventfd);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => timer = setTimeout(resolve, STOP_MILLIS));
    await Promise.race([Promise.all(tiles.map(({ worker }) => worker?.ended)), late]);
    clearTimeout(timer);
    for (const attachment of attachments) attachment.close();
  }
}
