// SPDX-License-Identifier: Apache-2.0
/**
 * The rtnetlink codec: what is written is read again, what the kernel sent is read right, and no
 * message whatsoever makes it throw anything but its own error, hang, or look outside.
 */

import assert from "node:assert/strict";
import { emptyRoute, type Hop, type Route } from "../../../netbase/route.ts";
import * as nl from "../../../tiles/netlink/rtnetlink.ts";
import {
  decodeAddress,
  decodeLink,
  decodeNeighbor,
  decodeNeighborTable,
  decodeNextHop,
  decodeRoute,
  decodeRule,
  decodeSettings,
  DUMPS,
  emptyNeighborMessage,
  MalformedMessage,
  MessageCursor,
  writeDump,
  writeGetRoute,
  writeNeighbor,
} from "../../../tiles/netlink/rtnetlink.ts";
import { recorded } from "../../fixtures/netlink/recorded.ts";
import { MessageWriter } from "../../message_writer.ts";
import { SEED } from "../../seed.ts";
import fc from "../property.ts";
import { Random } from "../random.ts";

const address = fc.integer({ min: 1, max: 0xffffffff });
const byte = fc.integer({ min: 0, max: 255 });
const index = fc.integer({ min: 1, max: 0x7fffffff });
const word = fc.integer({ min: 0, max: 0xffffffff });

/** Decodes every message of a datagram by its type, as plain values. */
function decodeAll(cursor: MessageCursor): unknown[] {
  const all: unknown[] = [];
  while (cursor.next()) {
    all.push([cursor.type, cursor.flags, cursor.sequence, cursor.port, decodeOne(cursor)]);
  }
  return all;
}

function decodeOne(cursor: MessageCursor): unknown {
  switch (cursor.type) {
    case nl.RTM_NEWLINK:
    case nl.RTM_DELLINK:
      return decodeLink(cursor);
    case nl.RTM_NEWADDR:
    case nl.RTM_DELADDR:
      return decodeAddress(cursor);
    case nl.RTM_NEWNETCONF:
    case nl.RTM_DELNETCONF:
      return decodeSettings(cursor);
    case nl.RTM_NEWROUTE:
    case nl.RTM_DELROUTE: {
      const message = emptyRoute();
      return decodeRoute(cursor, message) ? { ...message } : null;
    }
    case nl.RTM_NEWNEIGH:
    case nl.RTM_DELNEIGH: {
      const message = emptyNeighborMessage();
      return decodeNeighbor(cursor, message) ? { ...message } : null;
    }
    case nl.RTM_NEWNEIGHTBL:
      return decodeNeighborTable(cursor);
    case nl.RTM_NEWNEXTHOP:
    case nl.RTM_DELNEXTHOP:
      return decodeNextHop(cursor);
    case nl.RTM_NEWRULE:
    case nl.RTM_DELRULE:
      return decodeRule(cursor);
    default:
      return "other";
  }
}

/** A cursor at the first message of what `writer` wrote. */
function written(writer: MessageWriter): MessageCursor {
  const length = writer.finish();
  const cursor = new MessageCursor(writer.bytes);
  cursor.begin(0, length);
  assert.ok(cursor.next());
  return cursor;
}

/** Only the bits that a prefix of this length has. */
function masked(value: number, prefixLength: number): number {
  return prefixLength === 0 ? 0 : (value & (-1 << (32 - prefixLength))) >>> 0;
}

const hop = fc.record({
  gateway: fc.oneof(fc.constant(0), address),
  ifindex: index,
  weight: fc.integer({ min: 1, max: 256 }),
  flags: byte,
}, { noNullPrototype: true });

Deno.test("decodeRoute() reads back every field of a route as it was written", () => {
  const route = fc.record({
    destination: word,
    prefixLength: fc.integer({ min: 0, max: 32 }),
    tos: byte,
    table: fc.integer({ min: 1, max: 0xffffffff }),
    protocol: byte,
    scope: byte,
    type: fc.integer({ min: 1, max: 9 }),
    flags: word,
    priority: word,
    source: fc.oneof(fc.constant(0), address),
    gateway: fc.oneof(fc.constant(0), address),
    ifindex: fc.oneof(fc.constant(0), index),
    mtu: fc.oneof(fc.constant(0), fc.integer({ min: 68, max: 65535 })),
    nextHopId: fc.oneof(fc.constant(0), word),
    hops: fc.option(fc.array(hop, { minLength: 1, maxLength: 20 })),
    unsupported: fc.boolean(),
  }, { noNullPrototype: true });
  fc.assert(fc.property(route, (wanted) => {
    wanted.destination = masked(wanted.destination, wanted.prefixLength);
    const message = emptyRoute();
    assert.ok(decodeRoute(written(writeRoute(wanted)), message));
    assert.deepEqual({ ...message }, wanted);
  }));
});

