// SPDX-License-Identifier: Apache-2.0
/** That the warm-up of an app's process runs its loop, asleep and awake, and ends. */

import assert from "node:assert/strict";
import { warmUp } from "../../../tiles/app/warm_up.ts";
import { linkShapeOf } from "../../../tiles/runtime/plan.ts";
import { spinTurnsFor } from "../../../tiles/runtime/tile.ts";
import { IDLE_TILE } from "../../idle_tile.ts";

for (const isAlone of [true, false]) {
  const where = isAlone ? "in the UMEM" : "in the link";
  Deno.test(`an app's loop sleeps, wakes net tiles and ends before its turn, payloads ${where}`, async () => {
    let [sleeps, wakes] = [0, 0];
    const library = {
      ...IDLE_TILE,
      wait(eventfd: number, timeoutMs: number) {
        assert.equal(eventfd, -1, "its own eventfd is its predecessor's until then");
        assert.ok(timeoutMs >= 0 && timeoutMs <= 1, `it would sleep for ${timeoutMs} ms`);
        sleeps++;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, timeoutMs);
        return 0;
      },
      wake(eventfd: number) {
        assert.equal(eventfd, -1, "a net tile is not to be woken");
        wakes++;
      },
    };
    const shape = linkShapeOf(1024, { isAlone });
    await warmUp({ shape, spinTurns: spinTurnsFor(2, 1), library });
    assert.ok(
      sleeps > 100 && wakes > 100,
      `it slept ${sleeps} times and woke others ${wakes} times`,
    );
  });
}
