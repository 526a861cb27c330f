import assert from "node:assert/strict";
import { IFF_LOWER_UP, IFF_RUNNING, IFF_UP } from "../../netbase/interfaces.ts";
import * as nl from "../../tiles/netlink/constants.ts";
import { type InterfaceListeners, InterfacesPart } from "../../tiles/netlink/interfaces_part.ts";
import { MessageBytes, MessageCursor, MessageWriter } from "../../tiles/netlink/message.ts";
import { makeRoom } from "./netbase_room.ts";

const IFINDEX = 2;

/** RTM_NEWLINK with these flags. */
function linkWith(flags: number): MessageCursor {
  const writer = new MessageWriter(512).begin({ type: nl.RTM_NEWLINK, flags: 0 });
  writer.u8(0).u8(0).u16(1).u32(IFINDEX).u32(flags).u32(0)
    .raw(nl.IFLA_IFNAME, new TextEncoder().encode("eth0\0")).word(nl.IFLA_MTU, 1500);
  const length = writer.finish();
  const cursor = new MessageCursor(new MessageBytes(writer.bytes));
  cursor.begin(0, length);
  assert.ok(cursor.next());
  return cursor;
}

Deno.test("a link that goes down and up at once is up, though copies of its addresses fill netbase", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const others = { deviceDown() {}, deviceLost() {} };
  const listeners = { routes: others, nextHops: others } as unknown as InterfaceListeners;
  const part = new InterfacesPart(writer, listeners);
  const up = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
  part.event(linkWith(up), false);
  // Two copies fit, a third does not.
  const addresses = Array.from({ length: 22_000 }, (_, local) => {
    return { local, address: local, prefixLength: 32, broadcast: 0, scope: 0, secondary: false };
  });
  const link = writer.interfaces.get(IFINDEX)!;
  assert.ok(writer.interfaces.put({ ...link, addresses }));
  writer.commit();
  for (const flags of [0, up, 0, up]) {
    part.event(linkWith(flags), false);
    assert.equal(reader.interfaces.isUp(reader.interfaces.find(IFINDEX)), flags !== 0);
  }
});
