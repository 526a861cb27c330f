// SPDX-License-Identifier: Apache-2.0
/**
 * The watch over the rings (`master/attachment.ts`) on the real kernel. A device that takes frames and delivers
 * none is made of two: the program of one hands its frames to a socket of the other, where the kernel
 * drops them without a word, as a driver does whose zero-copy does not work.
 */

import { deepEqual, equal, ok } from "node:assert/strict";
import { openRegions } from "../../../ffi/region.ts";
import { openXsk, openXskSetup, type XskSetup } from "../../../ffi/xsk.ts";
import { Attachment, watchRings } from "../../../master/attachment.ts";
import { Filter } from "../../../tiles/netlink/xdp_filter.ts";
import { FRAME_BYTES, RING_ENTRIES } from "../../../tiles/runtime/plan.ts";
import { carries, frame, PacketSocket, Wire } from "../wire.ts";
import { createRegion } from "../../region.ts";

const ADDRESS = 0xc6120001;
/** More looks than it takes to give an interface back. */
const LOOKS = 5;
const NEVER = new Int32Array(new SharedArrayBuffer(4));

const regions = openRegions();
const setup = openXskSetup();
const xsk = openXsk();
const umem = createRegion(regions, "umem", 4 * RING_ENTRIES * FRAME_BYTES).writer;

/** An interface that is attached, with a socket on its only queue; its frames go to socket `to`. */
function attach(
  { near: { name, ifindex, mac } }: Wire,
  { to }: { to?: number } = {},
): { attachment: Attachment; slot: number } {
  const register: XskSetup["register"] = (program, queue, fd) =>
    setup.register(program, queue, to ?? fd);
  const parts = { name, ifindex, queues: 1, map: regions.mapShared };
  const attachment = new Attachment({ ...setup, register }, parts);
  const filter = new Filter(attachment.filter);
  filter.setMac(mac);
  filter.setPorts([7]);
  filter.add(ADDRESS);
  attachment.prepare([{ queue: 0, umem }]);
  const slot = xsk.adopt(attachment.descriptors[1].fd, umem, RING_ENTRIES);
  attachment.open("copy");
  attachment.serve();
  return { attachment, slot };
}

/** Sends a frame that is ours before each look; returns what the watch said. */
function watch(
  wire: Wire,
  { attachment, slot }: { attachment: Attachment; slot: number },
  { receives }: { receives: boolean },
): string[] {
  const said: string[] = [];
  const rings = watchRings([attachment], {
    ...{ xskSetup: setup, exists: () => true },
    lost: (line) => said.push(line),
  });
  using far = wire.farSocket();
  for (let i = 0; i < LOOKS && said.length === 0; i++) {
    far.send(ours(wire, `look ${i}`));
    while (attachment.redirected(0) <= i) Atomics.wait(NEVER, 0, 0, 1);
    // What was redirected is in the ring when the kernel is through with its burst.
    while (receives && xsk.receive(slot, new Uint32Array(4), 1) === 0) Atomics.wait(NEVER, 0, 0, 1);
    rings.poll();
    // Traffic may be light.
    rings.poll();
  }
  rings.stop();
  return said;
}

function letGo({ attachment, slot }: { attachment: Attachment; slot: number }): void {
  xsk.release(slot);
  attachment.unload();
}

function ours({ near: { mac } }: Wire, payload: string): Uint8Array<ArrayBuffer> {
  return frame({ to: mac, destination: ADDRESS, port: 7, payload });
}

Deno.test("an interface whose frames do not arrive is given back to the kernel", () => {
  using liar = new Wire("liar");
  using other = new Wire("other");
  const good = attach(other);
  const bad = attach(liar, { to: good.attachment.sockets[0].fd });
  deepEqual(watch(liar, bad, { receives: false }), [
    "liar: frames are redirected but do not arrive; they are returned to the kernel",
  ]);
  equal(setup.attached(liar.near.ifindex), null);
  equal(setup.attached(other.near.ifindex)?.name, "tegula");
  using kernel = new PacketSocket(liar.near.ifindex);
  using far = liar.farSocket();
  far.send(ours(liar, "for the kernel"));
  ok(kernel.receive(carries("for the kernel")), "the kernel did not get it");
  for (const each of [bad, good]) letGo(each);
});

Deno.test("an interface that is deleted is missed, once, and no other is", () => {
  using wire = new Wire("kept");
  using other = new Wire("gone");
  const all = [wire, other].map((each) => attach(each));
  const attachments = all.map(({ attachment }) => attachment);
  const there = new Set(attachments.map(({ ifindex }) => ifindex));
  const gone: string[] = [];
  const rings = watchRings(attachments, {
    xskSetup: setup,
    exists: (ifindex) => there.has(ifindex),
    lost: (line) => gone.push(line),
  });
  rings.poll();
  deepEqual(gone, []);
  there.delete(other.near.ifindex);
  rings.poll();
  rings.poll();
  deepEqual(gone, [
    "gone: it was deleted, and AF_XDP with it; if it is recreated, AF_XDP is opened again",
  ]);
  equal(setup.attached(other.near.ifindex), null);
  equal(setup.attached(wire.near.ifindex)?.name, "tegula");
  rings.stop();
  all.forEach(letGo);
});

Deno.test("an interface whose frames arrive is left alone", () => {
  using wire = new Wire("honest");
  const attached = attach(wire);
  const frames = Uint32Array.from({ length: 64 }, (_, i) => i * FRAME_BYTES);
  equal(xsk.fill(attached.slot, frames, frames.length), frames.length);
  deepEqual(watch(wire, attached, { receives: true }), []);
  equal(setup.attached(wire.near.ifindex)?.name, "tegula");
  letGo(attached);
});

Deno.test("an interface that says what it dropped, here for want of frames, is left alone", () => {
  using wire = new Wire("starved");
  const attached = attach(wire);
  deepEqual(watch(wire, attached, { receives: false }), []);
  equal(setup.attached(wire.near.ifindex)?.name, "tegula");
  letGo(attached);
});
