// SPDX-License-Identifier: Apache-2.0
/**
 * The latency of one changed route: from the request to the kernel until a lookup finds the new gateway. The netlink
 * tile runs in its own thread as in the appliance, and sleeps between changes. At full rate one `ip -batch` after
 * another keeps it and the kernel busy.
 */

import { openHost } from "../ffi/host.ts";
import { openRegions } from "../ffi/region.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import { NLM_F_REPLACE } from "../netbase/route.ts";
import * as nl from "../tiles/netlink/rtnetlink.ts";
import { MessageWriter } from "../tiles/netlink/rtnetlink.ts";
import { median, type Report } from "./harness.ts";
import { type Batch, GATEWAY } from "./mirror_kernel.ts";
import type { TileStart } from "./mirror_tile.ts";
import { Random } from "./routes.ts";
import { createRegion } from "../tests/region.ts";

/** The prefix that changes, 203.0.113.0/24, and an address under it. */
const DESTINATION = 0xcb007100;
const PREFIX_LENGTH = 24;
const PROBE = DESTINATION + 7;
const QUIET_CHANGES = 1000;
const RUNS = 5;
const LOADED_MILLIS = 10_000;
const BUSY_LOOK_MILLIS = 0.1;
/** Pause between two changes, so that the tile sleeps: the least, and a random addition. */
const REST_MILLIS = 1;
const PATIENCE_MILLIS = 10_000;
/** The reported percentiles of each run. */
const PERCENTILES = [50, 99];
const [QUIET, BUSY] = ["change latency", "change latency busy"];
/** Names of all cases here. */
export const CHANGE_CASES = [QUIET, BUSY].flatMap((name) =>
  PERCENTILES.map((p) => `${name} p${p}`)
);

/** The changes, and the load of the kernel meanwhile. */
export interface ChangeSetup {
  readonly ifindex: number;
  readonly batches: readonly [Batch, Batch];
}

/** Measures the latency of changes, quiet and at full rate. */
export async function measureChanges(report: Report, setup: ChangeSetup): Promise<void> {
  const region = createRegion(openRegions(), "netbase", NETBASE_BYTES);
  const eventfd = openHost().eventfd();
  const worker = await startTile({ netbase: region.writer, eventfd });
  const changes = new Changes(setup.ifindex, new NetbaseReader(region.reader));
  changes.once();

  const quiet = Array.from({ length: RUNS }, () => changes.many(QUIET_CHANGES));
  tell(report, QUIET, quiet);
  const loaded: number[] = [];
  const end = performance.now() + LOADED_MILLIS;
  for (let i = 0; performance.now() < end; i++) {
    let busy = true;
    const ended = setup.batches[i & 1].start().finally(() => busy = false);
    while (busy) {
      loaded.push(changes.once({ restMillis: BUSY_LOOK_MILLIS }));
      await nextTask();
    }
    await ended;
  }
  tell(report, BUSY, [loaded]);
  worker.terminate();
}

/** The netlink tile in a worker, once it has made its first copy. */
export async function startTile(start: TileStart): Promise<Worker> {
  const worker = new Worker(new URL("mirror_tile.ts", import.meta.url), { type: "module" });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  worker.onmessage = () => resolve();
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(start);
  await promise;
  return worker;
}

/** Reports percentiles of the latencies, in nanoseconds. */
function tell(report: Report, name: string, runs: readonly number[][]): void {
  for (const percent of PERCENTILES) {
    const figures = runs.map((run) => percentile(run, percent) * 1e6);
    const middle = median(figures);
    report({
      bench: "mirror",
      case: `${name} p${percent}`,
      unit: "ns/op",
      tegula: Math.round(middle),
      ...{ peers: {}, ratio: {}, ratioLow: {}, ratioHigh: {} },
      runs: figures.length,
      spread: Number(((Math.max(...figures) - Math.min(...figures)) / middle).toFixed(2)),
    });
  }
}

export function percentile(figures: readonly number[], percent: number): number {
  const sorted = figures.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * percent / 100))];
}

/** Lets the event loop see that a process has ended. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Changes one route again and again. */
class Changes {
  readonly #library = openNetlink();
  readonly #socket = this.#library.open({ groups: [], receiveBuffer: 1 << 16, strict: false });
  readonly #writer = new MessageWriter();
  readonly #random = new Random(7);
  readonly #rest = new Int32Array(new SharedArrayBuffer(4));
  readonly #ifindex: number;
  readonly #reader: NetbaseReader;
  #count = 0;

  constructor(ifindex: number, reader: NetbaseReader) {
    this.#ifindex = ifindex;
    this.#reader = reader;
  }

  /** Makes `count` changes with pauses. Returns the milliseconds of each. */
  many(count: number): number[] {
    return Array.from({ length: count }, () => {
      Atomics.wait(this.#rest, 0, 0, REST_MILLIS + this.#random.below(1000) / 1000);
      return this.once();
    });
  }

  /**
   * Makes one change. Returns the milliseconds until a reader sees it. The reader polls without a pause, or with
   * pauses if the processor is needed.
   */
  once({ restMillis = 0 } = {}): number {
    const gateway = GATEWAY + ++this.#count % 2;
    const length = this.#write(gateway);
    const begin = performance.now();
    if (this.#library.send(this.#socket, this.#writer.bytes, length) !== length) {
      throw new Error("the kernel did not take the route");
    }
    for (;;) {
      this.#reader.refresh();
      const id = this.#reader.fib.lookup(PROBE);
      const now = performance.now();
      if (this.#reader.nextHops.gateway(id) === gateway) return now - begin;
      if (now - begin > PATIENCE_MILLIS) throw new Error("the change was never seen");
      if (restMillis > 0) Atomics.wait(this.#rest, 0, 0, restMillis);
    }
  }

  #write(gateway: number): number {
    const flags = nl.NLM_F_REQUEST | nl.NLM_F_CREATE | NLM_F_REPLACE;
    const writer = this.#writer.begin({ type: nl.RTM_NEWROUTE, flags });
    // struct rtmsg: family, lengths, tos; table main, protocol boot, scope universe, unicast; flags.
    writer.u8(nl.AF_INET).u8(PREFIX_LENGTH).u8(0).u8(0).u8(254).u8(3).u8(0).u8(1).u32(0);
    writer.address(nl.RTA_DST, DESTINATION).word(nl.RTA_OIF, this.#ifindex);
    return writer.address(nl.RTA_GATEWAY, gateway).finish();
  }
}
