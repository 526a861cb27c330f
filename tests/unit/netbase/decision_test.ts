// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { decide, emptyDecision } from "../../../netbase/netbase.ts";
import type { NetbaseWriter } from "../../../netbase/netbase_writer.ts";
import {
  KIND_UNSUPPORTED,
  type Route,
  RT_SCOPE_HOST,
  RT_SCOPE_LINK,
  RT_TABLE_LOCAL,
  RTN_BLACKHOLE,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_MULTICAST,
  RTN_PROHIBIT,
  RTN_UNICAST,
  RTN_UNREACHABLE,
  RTN_UNSPEC,
} from "../../../netbase/route.ts";
import { ip, routeTo } from "../netbase_kernel.ts";
import { makeRoom, setAddress, setLink } from "../netbase_room.ts";

function link(
  writer: NetbaseWriter,
  ifindex: number,
  { name = `eth${ifindex}`, mtu = 1500, loopback = false } = {},
): void {
  const flags = loopback ? 0x10049 : 0x11043;
  setLink(writer, {
    ...{ ifindex, name, flags, mtu, operstate: 6, macHead: 0, macTail: 0 },
    ...{ link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
  });
}

/** Adds an address with what the kernel adds to `local` and `main` because of it. */
function addAddress(
  writer: NetbaseWriter,
  ifindex: number,
  cidr: string,
  { scope = 0, secondary = false } = {},
): void {
  const [address, length] = [ip(cidr.split("/")[0]), Number(cidr.split("/")[1])];
  const one = { local: address, address, prefixLength: length, broadcast: 0, scope, secondary };
  assert.ok(setAddress(writer, ifindex, one));
  const own = { ifindex, source: address };
  const local = { table: RT_TABLE_LOCAL, type: RTN_LOCAL, scope: RT_SCOPE_HOST, ...own };
  writer.rib.add({ ...routeTo("0.0.0.0/32", local), destination: address }, 0x600);
  if (secondary || length === 32) return;
  const destination = Math.floor(address / 2 ** (32 - length)) * 2 ** (32 - length);
  const prefix = { destination, prefixLength: length };
  writer.rib.add({ ...routeTo("0.0.0.0/0", { scope: RT_SCOPE_LINK, ...own }), ...prefix }, 0x600);
  const broadcast = { ...local, type: RTN_BROADCAST, scope: RT_SCOPE_LINK };
  const last = destination + 2 ** (32 - length) - 1;
  writer.rib.add({ ...routeTo("0.0.0.0/32", broadcast), destination: last }, 0x600);
}

/** Decides for one destination; the fields that matter. */
function makeDecider(setUp: (writer: NetbaseWriter) => void) {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  link(writer, 1, { name: "lo", mtu: 65536, loopback: true });
  const loopback = { table: RT_TABLE_LOCAL, type: RTN_LOCAL, scope: RT_SCOPE_HOST, ifindex: 1 };
  const own = { local: ip("127.0.0.1"), address: ip("127.0.0.1"), prefixLength: 8 };
  setAddress(writer, 1, { ...own, broadcast: 0, scope: RT_SCOPE_HOST, secondary: false });
  writer.rib.add(routeTo("127.0.0.0/8", { ...loopback, source: ip("127.0.0.1") }), 0x600);
  writer.rib.add(routeTo("127.0.0.1/32", { ...loopback, source: ip("127.0.0.1") }), 0x600);
  setUp(writer);
  writer.commit();
  reader.refresh();
  const decision = emptyDecision();
  return (destination: string, { source = "0.0.0.0", flow = 0 } = {}) => {
    const kind = decide(reader, ip(destination), ip(source), flow, decision);
    assert.equal(kind, decision.kind);
    const { gateway, ifindex, source: chosen, mtu } = decision;
    return { kind, gateway: dotted(gateway), ifindex, source: dotted(chosen), mtu };
  };
}

function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
}

function route(to: string, rest: Partial<Route>): Route {
  return routeTo(to, rest);
}

const NONE = "0.0.0.0";

