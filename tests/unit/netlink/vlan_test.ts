// SPDX-License-Identifier: Apache-2.0
/**
 * VLAN devices from what the kernel says of them to where frames go: messages recorded from a kernel
 * that has such devices, the interface table made of them, and what a net tile reads in it.
 */

import assert from "node:assert/strict";
import { Devices } from "../../../tiles/net/route_cache.ts";
import * as nl from "../../../tiles/netlink/rtnetlink.ts";
import { MessageCursor } from "../../../tiles/netlink/rtnetlink.ts";
import { InterfacesTable } from "../../../tiles/netlink/tables.ts";
import { recordedVlans } from "../../fixtures/netlink/recorded.ts";
import { makeRoom } from "../netbase_room.ts";

const [Q, AD] = [0x8100, 0x88a8];
const NLM_F_MULTI = 2;

/** The messages of a type, those of a dump or events. */
function messages(type: number, { dumped }: { dumped: boolean }): MessageCursor[] {
  return recordedVlans().map(({ bytes }) => {
    const cursor = new MessageCursor(bytes);
    cursor.begin(0, bytes.length);
    cursor.next();
    return cursor;
  }).filter((cursor) => cursor.type === type && ((cursor.flags & NLM_F_MULTI) !== 0) === dumped);
}

Deno.test("recorded VLAN devices, 802.1Q, 802.1ad and one in the other, are where their frames go", () => {
  const { writer, reader } = makeRoom();
  const others = { deviceDown() {}, deviceGone() {}, deviceLost() {}, carrierLost() {} };
  const tables = { routes: others, nextHops: others };
  const table = new InterfacesTable(
    writer,
    tables as unknown as ConstructorParameters<typeof InterfacesTable>[1],
  );
  table.beginSync();
  for (const message of messages(nl.RTM_NEWLINK, { dumped: true })) table.apply(message, "dump");
  table.endSync();
  writer.commit();
  reader.refresh();
  const all = [...writer.interfaces.all()];
  const [tagged, service, double] = ["tagged", "service", "double"].map((wanted) =>
    all.find(({ name }) => name === wanted)!
  );
  const below = tagged.link;
  assert.deepEqual(all.length, 3);
  assert.deepEqual(
    [tagged, service, double].map(({ vlanProtocol, vlanId, link }) => [vlanProtocol, vlanId, link]),
    [[Q, 5, below], [AD, 5, below], [Q, 8, service.ifindex]],
  );

  const devices = new Devices(reader, [{ ifindex: below }]);
  assert.equal(devices.tagged(below, Q, 5), tagged.ifindex);
  assert.equal(devices.tagged(below, AD, 5), service.ifindex);
  assert.equal(devices.tagged(service.ifindex, Q, 8), double.ifindex);
  assert.equal(devices.tagged(tagged.ifindex, Q, 8), -1);
  assert.deepEqual(devices.egress(tagged.ifindex)?.tags, [Q * 0x10000 + 5]);
  assert.deepEqual(devices.egress(double.ifindex)?.tags, [AD * 0x10000 + 5, Q * 0x10000 + 8]);

  for (const message of messages(nl.RTM_DELLINK, { dumped: false })) table.apply(message, "event");
  writer.commit();
  reader.refresh();
  assert.deepEqual([...writer.interfaces.all()], []);
  assert.deepEqual([devices.tagged(below, Q, 5), devices.egress(double.ifindex)], [-1, null]);
});
