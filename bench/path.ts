// SPDX-License-Identifier: Apache-2.0
/**
 * The cost of a datagram on its way through the tiles, with frames in memory and no socket. Only the rings are replaced,
 * by arrays. Rings, UMEM and all tables are as large as in the appliance, the frames are the smallest of Ethernet, and
 * the app is echo.
 *
 * `path` has an inline app, and so no link: parse → dispatch → app → resolve → headers → descriptors. `path own tile`
 * adds the links between two tiles, and what both tiles do, in one thread. `path own tile copies` adds the copies of
 * payloads that several apps on one UMEM need. There is one peer, one port, and ten routes. Further cases have more of
 * one of these, and are compared with `path` of the same rounds.
 *
 * Routes matter only if destinations are spread over them, so `path routes 1000000` has 10,000 peers behind gateways,
 * nearly each under a prefix of its own. The cost of the routes is the difference to `few_routes`, the same peers with
 * ten routes and a default; the rest is that of the peers.
 *
 * The task that runs the benchmarks gives V8 the appliance's flags (`V8_FLAGS`).
 */

import { type Case, measure, type Report, TEGULA } from "./harness.ts";
import { openRegions } from "../ffi/region.ts";
import { ROUTE_CACHE_BYTES } from "../tiles/net/route_cache.ts";
import * as plan from "../tiles/runtime/plan.ts";
import { frameCount } from "./path_host.ts";
import type { PathMemory, PathSetup, PathShape } from "./path_tiles.ts";
import { createRegion } from "../tests/region.ts";

/** Packets of one measurement, which takes some tenths of a second. */
const PACKETS = 1 << 20;

const ONE: PathShape = { inline: true, peers: 1, farPeers: 0, ports: 1, routes: 10 };
const FAR: PathShape = { ...ONE, peers: 0, farPeers: 10_000 };

/** The further cases, and their other peers. */
const CASES: readonly {
  readonly name: string;
  readonly setup: PathShape;
  readonly beside?: Readonly<Record<string, PathShape>>;
}[] = [
  { name: "path own tile", setup: { ...ONE, inline: false } },
  {
    name: "path own tile copies",
    setup: { ...ONE, inline: false, apart: true },
    beside: { in_place: { ...ONE, inline: false } },
  },
  { name: "path peers 10000", setup: { ...ONE, peers: 10_000 } },
  { name: "path ports 64", setup: { ...ONE, ports: 64 } },
  { name: "path ports 4096", setup: { ...ONE, ports: 4096 } },
  {
    name: "path routes 1000000",
    setup: { ...FAR, routes: 1_000_000 },
    beside: { few_routes: FAR },
  },
];

const regions = openRegions();

/** Regions as the master makes them for a tile. They end with their worker. */
function makeMemory(): PathMemory {
  const region = (bytes: number) => createRegion(regions, "path", bytes).writer;
  return { umem: region(plan.umemBytes(frameCount())), routeCache: region(ROUTE_CACHE_BYTES) };
}

/** A path in a worker. */
class Contestant {
  readonly #worker = new Worker(new URL("./path_worker.ts", import.meta.url), { type: "module" });

  static async start(shape: PathShape): Promise<Contestant> {
    const contestant = new Contestant();
    await contestant.#ask({ ...shape, memory: makeMemory() });
    return contestant;
  }

  /** Nanoseconds a packet. */
  run(): Promise<number> {
    return this.#ask(PACKETS);
  }

  end(): void {
    this.#worker.terminate();
  }

  #ask(message: PathSetup | number): Promise<number> {
    const worker = this.#worker;
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
      worker.postMessage(message);
    });
  }
}

/** Starts the paths one after another. */
async function startAll(
  setups: Readonly<Record<string, PathShape>>,
): Promise<Record<string, Contestant>> {
  const contestants: Record<string, Contestant> = {};
  for (const [name, setup] of Object.entries(setups)) {
    contestants[name] = await Contestant.start(setup);
  }
  return contestants;
}

/** Measures the path and reports its cases. */
export async function run(report: Report): Promise<void> {
  const first = await Contestant.start(ONE);
  const path = () => first.run();
  const settings: Pick<Case, "bench" | "unit" | "warmup"> = {
    ...{ bench: "path", unit: "ns/op", warmup: 2 },
  };
  try {
    report(await measure({ ...settings, case: "path", tegula: path }));
    for (const { name, setup, beside = {} } of CASES) {
      const others = await startAll({ [TEGULA]: setup, ...beside });
      const runs = Object.entries(others).map(([name, other]) =>
        [name, () => other.run()] as const
      );
      const { [TEGULA]: tegula, ...peers } = Object.fromEntries(runs);
      try {
        report(await measure({ ...settings, case: name, tegula, peers: { path, ...peers } }));
      } finally {
        for (const other of Object.values(others)) other.end();
      }
    }
  } finally {
    first.end();
  }
}
