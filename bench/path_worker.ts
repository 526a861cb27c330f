// SPDX-License-Identifier: Apache-2.0
/**
 * One contestant of the path benchmark, in a worker of its own like a net tile of the appliance, so that V8 sees nothing
 * of the other cases.
 */

import { heapView, u16, type View } from "../ffi/region.ts";
import type { Udp } from "../ffi/sockets.ts";
import type { TileLibrary } from "../ffi/tile.ts";
import { loadService, NetSide, type Service, type ServiceSetup } from "../tiles/app/host.ts";
import { METRICS_BYTES } from "../tiles/app/regions.ts";
import { RECENT_PEERS_BYTES, requestsBytes } from "../tiles/net/app_port.ts";
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
}

/** The worker's setup, its first message. */
export interface PathSetup extends PathShape {
  readonly memory: PathMemory;
}

const NO_UDP: Udp = { receive: () => 0, send: () => 0, watch: () => -1, ready: () => 0 };
const NO_TILE: TileLibrary = {
  wake() {},
  wait: () => 0,
  thread: () => 0,
  nameThread() {},
  bePrompt: () => 0,
  trim() {},
  duplicate: (fd) => fd,
  readable: () => false,
  callName: () => "",
  confine: () => ({ landlock: false, observed: false }),
};

/** The echo app. */
function echo(ports: readonly number[]): ServiceSetup {
  const module = import.meta.resolve("../apps/echo.ts");
  return {
    name: "echo",
    module,
    ports,
    served: ports,
    options: {},
    metrics: heapView(METRICS_BYTES),
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

/** The net tile, the echo app, and the rings. */
class Path {
  readonly #xsk: MemoryXsk;
  readonly #tile: Tile;
  readonly #turn: () => void;
  readonly #counters: Float64Array;

  private constructor(
    parts: {
      xsk: MemoryXsk;
      tile: Tile;
      app?: { service: Service; side: NetSide };
      counters: Float64Array;
    },
  ) {
    const { tile, app } = parts;
    this.#xsk = parts.xsk;
    this.#tile = tile;
    this.#counters = parts.counters;
    this.#turn = app === undefined ? () => void tile.turn() : () => {
      tile.turn();
      app.side.take();
      app.service.receive(app.side.requests, app.side.answers);
      app.side.finish();
    };
  }

  static async make({ memory, ...setup }: PathSetup): Promise<Path> {
    const ports = Array.from({ length: setup.ports }, (_, i) => PORT + i);
    const { umem } = memory;
    const xsk = new MemoryXsk(u16(umem), makeRequests(peerAddresses(setup), setup.ports));
    const region = new TileRegion(heapView(TILE_REGION_BYTES));
    const shape = plan.linkShapeOf(plan.LINK_DEPTH, { isAlone: !setup.apart });
    const [net, own] = [heapView(netLinkBytes(shape)), heapView(appLinkBytes(shape))];
    const peers = { recentPeers: heapView(RECENT_PEERS_BYTES), otherRecentPeers: [], sendTo: [] };
    const app = { ...echo(ports), ...peers };
    const requests = heapView(requestsBytes(shape));
    const appTile = heapView(TILE_REGION_BYTES);
    const apart = { ...app, net, app: own, requests, shape, tile: appTile, eventfd: -1 };
    const tile = await create({
      setup: {
        ...hostSetup(setup, memory),
        apps: setup.inline ? [] : [apart],
        inline: setup.inline ? [{ ...app, region: heapView(TILE_REGION_BYTES) }] : [],
      },
      region,
      libraries: { tile: NO_TILE, xsk, udp: NO_UDP },
      log() {},
      ask() {},
    });
    const { counters } = region;
    if (setup.inline) return new Path({ xsk, tile, counters });
    const parts = { counters: new Float64Array(16), log() {} };
    const service = await loadService(app, parts);
    const join = {
      own,
      peer: net,
      payloads: requestRing(net, shape) ?? umem,
      shape,
      tile: heapView(TILE_REGION_BYTES),
      eventfd: -1,
    };
    const side = new NetSide(join, { counters: parts.counters, firstPort: 0, wake() {} });
    return new Path({ xsk, tile, app: { service, side }, counters });
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
        this.#turn();
      }
      millis += performance.now() - begin;
      done += count;
    }
    // Ten times a second the neighbours in use are checked, and the app's right to send to them.
    this.#tile.housekeeping!(performance.now());
    if (this.#dropped() !== "") throw new Error(`the path dropped packets: ${this.#dropped()}`);
    return millis * 1e6 / done;
  }

  /** Names of the counters that say why something was dropped. */
  #dropped(): string {
    return Object.keys(NET.help).filter((name, i) =>
      name.includes("_drop_") && this.#counters[i] > 0
    ).join(", ");
  }
}

/** This worker's scope. */
const worker = self as unknown as {
  onmessage: ((event: MessageEvent<PathSetup | number>) => void) | null;
  postMessage(message: number): void;
};
let path: Path | null = null;

/** The first message makes the path, and is answered with 0. Further ones are numbers of packets. */
worker.onmessage = async ({ data }) => {
  if (typeof data === "number") worker.postMessage(path!.run(data));
  else {
    path = await Path.make(data);
    worker.postMessage(0);
  }
};
