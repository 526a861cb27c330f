/**
 * What a datagram costs on its way through the tiles, with frames in memory and no socket: the net
 * tile's own turn (checks, dispatch, link; then link, resolve, headers, descriptors) and the echo app
 * on its own ends of the links, all in one thread. Only the rings are replaced, by arrays.
 *
 * Every frame of the UMEM holds the request of another peer, so that nothing is hot by accident.
 *
 * @module
 */

import type { TileLibrary } from "../ffi/tile.ts";
import type { Udp } from "../ffi/udp.ts";
import { heapView, u8 } from "../ffi/view.ts";
import echo from "../tiles/app/echo.ts";
import type { App, AppContext } from "../tiles/app/contract.ts";
import { NetSide } from "../tiles/app/net_side.ts";
import { HEARD_BYTES } from "../tiles/net/heard.ts";
import { create } from "../tiles/net/tile.ts";
import { CAPTURE_BYTES } from "../tiles/runtime/capture_ring.ts";
import { CONTROL_BYTES } from "../tiles/runtime/control.ts";
import { NET } from "../tiles/runtime/counters.ts";
import { appLinkBytes, netLinkBytes } from "../tiles/runtime/link.ts";
import { FRAME_BYTES, HEADROOM_BYTES, LINK_SHAPE } from "../tiles/runtime/plan.ts";
import { SOLICIT_LINK_BYTES } from "../tiles/runtime/solicit_link.ts";
import type { Tile } from "../tiles/runtime/tile.ts";
import { TILE_REGION_BYTES, TileRegion } from "../tiles/runtime/tile_region.ts";
import { measure, type Report, timed } from "./harness.ts";
import {
  IFINDEX,
  makeNetbase,
  MemoryXsk,
  PORT,
  REQUEST_BYTES,
  writeRequests,
} from "./path_host.ts";

/** Distinct frames that are under way, each from another peer. */
const PEERS = 4096;
const FRAMES = 2 * PEERS + 2 * LINK_SHAPE.depth;
/** Packets of one run. */
const PACKETS = 1 << 20;

const NO_UDP: Udp = { receive: () => 0, send: () => 0 };
const NO_TILE: TileLibrary = {
  wake() {},
  wait: () => 0,
  thread: () => 0,
  confine: () => ({ landlock: false }),
};

/** The net tile, the echo app at the other end of its links, and the rings. */
class Path {
  readonly xsk = new MemoryXsk(REQUEST_BYTES);
  readonly #tile: Tile;
  readonly #app: App;
  readonly #side: NetSide;
  readonly #counters: Float64Array;

  constructor(app: App) {
    const [net, own, tile] = [
      heapView(netLinkBytes(LINK_SHAPE)),
      heapView(appLinkBytes(LINK_SHAPE)),
      heapView(TILE_REGION_BYTES),
    ];
    const umem = heapView(FRAMES * FRAME_BYTES + 65_536);
    const region = new TileRegion(heapView(TILE_REGION_BYTES));
    this.#counters = region.counters;
    writeRequests(u8(umem), { frames: FRAMES, peers: PEERS });
    this.#tile = create({
      setup: {
        netbase: makeNetbase(PEERS),
        umem,
        frameBytes: FRAME_BYTES,
        frames: FRAMES,
        largeBuffers: 1,
        headroom: HEADROOM_BYTES,
        sockets: [
          {
            slot: 0,
            ifindex: IFINDEX,
            queue: 0,
            fill: PEERS,
            tx: LINK_SHAPE.depth,
            partialChecksums: false,
          },
        ],
        udp: [],
        apps: [
          {
            name: "echo",
            ports: [PORT],
            net,
            app: own,
            shape: LINK_SHAPE,
            tile,
            eventfd: -1,
            heard: heapView(HEARD_BYTES),
            heardElsewhere: [],
            sendTo: [],
          },
        ],
        capture: heapView(CAPTURE_BYTES),
        control: heapView(CONTROL_BYTES),
        solicit: heapView(SOLICIT_LINK_BYTES),
        netlinkTile: heapView(TILE_REGION_BYTES),
        netlinkEventfd: -1,
        eventfd: -1,
      },
      region,
      libraries: { tile: NO_TILE, xsk: this.xsk, udp: NO_UDP },
      log() {},
      ask() {},
    }) as Tile;
    this.#app = app;
    this.#side = new NetSide(
      { own, peer: net, umem, shape: LINK_SHAPE, tile, eventfd: -1 },
      { counters: new Float64Array(16), wake() {} },
    );
  }

  /** Lets `packets` requests go in and their answers out; returns how many were answered. */
  run(packets: number): number {
    const before = this.xsk.transmitted;
    const enough = before + packets;
    for (let turns = 0; this.xsk.transmitted < enough; turns++) {
      if (turns > packets) throw new Error(`answers do not leave: ${this.#dropped()}`);
      this.#tile.turn();
      if (this.#side.take() === 0) throw new Error(`no request came through: ${this.#dropped()}`);
      this.#app.receive(this.#side.requests, this.#side.answers);
      this.#side.finish();
    }
    return this.xsk.transmitted - before;
  }

  /** Names of the counters that say why something was dropped. */
  #dropped(): string {
    return Object.keys(NET.help).filter((name, i) =>
      name.includes("_drop_") && this.#counters[i] > 0
    ).join(", ");
  }

  /** Throws when anything was dropped on the way. */
  check(): void {
    const dropped = this.#dropped();
    if (dropped !== "") throw new Error(`the path dropped packets: ${dropped}`);
  }
}

/** Measures the path and reports its cases. */
export async function run(report: Report): Promise<void> {
  const context: Pick<AppContext, "serves"> = { serves: (port) => port === PORT };
  const app = await echo(context as AppContext);
  const path = new Path(app);
  report(
    await measure({
      bench: "path",
      case: "path",
      unit: "ns/op",
      tegula: timed(PACKETS, () => path.run(PACKETS)),
    }),
  );
  path.check();
}
