// SPDX-License-Identifier: Apache-2.0
/**
 * Routes of every kind, as the kernel has them and as it decides by them (docs/kernel.md,
 * Routes).
 */

import assert from "node:assert/strict";
import {
  KIND_UNSUPPORTED,
  RTN_BLACKHOLE,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_MULTICAST,
  RTN_PROHIBIT,
  RTN_THROW,
  RTN_UNICAST,
  RTN_UNREACHABLE,
  RTN_UNSPEC,
} from "../../../netbase/route.ts";
import {
  addr,
  assertCurrent,
  assertDecides,
  indexOf,
  ip,
  ipBatch,
  Mirrored,
  Oracle,
  tryIp,
  twoPairs,
} from "./kit.ts";

/** Applies `commands` one by one; after each, every address is decided as the kernel decides. */
function follow(commands: readonly string[], addresses: readonly string[]): void {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const command of ["route show", ...commands]) {
    ip(command);
    mirrored.settle();
    for (const address of addresses) {
      assertDecides(mirrored, oracle, { address: addr(address) });
    }
    assertCurrent(mirrored, command);
  }
}

Deno.test("a route that changes while the first copy is made is not missed", () => {
  twoPairs();
  using mirrored = new Mirrored();
  mirrored.mirror.turn();
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  mirrored.sync();
  mirrored.settle();
  assert.equal(mirrored.decide(addr("203.0.113.1")).gateway, addr("198.18.0.9"));
});

Deno.test("append, prepend and replace leave the kernel's order, and the lowest metric wins", () => {
  const route = (verb: string, rest: string) => `route ${verb} 203.0.113.0/24 ${rest}`;
  follow([
    route("add", "via 198.18.0.9"),
    route("append", "via 198.18.0.10"),
    route("prepend", "via 198.18.0.11"),
    route("replace", "via 198.18.0.12"),
    route("append", "via 198.18.1.13"),
    route("del", "via 198.18.0.12"),
    route("add", "via 198.18.1.14 metric 50"),
    route("add", "via 198.18.1.15 metric 20"),
    route("del", "via 198.18.0.9"),
    route("del", "via 198.18.0.10"),
    route("change", "via 198.18.1.16 metric 20"),
    route("del", "metric 20"),
  ], ["203.0.113.1", "203.0.114.1"]);
});

Deno.test("metrics 100, 200 and 50 on one prefix: 50 wins, and 100 when it is gone", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  for (const metric of [100, 200, 50]) {
    ip(`route add 192.0.2.0/24 via 198.18.0.${metric} metric ${metric}`);
  }
  mirrored.settle();
  assert.equal(mirrored.decide(addr("192.0.2.1")).gateway, addr("198.18.0.50"));
  ip("route del 192.0.2.0/24 metric 50");
  mirrored.settle();
  assert.equal(mirrored.decide(addr("192.0.2.1")).gateway, addr("198.18.0.100"));
});

Deno.test("each kind of route has its own outcome", () => {
  const kinds = [
    ["unicast 192.0.2.0/28 via 198.18.0.9", "192.0.2.1", RTN_UNICAST],
    ["blackhole 192.0.2.16/28", "192.0.2.17", RTN_BLACKHOLE],
    ["unreachable 192.0.2.32/28", "192.0.2.33", RTN_UNREACHABLE],
    ["prohibit 192.0.2.48/28", "192.0.2.49", RTN_PROHIBIT],
    ["throw 192.0.2.64/28", "192.0.2.65", RTN_THROW],
    ["local 192.0.2.80/28 dev lo", "192.0.2.81", RTN_LOCAL],
    ["broadcast 192.0.2.97 dev v0", "192.0.2.97", RTN_BROADCAST],
    ["multicast 224.9.9.0/24 dev v0", "224.9.9.1", RTN_MULTICAST],
    ["unicast 192.0.2.112/28 via inet6 fe80::1 dev v0", "192.0.2.113", KIND_UNSUPPORTED],
  ] as const;
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  for (const [route] of kinds) ip(`route add ${route}`);
  mirrored.settle();
  for (const [route, address, kind] of kinds) {
    assert.equal(mirrored.decide(addr(address)).kind, kind, route);
    assertDecides(mirrored, oracle, { address: addr(address) });
  }
  assert.equal(mirrored.decide(addr("192.0.2.200")).kind, RTN_UNSPEC);
  assert.ok(mirrored.log.some((line) => line.includes("IPv6") && line.includes("192.0.2.112/28")));
});

Deno.test("the kernel's own answers for special addresses are Tegula's", () => {
  follow(
    ["route add default via 198.18.0.1", "route replace default via 198.18.1.1 src 198.18.1.2"],
    [
      ...["0.0.0.0", "0.0.0.1", "127.0.0.1", "127.9.9.9", "224.0.0.1", "239.255.255.255"],
      ...["240.0.0.1", "255.255.255.255", "198.18.0.0", "198.18.0.255", "198.18.0.2", "8.8.8.8"],
    ],
  );
});

Deno.test("table 1000 is not taken for 232, nor for main, and is named once", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  const before = mirrored.writer.rib.size;
  ip("route add 203.0.113.0/24 via 198.18.0.9 table 1000");
  ip("route add 203.0.114.0/24 via 198.18.0.9 table 1000");
  ip("route add 203.0.115.0/24 via 198.18.0.9 table 232");
  mirrored.settle();
  assert.equal(mirrored.writer.rib.size, before);
  assert.equal(mirrored.log.filter((line) => line.includes("table 1000")).length, 1);
  assert.equal(mirrored.log.filter((line) => line.includes("table 232")).length, 1);
});

