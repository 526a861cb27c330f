// SPDX-License-Identifier: Apache-2.0
/**
 * The netlink tile mirrors the kernel's network state into netbase, keeps the XDP filters equal to
 * it, and has the kernel resolve the neighbours that net tiles need. It moves no packets.
 */

import { pollSet } from "../../ffi/library.ts";
import type { View } from "../../ffi/region.ts";
import type { NetlinkLibrary } from "../../ffi/sockets.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NEIGHBORS, Sync } from "../../netbase/layout.ts";
import { NUD_PERMANENT } from "../../netbase/neighbors.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import type { Reader } from "../../netbase/rcu.ts";
import { ControlReader } from "../runtime/control.ts";
import { NETLINK } from "../runtime/counters.ts";
import { Life, type Tile, type TileContext, TileReader, Waker } from "../runtime/tile.ts";
import { Audit } from "./audit.ts";
import { answerer } from "./entries.ts";
import { Mirror } from "./mirror.ts";
import {
  NeighborAgeing,
  type NeighborKernel,
  NeighborResolver,
  NeighborSocket,
  neighborTablePoll,
  SolicitReceiver,
} from "./neighbor_resolver.ts";
import { type NeighborMessage, type NeighborTableMessage, NTF_EXT_LEARNED } from "./rtnetlink.ts";
import type { NeighborListener } from "./tables.ts";
import { filterUpdater, type InterfaceFilter } from "./xdp_filter.ts";

export interface NetlinkSetup {
  /** Netbase, writable. */
  readonly netbase: View;
  /** Tile regions of all net tiles, which read it. */
  readonly readers: readonly View[];
  /** Their solicit links. */
  readonly solicits: readonly View[];
  /** The XDP programs' filters, by interface. */
  readonly filters: readonly InterfaceFilter[];
  readonly ports: readonly number[];
  readonly eventfd: number;
  /** Net tiles to wake when netbase changes: their ARP queues may wait for that. */
  readonly wakes: readonly { readonly tile: View; readonly eventfd: number }[];
  /** The control region, with requests of the status tile, and the region for answers. */
  readonly control: View;
  readonly snapshot: View;
}

