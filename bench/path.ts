/**
 * What a datagram costs on its way through the tiles, with frames in memory and no socket. Only the
 * rings are replaced, by arrays; they, the UMEM and all tables are as large as in the appliance, the
 * frames are the smallest of Ethernet, and the app is echo.
 *
 * `path` is the way of an app that is placed inline, which has no link on it: parse → dispatch → app →
 * resolve → headers → descriptors. `path own tile` has the links between two tiles besides, and what
 * both tiles do, in one thread. There is one peer, one port, and ten routes; the cases after that have
 * more of one of these, and beside them stands `path` of the same rounds.
 */

import { type Case, measure, type Report } from "./harness.ts";
import type { PathSetup } from "./path_worker.ts";

/** Packets of one measurement: some tenths of a second. */
const PACKETS = 1 << 20;

const ONE: PathSetup = { inline: true, peers: 1, ports: 1, routes: 10 };

/** The cases that are measured beside the first. */
const CASES: readonly (readonly [name: string, setup: PathSetup])[] = [
  ["path own tile", { ...ONE, inline: false }],
  ["path peers 10000", { ...ONE, peers: 10_000 }],
  ["path ports 64", { ...ONE, ports: 64 }],
  ["path routes 1000000", { ...ONE, routes: 1_000_000 }],
];

/** A path in a worker. */
class Contestant {
  readonly #worker = new Worker(new URL("./path_worker.ts", import.meta.url), { type: "module" });

  /** Starts it. */
  static async start(setup: PathSetup): Promise<Contestant> {
    const contestant = new Contestant();
    await contestant.#ask(setup);
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

/** Measures the path and reports its cases. */
export async function run(report: Report): Promise<void> {
  const first = await Contestant.start(ONE);
  const path = () => first.run();
  const settings: Pick<Case, "bench" | "unit" | "warmup"> = {
    ...{ bench: "path", unit: "ns/op", warmup: 2 },
  };
  try {
    report(await measure({ ...settings, case: "path", tegula: path }));
    for (const [name, setup] of CASES) {
      const other = await Contestant.start(setup);
      try {
        const tegula = () => other.run();
        report(await measure({ ...settings, case: name, tegula, peers: { path } }));
      } finally {
        other.end();
      }
    }
  } finally {
    first.end();
  }
}