/** What `write` writes, for what is nested in an attribute. */
function bytesOf(write: (writer: MessageWriter) => void): Uint8Array {
  const writer = new MessageWriter(2048).begin({ type: 0, flags: 0 });
  write(writer);
  return writer.bytes.subarray(nl.NLMSG_HDRLEN, writer.finish());
}

/** Zero-terminated. */
function textOf(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}

function writeRoute(route: Route): MessageWriter {
  const writer = new MessageWriter(2048).begin({ type: nl.RTM_NEWROUTE, flags: 0 });
  writer.u8(nl.AF_INET).u8(route.prefixLength).u8(0).u8(route.tos).u8(route.table & 0xff)
    .u8(route.protocol).u8(route.scope).u8(route.type).u32(route.flags);
  if (route.table > 255) writer.word(nl.RTA_TABLE, route.table);
  if (route.destination !== 0) writer.address(nl.RTA_DST, route.destination);
  if (route.priority !== 0) writer.word(nl.RTA_PRIORITY, route.priority);
  if (route.source !== 0) writer.address(nl.RTA_PREFSRC, route.source);
  if (route.ifindex !== 0) writer.word(nl.RTA_OIF, route.ifindex);
  if (route.gateway !== 0) writer.address(nl.RTA_GATEWAY, route.gateway);
  if (route.mtu !== 0) {
    writer.raw(
      nl.RTA_METRICS,
      bytesOf((inside) => inside.word(8, 1300).word(nl.RTAX_MTU, route.mtu)),
    );
  }
  if (route.nextHopId !== 0) writer.word(nl.RTA_NH_ID, route.nextHopId);
  if (route.unsupported) writer.raw(nl.RTA_VIA, Uint8Array.of(10, 0, ...new Array(16).fill(1)));
  if (route.hops !== null) {
    const hops = route.hops;
    writer.raw(nl.RTA_MULTIPATH, bytesOf((inside) => hops.forEach((hop) => writeHop(inside, hop))));
  }
  return writer;
}

function writeHop(writer: MessageWriter, { gateway, flags, weight, ifindex }: Hop): void {
  // Half of them by RTA_VIA, which holds IPv4 gateways too, and takes four bytes more.
  const isVia = (gateway & 1) === 1;
  const attributeBytes = gateway === 0 ? 0 : isVia ? 12 : 8;
  writer.u16(8 + attributeBytes).u8(flags).u8(weight - 1).u32(ifindex);
  if (isVia) {
    const bytes = Uint8Array.of(2, 0, gateway >>> 24, gateway >>> 16, gateway >>> 8, gateway);
    writer.raw(nl.RTA_VIA, bytes);
  } else if (gateway !== 0) writer.address(nl.RTA_GATEWAY, gateway);
}

Deno.test("decodeNeighbor() reads back address, MAC, state and flags as they were written", () => {
  const neighbor = fc.record({
    ifindex: index,
    state: fc.constantFrom(2, 4, 8, 16, 32, 64, 128),
    flags: fc.constantFrom(0, nl.NTF_EXT_LEARNED),
    type: byte,
    address,
    mac: fc.option(fc.uint8Array({ minLength: 6, maxLength: 6 })),
    confirmed: fc.integer({ min: 0, max: 1_000_000 }),
  });
  fc.assert(fc.property(neighbor, ({ mac, confirmed, ...wanted }) => {
    const writer = new MessageWriter().begin({ type: nl.RTM_NEWNEIGH, flags: 0 });
    writer.u8(nl.AF_INET).u8(0).u16(0).u32(wanted.ifindex).u16(wanted.state).u8(wanted.flags)
      .u8(wanted.type).address(nl.NDA_DST, wanted.address);
    if (mac !== null) writer.raw(nl.NDA_LLADDR, mac);
    writer.raw(nl.NDA_CACHEINFO, new Uint8Array(new Uint32Array([confirmed, 1, 2, 3]).buffer));
    const message = emptyNeighborMessage();
    assert.ok(decodeNeighbor(written(writer), message));
    assert.deepEqual({ ...message }, {
      ...wanted,
      hasMac: mac !== null,
      ...macWords(mac),
      confirmedMillis: confirmed * 10,
    });
  }));
});

