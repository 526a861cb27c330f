import { strict as assert } from "node:assert";
import { heapView } from "../../ffi/view.ts";
import { CONTROL_BYTES, ControlReader, ControlWriter } from "../../tiles/runtime/control.ts";
import { runLoop, spinTurnsFor } from "../../tiles/runtime/loop.ts";
import { TILE_REGION_BYTES, TileReader, TileRegion } from "../../tiles/runtime/tile_region.ts";

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
    wakeups: 0,
    spinTurns: 20,
  });
  return looks;
}

Deno.test("a busy tile looks at the clock every 256 turns, and when main's pulse says so", () => {
  assert.deepEqual(run(600, () => {}), [256, 512, 601]);
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

/** Of a tile that never has work: after which of its turns it blocks, until main stops it. */
function blocks(spinTurns: number): number[] {
  const view = heapView(CONTROL_BYTES);
  const main = new ControlWriter(view);
  const at: number[] = [];
  let turn = 0;
  runLoop({
    tile: {
      turn() {
        turn++;
        return 0;
      },
      pending: () => false,
      wait() {
        if (at.push(turn) === 3) main.stop();
      },
      descriptors: [],
    },
    region: new TileRegion(heapView(TILE_REGION_BYTES)),
    control: new ControlReader(view),
    wakeups: 0,
    spinTurns,
  });
  return at;
}

Deno.test("an idle tile blocks after as many turns as it may spin, and again after each waking", () => {
  assert.deepEqual(blocks(20), [20, 40, 60]);
  assert.deepEqual(blocks(200), [200, 400, 600]);
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

Deno.test("of two tiles the one whose thread is named ends", () => {
  const view = heapView(CONTROL_BYTES);
  const [one, other, none] = [7, 8, undefined].map((thread) => new ControlReader(view, thread));
  const main = new ControlWriter(view);
  main.relieve(8);
  assert.deepEqual([one.stopping, other.stopping, none.stopping], [false, true, false]);
  main.relieve(0);
  assert.deepEqual([one.stopping, other.stopping, none.stopping], [false, false, false]);
});
