// SPDX-License-Identifier: Apache-2.0
/**
 * `solicit`: the effects of a flood of made-up addresses, ten million a second from one net tile, on the netlink tile and on
 * those that it serves meanwhile. On the real kernel, in namespaces of its own.
 *
 *     v0 198.18.0.1/15 ───── v1 in namespace `peer`, which has a few addresses of that prefix
 *
 * The flood is random over a /8, of which 198.18.0.0/15 is on-link; nothing is sent for the rest. Times are from a
 * request, or a change in the kernel, until a reader of netbase sees the result; `quiet` is without a flood. `twice`
 * are addresses that are requested again after 300 ms, and again until they answer, timed from the second request.
 */

import { fileURLToPath } from "node:url";
import { openHost } from "../ffi/host.ts";
import { heapView, openRegions } from "../ffi/region.ts";
import { FILTER_BYTES } from "../ffi/shared.ts";
import { openNetlink } from "../ffi/sockets.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { formatAddress } from "../netbase/route.ts";
import { SOLICIT_LINK_BYTES } from "../tiles/net/arp_queue.ts";
import { neighborTablePoll } from "../tiles/netlink/neighbor_resolver.ts";
import { Dumper } from "../tiles/netlink/rtnetlink.ts";
import { NETLINK } from "../tiles/runtime/counters.ts";
import { TILE_REGION_BYTES, TileReader } from "../tiles/runtime/tile.ts";
import { type Report, resultOf, type Selection, TEGULA, type Unit } from "./harness.ts";
import { inLaboratory, runInLaboratory } from "./laboratory.ts";
import { percentile, startTile } from "./mirror_change.ts";
import { ip } from "./mirror_kernel.ts";
import { pss } from "./mirror_memory.ts";
import type { LoadOrder, LoadResult, LoadStart, ProbeName } from "./solicit_load.ts";
import { createRegion } from "../tests/region.ts";

const RUNS = 7;
/** Rounds after which reused memory has been touched. */
const WARM = 5;
const QUIET_MILLIS = 1_500;
const FLOOD_MILLIS = 4_000;
const RATE = 10_000_000;
const LOOK_MILLIS = 50;
const SLASH_EIGHT = { first: 0xc6000000, bits: 24 };
const OWN = 0xc6120001;
const PEER = 0xc6130001;
/** The peer's addresses that are requested twice, 198.19.8.0/21. */
const STRANGERS = { first: 0xc6130800, count: 2048 };
const TURNS = [PEER + 200, PEER + 201] as const;
const [GATEWAY, KNOWN, CLIENT] = [PEER + 100, PEER + 101, PEER + 102];

/** Runs the benchmark in namespaces of its own. */
export function run(report: Report, selection: Selection): Promise<void> {
  return runInLaboratory(fileURLToPath(import.meta.url), report, selection);
}

interface Round extends LoadResult {
  readonly millis: number;
  /** Messages that the tile read, and requests to the kernel. */
  readonly taken: number;
  readonly sent: number;
  /** The largest number of entries in the kernel's table. */
  readonly entries: number;
}

async function inside(report: Report): Promise<void> {
  const load = await Bench.open();
  const quiet: Round[] = [];
  const flood: Round[] = [];
  const before = pss(Deno.pid);
  let warm = before;
  for (let i = 0; i < RUNS; i++) {
    quiet.push(await load.run({ millis: QUIET_MILLIS, rate: 0, ...SLASH_EIGHT }));
    flood.push(await load.run({ millis: FLOOD_MILLIS, rate: RATE, ...SLASH_EIGHT }));
    if (i === WARM - 1) warm = pss(Deno.pid);
  }
  const grown = pss(Deno.pid) - warm;
  const tell = (
    name: string,
    unit: Unit,
    figures: number[],
    peers: Record<string, number[]> = {},
  ) =>
    report(resultOf(
      { bench: "solicit", case: name, unit },
      new Map([[TEGULA, figures], ...Object.entries(peers)]),
    ));
  const rate = (rounds: Round[], count: (round: Round) => number) =>
    rounds.map((round) => count(round) / round.millis * 1000);
  tell("taken", "events/s", rate(flood, ({ taken }) => taken), {
    offered: rate(flood, ({ offered }) => offered),
  });
  tell("asked of the kernel", "events/s", rate(flood, ({ sent }) => sent));
  const nanos = (rounds: Round[], name: ProbeName, percent: number) =>
    rounds.map(({ times }) => Math.round(percentile(times[name], percent) * 1e6));
  for (const name of ["event", "client", "gateway", "known"] as const) {
    for (const percent of [50, 99]) {
      tell(`${name} p${percent}`, "ns/op", nanos(flood, name, percent), {
        quiet: nanos(quiet, name, percent),
      });
    }
  }
  // Without a flood the first request is enough.
  for (const percent of [50, 90]) {
    tell(`twice p${percent}`, "ns/op", nanos(flood, "twice", percent));
  }
  tell("kernel entries", "entries", flood.map(({ entries }) => entries), {
    quiet: quiet.map(({ entries }) => entries),
  });
  tell("memory of the first floods", "MiB", [warm - before]);
  tell("memory of further floods", "MiB", [grown]);
}

