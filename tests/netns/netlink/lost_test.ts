// SPDX-License-Identifier: Apache-2.0
/**
 * Events that are lost, dumps that are interrupted, replies that are stale: whatever goes wrong on
 * the way, the mirror ends up equal to the kernel, and counts it (docs/kernel.md, Copying the kernel's
 * tables).
 */

import assert from "node:assert/strict";
import { Sync } from "../../../netbase/layout.ts";
import { type DumpEnd, Dumper } from "../../../tiles/netlink/rtnetlink.ts";
import { TableBit } from "../../../tiles/netlink/tables.ts";
import { addr, assertCurrent, ip, ipBatch, library, Mirrored, turnUntil, twoPairs } from "./kit.ts";

/** `count` commands about as many prefixes. */
function prefixes(count: number, command: (prefix: string, i: number) => string): string[] {
  return Array.from({ length: count }, (_, i) => command(`10.${i >>> 8}.${i & 255}.0/24`, i));
}

Deno.test("an overrun is counted, and everything is read anew while the last state is served", () => {
  twoPairs();
  using mirrored = new Mirrored({ receiveBuffer: 32_768 }).sync();
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  mirrored.settle();
  ipBatch([
    ...prefixes(2000, (prefix, i) => `route add ${prefix} via 198.18.0.${i % 200 + 3}`),
    "neigh add 198.18.0.20 lladdr 02:00:00:00:00:20 dev v0",
    "link set v1 address 02:00:00:00:00:99",
    "addr add 198.18.7.7/24 dev v2",
    "nexthop add id 1 via 198.18.0.7 dev v0",
    "route add 203.0.114.0/24 nhid 1",
  ]);
  turnUntil(mirrored, () => mirrored.mirror.overruns > 0);
  assert.equal(mirrored.reader.syncState, Sync.stale);
  while (!mirrored.mirror.settled) {
    mirrored.mirror.turn();
    assert.equal(mirrored.decide(addr("203.0.113.1")).gateway, addr("198.18.0.9"));
  }
  assertCurrent(mirrored);
  assert.equal(mirrored.reader.syncState, Sync.synced);
});

Deno.test("an overrun in the middle of a resync begins everything anew", () => {
  twoPairs();
  using mirrored = new Mirrored({ receiveBuffer: 32_768 });
  ipBatch(prefixes(5000, (prefix) => `route add ${prefix} via 198.18.0.9`));
  mirrored.sync();
  for (let round = 0; round < 3; round++) {
    mirrored.mirror.resync(TableBit.routes);
    turnUntil(mirrored, () => mirrored.mirror.dumper.busy);
    ipBatch(prefixes(1000, (prefix) => `route replace ${prefix} via 198.18.0.${round + 10}`));
    mirrored.settle();
    assertCurrent(mirrored, `round ${round}`);
  }
  assert.ok(mirrored.mirror.overruns > 0);
});

Deno.test("what was read anew after an overrun is not undone by events from before it", () => {
  twoPairs();
  using mirrored = new Mirrored({ receiveBuffer: 8 << 20 }).sync();
  for (let round = 1; round <= 2; round++) {
    // In one of two rounds the last event that there is room for is an addition.
    const again = (prefix: string) => `route add ${prefix} via 198.18.0.9\nroute del ${prefix}`;
    const first = round === 1 ? [] : ["route add 203.0.113.0/24 via 198.18.0.9"];
    ipBatch([...first, ...prefixes(20_000, again)]);
    mirrored.settle();
    assert.ok(mirrored.mirror.overruns >= round);
    assertCurrent(mirrored, `round ${round}`);
  }
});

Deno.test("a dump that the kernel says was interrupted is dropped and made again", () => {
  twoPairs();
  ipBatch(Array.from({ length: 6000 }, (_, i) => `nexthop add id ${i + 1} via 198.18.0.7 dev v0`));
  using mirrored = new Mirrored().sync();
  for (let round = 0; round < 40 && mirrored.mirror.syncCounts.interrupted === 0; round++) {
    mirrored.mirror.resync(TableBit.nextHops);
    turnUntil(mirrored, () => mirrored.mirror.dumper.busy);
    // The change falls between the dump's first reply and its last.
    ip(`nexthop add id ${10_000 + round} via 198.18.0.8 dev v0`);
    ip(`route add 203.0.${round}.0/24 nhid ${10_000 + round}`);
    mirrored.settle();
  }
  assert.ok(mirrored.mirror.syncCounts.interrupted > 0, "no dump was interrupted");
  assertCurrent(mirrored);
});

Deno.test("routes that change while they are dumped end up as the kernel has them", () => {
  twoPairs();
  ipBatch(prefixes(4000, (prefix) => `route add ${prefix} via 198.18.0.9`));
  using mirrored = new Mirrored().sync();
  for (let round = 0; round < 10; round++) {
    mirrored.mirror.resync(TableBit.routes);
    turnUntil(mirrored, () => mirrored.mirror.dumper.busy);
    const some = (n: number) => `10.${(round + n) % 15}.${n * 37 % 256}.0/24`;
    ipBatch([
      ...Array.from({ length: 20 }, (_, n) => `route replace ${some(n)} via 198.18.0.${n + 20}`),
      ...Array.from({ length: 20 }, (_, n) => `route append ${some(n)} via 198.18.1.${n + 3}`),
      ...Array.from({ length: 10 }, (_, n) => `route del ${some(n)} via 198.18.0.${n + 20}`),
    ]);
    mirrored.settle();
    assertCurrent(mirrored, `round ${round}`);
    ipBatch(Array.from({ length: 10 }, (_, n) => `route del ${some(n)}`));
    ipBatch(Array.from({ length: 10 }, (_, n) => `route add ${some(n)} via 198.18.0.9`));
  }
});

Deno.test("replies of a dump that was given up are not taken for those of the next", () => {
  twoPairs();
  ipBatch(prefixes(3000, (prefix) => `route add ${prefix} via 198.18.0.9`));
  const dumper = new Dumper(library);
  let strays = 0;
  let links = 0;
  const ends: DumpEnd[] = [];
  const done = (end: DumpEnd) => ends.push(end);
  assert.ok(dumper.dump(["routes"], { reply: () => strays++, done }));
  dumper.turn();
  dumper.abandon();
  const before = strays;
  const counting = { reply: () => links++, done };
  assert.equal(dumper.dump(["links"], counting), false, "the kernel still has the other dump");
  for (let turns = 0; dumper.busy; turns++) {
    assert.ok(turns < 1000);
    dumper.turn();
  }
  assert.deepEqual(ends, []);
  assert.ok(dumper.dump(["links"], counting));
  for (let turns = 0; dumper.busy; turns++) {
    assert.ok(turns < 1000);
    dumper.turn();
  }
  assert.deepEqual(ends, ["done"]);
  assert.equal(strays, before);
  assert.ok(links >= 5, `${links} links`);
  dumper.close();
});

Deno.test("events of other namespaces' interfaces and stray messages change nothing", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ip("netns add elsewhere");
  ip("-n elsewhere link set lo up");
  ip("-n elsewhere route add 203.0.113.0/24 dev lo");
  mirrored.settle();
  assertCurrent(mirrored);
  ip("netns del elsewhere");
});
