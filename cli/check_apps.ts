/**
 * Makes apps as a start does, each in a process of its own, and ends them before they answer anything.
 */

import type { Host } from "../ffi/host.ts";
import { openProcesses } from "../ffi/process.ts";
import { openRegions, type Regions } from "../ffi/region.ts";
import { openObserver, openTile, refusedCallsBytes } from "../ffi/tile.ts";
import { u32 } from "../ffi/view.ts";

import { AppProcess, type Descriptors } from "../master/app_process.ts";
import { Watcher } from "../ffi/watcher.ts";
import { AppFiles } from "../master/app_files.ts";
import { METRICS_BYTES, stateRegionBytes } from "../tiles/app/regions.ts";
import { within } from "../tiles/runtime/delay.ts";
import { APART_LINK_SHAPE } from "../tiles/runtime/plan.ts";
import { portsOf } from "../tiles/runtime/ports.ts";
import { AppError } from "../tiles/runtime/thrown.ts";
import { TILE_REGION_BYTES, TileReader } from "../tiles/runtime/tile_region.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { load } from "../master/libraries.ts";

/** The user of these processes, where it may be chosen. */
const UID = 65534;
/** What one may have that runs inside net tiles when it serves. */
const INLINE_MEMORY_MIB = 256;
/** How long a start may take, as that of an appliance may. */
const START_MILLIS = 300_000;

/** An app that was made. */
export interface MadeApp {
  readonly app: string;
  /** What it said while it was made. */
  readonly said: readonly string[];
  /** Why it could not be made: AppError, or SystemError. */
  readonly trouble?: unknown;
}

/** Makes one instance of each app, without what it is granted of the network. */
export async function* makeApps(
  apps: readonly AppPlan[],
  host: Host,
): AsyncGenerator<MadeApp> {
  const [regions, tile] = [load(openRegions), load(openTile)];
  const observer = load(openObserver);
  observer.start(u32(regions.create("refused calls", refusedCallsBytes(1)).writer));
  const processes = load(openProcesses);
  const files = new AppFiles({ processes, uid: UID });
  const shared = {
    ...{ regions, observer, files, slot: 0, tileLibrary: tile },
    processes,
    watcher: new Watcher(host, tile),
  };
  const served = [...new Set(apps.flatMap(({ ports }) => portsOf(ports)))];
  try {
    for (const [app, [plan]] of Map.groupBy(apps, ({ app }) => app)) {
      const said: string[] = [];
      const { name, module, options, ports, refuseSources, mostPerSecond, stateBytes } = plan;
      const service = {
        ...{ name, module, options, refuseSources, mostPerSecond, served },
        ports: portsOf(ports),
      };
      const descriptors = makeDescriptors(regions, host, stateBytes);
      const { fd } = descriptors.descriptor(`tile ${name}`, true);
      const process = new AppProcess({
        ...{ name, service, shape: APART_LINK_SHAPE, nets: [], spinTurns: 0, uid: UID },
        grants: { ...plan.grants, net: [] },
        memoryMib: plan.memoryMib ?? INLINE_MEMORY_MIB,
        hasState: stateBytes !== undefined,
      }, {
        ...{ ...shared, descriptors },
        tile: new TileReader(regions.mapShared(fd, TILE_REGION_BYTES, { readOnly: true })),
        log: (line) => said.push(line.replace(`${name}: `, "")),
      });
      try {
        if (!await within(process.prepare(), START_MILLIS)) {
          throw new AppError(name, "it did not start in time");
        }
        yield { app, said };
      } catch (trouble) {
        yield { app, said, trouble };
      } finally {
        await process.stop();
      }
    }
  } finally {
    files.close();
  }
}

/** Regions of an app's own that nobody else has, made when they are asked for. */
function makeDescriptors(
  regions: Pick<Regions, "createShared">,
  host: Pick<Host, "eventfd">,
  stateBytes = 0,
): Descriptors {
  const state = stateRegionBytes(stateBytes);
  const sizes = { tile: TILE_REGION_BYTES, metrics: METRICS_BYTES, state };
  const made = new Map<string, ReturnType<Regions["createShared"]>>();
  return {
    descriptor(name, readOnly) {
      const [kind] = name.split(" ");
      if (kind === "eventfd") return { fd: host.eventfd(), bytes: 0 };
      const bytes = sizes[kind as keyof typeof sizes];
      const region = made.getOrInsertComputed(name, () => regions.createShared(name, bytes));
      return { fd: readOnly ? region.readOnly : region.writable, bytes };
    },
  };
}
