/**
 * The netlink tile: mirrors the kernel's network state into netbase, keeps the XDP filters to it,
 * and asks the kernel for the neighbours that net tiles need. It moves no packet.
 */

import { type NetlinkLibrary, pollSet } from "../../ffi/netlink.ts";
import type { View } from "../../ffi/view.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NUD_PERMANENT } from "../../netbase/neighbors.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import type { Reader } from "../../netbase/rcu.ts";
import { ControlReader } from "../runtime/control.ts";
import { NETLINK } from "../runtime/counters.ts";
import type { Tile, TileContext } from "../runtime/tile.ts";
import { Life, TileReader, Waker } from "../runtime/tile_region.ts";
import { Asker } from "./asker.ts";
import { Audit } from "./audit.ts";
import { type NeighborMessage, type NeighborTableMessage, NTF_EXT_LEARNED } from "./codec.ts";
import { type FilterPlace, Filters } from "./filters.ts";
import { Freshness } from "./freshness.ts";
import { Intake, type IntakeParts } from "./intake.ts";
import { Mirror } from "./mirror.ts";
import { NeighborTables } from "./neighbor_tables.ts";
import type { NeighborListener } from "./tables.ts";
import { Snapshots } from "./snapshots.ts";

/** What the netlink tile is made with. */
export interface NetlinkSetup {
  /** Netbase, writable. */
  readonly netbase: View;
  /** Regions of the tiles that read it, all net tiles. */
  readonly readers: readonly View[];
  /** Their solicit links. */
  readonly solicits: readonly View[];
  /** The XDP programs' filters, by interface. */
  readonly filters: readonly FilterPlace[];
  /** The ports that are served. */
  readonly ports: readonly number[];
  readonly eventfd: number;
  /** Net tiles that may sleep with datagrams that wait for what is published here. */
  readonly wakes: readonly { readonly tile: View; readonly eventfd: number }[];
  /** The control region, for what the status tile asks, and where the answers go. */
  readonly control: View;
  readonly snapshot: View;
}

/** Makes the tile; returns when netbase holds a first full copy of the kernel's state. */
export function create(context: TileContext<NetlinkSetup>): Tile {
  const tile = new NetlinkTile(context);
  tile.start();
  return tile;
}

class NetlinkTile implements Tile, NeighborListener {
  readonly descriptors: readonly number[];
  readonly #context: TileContext<NetlinkSetup>;
  readonly #library: NetlinkLibrary;
  readonly #counters: Float64Array;
  readonly #writer: NetbaseWriter;
  readonly #reader: NetbaseReader;
  readonly #mirror: Mirror;
  /** Of none until this appliance serves: its predecessor has them until then. */
  #filters: Filters;
  #serves = false;
  readonly #control: ControlReader;
  readonly #freshness: Freshness;
  readonly #asker: Asker;
  readonly #tables: NeighborTables;
  readonly #intakes: readonly Intake[];
  readonly #audit: Audit;
  readonly #snapshots: Snapshots;
  readonly #wakers: readonly Waker[];
  readonly #pollSet: Int32Array<ArrayBuffer>;
  /** Interfaces that packets leave by: the attached ones, and VLAN devices on them. */
  #followed: ReadonlySet<number>;
  #now = performance.now();
  /** The generation that sleeping net tiles were last woken for. */
  #announced = -1;

