/**
 * The worker of an app's process (`process_slice.ts`): maps the regions whose descriptors the process was
 * started with, and runs the app's tile as the appliance does. The walls stood before exec, so it confines
 * nothing; like a tile of the appliance it gives up what only its start needs.
 */

import { openRegions } from "../ffi/region.ts";
import { openTile } from "../ffi/tile.ts";
import { create } from "../tiles/app/tile.ts";
import { requestRing } from "../tiles/runtime/link.ts";
import { ControlReader } from "../tiles/runtime/control.ts";
import { COUNTERS } from "../tiles/runtime/counters.ts";
import { runLoop } from "../tiles/runtime/loop.ts";
import type { Tile } from "../tiles/runtime/tile.ts";
import { Life, TileRegion } from "../tiles/runtime/tile_region.ts";
import type { ProcessSetup } from "./process_slice.ts";

const [text] = Deno.args;
const { libraries, regions: given, eventfds, shape, service, spinTurns }: ProcessSetup = JSON.parse(
  text,
);
const tileLibrary = openTile(libraries.tile);
const regions = openRegions(libraries.region);
Deno.permissions.revokeSync({ name: "ffi" });

const map = ({ fd, bytes, readOnly }: ProcessSetup["regions"]["app"]) => {
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
