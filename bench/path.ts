/**
 * What a datagram costs on its way through the tiles, with frames in memory and no socket. Only the
 * rings are replaced, by arrays; they, the UMEM and all tables are as large as in the appliance, the
 * frames are the smallest of Ethernet, and the app is echo.
 *
 * `path` is the way of an app that is placed inline, which has no link on it: parse → dispatch → app →
 * resolve → headers → descriptors. `path own tile` has the links between two tiles besides, and what
 * both tiles do, in one thread, and `path own tile copies` what it costs where other apps share the
 * UMEM: each payload is copied to memory of the app's own. There is one peer, one port, and ten routes; the cases after that have
 * more of one of these, and beside them stands `path` of the same rounds.
 *
 * Routes tell only where destinations are spread over them, so `path routes 1000000` has 10,000 peers
 * behind gateways, each under a prefix of its own or nearly so. What the routes alone add is the
 * difference to `few_routes`, the same peers with ten routes and a default; the rest is the peers'.
 *
 * V8 is told what the appliance tells it (`V8_FLAGS`), by the task that runs the benchmarks.
 */

import { type Case, measure, type Report, TEGULA } from "./harness.ts";
import { openRegions } from "../ffi/region.ts";
import { ROUTE_CACHE_BYTES } from "../tiles/net/route_cache.ts";
import * as plan from "../tiles/runtime/plan.ts";
import { frameCount } from "./path_host.ts";
import type { PathMemory, PathSetup, PathShape } from "./path_worker.ts";

/** Packets of one measurement: some tenths of a second. */
const PACKETS = 1 << 20;

const ONE: PathShape = { inline: true, peers: 1, farPeers: 0, ports: 1, routes: 10 };
const FAR: PathShape = { ...ONE, peers: 0, farPeers: 10_000 };

/** The cases that are measured beside the first, and what else they stand beside. */
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

/** Regions, as the master makes them for a tile; they go with the worker that has them. */
function makeMemory(): PathMemory {
  const region = (bytes: number) => regions.create("path", bytes).writer;
  return { umem: region(plan.umemBytes(frameCount())), routeCache: region(ROUTE_CACHE_BYTES) };
}

/** A path in a worker. */
class Contestant {
  readonly #worker = new Worker(new URL("./path_worker.ts", import.meta.url), { type: "module" });

  /** Starts it. */
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

/** Starts one after the other. */
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
