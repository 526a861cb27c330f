// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { DeferredFree, Grace, IdPool, RunPool } from "../../../netbase/rcu.ts";
import { StandingReader } from "../netbase_room.ts";
import fc from "../property.ts";

Deno.test("runs never overlap, and all of the space comes back", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -20, max: 12 }), { maxLength: 200, size: "max" }),
      (acts) => {
        const pool = new RunPool(64);
        const taken: { start: number; length: number }[] = [];
        for (const act of acts) {
          if (act <= 0) {
            const [one] = taken.splice(-act % Math.max(1, taken.length), 1);
            if (one !== undefined) pool.reclaim(one.start);
            continue;
          }
          const start = pool.allocate(act);
          if (start < 0) continue;
          assert.ok(start + act <= 64);
          const beside = taken.every((one) => {
            return start >= one.start + one.length || one.start >= start + act;
          });
          assert.ok(beside, "overlaps");
          taken.push({ start, length: act });
        }
        for (const one of taken) pool.reclaim(one.start);
        assert.equal(pool.allocate(64), 0);
      },
    ),
  );
});

Deno.test("a reserved run is not handed out", () => {
  const pool = new RunPool(10);
  assert.ok(pool.reserve(3, 2));
  assert.equal(pool.reserve(4, 2), false);
  assert.equal(pool.allocate(4), 5);
  assert.equal(pool.allocate(3), 0);
  assert.equal(pool.allocate(2), -1);
});

Deno.test("a number is handed out once until it comes back", () => {
  const pool = new IdPool(2, 6);
  pool.reserve(3);
  pool.reserve(3);
  assert.equal(pool.count, 1);
  assert.deepEqual([1, 2, 3, 4].map(() => pool.allocate()), [2, 4, 5, -1]);
  assert.equal(pool.count, 4);
  pool.reclaim(4);
  pool.reclaim(4);
  assert.equal(pool.count, 3);
  assert.deepEqual([pool.allocate(), pool.allocate()], [4, -1]);
});

Deno.test("nothing retired comes back before every reader has moved on or slept", () => {
  const acts = fc.array(fc.constantFrom("retire", "reclaim", "0", "1", "0 sleeps", "1 sleeps"));
  fc.assert(
    fc.property(acts, (history) => {
      const readers = [new StandingReader(), new StandingReader()];
      const deferred = new DeferredFree(readers);
      /** What each reader may hold: it read in a burst that has not ended. */
      const held = [new Set<number>(), new Set<number>()];
      let next = 0;
      const pool = {
        reclaim(item: number) {
          assert.ok(!held[0].has(item) && !held[1].has(item), `${item} is held`);
        },
      };
      for (const act of history) {
        if (act === "retire") {
          for (const set of held) set.add(next);
          deferred.retire(pool, next++);
        } else if (act === "reclaim") {
          deferred.reclaim();
        } else {
          const reader = Number(act[0]);
          held[reader].clear();
          if (act.endsWith("sleeps")) {
            readers[reader].asleep = true;
            deferred.reclaim();
            readers[reader].asleep = false;
          } else {
            readers[reader].burst++;
          }
        }
      }
      for (const reader of readers) reader.burst++;
      for (const set of held) set.clear();
      deferred.reclaim();
      for (const reader of readers) reader.burst++;
      deferred.reclaim();
      assert.equal(deferred.size, 0);
    }),
    { numRuns: 300 },
  );
});

Deno.test("a grace period without readers is over at once", () => {
  assert.ok(new Grace([]).over);
  const reader = new StandingReader();
  const grace = new Grace([reader]);
  assert.equal(grace.over, false);
  reader.burst = -1 >>> 0;
  assert.ok(grace.over);
});

Deno.test("a reader that sleeps, then or later, is not waited for; each other one is", () => {
  const readers = [new StandingReader(), new StandingReader()];
  readers[0].asleep = true;
  const grace = new Grace(readers);
  assert.equal(grace.over, false);
  readers[1].asleep = true;
  assert.equal(grace.over, true);
  readers[0].asleep = readers[1].asleep = false;
  assert.equal(grace.over, true, "they have slept since");
});
