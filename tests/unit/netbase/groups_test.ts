// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { NEXT_HOPS, TBL8S } from "../../../netbase/layout.ts";
import { NetbaseReader } from "../../../netbase/netbase.ts";
import { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import {
  type Hop,
  KIND_GROUP,
  KIND_OVERFLOW,
  NLM_F_APPEND,
  NLM_F_REPLACE,
  RTNH_F_DEAD,
  RTNH_F_LINKDOWN,
} from "../../../netbase/route.ts";
import { ip, routeTo } from "../netbase_kernel.ts";
import { answerOf, makeRoom, settle } from "../netbase_room.ts";
import fc from "../property.ts";

const ADDRESS = ip("10.0.0.1");
/** One flow for every slot of the largest group. */
const FLOWS = Array.from({ length: 8192 }, (_, i) => (i << 19) >>> 0);

function hop(gateway: number, weight = 1, flags = 0): Hop {
  return { gateway, ifindex: 2, weight, flags };
}

/** The gateway that each flow to ADDRESS takes. */
function gateways(reader: NetbaseReader): number[] {
  const { nextHops } = reader;
  const id = reader.fib.lookup(ADDRESS);
  if (nextHops.kind(id) !== KIND_GROUP) return FLOWS.map(() => nextHops.gateway(id));
  return FLOWS.map((flow) => nextHops.gateway(nextHops.member(id, flow)));
}

/** A netbase whose route to ADDRESS can be given other hops. */
function makeGroup(): { reader: NetbaseReader; setHops: (hops: Hop[]) => number[] } {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const setHops = (hops: Hop[]) => {
    writer.rib.add(routeTo("10.0.0.0/24", { hops }), NLM_F_REPLACE);
    writer.commit();
    return gateways(reader);
  };
  return { reader, setHops };
}

const anyHops = fc.uniqueArray(
  fc.record({ gateway: fc.integer({ min: 1, max: 40 }), weight: fc.integer({ min: 1, max: 64 }) }),
  { minLength: 2, maxLength: 20, selector: ({ gateway }) => gateway },
).map((hops) => hops.map(({ gateway, weight }) => hop(gateway, weight)));

Deno.test("shares of flows are within 2 % of the weights, or one slot where that is more", () => {
  fc.assert(
    fc.property(fc.array(anyHops, { minLength: 1, maxLength: 4 }), (history) => {
      const { setHops } = makeGroup();
      for (const hops of history) {
        const flows = setHops(hops);
        const total = hops.reduce((sum, { weight }) => sum + weight, 0);
        for (const { gateway, weight } of hops) {
          const share = flows.filter((one) => one === gateway).length / flows.length;
          const wanted = weight / total;
          const bound = Math.max(0.02 * wanted, 1 / flows.length);
          assert.ok(Math.abs(share - wanted) <= bound, `${share} for ${wanted}`);
        }
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("when a member goes, no flow of another member moves", () => {
  fc.assert(
    fc.property(anyHops, fc.nat(), (hops, pick) => {
      const { setHops } = makeGroup();
      const before = setHops(hops);
      const gone = hops[pick % hops.length].gateway;
      const after = setHops(hops.filter(({ gateway }) => gateway !== gone));
      before.forEach((gateway, flow) => {
        if (gateway === gone) assert.notEqual(after[flow], gone);
        else assert.equal(after[flow], gateway);
      });
    }),
    { numRuns: 100 },
  );
});

/** Five whose table grows for a sixth of little weight. */
const GROWING = [hop(2, 49), hop(1, 44), hop(3, 50), hop(4, 32), hop(5, 20)];

Deno.test("when a member comes, flows move to it alone", () => {
  fc.assert(
    fc.property(anyHops, fc.integer({ min: 1, max: 64 }), (hops, weight) => {
      const { setHops } = makeGroup();
      const before = setHops(hops);
      const after = setHops([...hops, hop(99, weight)]);
      before.forEach((gateway, flow) => {
        if (after[flow] !== gateway) assert.equal(after[flow], 99);
      });
    }),
    { numRuns: 100, examples: [[GROWING, 1]] },
  );
});

Deno.test("a dead hop has no flows, one that is merely linkdown has its own", () => {
  const { reader, setHops } = makeGroup();
  const flows = setHops([hop(1), hop(2, 1, RTNH_F_DEAD), hop(3, 1, RTNH_F_LINKDOWN)]);
  assert.deepEqual(new Set(flows), new Set([1, 3]));
  const alone = setHops([hop(1), hop(2, 1, RTNH_F_DEAD), hop(3, 1, RTNH_F_DEAD)]);
  assert.deepEqual(new Set(alone), new Set([1]));
  assert.notEqual(reader.nextHops.kind(reader.fib.lookup(ADDRESS)), KIND_GROUP);
});

Deno.test("a reader that stands still goes on with the group that it found", () => {
  const { writer, reader, standing } = makeRoom();
  const group = (seed: number) => [1, 2, 3].map((i) => hop(seed * 8 + i, i));
  writer.rib.add(routeTo("10.0.0.0/24", { hops: group(0) }), 0);
  writer.commit();
  const id = reader.fib.lookup(ADDRESS);
  for (let i = 1; i < 200; i++) {
    writer.rib.add(routeTo("10.0.0.0/24", { hops: group(i) }), NLM_F_REPLACE);
    writer.commit();
  }
  for (const flow of FLOWS) {
    const gateway = reader.nextHops.gateway(reader.nextHops.member(id, flow));
    assert.ok(gateway >= 1 && gateway <= 3);
  }
  standing.burst++;
});

Deno.test("groups and next hops are used again for ever", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  for (let i = 0; i < 40_000; i++) {
    writer.rib.add(routeTo("10.0.0.0/24", { hops: [hop(i + 1), hop(i + 2, 3)] }), NLM_F_REPLACE);
    writer.commit();
    if (i % 1000 !== 0) continue;
    assert.deepEqual(new Set(gateways(reader)), new Set([i + 1, i + 2]));
  }
});

Deno.test("default routes of equal metric come and go for ever", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const route = (gateway: number) => routeTo("0.0.0.0/0", { gateway, ifindex: 2 });
  writer.rib.add(route(1), 0);
  for (let i = 2; i < 40_000; i++) {
    writer.rib.add(route(i), NLM_F_APPEND);
    writer.commit();
    if (i % 1000 === 0) assert.equal(answerOf(reader, ADDRESS), `1 1%2 from 0 mtu 0`);
    writer.rib.remove(route(i));
  }
  writer.rib.remove(route(1));
  for (let i = 0; i < 4; i++) writer.commit();
  assert.equal(answerOf(reader, ADDRESS), "none");
  assert.equal(writer.waiting, 0);
});

Deno.test("routes beyond the last next hop are dropped under their own name, until there is room", () => {
  const { writer, reader, standing } = makeRoom();
  const route = (i: number) =>
    routeTo(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32`, { gateway: i + 1, ifindex: 2 });
  const count = NEXT_HOPS + 10_000;
  for (let i = 0; i < count; i++) writer.rib.add(route(i), 0);
  writer.commit();
  assert.equal(writer.fib.overflow, count - (NEXT_HOPS - 2));
  const last = ip("10.0.0.0") + count - 1;
  assert.equal(reader.nextHops.kind(reader.fib.lookup(last)), KIND_OVERFLOW);
  assert.equal(reader.nextHops.gateway(reader.fib.lookup(ip("10.0.0.7"))), 8);
  for (let i = 0; i < 10_000; i++) writer.rib.remove(route(i));
  settle(writer, standing);
  assert.equal(writer.fib.overflow, 2);
  for (let i = 0; i < 2; i++) writer.rib.remove(route(10_000 + i));
  settle(writer, standing);
  assert.equal(writer.fib.overflow, 0);
  assert.equal(reader.nextHops.gateway(reader.fib.lookup(last)), count);
});

Deno.test("a /24 beyond the last group of cells is dropped under its own name, until there is room", () => {
  const { writer, reader, standing } = makeRoom();
  const half = (i: number) => routeTo(`10.${i >> 8}.${i & 255}.0/25`, { ifindex: 2 });
  const count = TBL8S + 10;
  for (let i = 0; i < count; i++) writer.rib.add(half(i), 0);
  writer.commit();
  assert.equal(writer.fib.overflow, 10);
  const last = ip("10.0.0.0") + (count - 1) * 256;
  assert.equal(reader.nextHops.kind(reader.fib.lookup(last)), KIND_OVERFLOW);
  for (let i = 0; i < 10; i++) writer.rib.remove(half(i));
  settle(writer, standing);
  assert.equal(writer.fib.overflow, 0);
  assert.equal(answerOf(reader, last), answerOf(reader, ip("10.9.0.1")));
  assert.equal(answerOf(reader, last + 128), "none");
});

Deno.test("a group with more members than fit is dropped under its own name", () => {
  const { reader, setHops } = makeGroup();
  setHops(Array.from({ length: 300 }, (_, i) => hop(i + 1)));
  assert.equal(reader.nextHops.kind(reader.fib.lookup(ADDRESS)), KIND_OVERFLOW);
});

Deno.test("a successor has room for all that its predecessor painted, more than half of it groups", () => {
  const { view, writer, standing } = makeRoom();
  standing.asleep = true;
  const routes = Array.from({ length: 160 }, (_, i) => {
    return routeTo(`10.0.${i}.0/24`, { hops: [hop(i + 1), hop(1000, 200)] });
  });
  const lone = routeTo("10.1.0.0/24", { gateway: 7, ifindex: 2 });
  for (const route of [...routes, lone]) writer.rib.add(route, 0);
  writer.commit();
  assert.equal(writer.fib.overflow, 0);
  const reader = new NetbaseReader(view);
  const painted = () => routes.map(({ destination }) => reader.fib.lookup(destination)).toSorted();
  const before = painted();
  const options = { readers: [standing], neighborSlots: 64, seed: 2, wait: () => {} };
  const successor = new NetbaseWriter(view, options);
  successor.rib.beginSync();
  for (const route of routes) successor.rib.addFromDump(route);
  successor.rib.endSync();
  successor.commit();
  assert.equal(successor.fib.overflow, 0);
  assert.deepEqual(painted(), before);
  assert.equal(reader.fib.lookup(lone.destination), 0);
  // What it took over it gives back in the end, and what nobody wanted came back at once.
  for (const route of routes) successor.rib.remove(route);
  successor.commit();
  assert.equal(successor.waiting, 0);
  for (let id = 2; id < NEXT_HOPS; id++) assert.equal(reader.nextHops.kind(id), 0);
});
