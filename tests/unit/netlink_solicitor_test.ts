/** Solicits in made-up time: who is asked for, in what order, how often, and how many at once. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { NUD_FAILED, NUD_REACHABLE } from "../../netbase/neighbors.ts";
import { Recent } from "../../tiles/netlink/recent.ts";
import { Solicitor } from "../../tiles/netlink/solicitor.ts";
import { NETLINK } from "../../tiles/runtime/counters.ts";
import { TILE_COUNTERS } from "../../tiles/runtime/tile_region.ts";

const IFINDEX = 70_000;
/** The kernel gives up on a neighbour after this long. */
const GIVES_UP_MILLIS = 3_000;

/** A solicitor, its kernel and its clock. `answers` are the addresses that somebody has. */
class World {
  readonly asked: { address: number; at: number }[] = [];
  readonly released: number[] = [];
  readonly counters = new Float64Array(TILE_COUNTERS);
  readonly solicitor: Solicitor;
  readonly #answers: ReadonlySet<number>;
  readonly #waiting = new Map<number, number>();
  now = 0;
  mostWaiting = 0;

  constructor({ answers = [] as readonly number[], sharers = 1 } = {}) {
    this.#answers = new Set(answers);
    this.solicitor = new Solicitor({
      ask: (_ifindex, address) => {
        assert.ok(!this.#waiting.has(address), "asked for while it is being asked for");
        this.asked.push({ address, at: this.now });
        this.#waiting.set(address, this.now);
        this.mostWaiting = Math.max(this.mostWaiting, this.#waiting.size);
        return true;
      },
      release: (_ifindex, address) => this.released.push(address),
      counters: this.counters,
      random: () => 0.5,
      sharers,
    });
  }

  want(address: number, { isGateway = false } = {}): void {
    this.solicitor.want({ ifindex: IFINDEX, address, isGateway }, this.now);
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
        this.solicitor.neighborTold({ ifindex: IFINDEX, address, state }, this.now);
      }
      this.solicitor.turn(this.now);
      this.solicitor.expire(this.now);
    }
  }

  addresses(): number[] {
    return this.asked.map(({ address }) => address);
  }
}

Deno.test("an address is asked for at once, and once however often it is wanted", () => {
  const world = new World({ answers: [1] });
  for (let i = 0; i < 100; i++) world.want(1);
  assert.equal(world.solicitor.turn(0), 1);
  for (let i = 0; i < 100; i++) world.want(1);
  assert.equal(world.solicitor.turn(0), 0);
  assert.equal(world.counters[NETLINK.index.solicits_duplicate], 199);
});

Deno.test("gateways go first, then who is wanted twice, then the rest in order", () => {
  const world = new World();
  for (const address of [1, 2, 3, 4]) world.want(address);
  world.want(3);
  world.want(9, { isGateway: true });
  world.solicitor.turn(0);
  assert.deepEqual(world.addresses(), [9, 3, 1, 2, 4]);
});

Deno.test("who was wanted a moment ago and is wanted again counts as wanted twice", () => {
  const world = new World();
  const flood = () => {
    for (let i = 0; i < 10; i++) world.want(1_000 + world.now * 10 + i);
  };
  world.pass(2_000, { each: flood });
  // The queue of those wanted once is full: the first request is lost, the second is not.
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
      world.solicitor.setTable({ capacity, others });
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

Deno.test("four thousand clients that answer are all resolved within a second", () => {
  const clients = Array.from({ length: 4096 }, (_, i) => 100 + i);
  const world = new World({ answers: clients });
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

Deno.test("a known neighbour in use is asked for whatever waits, but not without end", () => {
  const world = new World();
  world.pass(1_000, { each: () => world.want(1_000 + world.now) });
  const before = world.asked.length;
  for (let i = 0; i < 50; i++) world.solicitor.refresh(IFINDEX, 5, world.now);
  assert.equal(world.asked.length, before + 1);
});

Deno.test("recently noted is what was noted within the window, the oldest forgotten first", () => {
  const recent = new Recent({ sizeLog2: 10, seed: 7 });
  assert.equal(recent.note(1, 5, 0, 1_000), false);
  assert.equal(recent.note(1, 5, 900, 1_000), true);
  assert.equal(recent.note(2, 5, 900, 1_000), false);
  assert.equal(recent.note(1, 5, 1_200, 1_000), false);
  for (let i = 0; i < 100_000; i++) recent.note(1, 1_000 + i, 2_000, 1_000);
  assert.equal(recent.note(1, 100_999, 2_000, 1_000), true);
  assert.equal(recent.note(1, 5, 2_000, 1_000), false);
});
