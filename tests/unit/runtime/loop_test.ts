// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from "node:assert";
import { heapView } from "../../../ffi/region.ts";
import { CONTROL_BYTES, ControlReader, ControlWriter } from "../../../tiles/runtime/control.ts";
import {
  awaitPredecessor,
  Life,
  RestartPause,
  runLoop,
  spinTurnsFor,
  TILE_REGION_BYTES,
  TileReader,
  TileRegion,
  Waker,
} from "../../../tiles/runtime/tile.ts";

/**
 * Runs a tile that has work in each of `turns` turns and then none. `during` is called in each turn
 * with its number; returns the turns after which the clock was looked at.
 */
function run(
  turns: number,
  during: (turn: number, main: ControlWriter, seen: TileReader) => void,
): number[] {
  const view = heapView(CONTROL_BYTES);
  const main = new ControlWriter(view);
  const region = heapView(TILE_REGION_BYTES);
  const seen = new TileReader(region);
  const looks: number[] = [];
  let turn = 0;
  runLoop({
    tile: {
      turn() {
        turn++;
        if (turn > turns) main.stop();
        else during(turn, main, seen);
        return turn > turns ? 0 : 64;
      },
      clock: () => looks.push(turn),
      pending: () => false,
      wait() {},
      descriptors: [],
    },
    region: new TileRegion(region),
    control: new ControlReader(view),
    index: { wakeups: 0, busy_seconds: 1 },
    spinTurns: 20,
  });
  return looks;
}

for (const hasPredecessor of [true, false]) {
  const who = hasPredecessor ? "a predecessor" : "none";
  Deno.test(`a successor of ${who} takes over ${hasPredecessor ? "at its last store" : "when main says so"}`, () => {
    const [region, view] = [heapView(TILE_REGION_BYTES), heapView(CONTROL_BYTES)];
    const [own, main] = [new TileRegion(region), new ControlWriter(view)];
    const steps = hasPredecessor
      ? [Life.running, Life.stopped].map((life) => () => own.life = life)
      // What stands there is of one that ended before.
      : [() => own.life = Life.stopped, () => main.serve()];
    awaitPredecessor({ region, hasPredecessor }, new ControlReader(view), () => steps.shift()!());
    assert.deepEqual(steps, []);
  });
}

Deno.test("a successor whose predecessor was killed takes over when main says so", () => {
  const [region, view] = [heapView(TILE_REGION_BYTES), heapView(CONTROL_BYTES)];
  new TileRegion(region).life = Life.running;
  let pauses = 0;
  awaitPredecessor({ region, hasPredecessor: true }, new ControlReader(view), () => {
    if (++pauses === 3) new ControlWriter(view).serve();
  });
  assert.equal(pauses, 3);
});

Deno.test("time in turns with work is estimated from every 61st, and idle turns are none of it", () => {
  const busy = (work: number) => {
    const [view, region] = [heapView(CONTROL_BYTES), heapView(TILE_REGION_BYTES)];
    let turns = 0;
    runLoop({
      tile: {
        turn() {
          if (++turns === 610) new ControlWriter(view).stop();
          for (const end = performance.now() + 0.1; performance.now() < end;);
          return turns < 610 ? work : 0;
        },
        pending: () => false,
        wait() {},
        descriptors: [],
      },
      region: new TileRegion(region),
      control: new ControlReader(view),
      index: { wakeups: 0, busy_seconds: 1 },
      spinTurns: 1000,
    });
    return new TileReader(region).counters[1];
  };
  // Nine were timed that had work.
  assert.ok(busy(1) >= 9 * 61 * 0.1e-3);
  assert.equal(busy(0), 0);
});

Deno.test("a busy tile looks at the clock every 1,024 datagrams, and when main's pulse says so", () => {
  assert.deepEqual(run(40, () => {}), [16, 32, 41]);
  const looks = run(20, (turn, main) => {
    if (turn === 3 || turn === 10) main.pulse();
  });
  assert.deepEqual(looks, [3, 10, 21]);
});

Deno.test("a stopping tile looks at the clock after every turn, however long each is", () => {
  const looks = run(4, (turn, main) => {
    if (turn === 2) main.stop();
  });
  assert.deepEqual(looks, [2, 3, 4, 5]);
});

Deno.test("every turn of a busy tile is seen by main", () => {
  const bursts: number[] = [];
  run(3, (_, __, seen) => bursts.push(seen.burst));
  assert.deepEqual(bursts, [0, 1, 2]);
});

/**
 * Of a tile that has the work that `work` says of each turn, by its number: after which of its turns it
 * blocks, until main stops it.
 */
