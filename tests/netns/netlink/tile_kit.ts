// SPDX-License-Identifier: Apache-2.0
/**
 * The netlink tile as `tile_test.ts` turns it: by its own hands, on a clock that stands still
 * with the machine, and a peer in a namespace to ask for.
 */

import assert from "node:assert/strict";
import { openHost } from "../../../ffi/host.ts";
import { heapView, type View } from "../../../ffi/region.ts";
import { FILTER_BYTES } from "../../../ffi/shared.ts";
import { openTile } from "../../../ffi/tile.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { SOLICIT_LINK_BYTES, SolicitProducer } from "../../../tiles/net/arp_queue.ts";
import { create } from "../../../tiles/netlink/tile.ts";
import type { NetlinkSetup } from "../../../tiles/runtime/wiring.ts";
import { CONTROL_BYTES, ControlWriter, SNAPSHOT_BYTES } from "../../../tiles/runtime/control.ts";
import { NETLINK } from "../../../tiles/runtime/counters.ts";
import { type Tile, TILE_REGION_BYTES, TileRegion } from "../../../tiles/runtime/tile.ts";
import { cleanSlate, indexOf, ip, ipBatch, library, tryIp } from "./kit.ts";

const tileLibrary = openTile();

/** How long anything may take, on a busy machine. */
const PATIENCE_MILLIS = 30_000;
/** The most by which the clock advances while nobody looks at it. */
const STEP_MILLIS = 50;

/**
 * The clock of this process, for the tile as for the test: it stands still with the machine, so that a
 * tile that is not let run for a second has no second less in which to do something.
 */
export const { now: realNow } = performance;
let [shown, looked] = Array(2).fill(realNow.call(performance));
performance.now = () => {
  const now = realNow.call(performance);
  shown += Math.min(now - looked, STEP_MILLIS);
  looked = now;
  return shown;
};

/** A net tile as the netlink tile sees it: it sleeps when the test says so, and notes if it is woken. */
export class Sleeper {
  readonly view = heapView(TILE_REGION_BYTES);
  readonly region = new TileRegion(this.view);
  readonly eventfd = openHost().eventfd();

  /** Whether it was woken since this was last asked. */
  get woken(): boolean {
    return tileLibrary.wait(this.eventfd, 0) === 1;
  }
}

/** A netlink tile whose loop is the test's, with `links` solicit links, that wakes `sleepers`. */
export class Bench implements Disposable {
  readonly reader: NetbaseReader;
  readonly solicits: readonly SolicitProducer[];
  readonly filter: View;
  readonly control: ControlWriter;
  readonly log: string[] = [];
  readonly ifindex = indexOf("v0");
  readonly tile: Tile;
  readonly #region = new TileRegion(heapView(TILE_REGION_BYTES));

  constructor(
    {
      links = 1,
      netbase = heapView(NETBASE_BYTES),
      filter = heapView(FILTER_BYTES),
      sleepers = [],
      isBeside = false,
    }: {
      links?: number;
      netbase?: View;
      filter?: View;
      sleepers?: readonly Sleeper[];
      /** Whether its appliance waits for its turn beside another. */
      isBeside?: boolean;
    } = {},
  ) {
    const control = heapView(CONTROL_BYTES);
    this.filter = filter;
    this.control = new ControlWriter(control);
    if (!isBeside) this.control.serve();
    const views = Array.from({ length: links }, () => heapView(SOLICIT_LINK_BYTES));
    this.solicits = views.map((view) => new SolicitProducer(view));
    this.tile = this.#create({
      netbase,
      readers: [],
      solicits: views,
      filters: [{ ifindex: this.ifindex, view: this.filter }],
      ports: [7],
      packetTimes: false,
      eventfd: -1,
      wakes: sleepers.map(({ view, eventfd }) => ({ tile: view, eventfd })),
      control,
      snapshot: heapView(SNAPSHOT_BYTES),
    });
    this.reader = new NetbaseReader(netbase);
  }

  #create(setup: NetlinkSetup): Tile {
    return create({
      setup,
      region: this.#region,
      libraries: { tile: tileLibrary, netlink: library },
      log: (line) => this.log.push(line),
      ask: () => {},
    });
  }

  counter(name: keyof typeof NETLINK.index): number {
    this.tile.housekeeping?.(performance.now());
    return this.#region.counters[NETLINK.index[name]];
  }

  /** One turn as the loop makes it. */
  turn(): number {
    const work = this.tile.turn();
    const now = performance.now();
    this.tile.clock?.(now);
    this.tile.housekeeping?.(now);
    return work;
  }

  /** Turns until `condition` holds. */
  until(condition: () => boolean, { idle = () => {} } = {}): void {
    const end = performance.now() + PATIENCE_MILLIS;
    while (!condition()) {
      assert.ok(performance.now() < end, `not within ${PATIENCE_MILLIS} ms; log: ${this.log}`);
      idle();
      if (this.turn() === 0) this.tile.wait(1);
    }
  }

  /** Turns for a while. */
  during(millis: number, each: () => void): void {
    const end = performance.now() + millis;
    this.until(() => performance.now() >= end, { idle: each });
  }

  ask(address: number, link = 0): void {
    this.solicits[link].push(this.ifindex, address);
    this.solicits[link].publish();
  }

  isKnown(address: number): boolean {
    return this.reader.neighbors.lookup(this.ifindex, address) >= 0;
  }

  [Symbol.dispose](): void {
    this.tile.close?.();
  }
}

/** v0 here, and a namespace `peer` on its other end that has `addresses`. */
export function withPeer(addresses: readonly string[], prefixLength = 16): void {
  cleanSlate();
  tryIp("netns del peer");
  ip("netns add peer");
  ip("link add v0 type veth peer name v1 netns peer");
  ipBatch(["link set v0 up", `addr add 198.18.0.2/${prefixLength} dev v0`]);
  ip("-n peer link set v1 up");
  for (const address of addresses) ip(`-n peer addr add ${address}/${prefixLength} dev v1`);
}

/** Entries of the kernel's neighbour table on v0, but for those it makes itself for groups. */
export function kernelEntries(): number {
  const entries = JSON.parse(ip("-j neigh show dev v0 nud all")) as { state: string[] }[];
  return entries.filter(({ state }) => !state.includes("NOARP")).length;
}
