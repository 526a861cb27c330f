// SPDX-License-Identifier: Apache-2.0
/**
 * The netlink tile mirrors the kernel's network state into netbase, keeps the XDP filters equal to it,
 * and makes the kernel resolve the neighbours that net tiles need. It forwards no packets.
 */

import { pollSet } from "../../ffi/library.ts";
import type { View } from "../../ffi/region.ts";
import { randomSeed } from "../../netbase/hash.ts";
import { NEIGHBORS, Sync } from "../../netbase/layout.ts";
import { NUD_PERMANENT } from "../../netbase/neighbors.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { NetbaseWriter } from "../../netbase/netbase_writer.ts";
import type { Reader } from "../../netbase/rcu.ts";
import { ControlReader } from "../runtime/control.ts";
import { NETLINK } from "../runtime/counters.ts";
import { Life, type Tile, type TileContext, TileReader, Waker } from "../runtime/tile.ts";
import type { NetlinkSetup } from "../runtime/wiring.ts";
import { makeAudit } from "./audit.ts";
import { answerer } from "./entries.ts";
import { Mirror } from "./mirror.ts";
import {
  NeighborAgeing,
  type NeighborKernel,
  NeighborResolver,
  neighborSocket,
  neighborTablePoll,
  solicitReceiver,
} from "./neighbor_resolver.ts";
import { type NeighborTableMessage, NTF_EXT_LEARNED } from "./rtnetlink.ts";
import { filterUpdater } from "./xdp_filter.ts";