  constructor(context: TileContext<NetlinkSetup>) {
    const { setup, region, libraries, log } = context;
    if (libraries.netlink === undefined) throw new TypeError("the netlink library is not open");
    this.#context = context;
    this.#library = libraries.netlink;
    this.#counters = region.counters;
    this.#followed = new Set(setup.filters.map(({ ifindex }) => ifindex));
    const seed = randomSeed();
    this.#writer = new NetbaseWriter(setup.netbase, {
      readers: setup.readers.map(readerOf),
      seed,
      wait: () => this.#library.wait(pollSet([]), 1),
    });
    this.#reader = new NetbaseReader(setup.netbase);
    this.#freshness = new Freshness(this.#writer.neighbors);
    this.#control = new ControlReader(setup.control);
    this.#filters = this.#makeFilters([]);
    this.#mirror = new Mirror({
      library: this.#library,
      writer: this.#writer,
      neighborsOf: this.#followed,
      neighbors: this,
      log,
    });
    this.#asker = new Asker(this.#library, log);
    this.#tables = new NeighborTables(this.#mirror.dumper, (table) => this.#tableTold(table));
    const intake: IntakeParts = {
      ask: (ifindex, address) => this.#asker.ask(ifindex, address),
      // That a gateway is dead is to be known: routes have another way then (`netbase/route_decision.ts`).
      release: (ifindex, address) =>
        this.#mirror.routes.gateways.has(ifindex, address) || this.#asker.release(ifindex, address),
      reader: this.#reader,
      gateways: this.#mirror.routes.gateways,
      isFollowed: (ifindex) => this.#followed.has(ifindex),
      counters: this.#counters,
      random: Math.random,
      seed,
      sharers: setup.solicits.length,
    };
    this.#intakes = setup.solicits.map((link) => new Intake(link, intake));
    const { counters } = region;
    this.#audit = new Audit(this.#mirror, { counters, now: this.#now, log });
    this.#snapshots = new Snapshots({
      ...setup,
      rib: this.#writer.rib,
      reader: this.#reader,
      audit: this.#audit,
    });
    this.#wakers = setup.wakes.map(({ tile, eventfd }) =>
      new Waker(new TileReader(tile), () => libraries.tile.wake(eventfd))
    );
    const polled = [setup.eventfd, ...this.#mirror.descriptors, this.#asker.descriptors[0]];
    this.#pollSet = pollSet(polled);
    this.descriptors = [...this.#mirror.descriptors, ...this.#asker.descriptors];
  }

  #makeFilters(places: readonly FilterPlace[]): Filters {
    const { setup: { ports }, log } = this.#context;
    return new Filters(places, { interfaces: this.#writer.interfaces, ports, log });
  }

  /** Makes the first full copy; blocks. */
  start(): void {
    this.#library.bePrompt();
    // How long confirmations hold is known before there is anything to be kept confirmed.
    this.#tables.turn(this.#now, { asking: false });
    while (this.#mirror.dumper.turn() > 0);
    this.#mirror.sync();
    if (this.#filters.turn()) this.#followInterfaces();
    this.#mirror.settle();
    this.#gauge();
  }

  turn(): number {
    const now = this.#now = performance.now();
    let work = this.#mirror.turn(now);
    if (!this.#serves && this.#control.serves) {
      this.#serves = true;
      this.#filters = this.#makeFilters(this.#context.setup.filters);
    }
    if (this.#filters.turn()) this.#followInterfaces();
    this.#announce();
    this.#tables.turn(now, { asking: this.#intakes.some(({ solicitor }) => solicitor.busy) });
    this.#reader.refresh();
    for (const intake of this.#intakes) work += intake.turn(now);
    return work + this.#snapshots.turn() + this.#audit.turn(now);
  }

  pending(): boolean {
    return (!this.#serves && this.#control.serves) || this.#snapshots.pending ||
      this.#intakes.some((intake) => intake.pending);
  }

  wait(timeoutMs: number): void {
    if (this.#library.wait(this.#pollSet, timeoutMs) <= 0) return;
    const { libraries, setup } = this.#context;
    libraries.tile.wait(setup.eventfd, 0);
    this.#asker.turn();
  }

  clock(nowMillis: number): void {
    if (this.#freshness.turn(nowMillis) > 0) this.#writer.commit();
  }

  nextDue(nowMillis: number): number {
    const dues = [
      this.#mirror.nextDue(nowMillis),
      this.#freshness.nextDue(nowMillis),
      this.#audit.nextDue(nowMillis),
      ...this.#intakes.map(({ solicitor }) => solicitor.nextDue(nowMillis)),
    ].filter((due) => due >= 0);
    return dues.length === 0 ? -1 : Math.min(...dues);
  }

  housekeeping(nowMillis: number): void {
    for (const { solicitor } of this.#intakes) solicitor.expire(nowMillis);
    this.#gauge();
  }

  close(): void {
    this.#mirror.close();
    this.#asker.close();
  }

  neighborChanged(neighbor: NeighborMessage): void {
    this.#freshness.told(neighbor, this.#now);
    for (const { solicitor } of this.#intakes) solicitor.neighborTold(neighbor, this.#now);
  }

  neighborRemoved(ifindex: number, address: number): void {
    this.#freshness.gone(ifindex, address);
    for (const { solicitor } of this.#intakes) {
      solicitor.neighborGone({ ifindex, address }, this.#now);
    }
  }

  /** Wakes who may wait for what was published; publishing was a store before this load. */
  #announce(): void {
    if (this.#announced === this.#writer.generation) return;
    this.#announced = this.#writer.generation;
    for (const waker of this.#wakers) waker.published();
  }

  /** Neighbours that the kernel has been asked for and that have not answered yet. */
  get #outstanding(): number {
    return this.#intakes.reduce((sum, { solicitor }) => sum + solicitor.outstanding, 0);
  }

  #tableTold(table: NeighborTableMessage): void {
    this.#freshness.setTimes(table);
    const { capacity, entries } = table;
    if (capacity === 0 || entries < 0) return;
    const exempt = entries > capacity / 2 ? this.#exempt() : 0;
    const others = Math.max(0, entries - exempt - this.#outstanding);
    for (const { solicitor } of this.#intakes) solicitor.setTable({ others, capacity });
  }

  /** Neighbours that do not count for the kernel's limit (neighbour.c, `exempt_from_gc`), as far as known. */
  #exempt(): number {
    let exempt = 0;
    this.#writer.neighbors.forEach(({ state, flags }) => {
      if (state === NUD_PERMANENT || (flags & NTF_EXT_LEARNED) !== 0) exempt++;
    });
    return exempt;
  }

  /** Interfaces have changed: one may have gone for good, a VLAN device may have come. */
  #followInterfaces(): void {
    const present = this.#writer.interfaces.all();
    this.#freshness.keepInterfaces(new Set(present.map(({ ifindex }) => ifindex)));
    const followed = new Set(this.#context.setup.filters.map(({ ifindex }) => ifindex));
    for (const { ifindex, link, vlanProtocol } of present) {
      if (vlanProtocol !== 0 && followed.has(link)) followed.add(ifindex);
    }
    if (followed.symmetricDifference(this.#followed).size === 0) return;
    this.#followed = followed;
    this.#mirror.followNeighborsOf(followed, this.#now);
  }

  /** Puts into the counters what is counted or held elsewhere. */
  #gauge(): void {
    const { syncCounts, notices, events, overruns, malformedMessages } = this.#mirror;
    const { rib, interfaces, neighbors } = this.#writer;
    const { index } = NETLINK;
    const counters = this.#counters;
    counters[index.events] = events;
    counters[index.overruns] = overruns;
    counters[index.malformed_messages] = malformedMessages;
    counters[index.unsupported_messages] = notices.unsupported;
    counters[index.dumps] = syncCounts.dumps;
    counters[index.dumps_interrupted] = syncCounts.interrupted;
    counters[index.resyncs] = syncCounts.resyncs;
    counters[index.interfaces] = interfaces.size;
    counters[index.routes] = rib.size;
    counters[index.neighbors] = neighbors.size;
    counters[index.routes_overflowed] = this.#writer.overflow;
    counters[index.neighbors_overflowed] = neighbors.full;
    counters[index.solicit_drop_overwritten] = this.#intakes.reduce(
      (sum, { lapped }) => sum + lapped,
      0,
    );
  }
}

/** A net tile as a reader of netbase: one that has not begun, or has ended, holds nothing. */
function readerOf(view: View): Reader {
  const tile = new TileReader(view);
  return {
    get burst() {
      return tile.burst;
    },
    get asleep() {
      return tile.asleep || tile.life !== Life.running;
    },
  };
}
