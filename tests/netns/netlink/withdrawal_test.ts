// SPDX-License-Identifier: Apache-2.0
/**
 * What the kernel takes away without a word: routes on a link that goes down or an address that
 * goes, routes of next-hop objects (docs/kernel.md, Routes). The mirror takes them away with the
 * event that caused it, before it has read anything anew, and is equal to the kernel after that.
 */

import assert from "node:assert/strict";
import { RTN_BLACKHOLE, RTN_LOCAL, RTN_UNICAST, RTN_UNSPEC } from "../../../netbase/route.ts";
import {
  addr,
  assertCurrent,
  assertDecides,
  command,
  IGNORE_LINKDOWN,
  ip,
  ipBatch,
  Mirrored,
  Oracle,
  tryIp,
  turnUntil,
  twoPairs,
} from "./kit.ts";

const REMOTE = addr("203.0.113.1");
const SHARED = addr("203.0.114.1");
const OBJECT = addr("203.0.115.1");
const GROUP = addr("203.0.116.1");
const SOURCED = addr("203.0.117.1");
const ADDRESSES = [
  ...[REMOTE, SHARED, OBJECT, GROUP, SOURCED],
  ...["198.18.0.9", "198.18.0.2", "198.18.0.255", "198.18.1.9", "8.8.8.8"].map(addr),
];

/** Routes of all the kinds that can be withdrawn silently. */
function routes(): void {
  twoPairs();
  ipBatch([
    "addr add 198.18.1.3/24 dev v2",
    "route add default via 198.18.0.1",
    "route add 203.0.113.0/24 via 198.18.0.9",
    "route add 203.0.114.0/24 nexthop via 198.18.0.9 weight 2 nexthop via 198.18.1.9",
    "nexthop add id 1 via 198.18.0.7 dev v0",
    "nexthop add id 2 via 198.18.1.7 dev v2",
    "nexthop add id 10 group 1/2",
    "route add 203.0.115.0/24 nhid 1",
    "route add 203.0.116.0/24 nhid 10",
    "route add 203.0.117.0/24 via 198.18.0.9 src 198.18.1.3",
  ]);
}

function assertAllDecide(mirrored: Mirrored, oracle: Oracle, message: string): void {
  for (const address of ADDRESSES) assertDecides(mirrored, oracle, { address });
  assertCurrent(mirrored, message);
}

/** Takes in the events that wait, and nothing more: no dump is begun for as long as they come. */
function takeEvents(mirrored: Mirrored): void {
  mirrored.mirror.turn();
}

Deno.test("what an event says to be gone is gone with it, not only when all was read anew", () => {
  routes();
  using mirrored = new Mirrored().sync();
  mirrored.settle();
  const { resyncs } = mirrored.mirror.syncCounts;
  ip("link set v0 down");
  takeEvents(mirrored);
  assert.equal(mirrored.mirror.syncCounts.resyncs, resyncs);
  assert.equal(mirrored.decide(REMOTE).kind, RTN_UNSPEC);
  assert.equal(mirrored.decide(OBJECT).kind, RTN_UNSPEC);
  assert.equal(mirrored.decide(addr("8.8.8.8")).kind, RTN_UNSPEC);
  for (const address of [SHARED, GROUP]) {
    for (let flow = 0; flow < 64; flow++) {
      const decision = mirrored.decide(address, 0, Math.imul(flow, 0x9e3779b1));
      assert.ok(decision.kind === RTN_UNICAST && decision.gateway >>> 8 === addr("0.198.18.1"));
    }
  }
  // The address is ours with the link down too.
  assert.equal(mirrored.decide(addr("198.18.0.2")).kind, RTN_LOCAL);
});

/** Each story: commands, after each of which mirror and kernel are equal. */
const STORIES: Record<string, readonly string[]> = {
  "a link goes down and up": ["link set v0 down", "link set v0 up"],
  "the other link goes down and up": ["link set v2 down", "link set v2 up"],
  "both links go down, then one up": ["link set v0 down", "link set v2 down", "link set v2 up"],
  "the carrier goes and comes back": ["link set v1 down", "link set v1 up"],
  "the other carrier goes and comes back": ["link set v3 down", "link set v3 up"],
  "an interface's addresses are flushed": ["addr flush dev v0", "addr add 198.18.0.2/24 dev v0"],
  "a preferred source goes": ["addr del 198.18.1.3/24 dev v2"],
  "an address goes while another stays": ["addr del 198.18.1.2/24 dev v2"],
  "an address goes and comes back": [
    "addr del 198.18.0.2/24 dev v0",
    "addr add 198.18.0.2/24 dev v0",
    "route add default via 198.18.0.1",
  ],
  "a link is deleted": ["link del v0"],
  "the other link is deleted": ["link del v2"],
  "a next-hop object is deleted": ["nexthop del id 1"],
  "the objects of a group are deleted one by one": ["nexthop del id 2", "nexthop del id 1"],
  "a group is deleted": ["nexthop del id 10"],
  "all objects are flushed": ["nexthop flush"],
  "the least MTU is set": ["link set v0 mtu 68", "link set v0 mtu 1500"],
  "loopback goes down and up": ["link set lo down", "link set lo up"],
  "a carrier goes where its routes are ignored then, and comes back": [
    `sysctl conf/v0/${IGNORE_LINKDOWN} 1`,
    "link set v1 down",
    "link set v1 up",
  ],
  "a carrier goes, and only then its routes are ignored, then no more": [
    "link set v3 down",
    `sysctl conf/v2/${IGNORE_LINKDOWN} 1`,
    `sysctl conf/v2/${IGNORE_LINKDOWN} 0`,
  ],
  "both carriers go where all such routes are ignored": [
    `sysctl conf/all/${IGNORE_LINKDOWN} 1`,
    "link set v1 down",
    "link set v3 down",
    "link set v1 up",
    `sysctl conf/all/${IGNORE_LINKDOWN} 0`,
  ],
  "ignoring is the default that interfaces have not departed from": [
    `sysctl conf/default/${IGNORE_LINKDOWN} 1`,
    "link set v1 down",
    `sysctl conf/default/${IGNORE_LINKDOWN} 0`,
  ],
};

