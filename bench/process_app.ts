/**
 * The worker of an app's process (`process_slice.ts`): maps the regions whose descriptors the process was
 * started with, and runs the app's tile as the appliance does. The walls stood before exec, so it confines
 * nothing; like a tile of the appliance it gives up what only its start needs.
 */

import { openRegions } from "../ffi/region.ts";
import { openTile } from "../ffi/tile.ts";
import type { ServiceSetup } from "../tiles/app/service.ts";
import { create } from "../tiles/app/tile.ts";
import { type LinkShape, requestRing } from "../tiles/runtime/link.ts";
import { ControlReader } from "../tiles/runtime/control.ts";
import { COUNTERS } from "../tiles/runtime/counters.ts";
import { runLoop } from "../tiles/runtime/loop.ts";
import type { Tile } from "../tiles/runtime/tile.ts";
import { Life, TileRegion } from "../tiles/runtime/tile_region.ts";

/** Regions of a link: `net`, `netTile` and `control` are for reading here. */
export type RegionName = "app" | "net" | "appTile" | "netTile" | "control" | "metrics";

/** A region as the app's process is told of it. */
interface GivenRegion {
  /** The descriptor there. */
  readonly fd: number;
  readonly bytes: number;
  readonly readOnly: boolean;
}

/** The argument of an app's process, in JSON. */
export interface ProcessSetup {
  /** Paths of libraries. */
  readonly libraries: { readonly tile: string; readonly region: string };
  readonly regions: Readonly<Record<RegionName, GivenRegion>>;
  readonly eventfds: { readonly app: number; readonly net: number };
  readonly shape: LinkShape;
  readonly service: Omit<ServiceSetup, "metrics">;
  readonly spinTurns: number;
}

const [text] = Deno.args;
const { libraries, regions: given, eventfds, shape, service, spinTurns }: ProcessSetup = JSON.parse(
  text,
);
const tileLibrary = openTile(libraries.tile);
const regions = openRegions(libraries.region);
Deno.permissions.revokeSync({ name: "ffi" });

const map = ({ fd, bytes, readOnly }: GivenRegion) => {
  const view = regions.mapShared(fd, bytes, { readOnly });
  regions.close(fd);
  return view;
};
const peer = map(given.net);
const region = new TileRegion(map(given.appTile));
const join = () => {
  region.awake();
  region.life = Life.booting;
};
const tile = await create({
  setup: {
    ...service,
    metrics: map(given.metrics),
    eventfd: eventfds.app,
    nets: [{
      own: map(given.app),
      peer,
      payloads: requestRing(peer, shape)!,
      shape,
      tile: map(given.netTile),
      eventfd: eventfds.net,
    }],
  },
  region,
  libraries: { tile: tileLibrary },
  log: (line) => console.error(line),
  ask: () => {},
  // Its predecessor, if there was one, was reaped before this process was started.
  turn: () => Promise.resolve(true).finally(join),
}) as Tile;
for (const name of ["read", "write", "env", "net"] as const) {
  Deno.permissions.revokeSync({ name });
}
runLoop({
  tile,
  region,
  control: new ControlReader(map(given.control), tileLibrary.thread()),
  wakeups: COUNTERS.app.index.wakeups,
  spinTurns,
});