/** A MAC address as netbase keeps it. */
function macWords(mac: Uint8Array | null): { macHead: number; macTail: number } {
  if (mac?.length !== 6) return { macHead: 0, macTail: 0 };
  const view = new DataView(mac.buffer, mac.byteOffset);
  return { macHead: view.getUint32(0, true), macTail: view.getUint16(4, true) };
}

Deno.test("decodeLink() reads back an interface as it was written, VLAN id and all", () => {
  const link = fc.record({
    ifindex: index,
    flags: word,
    name: fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 15 }),
    kind: fc.constantFrom(null, "veth", "vlan", "bridge"),
    mtu: word,
    master: fc.oneof(fc.constant(0), index),
    link: fc.oneof(fc.constant(0), index),
    vlanId: fc.integer({ min: 0, max: 4095 }),
    operstate: byte,
    mac: fc.oneof(fc.uint8Array({ minLength: 6, maxLength: 6 }), fc.uint8Array({ maxLength: 20 })),
    elsewhere: fc.boolean(),
  });
  fc.assert(fc.property(link, ({ mac, elsewhere, vlanId, kind, ...wanted }) => {
    const writer = new MessageWriter(512).begin({ type: nl.RTM_NEWLINK, flags: 0 });
    writer.u8(0).u8(0).u16(1).u32(wanted.ifindex).u32(wanted.flags).u32(0)
      .raw(nl.IFLA_IFNAME, textOf(wanted.name)).word(nl.IFLA_MTU, wanted.mtu)
      .raw(nl.IFLA_OPERSTATE, Uint8Array.of(wanted.operstate)).raw(nl.IFLA_ADDRESS, mac);
    if (wanted.master !== 0) writer.word(nl.IFLA_MASTER, wanted.master);
    if (wanted.link !== 0) writer.word(nl.IFLA_LINK, wanted.link);
    if (elsewhere) writer.word(nl.IFLA_LINK_NETNSID, 0);
    if (kind !== null) {
      const data = bytesOf((inside) =>
        inside.raw(nl.IFLA_VLAN_PROTOCOL, Uint8Array.of(0x88, 0xa8))
          .raw(nl.IFLA_VLAN_ID, Uint8Array.of(vlanId, vlanId >>> 8))
      );
      // The kernel puts the kind first; nothing says that it must.
      const info = bytesOf((inside) =>
        inside.raw(nl.IFLA_INFO_DATA, data).raw(nl.IFLA_INFO_KIND, textOf(kind))
      );
      writer.raw(nl.IFLA_LINKINFO, info);
    }
    assert.deepEqual(decodeLink(written(writer)), {
      ...wanted,
      ...macWords(mac),
      ...{ broadcastHead: 0, broadcastTail: 0 },
      link: elsewhere ? 0 : wanted.link,
      vlanId: kind === "vlan" ? vlanId : 0,
      vlanProtocol: kind === "vlan" ? 0x88a8 : 0,
    });
  }));
});

Deno.test("decodeAddress() takes IFA_LOCAL for the address and IFA_FLAGS for the flags", () => {
  const writer = new MessageWriter().begin({ type: nl.RTM_NEWADDR, flags: 0 });
  writer.u8(nl.AF_INET).u8(24).u8(0x80).u8(0).u32(70_000).address(nl.IFA_ADDRESS, 0xc6120902)
    .address(nl.IFA_LOCAL, 0xc6120901).address(nl.IFA_BROADCAST, 0xc61209ff).word(nl.IFA_FLAGS, 1);
  assert.deepEqual(decodeAddress(written(writer)), {
    prefixLength: 24,
    scope: 0,
    secondary: true,
    ifindex: 70_000,
    local: 0xc6120901,
    address: 0xc6120902,
    broadcast: 0xc61209ff,
  });
});

Deno.test("decodeNextHop() reads members and weights over 255 of a group", () => {
  const writer = new MessageWriter().begin({ type: nl.RTM_NEWNEXTHOP, flags: 0 });
  writer.u8(0).u8(0).u8(0).u8(0).u32(0).word(nl.NHA_ID, 9)
    .raw(nl.NHA_GROUP, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0xff, 0x01, 0, 0));
  assert.deepEqual(decodeNextHop(written(writer)).group, [
    { id: 1, weight: 1 },
    { id: 2, weight: 512 },
  ]);
});

