// SPDX-License-Identifier: Apache-2.0
/** The tiles of the path benchmark, in one thread: a net tile, and an app behind a link or inline. */

import { heapView, u16, type View } from "../ffi/region.ts";
import type { Udp } from "../ffi/sockets.ts";
import { IDLE_TILE } from "../tests/idle_tile.ts";
import { appTile, loadService, NetSide, type ServiceSetup } from "../tiles/app/host.ts";
import { METRICS_BYTES } from "../tiles/app/regions.ts";
import { type PeerSetup, RECENT_PEERS_BYTES, requestsBytes } from "../tiles/net/app_link.ts";
import { SOLICIT_LINK_BYTES } from "../tiles/net/arp_queue.ts";
import { CAPTURE_BYTES } from "../tiles/net/capture.ts";
import { frameRecordBytes } from "../tiles/net/handover.ts";
import { TRAFFIC_BYTES } from "../tiles/net/traffic.ts";
import { create, type NetSetup } from "../tiles/net/tile.ts";
import { CONTROL_BYTES } from "../tiles/runtime/control.ts";
import { NET } from "../tiles/runtime/counters.ts";
import { appLinkBytes, netLinkBytes, requestRing } from "../tiles/runtime/link.ts";
import * as plan from "../tiles/runtime/plan.ts";
import { type Tile, TILE_REGION_BYTES, TileRegion } from "../tiles/runtime/tile.ts";
import {
  frameCount,
  type HostSize,
  IFINDEX,
  makeNetbase,
  makeRequests,
  MemoryXsk,
  peerAddresses,
  PORT,
} from "./path_host.ts";

/** Memory that has to be aligned to cache lines as in the appliance. */
export interface PathMemory {
  /** `frameCount` frames, and the large buffers. */
  readonly umem: View;
  readonly routeCache: View;
}

/** A case. */
export interface PathShape extends HostSize {
  /** Whether the app is inline. */
  readonly inline: boolean;
  /** Whether an app in its own process gets copies of its payloads. */
  readonly apart?: boolean;
  /** The app's configuration, which answers each request; by default echo. */
  readonly app?: Pick<ServiceSetup, "module"> & Partial<ServiceSetup>;
  /** The payload of each request; see `makeRequests`. */
  readonly payload?: readonly number[];
  /** Additional destinations of the app; by default none. */
  readonly sendTo?: PeerSetup["sendTo"];
}

/** A case, and the memory for it. */
export interface PathSetup extends PathShape {
  readonly memory: PathMemory;
}

const NO_UDP: Udp = { receive: () => 0, send: () => 0, watch: () => -1, ready: () => 0 };

/** The app, by default echo. */
function setupOf(ports: readonly number[], { app }: PathShape): ServiceSetup {
  const module = import.meta.resolve("../apps/echo.ts");
  return {
    name: "app",
    module,
    ports,
    served: ports,
    options: {},
    metrics: heapView(METRICS_BYTES),
    ...app,
  };
}

/** A net tile's setup without its apps. */
function hostSetup(
  size: HostSize,
  { umem, routeCache }: PathMemory,
): Omit<NetSetup, "apps" | "inline"> {
  const rings = {
    ring: plan.RING_ENTRIES,
    fill: plan.SOCKET_FRAMES,
    deepFill: plan.SOCKET_FRAMES,
    tx: plan.SOCKET_FRAMES,
    partialChecksums: false,
  };
  return {
    netbase: makeNetbase(size),
    umem,
    record: heapView(frameRecordBytes(frameCount())),
    traffic: heapView(TRAFFIC_BYTES),
    routeCache,
    frames: frameCount(),
    largeBuffers: plan.LARGE_BUFFERS,
    sockets: [{ fd: 0, ifindex: IFINDEX, queue: 0, ...rings }],
    udp: [],
    capture: heapView(CAPTURE_BYTES),
    control: heapView(CONTROL_BYTES),
    solicit: heapView(SOLICIT_LINK_BYTES),
    netlinkTile: heapView(TILE_REGION_BYTES),
    netlinkEventfd: -1,
    eventfd: -1,
    seed: 1,
  };
}

