// SPDX-License-Identifier: Apache-2.0
/** Neighbours in every state, their MACs, and what is not a neighbour of ours (docs/kernel.md, Neighbours). */

import assert from "node:assert/strict";
import { NUD_FAILED, NUD_PERMANENT, NUD_REACHABLE, NUD_STALE } from "../../../netbase/neighbors.ts";
import { formatAddress } from "../../../netbase/route.ts";
import { addr, assertCurrent, indexOf, ip, ipBatch, Mirrored, turnUntil, twoPairs } from "./kit.ts";

const PEER = addr("198.18.0.20");

function stateOf(mirrored: Mirrored): number {
  const { neighbors } = mirrored.reader;
  const record = neighbors.find(indexOf("v0"), PEER);
  return record < 0 ? 0 : neighbors.state(record);
}

Deno.test("a neighbour comes, changes its state and its MAC, and goes", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  const ifindex = indexOf("v0");
  const steps = [
    ["add", "02:00:00:00:00:01", "permanent", NUD_PERMANENT],
    ["change", "02:00:00:00:00:02", "reachable", NUD_REACHABLE],
    ["change", "02:00:00:00:00:03", "stale", NUD_STALE],
    ["replace", "02:00:00:00:00:04", "permanent", NUD_PERMANENT],
  ] as const;
  for (const [verb, mac, state, nud] of steps) {
    ip(`neigh ${verb} 198.18.0.20 lladdr ${mac} dev v0 nud ${state}`);
    mirrored.settle();
    const record = mirrored.reader.neighbors.lookup(ifindex, PEER);
    assert.equal(mirrored.reader.neighbors.state(record), nud, state);
    assert.equal(mirrored.reader.neighbors.macHead(record), 0x0000_0002);
    assert.equal(mirrored.reader.neighbors.macTail(record) >>> 8, Number(mac.slice(-2)));
  }
  ip("neigh del 198.18.0.20 dev v0");
  mirrored.settle();
  assert.equal(mirrored.reader.neighbors.lookup(ifindex, PEER), -1);
  assertCurrent(mirrored);
});

Deno.test("a neighbour that fails to resolve is not usable, and one that answers is", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ip("neigh add 198.18.0.20 dev v0 use");
  turnUntil(mirrored, () => stateOf(mirrored) === NUD_FAILED);
  assert.equal(mirrored.reader.neighbors.lookup(indexOf("v0"), PEER), -1);
  ip("neigh replace 198.18.0.20 lladdr 02:00:00:00:00:01 dev v0 nud reachable");
  mirrored.settle();
  assert.ok(mirrored.reader.neighbors.lookup(indexOf("v0"), PEER) >= 0);
});

Deno.test("100,000 permanent neighbours, whom gc_thresh3 does not bound, come and go", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  const { size: before } = mirrored.writer.neighbors;
  // One of them is the broadcast address of another link.
  const first = addr("198.18.1.0");
  const many = Array.from({ length: 100_000 }, (_, i) => formatAddress(first + i));
  ipBatch(many.map((to) => `neigh add ${to} lladdr 02:00:00:00:00:01 dev v0 nud permanent`));
  mirrored.settle();
  assert.equal(mirrored.writer.neighbors.size, before + many.length);
  assertCurrent(mirrored);
  ipBatch(many.slice(0, -1).map((to) => `neigh del ${to} dev v0`));
  mirrored.settle();
  assert.equal(mirrored.writer.neighbors.size, before + 1);
  assert.ok(mirrored.reader.neighbors.lookup(indexOf("v0"), addr(many.at(-1)!)) >= 0);
  assertCurrent(mirrored);
});

Deno.test("proxies, bridge entries, IPv6 and neighbours without a MAC are passed over", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  const { size } = mirrored.writer.neighbors;
  ipBatch([
    "neigh add proxy 198.18.0.30 dev v0",
    "neigh add 2001:db8::5 lladdr 02:00:00:00:00:05 dev v0",
    "link add br0 type bridge",
    "link set v3 master br0",
    "link set br0 up",
    "route add 224.9.9.0/24 dev v0",
  ]);
  mirrored.settle();
  assert.equal(mirrored.writer.neighbors.size, size);
  assertCurrent(mirrored);
});

Deno.test("only the neighbours of followed interfaces are kept, and of others once followed", () => {
  twoPairs();
  ipBatch(
    ["v0", "v2"].map((dev, i) => `neigh add 198.18.${i}.20 lladdr 02:00:00:00:00:2${i} dev ${dev}`),
  );
  using mirrored = new Mirrored({ neighborsOf: new Set([indexOf("v0")]) }).sync();
  const has = (dev: string, address: string) =>
    mirrored.reader.neighbors.lookup(indexOf(dev), addr(address)) >= 0;
  assert.deepEqual([has("v0", "198.18.0.20"), has("v2", "198.18.1.20")], [true, false]);
  mirrored.mirror.followNeighborsOf(new Set([indexOf("v0"), indexOf("v2")]), performance.now());
  mirrored.settle();
  assert.deepEqual([has("v0", "198.18.0.20"), has("v2", "198.18.1.20")], [true, true]);
});

Deno.test("a link that goes takes its neighbours along", () => {
  twoPairs();
  using mirrored = new Mirrored().sync();
  ipBatch(
    Array.from(
      { length: 100 },
      (_, i) =>
        `neigh add 198.18.0.${i + 20} lladdr 02:00:00:00:01:${(i + 16).toString(16)} dev v0`,
    ),
  );
  mirrored.settle();
  assert.ok(mirrored.writer.neighbors.size >= 100);
  ip("link del v0");
  mirrored.settle();
  assertCurrent(mirrored);
});