/** Makes the tile; returns when netbase contains the first full copy of the kernel's state. */
export function create({ setup, region, libraries, log }: TileContext<NetlinkSetup>): Tile {
  const library = libraries.netlink!;
  const { counters } = region;
  const { index } = NETLINK;
  const attached = setup.filters.map(({ ifindex }) => ifindex);
  /** Interfaces by which packets leave: the attached ones, and VLAN devices on them. */
  let followed: ReadonlySet<number> = new Set(attached);
  let now = performance.now();

  const seed = randomSeed();
  const writer = new NetbaseWriter(setup.netbase, {
    readers: setup.readers.map(readerOf),
    seed,
    wait: () => library.wait(pollSet([]), 1),
  });
  const { rib, interfaces, neighbors } = writer;
  const reader = new NetbaseReader(setup.netbase);
  const ageing = new NeighborAgeing(neighbors);
  const mirror = new Mirror({
    ...{ library, writer, neighborsOf: followed, log },
    neighborChanged(neighbor) {
      ageing.neighborChanged(neighbor, now);
      for (const { resolver } of receivers) resolver.neighborChanged(neighbor, now);
    },
  });
  const { dumper, routes: { gateways } } = mirror;
  const pollTable = neighborTablePoll(dumper, tableRead);
  const socket = neighborSocket(library);
  const kernel: NeighborKernel = {
    solicit: socket.solicit,
    // A dead gateway's entry is kept: it makes routes use another (`netbase/netbase.ts`).
    release(ifindex, address) {
      if (!gateways.has(ifindex, address)) socket.release(ifindex, address);
    },
  };
  const sharers = setup.solicits.length;
  const receivers = setup.solicits.map((link) => {
    const resolver = new NeighborResolver(kernel, {
      ...{ counters, random: Math.random, seed, sharers },
    });
    const isFollowed = (ifindex: number) => followed.has(ifindex);
    return solicitReceiver(link, resolver, { reader, gateways, counters, isFollowed });
  });
  const audit = makeAudit(mirror, { counters, now, log });
  const requests = answerer({ ...setup, rib, reader, audit });
  const wakers = setup.wakes.map(({ tile, eventfd }) =>
    new Waker(new TileReader(tile), () => libraries.tile.wake(eventfd))
  );
  /** The generation for which net tiles were last woken. */
  let announced = -1;

  const control = new ControlReader(setup.control);
  let serves = false;
  const { ports, packetTimes } = setup;
  /** Until this appliance serves, its predecessor writes the filters, and this one does not. */
  let updateFilters = filterUpdater([], { interfaces, ports, packetTimes, log });

  /** When the mirror went out of sync; undefined: it is in sync. */
  let unsyncedSince: number | undefined;
  /** The kernel's count of refused neighbours when it was last read, and whether it had increased. */
  let refusedBefore = -1;
  let refuses = false;

  function tableRead(table: NeighborTableMessage): void {
    ageing.setTimes(table);
    const { capacity, entries, refused } = table;
    if (refused >= 0) {
      refuses = refusedBefore >= 0 && refused !== refusedBefore;
      refusedBefore = refused;
    }
    if (capacity === 0 || entries < 0) return;
    const exempt = entries > capacity / 2 ? countExempt() : 0;
    const outstanding = receivers.reduce((sum, { resolver }) => sum + resolver.outstanding, 0);
    const others = Math.max(0, entries - exempt - outstanding);
    for (const { resolver } of receivers) resolver.setTable({ others, capacity });
  }

  /** Neighbours that do not count for gc_thresh3 (neighbour.c, `exempt_from_gc`), as far as known. */
  function countExempt(): number {
    let exempt = 0;
    neighbors.forEach(({ state, flags }) => {
      if (state === NUD_PERMANENT || (flags & NTF_EXT_LEARNED) !== 0) exempt++;
    });
    return exempt;
  }

  /** Wakes net tiles after a commit; the commit was a store before this load. */
  function announce(): void {
    if (announced === writer.generation) return;
    announced = writer.generation;
    for (const waker of wakers) waker.published();
  }

  /** Called when interfaces have changed: one may be removed, a VLAN device may be new. */
  function followInterfaces(): void {
    const present = interfaces.all();
    ageing.keepInterfaces(new Set(present.map(({ ifindex }) => ifindex)));
    const all = new Set(attached);
    for (const { ifindex, link, vlanProtocol } of present) {
      if (vlanProtocol !== 0 && all.has(link)) all.add(ifindex);
    }
    if (all.symmetricDifference(followed).size === 0) return;
    followed = all;
    mirror.followNeighborsOf(all, now);
  }

  /** Copies counts from elsewhere to the counters. */
  function gauge(): void {
    const { syncCounts, notices, events, overruns, malformedMessages } = mirror;
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
    counters[index.routes_overflowed] = writer.fib.overflow;
    counters[index.neighbors_overflowed] = neighbors.full;
    const millis = performance.now();
    if (reader.syncState === Sync.synced) unsyncedSince = undefined;
    else unsyncedSince ??= millis;
    counters[index.unsynced_seconds] = (millis - (unsyncedSince ?? millis)) / 1000;
    counters[index.neighbor_table_full] = Number(refuses || neighbors.size >= NEIGHBORS);
    counters[index.used_neighbors] = neighbors.size;
    counters[index.used_next_hops] = writer.fib.used.nextHops;
    counters[index.used_tbl8s] = writer.fib.used.tbl8s;
    const lapped = receivers.reduce((sum, each) => sum + each.lapped(), 0);
    counters[index.solicit_drop_overwritten] = lapped;
  }

  libraries.tile.bePrompt(true);
  // The ageing times come before the first neighbour.
  pollTable(now, { busy: false });
  while (dumper.turn() > 0);
  mirror.sync();
  if (updateFilters()) followInterfaces();
  mirror.settle();
  gauge();

  const polled = pollSet([setup.eventfd, ...mirror.descriptors]);
  return {
    descriptors: [...mirror.descriptors, socket.fd],
    turn() {
      now = performance.now();
      let work = mirror.turn(now);
      if (!serves && control.serves) {
        serves = true;
        updateFilters = filterUpdater(setup.filters, { interfaces, ports, packetTimes, log });
      }
      // When this tile is about to leave, its successor writes them.
      if (!control.leaving && updateFilters()) followInterfaces();
      announce();
      pollTable(now, { busy: receivers.some(({ resolver }) => resolver.busy) });
      reader.refresh();
      for (const receiver of receivers) work += receiver.turn(now);
      return work + requests.turn() + audit.turn(now);
    },
    pending: () =>
      (!serves && control.serves) || requests.isAsked() ||
      receivers.some((each) => each.isPending()),
    wait(timeoutMs) {
      if (library.wait(polled, timeoutMs) > 0) libraries.tile.wait(setup.eventfd, 0);
    },
    clock(nowMillis) {
      if (ageing.turn(nowMillis) > 0) writer.commit();
    },
    nextDue(nowMillis) {
      const resolvers = receivers.map(({ resolver }) => resolver);
      const dues = [mirror, ageing, audit, ...resolvers].map((each) => each.nextDue(nowMillis))
        .filter((due) => due >= 0);
      return dues.length === 0 ? -1 : Math.min(...dues);
    },
    housekeeping: gauge,
    close() {
      mirror.close();
      socket.close();
    },
  };
}

/** A net tile as a reader of netbase. One that does not run holds no reference. */
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
