// SPDX-License-Identifier: Apache-2.0
/** When neighbours are marked "refresh wanted", in made-up time. */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { NETBASE_BYTES } from "../../../netbase/layout.ts";
import {
  NUD_DELAY,
  NUD_NONE,
  NUD_PERMANENT,
  NUD_REACHABLE,
  NUD_STALE,
} from "../../../netbase/neighbors.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import { NeighborAgeing } from "../../../tiles/netlink/neighbor_resolver.ts";
import { NTF_EXT_LEARNED } from "../../../tiles/netlink/rtnetlink.ts";

const IFINDEX = 3;

/** A neighbour table with a watch over it. */
class World {
  readonly #region = heapView(NETBASE_BYTES);
  readonly #writer = new NetbaseWriter(this.#region, { readers: [], seed: 1 });
  readonly #view = new NetbaseReader(this.#region);
  readonly ageing = new NeighborAgeing(this.#writer.neighbors);

  report(address: number, state: number, { now = 0, confirmedMillis = 0, flags = 0 } = {}): void {
    const entry = { ifindex: IFINDEX, address, state, flags, macHead: 1, macTail: 1 };
    this.#writer.neighbors.set(entry);
    this.ageing.neighborChanged({ ...entry, confirmedMillis }, now);
  }

  isMarked(address: number): boolean {
    return this.#view.neighbors.refreshWanted(this.#view.neighbors.find(IFINDEX, address));
  }

  /** The first moment, to a tenth of a second, at which `address` is marked. */
  markedAt(address: number, { from = 0, until = 100_000 } = {}): number {
    for (let now = from; now <= until; now += 100) {
      this.ageing.turn(now);
      if (this.isMarked(address)) return now;
    }
    return -1;
  }

  setTimes(ifindex: number, reachableMillis: number, delayProbeMillis: number): void {
    this.ageing.setTimes({ ifindex, reachableMillis, delayProbeMillis });
  }
}

Deno.test("a reachable neighbour is marked within the last moments of its confirmation", () => {
  const world = new World();
  world.report(5, NUD_REACHABLE);
  const at = world.markedAt(5);
  assert.ok(at > 25_000 && at < 30_000, `${at}`);
});

Deno.test("the kernel's own times count, those of the interface before the defaults", () => {
  const world = new World();
  world.setTimes(0, 20_000, 5_000);
  world.report(5, NUD_REACHABLE);
  assert.equal(world.markedAt(5), 17_000);
  world.setTimes(IFINDEX, 10_000, 1_000);
  world.report(6, NUD_REACHABLE, { now: 17_000 });
  assert.equal(world.markedAt(6, { from: 17_000 }), 17_000 + 9_400);
});

Deno.test("what gets the index of an interface that went does not get its times", () => {
  const world = new World();
  world.setTimes(IFINDEX, 10_000, 1_000);
  world.ageing.keepInterfaces(new Set([IFINDEX]));
  world.report(5, NUD_REACHABLE);
  assert.equal(world.markedAt(5), 9_400);
  world.ageing.keepInterfaces(new Set());
  world.report(6, NUD_REACHABLE, { now: 9_400 });
  assert.equal(world.markedAt(6, { from: 9_400 }), 9_400 + 27_000);
});

Deno.test("what a dump finds confirmed some time ago is marked so much sooner", () => {
  const world = new World();
  world.report(5, NUD_REACHABLE, { confirmedMillis: 20_000 });
  assert.equal(world.markedAt(5), 7_000);
});

Deno.test("a neighbour confirmed anew is marked after that confirmation, not the first", () => {
  const world = new World();
  world.report(5, NUD_REACHABLE);
  world.ageing.turn(20_000);
  world.report(5, NUD_REACHABLE, { now: 20_000 });
  assert.equal(world.markedAt(5, { from: 20_000 }), 47_000);
});

Deno.test("a stale neighbour is marked at once; one that is asked, permanent, kept or gone never", () => {
  const world = new World();
  world.report(5, NUD_STALE);
  assert.ok(world.isMarked(5));
  world.report(6, NUD_REACHABLE);
  world.report(6, NUD_DELAY, { now: 1_000 });
  world.report(7, NUD_PERMANENT);
  world.report(9, NUD_STALE, { flags: NTF_EXT_LEARNED });
  world.report(8, NUD_REACHABLE);
  world.report(8, NUD_NONE);
  assert.deepEqual([6, 7, 8, 9].map((address) => world.markedAt(address)), [-1, -1, -1, -1]);
});

Deno.test("nextDue() says when the next one is to be marked", () => {
  const world = new World();
  assert.equal(world.ageing.nextDue(0), -1);
  world.report(5, NUD_REACHABLE);
  assert.equal(world.ageing.nextDue(0), 27_000);
  assert.equal(world.ageing.turn(27_000), 1);
  assert.equal(world.ageing.nextDue(27_000), -1);
});

Deno.test("after a long pause everything whose time has come is marked", () => {
  const world = new World();
  for (let i = 1; i <= 100; i++) world.report(i, NUD_REACHABLE, { confirmedMillis: i * 100 });
  assert.equal(world.ageing.turn(1_000_000), 100);
});
