// SPDX-License-Identifier: Apache-2.0
/** The netlink tile wakes sleeping net tiles when netbase changes in a way that held datagrams may need. */

import assert from "node:assert/strict";
import { addr, ip } from "./kit.ts";
import { Bench, Sleeper, withPeer } from "./tile_kit.ts";

Deno.test("net tiles that sleep are woken by what changes in netbase, once per sleep, and others not", () => {
  withPeer(["198.18.0.9"]);
  const [asleep, awake] = [new Sleeper(), new Sleeper()];
  using bench = new Bench({ sleepers: [asleep, awake] });
  bench.during(200, () => {});
  asleep.region.fallAsleep();
  for (let i = 0; i < 10; i++) bench.turn();
  assert.equal(asleep.woken, false, "nothing has changed");
  bench.ask(addr("198.18.0.9"));
  bench.until(() => bench.isKnown(addr("198.18.0.9")));
  bench.turn();
  assert.equal(asleep.woken, true, "the neighbour is known");
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  bench.until(() =>
    bench.counter("routes") > 0 && bench.reader.fib.lookup(addr("203.0.113.1")) > 0
  );
  bench.turn();
  assert.equal(asleep.woken, false, "it was woken in this sleep");
  asleep.region.awake();
  asleep.region.fallAsleep();
  ip("route del 203.0.113.0/24");
  bench.until(() => bench.reader.fib.lookup(addr("203.0.113.1")) === 0);
  bench.turn();
  assert.equal(asleep.woken, true, "the route is gone");
  assert.equal(awake.woken, false, "it never slept");
});
