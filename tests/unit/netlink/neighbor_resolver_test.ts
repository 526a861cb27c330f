// SPDX-License-Identifier: Apache-2.0
/** Solicits in made-up time: who is asked for, in what order, how often, and how many at once. */

import assert from "node:assert/strict";
import { NUD_FAILED, NUD_REACHABLE } from "../../../netbase/neighbors.ts";
import {
  BackOff,
  DemandCounter,
  type NeighborKernel,
  NeighborResolver,
} from "../../../tiles/netlink/neighbor_resolver.ts";
import { NETLINK } from "../../../tiles/runtime/counters.ts";
import { TILE_COUNTERS } from "../../../tiles/runtime/tile.ts";
import fc from "../property.ts";

const IFINDEX = 70_000;
/** The kernel gives up on a neighbour after this long. */
const GIVES_UP_MILLIS = 3_000;

/** A resolver, its kernel and its clock. `answers` are the addresses that somebody has. */
class World {
  readonly asked: { address: number; at: number }[] = [];
  readonly released: number[] = [];
  readonly counters = new Float64Array(TILE_COUNTERS);
  readonly resolver: NeighborResolver;
  readonly #answers: ReadonlySet<number>;
  readonly #waiting = new Map<number, number>();
  now = 0;
  mostWaiting = 0;

