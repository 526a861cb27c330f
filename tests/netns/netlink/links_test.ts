// SPDX-License-Identifier: Apache-2.0
/**
 * Interfaces that are renamed, change their MAC or MTU, have large indices, move away and come back,
 * and what bridges say about their ports (docs/kernel.md, Interfaces).
 */

import assert from "node:assert/strict";
import {
  addr,
  assertCurrent,
  assertDecides,
  cleanSlate,
  indexOf,
  ip,
  ipBatch,
  Mirrored,
  Oracle,
  twoPairs,
} from "./kit.ts";

Deno.test("an interface is followed by its index through new names, MACs and MTUs", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  const ifindex = indexOf("v0");
  for (const command of ["name eth9", "address 02:00:00:00:00:77", "mtu 1400", "name v0"]) {
    ip(`link set dev ${mirrored.writer.interfaces.get(ifindex)?.name} ${command}`);
    mirrored.settle();
    assertDecides(mirrored, oracle, { address: addr("198.18.0.9") });
    assertCurrent(mirrored, command);
  }
  const link = mirrored.writer.interfaces.get(ifindex);
  assert.deepEqual([link?.name, link?.mtu], ["v0", 1400]);
  assert.deepEqual([link?.macHead, link?.macTail], [0x0000_0002, 0x7700]);
});

Deno.test("an index over 65535 is one like any other", () => {
  cleanSlate();
  ip("link add big index 70000 type veth peer name peer index 2000000000");
  ip("link set big up");
  ip("link set peer up");
  ip("addr add 198.18.2.2/24 dev peer");
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  assert.equal(mirrored.decide(addr("198.18.2.9")).ifindex, 2_000_000_000);
  assertDecides(mirrored, oracle, { address: addr("198.18.2.9") });
  ip("neigh add 198.18.2.9 lladdr 02:00:00:00:00:09 dev peer");
  mirrored.settle();
  assert.ok(mirrored.reader.neighbors.lookup(2_000_000_000, addr("198.18.2.9")) >= 0);
});

Deno.test("an interface that moves to another namespace is gone, and new when it comes back", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ip("netns add elsewhere");
  ip("link set v0 netns elsewhere");
  mirrored.settle();
  assertCurrent(mirrored);
  assert.ok(mirrored.writer.interfaces.all().every(({ name }) => name !== "v0"));
  ip("-n elsewhere link set v0 netns 1");
  ip("link set v0 up");
  ip("addr add 198.18.0.2/24 dev v0");
  mirrored.settle();
  assertCurrent(mirrored);
  assert.equal(mirrored.decide(addr("198.18.0.9")).ifindex, indexOf("v0"));
  ip("netns del elsewhere");
});

Deno.test("a port that leaves its bridge is not an interface that is gone", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  for (
    const command of [
      "link add br0 type bridge",
      "link set br0 up",
      "link set v3 master br0",
      "addr add 198.18.5.2/24 dev br0",
      "link set v3 nomaster",
      "link set v3 master br0",
      "link del br0",
    ]
  ) {
    ip(command);
    mirrored.settle();
    assertCurrent(mirrored, command);
  }
  assert.notEqual(mirrored.writer.interfaces.get(indexOf("v3")), null);
});

Deno.test("addresses keep the kernel's order, secondaries last and promoted when a primary goes", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  Deno.writeTextFileSync("/proc/sys/net/ipv4/conf/v0/promote_secondaries", "1");
  for (
    const command of [
      "addr add 198.18.0.3/24 dev v0",
      "addr add 198.18.0.4/24 dev v0",
      "addr add 198.18.6.1/24 dev v0",
      "addr add 198.18.7.1/24 scope link dev v0",
      "addr del 198.18.0.2/24 dev v0",
      "addr change 198.18.0.3/24 dev v0 valid_lft 1000 preferred_lft 1000",
      "addr add 198.18.8.1 peer 198.18.8.2 dev v0",
    ]
  ) {
    ip(command);
    mirrored.settle();
    assertCurrent(mirrored, command);
    for (const address of ["198.18.0.9", "198.18.6.9", "198.18.8.2", "8.8.8.8"]) {
      assertDecides(mirrored, oracle, { address: addr(address) });
    }
  }
});

Deno.test("devices that are made after the start carry thousands of routes until they go", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  using oracle = new Oracle(mirrored);
  const routes = Array.from({ length: 2815 }, (_, i) => `198.19.${i >>> 8}.${i & 0xff}`);
  const make = {
    tunnel: ["tuntap add dev tunnel mode tun"],
    late: ["link add late index 21975 type veth peer name far", "link set far up"],
  };
  for (const [name, commands] of Object.entries(make)) {
    const before = mirrored.content().routes.length;
    for (const command of [...commands, `link set ${name} up`]) ip(command);
    ipBatch(routes.map((to) => `route add ${to} dev ${name}`));
    mirrored.settle();
    assertCurrent(mirrored, name);
    for (const to of [...routes.slice(0, 5), ...routes.slice(-5)]) {
      assertDecides(mirrored, oracle, { address: addr(to) });
    }
    assert.equal(mirrored.content().routes.length, before + routes.length);
    ip(`link set ${name} down`);
    mirrored.settle();
    assertCurrent(mirrored, `${name} is down`);
    assertDecides(mirrored, oracle, { address: addr(routes[0]) });
    ip(`link del ${name}`);
    mirrored.settle();
    assertCurrent(mirrored, `${name} is gone`);
    assert.equal(mirrored.content().routes.length, before);
  }
});
