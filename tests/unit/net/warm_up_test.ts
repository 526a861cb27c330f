// SPDX-License-Identifier: Apache-2.0
/** That a net tile's warm-up goes the whole way of datagrams, by the library's own calls, and ends there. */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { openXsk } from "../../../ffi/xsk.ts";
import type { FakeXsk } from "./fakes.ts";
import { FRAME_BYTES, FRAMES, Room } from "./room.ts";

const real = openXsk();
const memory = heapView(FRAMES * FRAME_BYTES);
/** Slots of the library begin here, those of the fake at 0. */
const BASE = 1000;

/** The slot that the library would give next. */
function nextSlot(): number {
  const slot = real.memorySlot(memory, { frameBytes: FRAME_BYTES, ring: 32 });
  real.release(slot);
  return slot;
}

/** Gives `fake` the library's memory slots. Returns how many frames came in and went out by those. */
function addMemorySlots(fake: FakeXsk): { came: number; sent: number } {
  const counts = { came: 0, sent: 0 };
  const both = fake as unknown as Record<string, (slot: number, ...rest: unknown[]) => number>;
  const library = real as unknown as typeof both;
  for (
    const name of [
      ...["fd", "resume", "release", "cursors", "visible", "statistics"],
      ...["receive", "fill", "transmit", "complete", "inject"],
    ]
  ) {
    const faked = both[name].bind(fake);
    both[name] = (slot, ...rest) => {
      if (slot < BASE) return faked(slot, ...rest);
      const result = library[name](slot - BASE, ...rest);
      if (name === "inject") counts.came += result;
      if (name === "transmit") counts.sent += result;
      return result;
    };
  }
  fake.memorySlot = (...args) => BASE + real.memorySlot(...args);
  return counts;
}

const said = ({ came, sent }: ReturnType<typeof addMemorySlots>) => `${sent} of ${came} were sent`;

for (const place of ["link", "link with copies", "inline"]) {
  Deno.test(`requests that a tile makes up before its turn are answered, by ${place}`, async () => {
    const room = place === "inline"
      ? await Room.inline(() => assert.fail("no app is to see them"))
      : new Room({ ports: [[7]], apart: place === "link with copies" });
    const slot = nextSlot();
    const counts = addMemorySlots(room.xsk);
    const before = room.counters.slice();
    await room.handOverInTurn(() => {
      assert.ok(counts.came >= 64, `${counts.came} came`);
      // Some come to nobody's port, from an unknown neighbour, or while the app's link is full.
      assert.ok(counts.sent < counts.came && counts.sent > 0.7 * counts.came, said(counts));
      assert.deepEqual(room.counters, before);
      assert.equal(nextSlot(), slot, "its rings are let go");
    });
  });
}