  constructor({ answers = [] as readonly number[], sharers = 1 } = {}) {
    this.#answers = new Set(answers);
    const kernel: NeighborKernel = {
      solicit: (_ifindex, address) => {
        assert.ok(!this.#waiting.has(address), "asked for while it is being asked for");
        this.asked.push({ address, at: this.now });
        this.#waiting.set(address, this.now);
        this.mostWaiting = Math.max(this.mostWaiting, this.#waiting.size);
        return true;
      },
      release: (_ifindex, address) => {
        this.#waiting.delete(address);
        this.released.push(address);
      },
    };
    this.resolver = new NeighborResolver(kernel, {
      counters: this.counters,
      random: () => 0.5,
      seed: 1,
      sharers,
    });
  }

  want(address: number, { isGateway = false } = {}): void {
    this.resolver.resolve({ ifindex: IFINDEX, address, isGateway }, this.now);
  }

  /** Lets `millis` pass in steps, the kernel answering or giving up meanwhile. */
  pass(millis: number, { each = () => {}, step = 10 } = {}): void {
    for (const end = this.now + millis; this.now < end;) {
      this.now += step;
      each();
      for (const [address, since] of this.#waiting) {
        const answered = this.#answers.has(address);
        if (!answered && this.now - since < GIVES_UP_MILLIS) continue;
        this.#waiting.delete(address);
        const state = answered ? NUD_REACHABLE : NUD_FAILED;
        this.resolver.neighborChanged({ ifindex: IFINDEX, address, state }, this.now);
      }
      this.resolver.turn(this.now);
    }
  }

  /** Lets time pass as it does for a tile that sleeps until something is due; how often it wakes. */
  sleep(millis: number): number {
    let wakeups = 0;
    for (const end = this.now + millis; this.now < end; wakeups++) {
      const due = this.resolver.nextDue(this.now);
      this.pass(due < 0 ? 1_000 : due, { step: due < 0 ? 1_000 : due });
    }
    return wakeups;
  }

  addresses(): number[] {
    return this.asked.map(({ address }) => address);
  }
}

Deno.test("an address is asked for at once, and once however often it is wanted", () => {
  const world = new World({ answers: [1] });
  for (let i = 0; i < 100; i++) world.want(1);
  assert.equal(world.resolver.turn(0), 1);
  for (let i = 0; i < 100; i++) world.want(1);
  assert.equal(world.resolver.turn(0), 0);
  assert.equal(world.counters[NETLINK.index.solicit_drop_duplicate], 199);
});

Deno.test("gateways go first, then who is wanted twice, then the rest in order", () => {
  const world = new World();
  for (const address of [1, 2, 3, 4]) world.want(address);
  world.want(3);
  world.want(9, { isGateway: true });
  world.resolver.turn(0);
  assert.deepEqual(world.addresses(), [9, 3, 1, 2, 4]);
});

Deno.test("who was wanted a moment ago and is wanted again counts as wanted twice", () => {
  const world = new World();
  const flood = () => {
    for (let i = 0; i < 10; i++) world.want(1_000 + world.now * 10 + i);
  };
  world.pass(2_000, { each: flood });
  // The queue is full of such as are wanted once: the first request is lost, the second is not.
  world.want(7);
  assert.ok(!world.addresses().includes(7));
  world.pass(300, { each: flood });
  world.want(7);
  world.pass(100, { each: flood });
  assert.ok(world.addresses().includes(7));
});

Deno.test("what never answers is asked for ever more seldom, and its entry is given back", () => {
  const world = new World();
  world.pass(600_000, { each: () => world.want(5), step: 50 });
  const gaps = world.asked.slice(1).map(({ at }, i) => at - world.asked[i].at);
  assert.deepEqual(gaps.slice(0, 6).map((gap) => Math.round((gap - GIVES_UP_MILLIS) / 1000)), [
    1,
    2,
    4,
    8,
    16,
    32,
  ]);
  assert.ok(gaps.slice(6).every((gap) => Math.abs(gap - GIVES_UP_MILLIS - 60_000) < 1_000));
  assert.ok(world.released.length >= world.asked.length - 1);
});

Deno.test("a flood has no more than its share of the kernel's table waiting, whatever it wants", () => {
  const worlds = fc.record({
    capacity: fc.integer({ min: 64, max: 100_000 }),
    others: fc.integer({ min: 0, max: 100_000 }),
    sharers: fc.integer({ min: 1, max: 8 }),
    burst: fc.integer({ min: 1, max: 200 }),
    spread: fc.integer({ min: 1, max: 1 << 20 }),
  });
  fc.assert(
    fc.property(worlds, ({ capacity, others, sharers, burst, spread }) => {
      const world = new World({ sharers });
      world.resolver.setTable({ capacity, others });
      let state = 1;
      world.pass(2_000, {
        each: () => {
          for (let i = 0; i < burst; i++) {
            state = Math.imul(state, 1664525) + 1013904223 | 0;
            world.want((state >>> 8) % spread, { isGateway: state % 1000 === 0 });
          }
        },
      });
      const room = Math.min(capacity / 4, capacity / 2 - others) / sharers;
      assert.ok(world.mostWaiting <= Math.max(16, room), `${world.mostWaiting} of ${room}`);
    }),
    { numRuns: 40 },
  );
});

Deno.test("the kernel is asked for 256 at once, and for 1,000 a second after that, of all net tiles", () => {
  for (const sharers of [1, 4]) {
    const world = new World({ sharers });
    world.resolver.setTable({ capacity: 1_000_000, others: 0 });
    let next = 0;
    const flood = () => {
      for (let i = 0; i < 200; i++) world.want(next++);
    };
    flood();
    world.resolver.turn(0);
    world.pass(2_000, { each: flood, step: 1 });
    const most = 256 + 2_000 / sharers;
    const asked = world.asked.length;
    assert.ok(asked <= most && asked >= most - 5, `${asked} by one of ${sharers}, not ${most}`);
  }
});

Deno.test("four thousand clients that answer are all resolved within a second", () => {
  const clients = Array.from({ length: 4096 }, (_, i) => 100 + i);
  const world = new World({ answers: clients });
  world.resolver.setTable({ capacity: 16_384, others: 0 });
  const unknown = new Set(clients);
  world.pass(1_000, {
    each: () => {
      for (const address of unknown) world.want(address);
      for (const { address } of world.asked) unknown.delete(address);
    },
    step: 1,
  });
  assert.equal(new Set(world.addresses()).size, 4096);
});

Deno.test("strangers fill the kernel's table to its half, answered or not; then routers alone are asked for", () => {
  const strangers = Array.from({ length: 4096 }, (_, i) => 100 + i);
  const world = new World({ answers: [...strangers, 1, 2] });
  world.resolver.setTable({ capacity: 1024, others: 100 });
  const wantAll = () => {
    for (const address of strangers) world.want(address);
  };
  world.pass(400, { each: wantAll, step: 1 });
  assert.ok(world.asked.length > 400 && world.asked.length <= 413, `${world.asked.length}`);
  world.want(1, { isGateway: true });
  world.pass(20);
  assert.equal(world.asked.at(-1)?.address, 1);
  // Full by others' doing: one of those that come again between two looks.
  const before = world.asked.length;
  for (let looks = 0; looks < 4; looks++) {
    world.resolver.setTable({ capacity: 1024, others: 600 });
    world.pass(500, { each: () => world.want(2) });
  }
  const beyond = world.addresses().slice(before);
  assert.ok(beyond.includes(2) && beyond.length <= 4, `${beyond}`);
  const due = world.resolver.nextDue(world.now);
  assert.ok(due === -1 || due >= 100, `${due} ms`);
});

Deno.test("a known neighbour in use is asked for whatever waits, but not without end", () => {
  const world = new World();
  world.pass(1_000, { each: () => world.want(1_000 + world.now) });
  const before = world.asked.length;
  for (let i = 0; i < 50; i++) world.resolver.confirm(IFINDEX, 5, world.now);
  assert.equal(world.asked.length, before + 1);
});

Deno.test("where others wait for its place, who does not answer is given up soon", () => {
  const world = new World();
  const flood = () => {
    for (let i = 0; i < 20; i++) world.want(1_000 + world.now * 10 + i);
  };
  world.pass(5_000, { each: flood, step: 9.7 });
  const due = world.resolver.nextDue(world.now);
  assert.ok(Number.isInteger(due) && due > 0 && due <= 200, `${due} ms`);
  // A quarter of 256 places, each kept for 200 ms.
  assert.ok(world.asked.length > 1_000, `${world.asked.length} asked for`);
  assert.ok(world.mostWaiting <= 64);
  assert.equal(world.asked.length - world.released.length, world.resolver.outstanding);
});

Deno.test("who waits for room in the kernel's table wakes nobody for it but to look", () => {
  const world = new World();
  world.want(1);
  world.pass(400);
  world.resolver.setTable({ capacity: 1024, others: 600 });
  world.want(2);
  const wakeups = world.sleep(1_500);
  assert.ok(wakeups <= 7, `${wakeups} wake-ups`);
  assert.deepEqual(world.addresses(), [1]);
});

/** Random addresses of a /8, `perMilli` a millisecond. */
function slashEight(world: World, perMilli: number): () => void {
  let state = 7;
  return () => {
    for (let i = 0; i < perMilli * 10; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      world.want(0x0a000000 + (state >>> 8));
    }
  };
}

Deno.test("in a flood over a whole /8, who is wanted twice is asked for within a second", () => {
  const world = new World();
  const each = slashEight(world, 50);
  world.pass(2_000, { each });
  world.want(0x0a010203);
  world.pass(300, { each });
  world.want(0x0a010203);
  world.pass(1_000, { each });
  assert.ok(world.addresses().includes(0x0a010203));
});

Deno.test("in a flood that names all of a /8 again and again, who keeps being wanted is asked for", () => {
  const world = new World();
  const flood = slashEight(world, 5_000);
  world.pass(500, { each: flood });
  const begin = world.now;
  world.pass(1_000, {
    each: () => {
      flood();
      if (world.now % 100 === 0) world.want(0x0a010203);
    },
  });
  const asked = world.asked.find(({ address }) => address === 0x0a010203);
  assert.ok(asked !== undefined && asked.at > begin);
});

Deno.test("asks are counted over this window and the one before, never too few", () => {
  const demand = new DemandCounter({ sizeLog2: 12, seed: 7 });
  demand.clock(1_000);
  assert.equal(demand.count(1, 5), 1);
  assert.equal(demand.count(1, 5), 2);
  assert.equal(demand.count(2, 5), 1);
  demand.clock(1_600);
  assert.equal(demand.count(1, 5), 3);
  demand.clock(2_200);
  assert.equal(demand.count(1, 5), 2);
  demand.clock(10_000);
  assert.equal(demand.count(1, 5), 1);
  for (let i = 0; i < 100; i++) demand.count(1, 5);
  assert.equal(demand.count(1, 5), 15);
  for (let i = 0; i < 100_000; i++) demand.count(1, 1_000 + i);
  assert.ok(demand.count(1, 6) > 1, "others share its cells");
});

Deno.test("who backs off is left alone until then; when there are too many the old ones are forgotten", () => {
  const backOff = new BackOff({ most: 1 << 10, seed: 7 });
  assert.equal(backOff.isActive(1, 5, 0), false);
  backOff.set(1, 5, { until: 900, failures: 3 });
  assert.equal(backOff.isActive(1, 5, 899), true);
  assert.equal(backOff.isActive(2, 5, 899), false);
  assert.equal(backOff.isActive(1, 5, 900), false);
  assert.equal(backOff.failures(1, 5, 5_000), 3);
  assert.equal(backOff.failures(1, 5, 20_000), 0);
  backOff.clear(1, 5);
  assert.equal(backOff.failures(1, 5, 900), 0);
  backOff.set(1, 5, { until: 900, failures: 3 });
  for (let i = 0; i < 100_000; i++) backOff.set(1, 1_000 + i, { until: 2_000, failures: 1 });
  assert.equal(backOff.isActive(1, 100_999, 1_000), true);
  assert.equal(backOff.isActive(1, 5, 0), false);
});
