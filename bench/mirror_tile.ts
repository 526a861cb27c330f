// SPDX-License-Identifier: Apache-2.0
/**
 * A worker that runs the netlink tile in the runtime's loop, for `mirror_change.ts` and `solicit.ts`.
 */

import { heapView, type View } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { openTile } from "../ffi/tile.ts";
import { create } from "../tiles/netlink/tile.ts";
import { CONTROL_BYTES, ControlReader, SNAPSHOT_BYTES } from "../tiles/runtime/control.ts";
import { NETLINK } from "../tiles/runtime/counters.ts";
import type { NetlinkSetup } from "../tiles/runtime/wiring.ts";
import { runLoop, spinTurnsFor, TILE_REGION_BYTES, TileRegion } from "../tiles/runtime/tile.ts";

/** The worker's setup. It answers with any message once it runs, and never stops. */
export interface TileStart
  extends
    Pick<NetlinkSetup, "netbase" | "eventfd">,
    Partial<Pick<NetlinkSetup, "solicits" | "filters">> {
  /** The tile's region, if it is observed. */
  readonly region?: View;
}

/** The used part of the worker's scope. */
interface Scope {
  onmessage: ((event: MessageEvent<TileStart>) => void) | null;
  postMessage(message: string): void;
}

const scope = globalThis as unknown as Scope;

scope.onmessage = ({ data }) => {
  const { netbase, eventfd, solicits = [], filters = [] } = data;
  const region = new TileRegion(data.region ?? heapView(TILE_REGION_BYTES));
  const control = heapView(CONTROL_BYTES);
  const tile = create({
    setup: {
      netbase,
      readers: [],
      solicits,
      filters,
      ports: [],
      packetTimes: false,
      eventfd,
      wakes: [],
      control,
      snapshot: heapView(SNAPSHOT_BYTES),
    },
    region,
    libraries: {
      tile: openTile(),
      netlink: openNetlink(),
    },
    log: () => {},
    ask: () => {},
  });
  scope.postMessage("running");
  runLoop({
    tile,
    region,
    control: new ControlReader(control),
    index: NETLINK.index,
    spinTurns: spinTurnsFor(1, 1),
  });
};