/** The net tile, the app, and the rings. */
export class Path {
  readonly #xsk: MemoryXsk;
  readonly #tile: Tile;
  readonly #app: Tile | undefined;
  readonly #counters: Float64Array;

  private constructor(
    parts: {
      xsk: MemoryXsk;
      tile: Tile;
      app?: Tile;
      counters: Float64Array;
    },
  ) {
    const { tile, app } = parts;
    this.#xsk = parts.xsk;
    this.#tile = tile;
    this.#counters = parts.counters;
    this.#app = app;
  }

  static async make({ memory, sendTo = [], ...setup }: PathSetup): Promise<Path> {
    const ports = Array.from({ length: setup.ports }, (_, i) => PORT + i);
    const { umem } = memory;
    const asked = makeRequests(peerAddresses(setup), setup.ports, setup.payload);
    const xsk = new MemoryXsk(u16(umem), asked);
    const region = new TileRegion(heapView(TILE_REGION_BYTES));
    const shape = plan.linkShapeOf(plan.LINK_DEPTH, { isAlone: !setup.apart });
    const [net, own] = [heapView(netLinkBytes(shape)), heapView(appLinkBytes(shape))];
    const peers = { recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo };
    const configured = { ...setupOf(ports, setup), ...peers };
    const requests = heapView(requestsBytes(shape));
    const tileOfApp = heapView(TILE_REGION_BYTES);
    // For the net tile of a process, own ports are like any others.
    const apart = {
      ...configured,
      ports: configured.served,
      net,
      app: own,
      requests,
      shape,
      tile: tileOfApp,
      eventfd: -1,
    };
    const tile = await create({
      setup: {
        ...hostSetup(setup, memory),
        apps: setup.inline ? [] : [apart],
        inline: setup.inline ? [{ ...configured, region: heapView(TILE_REGION_BYTES) }] : [],
      },
      region,
      libraries: { tile: IDLE_TILE, xsk, udp: NO_UDP },
      log() {},
      ask() {},
    });
    const { counters } = region;
    if (setup.inline) return new Path({ xsk, tile, counters });
    const parts = { counters: new Float64Array(16), log() {} };
    const service = await loadService(configured, parts);
    const join = {
      own,
      peer: net,
      payloads: requestRing(net, shape) ?? umem,
      shape,
      tile: heapView(TILE_REGION_BYTES),
    };
    const side = new NetSide(join, { counters: parts.counters, firstPort: 0, wake() {} });
    const app = appTile(service, [side], { library: IDLE_TILE, eventfd: -1 });
    return new Path({ xsk, tile, app, counters });
  }

  /**
   * Passes at least `packets` requests and their answers. Returns the nanoseconds of each. Requests come in batches that
   * fill the fill ring; the time for that does not count.
   */
  run(packets: number): number {
    let millis = 0;
    let done = 0;
    while (done < packets) {
      const count = this.#xsk.arrive();
      const enough = this.#xsk.transmitted + count;
      const begin = performance.now();
      for (let turns = 0; this.#xsk.transmitted < enough; turns++) {
        if (turns > count) throw new Error(`answers do not leave: ${this.#dropped()}`);
        this.#tile.turn();
        this.#app?.turn();
      }
      millis += performance.now() - begin;
      done += count;
    }
    // Ten times a second the neighbours in use are checked, and the app's permission to send to them.
    this.#tile.housekeeping!(performance.now());
    if (this.#dropped() !== "") throw new Error(`the path dropped packets: ${this.#dropped()}`);
    return millis * 1e6 / done;
  }

  /** Names of the drop counters. */
  #dropped(): string {
    return Object.keys(NET.help).filter((name, i) =>
      name.includes("_drop_") && this.#counters[i] > 0
    ).join(", ");
  }
}