Deno.test("MTU, preferred source, onlink and type of service are mirrored", () => {
  follow([
    "addr add 198.18.0.3/24 dev v0",
    "route add 203.0.113.0/24 via 198.18.0.9 mtu 1400 src 198.18.0.3",
    "route add 203.0.114.0/24 via 192.0.2.9 dev v0 onlink",
    "route add 203.0.115.0/24 via 198.18.0.9 tos 0x10",
    "route add 203.0.115.0/24 via 198.18.0.10",
    "route add 203.0.116.0/24 dev v2",
    "route replace 203.0.113.0/24 via 198.18.0.9 mtu lock 1300",
  ], ["203.0.113.1", "203.0.114.1", "203.0.115.1", "203.0.116.1"]);
});

Deno.test("a multipath route has its live members with their weights, and flows keep to them", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ip("route add 203.0.113.0/24 nexthop via 198.18.0.9 weight 3 nexthop via 198.18.1.9 weight 1");
  mirrored.settle();
  const flows = 20_000;
  let first = 0;
  for (let flow = 0; flow < flows; flow++) {
    const { gateway } = mirrored.decide(addr("203.0.113.1"), 0, Math.imul(flow, 0x9e3779b1));
    assert.ok(gateway === addr("198.18.0.9") || gateway === addr("198.18.1.9"));
    if (gateway === addr("198.18.0.9")) first++;
  }
  assert.ok(Math.abs(first / flows - 0.75) < 0.02, `${first} of ${flows}`);
});

Deno.test("the cloud host's tables: local beside broadcast addresses of a prefix with a source", () => {
  twoPairs();
  ipBatch([
    "addr flush dev v0",
    "addr add 192.0.2.165/27 brd 192.0.2.191 dev v0",
    "route add default via 192.0.2.161 dev v0 metric 300",
  ]);
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  const expected = [
    ["127.0.0.1", RTN_LOCAL],
    ["192.0.2.191", RTN_BROADCAST],
    ["192.0.2.161", RTN_UNICAST],
    ["8.8.8.8", RTN_UNICAST],
    ["192.0.2.165", RTN_LOCAL],
  ] as const;
  for (const [address, kind] of expected) {
    assert.equal(mirrored.decide(addr(address)).kind, kind, address);
    assertDecides(mirrored, oracle, { address: addr(address) });
  }
  assert.equal(mirrored.decide(addr("8.8.8.8")).source, addr("192.0.2.165"));
});

Deno.test("prefixes of every length under one address are told apart", () => {
  const address = addr("203.0.113.77");
  const prefixes = Array.from({ length: 32 }, (_, i) => {
    const length = i + 1;
    const prefix = (address & (-1 << (32 - length))) >>> 0;
    const dotted = [24, 16, 8, 0].map((shift) => prefix >>> shift & 255).join(".");
    return { length, route: `${dotted}/${length}` };
  });
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  ipBatch(
    prefixes.map(({ length, route }) => `route add ${route} via 198.18.0.${100 + length}`),
  );
  mirrored.settle();
  for (const { route } of prefixes.reverse()) {
    assertDecides(mirrored, oracle, { address });
    for (let bit = 0; bit < 32; bit++) {
      assertDecides(mirrored, oracle, { address: (address ^ 1 << bit) >>> 0 });
    }
    ip(`route del ${route}`);
    mirrored.settle();
  }
  assertCurrent(mirrored);
});

Deno.test("a route deleted twice and one added a thousand times leave the kernel's table", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ip("route add 203.0.113.0/24 via 198.18.0.9");
  ip("route del 203.0.113.0/24");
  assert.equal(tryIp("route del 203.0.113.0/24").success, false);
  ipBatch(
    Array.from(
      { length: 1000 },
      (_, i) => `route replace 203.0.113.0/24 via 198.18.0.${i % 250 + 3}`,
    ),
  );
  mirrored.settle();
  assertCurrent(mirrored);
});

Deno.test("next-hop objects: a route follows its object, its group and their weights", () => {
  follow(
    [
      "nexthop add id 1 via 198.18.0.7 dev v0",
      "nexthop add id 2 via 198.18.1.7 dev v2",
      "nexthop add id 3 blackhole",
      "nexthop add id 10 group 1,3/2,20",
      "route add 203.0.113.0/24 nhid 1",
      "route add 203.0.114.0/24 nhid 10",
      "route add 203.0.115.0/24 nhid 3",
      "nexthop replace id 1 via 198.18.0.8 dev v0",
      "nexthop replace id 10 group 1/2,5",
      "nexthop replace id 10 group 2",
      "nexthop replace id 10 group 1/2",
      "nexthop del id 2",
      "nexthop replace id 1 blackhole",
      "nexthop del id 3",
      "nexthop del id 1",
    ].filter((command) => command !== "nexthop replace id 1 blackhole"),
    [
      "203.0.113.1",
      "203.0.114.1",
      "203.0.115.1",
    ],
  );
});

Deno.test("nexthop_compat_mode 0: routes that name an object say no more, and are still followed", () => {
  twoPairs();
  Deno.writeTextFileSync("/proc/sys/net/ipv4/nexthop_compat_mode", "0");
  try {
    using mirrored = new Mirrored().sync();
    ip("nexthop add id 1 via 198.18.0.7 dev v0");
    ip("route add 203.0.113.0/24 nhid 1");
    mirrored.settle();
    const decision = mirrored.decide(addr("203.0.113.1"));
    assert.equal(decision.gateway, addr("198.18.0.7"));
    assert.equal(decision.ifindex, indexOf("v0"));
    ip("nexthop replace id 1 via 198.18.0.8 dev v0");
    mirrored.settle();
    assert.equal(mirrored.decide(addr("203.0.113.1")).gateway, addr("198.18.0.8"));
  } finally {
    Deno.writeTextFileSync("/proc/sys/net/ipv4/nexthop_compat_mode", "1");
  }
});