/** Makes the tile; returns when netbase holds the first full copy of the kernel's state. */
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
  /** None until this appliance serves: until then its predecessor writes them. */
  #updateFilters: () => boolean;
  #serves = false;
  readonly #control: ControlReader;
  readonly #ageing: NeighborAgeing;
  readonly #pollTable: ReturnType<typeof neighborTablePoll>;
  readonly #neighborSocket: NeighborSocket;
  readonly #receivers: readonly SolicitReceiver[];
  readonly #audit: Audit;
  readonly #answerer: ReturnType<typeof answerer>;
  readonly #wakers: readonly Waker[];
  readonly #pollSet: Int32Array<ArrayBuffer>;
  /** Interfaces that packets leave by: the attached ones, and VLAN devices on them. */
  #followed: ReadonlySet<number>;
  #now = performance.now();
  /** Since when the mirror is not in sync; undefined: it is. */
  #unsyncedSince?: number;
  /** How many neighbours the kernel had refused when that was read last, and whether it was more than before. */
  #refused = -1;
  #refuses = false;
  /** The generation for which net tiles were woken last. */
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
    this.#ageing = new NeighborAgeing(this.#writer.neighbors);
    this.#control = new ControlReader(setup.control);
    this.#updateFilters = this.#filtersOf([]);
    this.#mirror = new Mirror({
      library: this.#library,
      writer: this.#writer,
      neighborsOf: this.#followed,
      neighbors: this,
      log,
    });
    const { dumper, routes: { gateways } } = this.#mirror;
    this.#pollTable = neighborTablePoll(dumper, (table) => this.#tableRead(table));
    const socket = this.#neighborSocket = new NeighborSocket(this.#library, log);
    const kernel: NeighborKernel = {
      solicit: (ifindex, address) => socket.solicit(ifindex, address),
      // A dead gateway's entry stays: it makes routes take another (`netbase/netbase.ts`).
      release: (ifindex, address) =>
        gateways.has(ifindex, address) || socket.release(ifindex, address),
    };
    const { counters } = region;
    const sharers = setup.solicits.length;
    this.#receivers = setup.solicits.map((link) =>
      new SolicitReceiver(
        link,
        new NeighborResolver(kernel, { counters, random: Math.random, seed, sharers }),
        {
          ...{ reader: this.#reader, gateways, counters },
          isFollowed: (ifindex) => this.#followed.has(ifindex),
        },
      )
    );
    this.#audit = new Audit(this.#mirror, { counters, now: this.#now, log });
    this.#answerer = answerer({
      ...setup,
      rib: this.#writer.rib,
      reader: this.#reader,
      audit: this.#audit,
    });
    this.#wakers = setup.wakes.map(({ tile, eventfd }) =>
      new Waker(new TileReader(tile), () => libraries.tile.wake(eventfd))
    );
    const polled = [setup.eventfd, ...this.#mirror.descriptors, socket.descriptors[0]];
    this.#pollSet = pollSet(polled);
    this.descriptors = [...this.#mirror.descriptors, ...socket.descriptors];
  }

  #filtersOf(filters: readonly InterfaceFilter[]): () => boolean {
    const { setup: { ports }, log } = this.#context;
    return filterUpdater(filters, { interfaces: this.#writer.interfaces, ports, log });
  }

  /** Reads the first full copy; blocks. */
  start(): void {
    this.#context.libraries.tile.bePrompt(true);
    // The ageing times come before the first neighbour.
    this.#pollTable(this.#now, { busy: false });
    while (this.#mirror.dumper.turn() > 0);
    this.#mirror.sync();
    if (this.#updateFilters()) this.#followInterfaces();
    this.#mirror.settle();
    this.#gauge();
  }

  turn(): number {
    const now = this.#now = performance.now();
    let work = this.#mirror.turn(now);
    if (!this.#serves && this.#control.serves) {
      this.#serves = true;
      this.#updateFilters = this.#filtersOf(this.#context.setup.filters);
    }
    // Once this tile is to leave, they are its successor's.
    if (!this.#control.leaving && this.#updateFilters()) this.#followInterfaces();
    this.#announce();
    this.#pollTable(now, { busy: this.#receivers.some(({ resolver }) => resolver.busy) });
    this.#reader.refresh();
    for (const receiver of this.#receivers) work += receiver.turn(now);
    return work + this.#answerer.turn() + this.#audit.turn(now);
  }

  pending(): boolean {
    return (!this.#serves && this.#control.serves) || this.#answerer.isAsked() ||
      this.#receivers.some(({ pending }) => pending);
  }

  wait(timeoutMs: number): void {
    if (this.#library.wait(this.#pollSet, timeoutMs) <= 0) return;
    const { libraries, setup } = this.#context;
    libraries.tile.wait(setup.eventfd, 0);
    this.#neighborSocket.turn();
  }

  clock(nowMillis: number): void {
    if (this.#ageing.turn(nowMillis) > 0) this.#writer.commit();
  }

  nextDue(nowMillis: number): number {
    const dues = [
      this.#mirror.nextDue(nowMillis),
      this.#ageing.nextDue(nowMillis),
      this.#audit.nextDue(nowMillis),
      ...this.#receivers.map(({ resolver }) => resolver.nextDue(nowMillis)),
    ].filter((due) => due >= 0);
    return dues.length === 0 ? -1 : Math.min(...dues);
  }

  housekeeping(nowMillis: number): void {
    for (const { resolver } of this.#receivers) resolver.expire(nowMillis);
    this.#gauge();
  }

  close(): void {
    this.#mirror.close();
    this.#neighborSocket.close();
  }

  neighborChanged(neighbor: NeighborMessage): void {
    this.#ageing.neighborChanged(neighbor, this.#now);
    for (const { resolver } of this.#receivers) resolver.neighborChanged(neighbor, this.#now);
  }

  neighborRemoved(ifindex: number, address: number): void {
    this.#ageing.neighborRemoved(ifindex, address);
    for (const { resolver } of this.#receivers) {
      resolver.neighborRemoved({ ifindex, address }, this.#now);
    }
  }

  /** Wakes net tiles after a commit; the commit was a store before this load. */
  #announce(): void {
    if (this.#announced === this.#writer.generation) return;
    this.#announced = this.#writer.generation;
    for (const waker of this.#wakers) waker.published();
  }

  /** Unanswered solicits of all net tiles. */
  get #outstanding(): number {
    return this.#receivers.reduce((sum, { resolver }) => sum + resolver.outstanding, 0);
  }

  #tableRead(table: NeighborTableMessage): void {
    this.#ageing.setTimes(table);
    const { capacity, entries, refused } = table;
    if (refused >= 0) {
      this.#refuses = this.#refused >= 0 && refused !== this.#refused;
      this.#refused = refused;
    }
    if (capacity === 0 || entries < 0) return;
    const exempt = entries > capacity / 2 ? this.#exempt() : 0;
    const others = Math.max(0, entries - exempt - this.#outstanding);
    for (const { resolver } of this.#receivers) resolver.setTable({ others, capacity });
  }

  /** Neighbours that do not count for gc_thresh3 (neighbour.c, `exempt_from_gc`), as far as known. */
  #exempt(): number {
    let exempt = 0;
    this.#writer.neighbors.forEach(({ state, flags }) => {
      if (state === NUD_PERMANENT || (flags & NTF_EXT_LEARNED) !== 0) exempt++;
    });
    return exempt;
  }

  /** Interfaces have changed: one may be gone, a VLAN device may be new. */
  #followInterfaces(): void {
    const present = this.#writer.interfaces.all();
    this.#ageing.keepInterfaces(new Set(present.map(({ ifindex }) => ifindex)));
    const followed = new Set(this.#context.setup.filters.map(({ ifindex }) => ifindex));
    for (const { ifindex, link, vlanProtocol } of present) {
      if (vlanProtocol !== 0 && followed.has(link)) followed.add(ifindex);
    }
    if (followed.symmetricDifference(this.#followed).size === 0) return;
    this.#followed = followed;
    this.#mirror.followNeighborsOf(followed, this.#now);
  }

  /** Copies to the counters what is counted elsewhere. */
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
    if (this.#reader.syncState === Sync.synced) this.#unsyncedSince = undefined;
    else this.#unsyncedSince ??= performance.now();
    counters[index.unsynced_seconds] = this.#unsyncedSince === undefined
      ? 0
      : (performance.now() - this.#unsyncedSince) / 1000;
    counters[index.neighbor_table_full] = Number(this.#refuses || neighbors.size >= NEIGHBORS);
    counters[index.used_neighbors] = neighbors.size;
    counters[index.used_next_hops] = this.#writer.used.nextHops;
    counters[index.used_tbl8s] = this.#writer.used.tbl8s;
    counters[index.solicit_drop_overwritten] = this.#receivers.reduce(
      (sum, { lapped }) => sum + lapped,
      0,
    );
  }
}

/** A net tile as a reader of netbase; one that does not run holds nothing. */
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
