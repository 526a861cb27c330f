// SPDX-License-Identifier: Apache-2.0
/**
 * An interface's attachment (`master/attachment.ts`) on the real kernel: sockets that are handed
 * over before they are bound, carried to another program, and made again with their interface.
 */

import { deepEqual, equal, ok, throws } from "node:assert/strict";
import { openRegions, u8 } from "../../../ffi/region.ts";
import { openXsk, openXskSetup } from "../../../ffi/xsk.ts";
import { Attachment } from "../../../master/attachment.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import { FRAME_BYTES, RING_ENTRIES } from "../../../tiles/runtime/plan.ts";
import { carries, command, frame, PacketSocket, Wire } from "../wire.ts";
import { createRegion } from "../../region.ts";

const ADDRESS = 0xc6120001;

const regions = openRegions();
const setup = openXskSetup();
const xsk = openXsk();
const umem = createRegion(regions, "umem", 4 * RING_ENTRIES * FRAME_BYTES).writer;
const QUEUES = [{ queue: 0, umem }];

/** Loads the program for an interface, with 198.18.0.1:7 ours there, and prepares its only queue. */
function prepared({ near: { name, ifindex, mac } }: Wire, by = setup): Attachment {
  const attachment = new Attachment(by, { name, ifindex, queues: 1, map: regions.mapShared });
  const filter = new Filter(attachment.filter);
  filter.setMac(mac);
  filter.setPorts([7]);
  filter.add(ADDRESS);
  attachment.prepare(QUEUES);
  return attachment;
}

/** What a net tile does before the sockets are bound: maps the rings, and fills one frame, `index`. */
function adopt({ descriptors: [, { fd }] }: Attachment, index = 0): number {
  const slot = xsk.adopt(fd, umem, RING_ENTRIES);
  ok(slot >= 0, `adopt: ${slot}`);
  equal(xsk.fill(slot, Uint32Array.of(index * FRAME_BYTES), 1), 1);
  return slot;
}

function send(wire: Wire, payload: string): void {
  using far = wire.farSocket();
  far.send(frame({ to: wire.near.mac, destination: ADDRESS, port: 7, payload }));
}

/** Whether what is sent comes to the socket. It then has its frame again. */
function serves(wire: Wire, slot: number, payload: string): boolean {
  using kernel = new PacketSocket(wire.near.ifindex);
  send(wire, payload);
  if (kernel.receive(carries(payload), 100) !== null) return false;
  const words = new Uint32Array(4);
  equal(xsk.receive(slot, words, 1), 1, `${payload} came nowhere`);
  ok(carries(payload)(u8(umem).subarray(words[2], words[2] + words[3])));
  equal(xsk.fill(slot, words.subarray(2), 1), 1);
  return true;
}

Deno.test("sockets that were handed over stay the same when zero-copy is refused", () => {
  using wire = new Wire("refused");
  const attachment = prepared(wire);
  const { descriptors } = attachment;
  deepEqual(descriptors.map(({ name }) => name), ["filter refused", "xsk refused/0"]);
  const slot = adopt(attachment);
  throws(() => attachment.open("zero-copy"), /^Error: queue 0: EOPNOTSUPP/);
  equal(setup.attached(wire.near.ifindex), null);
  deepEqual(attachment.open("copy"), { attach: "native", reason: "" });
  deepEqual(attachment.descriptors, descriptors);
  ok(!serves(wire, slot, "too early"));
  attachment.serve();
  ok(serves(wire, slot, "served"));
  xsk.release(slot);
  attachment.unload();
  equal(setup.attached(wire.near.ifindex), null);
});

Deno.test("where one socket cannot be bound it is detached, and others can be bound to the queues", () => {
  using wire = new Wire("partly", { queues: 2 });
  const { name, ifindex } = wire.near;
  const made = () => new Attachment(setup, { name, ifindex, queues: 2, map: regions.mapShared });
  const partly = made();
  partly.prepare([...QUEUES, { umem, queue: 7 }]);
  ok(!partly.spent);
  throws(() => partly.open("copy"), /^Error: native queue 7: EINVAL.*, generic queue 7: EINVAL/);
  equal(setup.attached(ifindex), null);
  ok(partly.spent);
  partly.unload();
  const attachment = made();
  attachment.prepare(QUEUES);
  attachment.open("copy");
  equal(attachment.sockets.length, 1);
  attachment.unload();
});

Deno.test("a process that executed another program goes on with what it had open", () => {
  using wire = new Wire("upgraded");
  const { name, ifindex } = wire.near;
  const executed = prepared(wire, openXskSetup());
  const slot = adopt(executed);
  equal(executed.state, null);
  executed.open("copy");
  executed.serve();
  const state = JSON.parse(JSON.stringify(executed.state));

  // Descriptors are all that is left.
  const attachment = new Attachment(setup, {
    ...{ name, ifindex, queues: 1, map: regions.mapShared },
    before: state,
  });
  ok(attachment.attached);
  deepEqual(attachment.descriptors, executed.descriptors);
  ok(serves(wire, slot, "as before"));
  equal(attachment.redirected(0), 1);
  xsk.release(slot);
  attachment.unload();
  equal(setup.attached(ifindex), null);
});

Deno.test("an interface that was deleted and made again is attached again, on the same memory", () => {
  using other = new Wire("other");
  const beside = prepared(other);
  beside.open("copy");
  for (let round = 0; round < 3; round++) {
    using wire = new Wire("anew");
    const attachment = prepared(wire);
    const slot = adopt(attachment);
    attachment.open("copy");
    attachment.serve();
    ok(serves(wire, slot, `round ${round}`));
    command("ip link del anew");
    xsk.release(slot);
    attachment.unload();
    command("ip link add anew type veth peer name anew-far"); // for the end of the test
  }
  beside.unload();
});
