// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { IFF_LOWER_UP, IFF_RUNNING, IFF_UP } from "../../../netbase/interfaces.ts";
import * as nl from "../../../tiles/netlink/rtnetlink.ts";
import { MessageCursor } from "../../../tiles/netlink/rtnetlink.ts";
import {
  InterfacesTable,
  NextHopsTable,
  Notices,
  RoutesTable,
} from "../../../tiles/netlink/tables.ts";
import { MessageWriter } from "../../message_writer.ts";
import { ip, routeTo } from "../netbase_kernel.ts";
import { answerOf, makeRoom } from "../netbase_room.ts";

const IFINDEX = 2;

/** A cursor at the message that was written. */
function cursorAt(writer: MessageWriter): MessageCursor {
  const length = writer.finish();
  const cursor = new MessageCursor(writer.bytes);
  cursor.begin(0, length);
  assert.ok(cursor.next());
  return cursor;
}

/** RTM_NEWLINK, or RTM_DELLINK, with these flags. */
function linkWith(flags: number, { ifindex = IFINDEX, type = nl.RTM_NEWLINK } = {}): MessageCursor {
  const writer = new MessageWriter(512).begin({ type, flags: 0 });
  writer.u8(0).u8(0).u16(1).u32(ifindex).u32(flags).u32(0)
    .raw(nl.IFLA_IFNAME, new TextEncoder().encode(`eth${ifindex}\0`)).word(nl.IFLA_MTU, 1500);
  return cursorAt(writer);
}

/** RTM_NEWADDR or RTM_DELADDR of a /24. */
function addressOf(type: number, ifindex: number, address: number): MessageCursor {
  const writer = new MessageWriter(512).begin({ type, flags: 0 });
  writer.u8(nl.AF_INET).u8(24).u8(0).u8(0).u32(ifindex)
    .address(nl.IFA_ADDRESS, address).address(nl.IFA_LOCAL, address);
  return cursorAt(writer);
}

Deno.test("a link that goes down and up at once is up, though copies of its addresses fill netbase", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const others = { deviceDown() {}, deviceLost() {} };
  const listeners = { routes: others, nextHops: others } as unknown as ConstructorParameters<
    typeof InterfacesTable
  >[1];
  const table = new InterfacesTable(writer, listeners);
  const up = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
  table.apply(linkWith(up), "event");
  // Two copies fit, a third does not.
  const addresses = Array.from({ length: 22_000 }, (_, local) => {
    return { local, address: local, prefixLength: 32, broadcast: 0, scope: 0, secondary: false };
  });
  const link = writer.interfaces.get(IFINDEX)!;
  assert.ok(writer.interfaces.put({ ...link, addresses }));
  writer.commit();
  for (const flags of [0, up, 0, up]) {
    table.apply(linkWith(flags), "event");
    assert.equal(reader.interfaces.isUp(reader.interfaces.find(IFINDEX)), flags !== 0);
  }
});

const UP = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
const [FIRST, SECOND, GATEWAY] = ["198.18.0.3", "198.18.1.3", "198.18.0.9"].map(ip);

/** Two interfaces with an address each, and routes that the kernel withdraws without telling. */
function makeHost() {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const notices = new Notices(() => {});
  const nextHops = new NextHopsTable(writer.rib);
  const routes = new RoutesTable(writer.rib, { nextHops, notices });
  const table = new InterfacesTable(writer, { routes, nextHops, notices });
  /** Applies an event, and shows what it alone has changed: nothing is read anew here. */
  const happen = (message: MessageCursor) => {
    const stale = table.apply(message, "event");
    writer.commit();
    reader.refresh();
    return stale;
  };
  for (const [ifindex, address] of [[2, FIRST], [3, SECOND]]) {
    happen(linkWith(UP, { ifindex }));
    happen(addressOf(nl.RTM_NEWADDR, ifindex, address));
  }
  const way = { gateway: GATEWAY, ifindex: 2 };
  writer.rib.add(routeTo("10.1.0.0/16", way), 0);
  writer.rib.add(routeTo("10.2.0.0/16", { ...way, source: SECOND }), 0);
  writer.rib.add(routeTo("10.3.0.0/16", { gateway: ip("198.18.1.9"), ifindex: 3 }), 0);
  writer.commit();
  const gone = () =>
    ["10.1.0.1", "10.2.0.1", "10.3.0.1"].filter((text) => answerOf(reader, ip(text)) === "none");
  assert.deepEqual(gone(), []);
  return { happen, gone };
}

Deno.test("with the address that it prefers as its source a route goes at once", () => {
  const { happen, gone } = makeHost();
  happen(addressOf(nl.RTM_NEWADDR, 3, ip("198.18.1.4")));
  assert.notEqual(happen(addressOf(nl.RTM_DELADDR, 3, SECOND)), 0, "and routes are read anew");
  assert.deepEqual(gone(), ["10.2.0.1"]);
});

Deno.test("a route stays while the address that it prefers is on another interface", () => {
  const { happen, gone } = makeHost();
  happen(addressOf(nl.RTM_NEWADDR, 2, SECOND));
  happen(addressOf(nl.RTM_NEWADDR, 3, ip("198.18.1.4")));
  happen(addressOf(nl.RTM_DELADDR, 3, SECOND));
  assert.deepEqual(gone(), []);
});

Deno.test("with an interface's last address, its state or itself the routes out of it go at once", () => {
  const ends: [string, MessageCursor][] = [
    ["its last address", addressOf(nl.RTM_DELADDR, 2, FIRST)],
    ["down", linkWith(0)],
    ["gone", linkWith(0, { type: nl.RTM_DELLINK })],
  ];
  for (const [how, message] of ends) {
    const { happen, gone } = makeHost();
    assert.notEqual(happen(message), 0);
    assert.deepEqual(gone(), ["10.1.0.1", "10.2.0.1"], how);
  }
});