Deno.test("a cloud host's addresses are each taken for what they are", () => {
  const decideFor = makeDecider((writer) => {
    link(writer, 2);
    addAddress(writer, 2, "192.0.2.165/27");
    const everyone = { table: RT_TABLE_LOCAL, type: RTN_BROADCAST, scope: RT_SCOPE_LINK };
    const own = { ifindex: 2, source: ip("192.0.2.165") };
    writer.rib.add(route("192.0.2.160/32", { ...everyone, ...own }), 0x600);
    const more = { gateway: ip("192.0.2.161"), ifindex: 2, priority: 300 };
    writer.rib.add(route("0.0.0.0/0", more), 0x600);
  });
  const eth = { ifindex: 2, source: "192.0.2.165", mtu: 1500 };
  const lo = { kind: RTN_LOCAL, gateway: NONE, ifindex: 1, source: "127.0.0.1", mtu: 65536 };
  assert.deepEqual(decideFor("127.0.0.1"), lo);
  assert.deepEqual(decideFor("192.0.2.165"), { ...lo, source: "192.0.2.165" });
  assert.deepEqual(decideFor("192.0.2.160"), { kind: RTN_BROADCAST, gateway: NONE, ...eth });
  assert.deepEqual(decideFor("192.0.2.191"), { kind: RTN_BROADCAST, gateway: NONE, ...eth });
  assert.deepEqual(decideFor("192.0.2.161"), { kind: RTN_UNICAST, gateway: NONE, ...eth });
  assert.deepEqual(decideFor("8.8.8.8"), { kind: RTN_UNICAST, gateway: "192.0.2.161", ...eth });
});

Deno.test("broadcast and multicast go to the link, not to the default route's gateway", () => {
  const decideFor = makeDecider((writer) => {
    link(writer, 2);
    addAddress(writer, 2, "198.18.0.2/24");
    writer.rib.add(route("0.0.0.0/0", { gateway: ip("198.18.0.1"), ifindex: 2, mtu: 1400 }), 0x600);
    writer.rib.add(route("239.0.0.0/8", { gateway: ip("198.18.0.9"), ifindex: 2 }), 0x600);
  });
  const eth = { ifindex: 2, source: "198.18.0.2", mtu: 1500 };
  assert.deepEqual(decideFor("255.255.255.255"), { kind: RTN_BROADCAST, gateway: NONE, ...eth });
  assert.deepEqual(decideFor("224.0.0.5"), { kind: RTN_MULTICAST, gateway: NONE, ...eth });
  assert.deepEqual(decideFor("239.1.1.1"), { kind: RTN_MULTICAST, gateway: "198.18.0.9", ...eth });
  assert.equal(decideFor("8.8.8.8").mtu, 1400);
});

Deno.test("with a source given, broadcast and multicast leave by the interface that has it", () => {
  const decideFor = makeDecider((writer) => {
    for (const ifindex of [2, 3]) link(writer, ifindex, { mtu: 1500 - ifindex });
    addAddress(writer, 2, "198.18.0.2/24");
    addAddress(writer, 3, "198.19.0.2/24");
    writer.rib.add(route("0.0.0.0/0", { gateway: ip("198.18.0.1"), ifindex: 2 }), 0x600);
  });
  const out = { ifindex: 3, source: "198.19.0.2", mtu: 1497, gateway: NONE };
  const source = "198.19.0.2";
  assert.deepEqual(decideFor("224.0.0.5", { source }), { kind: RTN_MULTICAST, ...out });
  assert.deepEqual(decideFor("255.255.255.255", { source }), { kind: RTN_BROADCAST, ...out });
  assert.equal(decideFor("8.8.8.8", { source }).ifindex, 2);
  assert.equal(decideFor("8.8.8.8", { source: "198.19.0.99" }).kind, RTN_UNSPEC, "not ours");
});

Deno.test("each refusal is told as what it is", () => {
  const decideFor = makeDecider((writer) => {
    link(writer, 2);
    writer.rib.add(route("10.1.0.0/16", { type: RTN_BLACKHOLE }), 0x600);
    writer.rib.add(route("10.2.0.0/16", { type: RTN_UNREACHABLE }), 0x600);
    writer.rib.add(route("10.3.0.0/16", { type: RTN_PROHIBIT }), 0x600);
    writer.rib.add(route("10.4.0.0/16", { ifindex: 2, unsupported: true }), 0x600);
  });
  const kinds = [1, 2, 3, 4, 5].map((i) => decideFor(`10.${i}.0.1`).kind);
  const wanted = [RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, KIND_UNSUPPORTED, RTN_UNSPEC];
  assert.deepEqual(kinds, wanted);
});