function blocks(spinTurns: number, work: (turn: number) => number = () => 0): number[] {
  const view = heapView(CONTROL_BYTES);
  const main = new ControlWriter(view);
  const at: number[] = [];
  let turn = 0;
  runLoop({
    tile: {
      turn() {
        return work(++turn);
      },
      pending: () => false,
      wait() {
        if (at.push(turn) === 3) main.stop();
      },
      descriptors: [],
    },
    region: new TileRegion(heapView(TILE_REGION_BYTES)),
    control: new ControlReader(view),
    index: { wakeups: 0, busy_seconds: 1 },
    spinTurns,
  });
  return at;
}

Deno.test("an idle tile blocks after as many turns as it may spin, and again after each waking", () => {
  assert.deepEqual(blocks(20), [20, 40, 60]);
  assert.deepEqual(blocks(200), [200, 400, 600]);
});

Deno.test("a tile that wakes another for a small burst blocks at once where they share cores", () => {
  const view = heapView(TILE_REGION_BYTES);
  const waker = new Waker(new TileReader(view), () => {});
  const sleeper = new TileRegion(view);
  /** Work in turn 3 alone, with which the other is woken. */
  const waking = (work: number) => (turn: number) => {
    if (turn !== 3) return 0;
    sleeper.fallAsleep();
    waker.published();
    return work;
  };
  const [alone, shared] = [spinTurnsFor(1, 1), spinTurnsFor(2, 1)];
  assert.deepEqual(blocks(shared, waking(1)), [4, 4 + shared, 4 + 2 * shared]);
  assert.deepEqual(blocks(shared, waking(64)), [3 + shared, 3 + 2 * shared, 3 + 3 * shared]);
  assert.deepEqual(blocks(alone, waking(1)), [3 + alone, 3 + 2 * alone, 3 + 3 * alone]);
});

Deno.test("where busy tiles outnumber cores each spins a tenth as long", () => {
  const alone = spinTurnsFor(1, 1);
  assert.ok(alone >= 100, "long enough for the next burst of a busy peer");
  assert.equal(spinTurnsFor(2, 2), alone);
  assert.equal(spinTurnsFor(4, 16), alone);
  for (const [busy, cores] of [[2, 1], [3, 2], [17, 16]]) {
    assert.equal(spinTurnsFor(busy, cores), alone / 10, `${busy} on ${cores}`);
  }
});

/**
 * Of a tile that is given one piece of work at each of `moments`, in that order, on its way into a
 * sleep: what it was given and did, and how often it was woken. Fails where it blocks with work that
 * nobody has woken it for.
 */
function giveWork(moments: string[]): { done: number; woken: number } {
  const control = heapView(CONTROL_BYTES);
  const main = new ControlWriter(control);
  const view = heapView(TILE_REGION_BYTES);
  const spinTurns = 20;
  let [waiting, done, idle, woken, sleeps] = [0, 0, 0, 0, 0];
  let isWoken = false;
  const waker = new Waker(new TileReader(view), () => {
    woken++;
    isWoken = true;
  });
  /** The producer's side: publish first, then look at the sleep word. */
  const at = (moment: string) => {
    if (idle !== spinTurns || moment !== moments[0]) return;
    moments.shift();
    waiting++;
    waker.published();
  };
  runLoop({
    tile: {
      turn() {
        const work = waiting;
        done += work;
        waiting = 0;
        idle = work === 0 ? idle + 1 : 0;
        at("in its last turn");
        return work;
      },
      clock: () => at("behind its last turn"),
      pending() {
        at("before its last look");
        const isPending = waiting > 0;
        at("behind its last look");
        if (isPending) idle = 0;
        return isPending;
      },
      wait() {
        at("asleep");
        assert.ok(waiting === 0 || isWoken, "it blocks, and nobody wakes it");
        assert.ok(++sleeps < 10, `it sleeps and sleeps, and is never ${moments[0]}`);
        isWoken = false;
        idle = 0;
        if (moments.length === 0 && waiting === 0) main.stop();
      },
      descriptors: [],
    },
    region: new TileRegion(view),
    control: new ControlReader(control),
    index: { wakeups: 0, busy_seconds: 1 },
    spinTurns,
  });
  return { done, woken };
}

Deno.test("work that comes at any moment on a tile's way into a sleep is seen, or wakes it", () => {
  for (const moment of ["in its last turn", "behind its last turn"]) {
    assert.deepEqual(giveWork([moment]), { done: 1, woken: 0 }, moment);
  }
  // A producer that finds the tile about to block wakes it, whether or not it sees the work by itself.
  for (const moment of ["before its last look", "behind its last look", "asleep"]) {
    assert.deepEqual(giveWork([moment]), { done: 1, woken: 1 }, moment);
  }
});

