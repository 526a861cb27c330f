// SPDX-License-Identifier: Apache-2.0
/** What the master gives back once it has nothing to do. */

import { equal, ok } from "node:assert/strict";
import { collectGarbage } from "../../../master/master.ts";

Deno.test("the master's garbage is collected when it says so", () => {
  let kept: object[] = Array.from({ length: 500_000 }, (_, i) => ({ i }));
  // They are old then.
  collectGarbage();
  const before = Deno.memoryUsage().heapUsed;
  equal(kept.length, 500_000);
  kept = [];
  collectGarbage();
  ok(before - Deno.memoryUsage().heapUsed > 8 << 20);
});