for (const [story, commands] of Object.entries(STORIES)) {
  Deno.test(`${story}: the mirror is the kernel's equal after each step`, () => {
    routes();
    using mirrored = new Mirrored().sync();
    using oracle = new Oracle(mirrored);
    mirrored.settle();
    assertAllDecide(mirrored, oracle, "before");
    for (const each of commands) {
      command(each);
      mirrored.settle();
      assertAllDecide(mirrored, oracle, each);
    }
  });
}

Deno.test("a carrier's loss takes routes and hops along with its event where they are ignored then", () => {
  routes();
  ipBatch(["route add 203.0.113.0/24 via 198.18.1.9 metric 100"]);
  command(`sysctl conf/v0/${IGNORE_LINKDOWN} 1`);
  using mirrored = new Mirrored().sync();
  mirrored.settle();
  const { resyncs } = mirrored.mirror.syncCounts;
  ip("link set v1 down");
  // The other end hears of it by the kernel's workqueue: both events are to come at once.
  const end = performance.now() + 30_000;
  while (!ip("link show dev v0").includes("NO-CARRIER")) assert.ok(performance.now() < end);
  turnUntil(mirrored, () => mirrored.decide(REMOTE).gateway === addr("198.18.1.9"));
  assert.equal(mirrored.mirror.syncCounts.resyncs, resyncs);
  for (let flow = 0; flow < 64; flow++) {
    const { gateway } = mirrored.decide(SHARED, 0, Math.imul(flow, 0x9e3779b1));
    assert.equal(gateway, addr("198.18.1.9"));
  }
  assert.equal(mirrored.decide(addr("198.18.0.2")).kind, RTN_LOCAL);
});

Deno.test("the kernel may take a hop that is ignored for its carrier, which no dump tells", () => {
  routes();
  ip("route add 203.0.118.0/24 nexthop via 198.18.0.9 nexthop dev lo");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  ip("link set v1 down");
  const end = performance.now() + 30_000;
  while (!ip("link show dev v0").includes("NO-CARRIER")) assert.ok(performance.now() < end);
  command(`sysctl conf/v0/${IGNORE_LINKDOWN} 1`);
  const source = addr("127.0.0.1");
  const addresses = Array.from({ length: 64 }, (_, host) => addr("203.0.118.0") + host);
  /** What becomes of packets from 127.0.0.1, which only loopback may send. */
  const kernelKinds = () => {
    mirrored.settle();
    for (const address of addresses) {
      assertDecides(mirrored, oracle, { address, source });
      assert.equal(mirrored.decide(address, source).kind, RTN_UNICAST);
    }
    assertCurrent(mirrored);
    return new Set(addresses.map((address) => oracle.ask({ address, source }).kind));
  };
  const dump = ip("-d route show table all");
  assert.deepEqual(kernelKinds(), new Set([RTN_UNICAST, RTN_BLACKHOLE]));
  // A new address has the kernel distribute flows again.
  ip("addr add 198.18.7.1/32 dev v0");
  ip("addr del 198.18.7.1/32 dev v0");
  assert.equal(ip("-d route show table all"), dump);
  assert.deepEqual(kernelKinds(), new Set([RTN_UNICAST]));
});

Deno.test("links that go up and down without a pause leave mirror and kernel equal", () => {
  routes();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (let round = 0; round < 20; round++) {
    for (const link of ["v0", "v1", "v2", "v3"]) {
      ip(`link set ${link} ${(round + link.charCodeAt(1)) % 3 === 0 ? "down" : "up"}`);
      tryIp("route add 203.0.113.0/24 via 198.18.0.9");
      mirrored.mirror.turn();
    }
  }
  mirrored.settle();
  assertAllDecide(mirrored, oracle, "at the end");
});