class Bench {
  readonly #worker: Worker;
  readonly #tile: TileReader;
  /** The largest number of entries in the kernel's table, over all namespaces, since it was 0. */
  #entries = 0;
  readonly #dumper = new Dumper(openNetlink());
  readonly #pollTable = neighborTablePoll(
    this.#dumper,
    ({ entries }) => this.#entries = Math.max(this.#entries, entries),
  );

  private constructor(worker: Worker, tile: TileReader) {
    this.#worker = worker;
    this.#tile = tile;
  }

  static async open(): Promise<Bench> {
    const ifindex = layLinks();
    const eventfd = openHost().eventfd();
    const netbase = createRegion(openRegions(), "netbase", NETBASE_BYTES);
    const [link, tile] = [heapView(SOLICIT_LINK_BYTES), heapView(TILE_REGION_BYTES)];
    await startTile({
      ...{ netbase: netbase.writer, eventfd, region: tile, solicits: [link] },
      filters: [{ ifindex, view: heapView(FILTER_BYTES) }],
    });
    const worker = new Worker(new URL("solicit_load.ts", import.meta.url), { type: "module" });
    const start: LoadStart = {
      ...{ link, netbase: netbase.reader, tile, eventfd, ifindex, strangers: STRANGERS },
      ...{ turns: TURNS, gateway: GATEWAY, known: KNOWN, client: CLIENT },
    };
    worker.postMessage(start);
    return new Bench(worker, new TileReader(tile));
  }

  async run(order: LoadOrder): Promise<Round> {
    const before = this.#counts();
    const { promise, resolve, reject } = Promise.withResolvers<LoadResult>();
    this.#worker.onmessage = ({ data }) => resolve(data);
    this.#worker.onerror = (event) => reject(new Error(event.message));
    this.#entries = 0;
    const look = setInterval(() => {
      this.#pollTable(performance.now(), { busy: true });
      while (this.#dumper.turn() > 0);
    }, LOOK_MILLIS);
    this.#worker.postMessage(order);
    const result = await promise;
    clearInterval(look);
    const after = this.#counts();
    return {
      ...result,
      ...{ millis: order.millis, entries: this.#entries },
      ...{ taken: after.taken - before.taken, sent: after.sent - before.sent },
    };
  }

  #counts(): { taken: number; sent: number } {
    const { counters } = this.#tile;
    const { solicits_received, solicits_sent } = NETLINK.index;
    return { taken: counters[solicits_received], sent: counters[solicits_sent] };
  }
}

/** Makes the links and the peer, and returns the index of v0. */
function layLinks(): number {
  ip("netns add peer");
  ip("link add v0 type veth peer name v1 netns peer");
  ip(`addr add ${formatAddress(OWN)}/15 dev v0`);
  ip("-n peer link set v1 up");
  ip("link set v0 up");
  for (const own of [PEER, GATEWAY, KNOWN]) ip(`-n peer addr add ${formatAddress(own)}/15 dev v1`);
  ip("-n peer link set lo up");
  ip(`-n peer route add local ${formatAddress(STRANGERS.first)}/21 dev lo`);
  const [{ address }] = JSON.parse(ip("-n peer -j link show dev v1")) as { address: string }[];
  ip(`neigh add ${formatAddress(KNOWN)} lladdr ${address} dev v0 nud stale`);
  ip(`route add 192.0.2.0/24 via ${formatAddress(GATEWAY)}`);
  // The kernel probes a used STALE neighbour at once, so that only the tile is measured.
  Deno.writeTextFileSync("/proc/sys/net/ipv4/neigh/v0/delay_first_probe_time", "0");
  return (JSON.parse(ip("-j link show dev v0")) as { ifindex: number }[])[0].ifindex;
}

if (import.meta.main) await inLaboratory(inside);