Deno.test("each sleep of a tile is ended by one wake-up, however often something is published", () => {
  assert.deepEqual(giveWork(["asleep", "asleep", "asleep"]), { done: 3, woken: 3 });
  assert.deepEqual(giveWork(["behind its last look", "asleep"]), { done: 2, woken: 1 });
});

/** What a tile that never has work does in its first sleep and around it. */
function aroundSleep(parts: { nextDue?: number; drains?: boolean } = {}) {
  const control = heapView(CONTROL_BYTES);
  const main = new ControlWriter(control);
  const view = heapView(TILE_REGION_BYTES);
  const seen = new TileReader(view);
  const steps: string[] = [];
  const sleeps: number[] = [];
  const step = (name: string) => steps.at(-1) === name || steps.push(name);
  runLoop({
    tile: {
      turn() {
        step(seen.asleep ? "turn asleep" : "turn");
        return 0;
      },
      clock: () => step("clock"),
      pending: () => false,
      wait(millis) {
        step(seen.asleep ? "wait" : "wait awake");
        sleeps.push(millis);
        main.stop();
      },
      nextDue: () => parts.nextDue ?? -1,
      drained: () => parts.drains ?? true,
      close: () => step("close"),
      descriptors: [],
    },
    region: new TileRegion(view),
    control: new ControlReader(control),
    index: { wakeups: 0, busy_seconds: 1 },
    spinTurns: 20,
  });
  return { steps, sleeps, life: seen.life };
}

Deno.test("a tile is told the time behind a sleep before it has its next turn, and is awake then", () => {
  const { steps, life } = aroundSleep();
  assert.deepEqual(steps, ["turn", "clock", "wait", "clock", "turn", "clock", "close"]);
  assert.equal(life, Life.stopped);
});

Deno.test("a tile sleeps no longer than until something is due, nor than a second", () => {
  assert.deepEqual(aroundSleep().sleeps, [1000]);
  assert.deepEqual(aroundSleep({ nextDue: 7 }).sleeps, [7]);
  assert.deepEqual(aroundSleep({ nextDue: 5000 }).sleeps, [1000]);
});

Deno.test("a tile that does not drain ends all the same, and sleeps for a millisecond meanwhile", () => {
  const { sleeps, life } = aroundSleep({ drains: false });
  assert.equal(life, Life.stopped);
  assert.deepEqual(new Set(sleeps.slice(1)), new Set([1]));
});

/** Of a tile that always or never has work and never drains: what it does from its third turn on. */
function leave(work: number): { steps: string[]; life: number } {
  const control = heapView(CONTROL_BYTES);
  const main = new ControlWriter(control);
  const view = heapView(TILE_REGION_BYTES);
  const steps: string[] = [];
  let turns = 0;
  const ask = () => {
    steps.length = 0;
    main.leave();
  };
  runLoop({
    tile: {
      turn() {
        if (++turns === 3 && work > 0) ask();
        steps.push("turn");
        return work;
      },
      clock: () => steps.push("clock"),
      pending: () => false,
      wait: ask,
      drained: () => false,
      relinquish: () => steps.push("relinquish"),
      close: () => steps.push("close"),
      descriptors: [],
    },
    region: new TileRegion(view),
    control: new ControlReader(control),
    index: { wakeups: 0, busy_seconds: 1 },
    spinTurns: 20,
  });
  return { steps, life: new TileReader(view).life };
}

Deno.test("a tile that is to leave has no other turn, drains nothing, and hands over what it has", () => {
  assert.deepEqual(leave(64), { steps: ["turn", "relinquish", "close"], life: Life.stopped });
});

Deno.test("a tile that is to leave while it sleeps does so after one turn", () => {
  const { steps, life } = leave(0);
  assert.deepEqual(steps, ["clock", "turn", "relinquish", "close"]);
  assert.equal(life, Life.stopped);
});

Deno.test("who is to leave is not told to stop, and the other way round", () => {
  const [left, stopped] = [heapView(CONTROL_BYTES), heapView(CONTROL_BYTES)];
  new ControlWriter(left).leave();
  new ControlWriter(stopped).stop();
  const seen = [left, stopped].map((view) => new ControlReader(view));
  assert.deepEqual(seen.map(({ leaving, stopping }) => [leaving, stopping]), [
    [true, false],
    [false, true],
  ]);
});

Deno.test("RestartPause doubles the pause up to ten seconds, and may begin without one", () => {
  const pauses = (options?: { isFirstImmediate: boolean }) => {
    const pause = new RestartPause();
    return Array.from({ length: 11 }, () => pause.next(options));
  };
  const doubled = [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000];
  assert.deepEqual(pauses(), doubled);
  assert.deepEqual(pauses({ isFirstImmediate: true }), [0, ...doubled.slice(0, -1)]);
});