Deno.test("a request for a dump has the family header that strict checking wants", () => {
  for (const kind of Object.keys(DUMPS) as (keyof typeof DUMPS)[]) {
    const writer = new MessageWriter();
    const length = writeDump(writer, kind, 77);
    assert.equal(length, nl.NLMSG_HDRLEN + DUMPS[kind].headerBytes);
    const cursor = written(writer);
    assert.equal(cursor.sequence, 77);
    assert.equal(cursor.flags, nl.NLM_F_REQUEST | nl.NLM_F_DUMP);
  }
});

Deno.test("requests for a route and for a neighbour carry their addresses in network order", () => {
  const route = new MessageWriter();
  writeGetRoute(route, 0xc6120001, 1);
  const asked = emptyRoute();
  assert.ok(decodeRoute(written(route), asked));
  assert.equal(asked.destination, 0xc6120001);
  assert.equal(asked.flags, nl.RTM_F_FIB_MATCH | nl.RTM_F_LOOKUP_TABLE);
  const use = new MessageWriter();
  writeNeighbor(use, nl.RTM_NEWNEIGH, { ifindex: 70_000, address: 0xc6120001 });
  const neighbor = emptyNeighborMessage();
  assert.ok(decodeNeighbor(written(use), neighbor));
  assert.deepEqual([neighbor.ifindex, neighbor.address], [70_000, 0xc6120001]);
  assert.equal(neighbor.flags, nl.NTF_USE);
});

Deno.test("every message recorded from the kernel is read without complaint", () => {
  for (const { name, bytes } of recorded()) {
    const cursor = new MessageCursor(bytes);
    cursor.begin(0, bytes.length);
    assert.equal(decodeAll(cursor).length, 1, name);
  }
});

Deno.test("recorded routes say table 1000, not 232, and that an IPv6 gateway is not supported", () => {
  const routes = recorded().filter(({ name }) => name === "newroute").map(({ bytes }) => {
    const cursor = new MessageCursor(bytes);
    cursor.begin(0, bytes.length);
    cursor.next();
    const route = emptyRoute();
    decodeRoute(cursor, route);
    return route;
  });
  assert.ok(routes.some(({ table }) => table === 1000));
  assert.ok(routes.every(({ table }) => table !== 232));
  const viaInet6 = routes.filter(({ destination }) => destination === 0xcb007400);
  assert.ok(viaInet6.length > 0 && viaInet6.every(({ unsupported }) => unsupported));
  const mixed = routes.filter(({ destination }) => destination === 0xcb007500);
  assert.ok(mixed.length > 0 && mixed.every(({ unsupported }) => unsupported));
  assert.deepEqual(mixed[0].hops?.map(({ gateway }) => gateway), [0, 0xc6120109]);
});

/** Damages `bytes` from `at` on: flips, overwrites and lengths that lie. */
function damage(bytes: Uint8Array, { at, length }: { at: number; length: number }, random: Random) {
  for (let times = 1 + random.below(4); times > 0; times--) {
    const where = at + random.below(length);
    switch (random.below(3)) {
      case 0:
        bytes[where] ^= 1 << random.below(8);
        break;
      case 1:
        bytes[where] = random.below(256);
        break;
      default:
        bytes[where & ~3] = random.below(40);
        bytes[where & ~3 | 1] = 0;
    }
  }
}

Deno.test("mutated messages end in a value or in MalformedMessage, and nothing outside is read", () => {
  const steps = Number(Deno.env.get("TEGULA_FUZZ_STEPS") ?? 1_000_000);
  const random = new Random(SEED);
  const messages = recorded().map(({ bytes }) => bytes);
  const memory = new Uint8Array(8192);
  const cursor = new MessageCursor(memory);
  let refused = 0;
  for (let step = 0; step < steps; step++) {
    const message = messages[random.below(messages.length)];
    const at = 64;
    memory.set(message, at);
    damage(memory, { at, length: message.length }, random);
    const length = random.below(4) === 0 ? random.below(message.length + 1) : message.length;
    // The same message between two kinds of surroundings has to read the same.
    const read = [0x00, 0xff].map((around) => {
      memory.fill(around, 0, at);
      memory.fill(around, at + length, at + message.length + 64);
      return outcome(cursor, at, length);
    });
    assert.deepEqual(read[0], read[1], `step ${step}`);
    if (read[0] === null) refused++;
  }
  assert.ok(refused > steps / 10 && refused < steps, `${refused} of ${steps} refused`);
});

function outcome(cursor: MessageCursor, at: number, length: number): string | null {
  cursor.begin(at, length);
  try {
    return JSON.stringify(decodeAll(cursor));
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    return null;
  }
}