Deno.test("the source is the address in the gateway's prefix, else the first primary one", () => {
  const decideFor = makeDecider((writer) => {
    link(writer, 2);
    addAddress(writer, 2, "198.18.0.2/24");
    addAddress(writer, 2, "198.18.0.3/24", { secondary: true });
    addAddress(writer, 2, "198.19.0.2/24");
    writer.rib.add(route("10.1.0.0/16", { gateway: ip("198.19.0.1"), ifindex: 2 }), 0x600);
    writer.rib.add(route("10.2.0.0/16", { gateway: ip("203.0.113.1"), ifindex: 2 }), 0x600);
    const preferred = { gateway: ip("198.19.0.1"), ifindex: 2, source: ip("198.18.0.3") };
    writer.rib.add(route("10.3.0.0/16", preferred), 0x600);
  });
  assert.equal(decideFor("10.1.0.1").source, "198.19.0.2");
  assert.equal(decideFor("10.2.0.1").source, "198.18.0.2");
  assert.equal(decideFor("10.3.0.1").source, "198.18.0.3");
});

Deno.test("an address of narrow scope is not used beyond it; another interface's is", () => {
  const decideFor = makeDecider((writer) => {
    for (const ifindex of [2, 3]) link(writer, ifindex);
    addAddress(writer, 3, "198.19.0.2/24");
    addAddress(writer, 2, "198.18.0.2/24", { scope: RT_SCOPE_LINK });
    addAddress(writer, 2, "198.18.0.3/24", { secondary: true });
    writer.rib.add(route("10.1.0.0/16", { gateway: ip("198.18.0.1"), ifindex: 2 }), 0x600);
    writer.rib.add(route("10.2.0.0/16", { scope: RT_SCOPE_LINK, ifindex: 2 }), 0x600);
  });
  assert.equal(decideFor("10.1.0.1").source, "198.19.0.2");
  assert.equal(decideFor("10.2.0.1").source, "198.18.0.2");
});

Deno.test("a loopback source leaves by no other device", () => {
  const decideFor = makeDecider((writer) => {
    link(writer, 2);
    addAddress(writer, 2, "198.18.0.2/24");
  });
  assert.equal(decideFor("198.18.0.9", { source: "127.0.0.1" }).kind, RTN_BLACKHOLE);
  assert.equal(decideFor("127.0.0.9", { source: "127.0.0.1" }).kind, RTN_LOCAL);
  assert.equal(decideFor("198.18.0.2", { source: "198.18.0.2" }).ifindex, 1);
});

Deno.test("0.0.0.0 is oneself", () => {
  const decideFor = makeDecider(() => {});
  const { kind, ifindex, source } = decideFor("0.0.0.0");
  assert.deepEqual({ kind, ifindex, source }, { kind: RTN_LOCAL, ifindex: 1, source: "127.0.0.1" });
});

Deno.test("each uplink of a multipath route carries its own addresses", () => {
  const hops = [2, 3].map((ifindex) => {
    return { gateway: ip(`198.${16 + ifindex}.0.1`), ifindex, weight: 1, flags: 0 };
  });
  const setUp = (nextHopId: number) => (writer: NetbaseWriter) => {
    for (const ifindex of [2, 3]) link(writer, ifindex);
    addAddress(writer, 2, "198.18.0.2/24");
    addAddress(writer, 3, "198.19.0.2/24");
    writer.rib.add(route("0.0.0.0/0", { hops, nextHopId }), 0x600);
  };
  const flows = Array.from({ length: 64 }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 0);
  const legacy = makeDecider(setUp(0));
  for (const flow of flows) {
    assert.equal(legacy("8.8.8.8", { source: "198.19.0.2", flow }).ifindex, 3);
    const free = legacy("8.8.8.8", { flow });
    assert.equal(free.source, `198.${16 + free.ifindex}.0.2`);
  }
  const object = makeDecider(setUp(7));
  const taken = flows.map((flow) => object("8.8.8.8", { source: "198.19.0.2", flow }).ifindex);
  assert.deepEqual(new Set(taken), new Set([2, 3]), "next-hop objects have no such preference");
});
