// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { SocketCell, Umem, XdpSocket } from "../../../tiles/net/rings.ts";
import fc from "../property.ts";
import { FakeXsk } from "./fakes.ts";

const FRAME_BYTES = 2048;
const FRAMES = 64;
const FILL = 16;

function makePort({ deepFill = FILL } = {}) {
  const region = heapView(FRAMES * FRAME_BYTES);
  const umem = new Umem(region, { frames: FRAMES, largeBuffers: 0 });
  const xsk = new FakeXsk(region, { frameBytes: FRAME_BYTES });
  const setup = {
    fd: 100,
    ifindex: 2,
    queue: 0,
    ring: FRAMES,
    fill: FILL,
    deepFill,
    tx: FRAMES,
    partialChecksums: false,
  };
  return {
    umem,
    xsk,
    port: new XdpSocket(setup, { xsk, umem, slot: 0, cells: new Float64Array(8) }),
  };
}

/** Queues 20 bytes at `offset`. */
function enqueue(port: XdpSocket, offset: number): void {
  const end = port.queueEnd;
  port.queue.set([offset, 20], end);
  port.queueUpTo(end + 2, 20);
}

/** `count` frames come in by `port` and go out again, 40 bytes into what came. */
function turnRound({ xsk, port }: ReturnType<typeof makePort>, count: number): void {
  for (let i = 0; i < count; i++) assert.ok(xsk.deliver(0, new Uint8Array(60)));
  const words = new Uint32Array(2 + 2 * FILL);
  assert.equal(port.receive(words), count);
  for (let i = 0; i < count; i++) enqueue(port, words[2 + 2 * i] + 40);
  assert.equal(port.flush(), count);
}

Deno.test("frames that were sent go back onto the fill ring, and no free one is taken for them", () => {
  const made = makePort();
  const { umem, port } = made;
  port.refill();
  assert.deepEqual([port.filled, umem.freeFrames], [FILL, FRAMES - FILL]);
  for (let round = 0; round < 20; round++) {
    turnRound(made, 5);
    port.refill();
    port.complete();
    assert.deepEqual([port.filled, umem.freeFrames], [FILL, FRAMES - FILL]);
  }
});

Deno.test("what the kernel is slow to send is made up for by free frames, but for half of the ring", () => {
  const made = makePort();
  const { umem, xsk, port } = made;
  port.refill();
  // Nothing is asked for what was sent.
  for (let round = 0; round < 3; round++) {
    turnRound(made, 8);
    port.refill();
    assert.equal(port.filled, FILL / 2);
  }
  port.complete();
  assert.equal(port.filled, FILL, "the first are wanted");
  assert.equal(umem.freeFrames, FRAMES - FILL, "the others are free");
  assert.equal(xsk.owned.size, FILL);
});

Deno.test("however slow the kernel is and whatever apps keep, each queue of a UMEM has half a ring", () => {
  const [queues, tx, kept] = [3, 24, 20];
  const frames = queues * (FILL + tx) + kept;
  const step = fc.record({
    queue: fc.nat(queues - 1),
    comes: fc.nat(FILL),
    /** Of what came, how much goes out again; the rest is kept, as far as that may be. */
    turned: fc.nat(FILL),
    /** How much of what is kept comes free. */
    freed: fc.nat(8),
    slow: fc.constantFrom(0, 3, 12, Infinity),
    out: fc.constantFrom(Infinity, 0, 5),
  });
  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
    const region = heapView(frames * FRAME_BYTES);
    const umem = new Umem(region, { frames, largeBuffers: 0 });
    const xsk = new FakeXsk(region, { frameBytes: FRAME_BYTES });
    const ports = Array.from({ length: queues }, (_, slot) =>
      new XdpSocket(
        {
          fd: 100 + slot,
          ifindex: 2,
          queue: slot,
          ring: FRAMES,
          fill: FILL,
          deepFill: FILL,
          tx,
          partialChecksums: false,
        },
        { xsk, umem, slot, cells: new Float64Array(8) },
      ));
    for (const port of ports) port.refill();
    const apps: number[] = [];
    const words = new Uint32Array(2 + 2 * FILL);
    for (const { queue, comes, turned, freed, slow, out } of steps) {
      for (let i = 0; i < comes; i++) xsk.deliver(queue, new Uint8Array(60));
      for (const offset of apps.splice(0, freed)) umem.give(offset);
      xsk.rings(queue).slow = slow;
      ports[queue].complete();
      const count = ports[queue].receive(words);
      for (let i = 0; i < count; i++) {
        // It leaves by whichever queue, as the route says.
        const port = ports[(queue + i) % queues];
        const offset = words[2 + 2 * i];
        if (i < turned && port.room > 0) enqueue(port, offset + 40);
        else if (apps.length < kept) apps.push(offset);
        else umem.give(offset);
      }
      xsk.rings(queue).room = out;
      for (const port of ports) port.flush();
      xsk.rings(queue).room = Infinity;
      for (const port of ports) {
        port.refill();
        assert.ok(port.filled >= FILL / 2 && port.filled <= FILL, `${port.filled} filled`);
      }
    }
    for (const [slot, port] of ports.entries()) {
      xsk.rings(slot).slow = 0;
      port.flush();
      port.complete();
      port.refill();
      assert.deepEqual([port.filled, port.room], [FILL, tx]);
    }
    for (const offset of apps) umem.give(offset);
    assert.equal(umem.freeFrames, frames - queues * FILL, "none is lost");
    const free = Array.from({ length: umem.freeFrames }, () => umem.takeFrame());
    assert.equal(new Set([...free, ...xsk.owned]).size, frames, "none is there twice");
  }));
});

Deno.test("frames that the fill ring has no room for are free again, and given when it has", () => {
  const { umem, xsk, port } = makePort();
  xsk.rings(0).fillRoom = 5;
  for (let i = 0; i < 3; i++) {
    port.refill();
    assert.deepEqual([port.filled, umem.freeFrames], [5, FRAMES - 5]);
  }
  xsk.rings(0).fillRoom = Infinity;
  port.refill();
  assert.deepEqual([port.filled, umem.freeFrames], [FILL, FRAMES - FILL]);
  const free = Array.from({ length: umem.freeFrames }, () => umem.takeFrame());
  assert.equal(new Set([...free, ...xsk.owned]).size, FRAMES, "none is there twice");
});

Deno.test("what is queued and what the kernel has yet to send are never more than the ring takes", () => {
  const made = makePort();
  const { xsk, port, umem } = made;
  port.refill();
  const frames = Array.from({ length: FRAMES - FILL }, () => umem.takeFrame());
  xsk.rings(0).slow = Infinity;
  for (let i = 0; i < 10; i++) enqueue(port, frames[i]);
  assert.equal(port.room, FRAMES - 10);
  assert.equal(port.flush(), 10);
  assert.equal(port.room, FRAMES - 10, "they are on the ring");
  port.complete();
  assert.equal(port.room, FRAMES - 10, "the kernel has not sent them");
  for (let i = 10; i < frames.length; i++) enqueue(port, frames[i]);
  port.flush();
  assert.equal(port.room, FILL);
  xsk.rings(0).slow = 0;
  port.complete();
  assert.equal(port.room, FRAMES);
});

Deno.test("a ring is at most full, also while the kernel still has the frames of a handover", () => {
  const made = makePort({ deepFill: 3 * FILL });
  const { xsk, port } = made;
  const fills = () => {
    port.measure();
    return [port.cells[SocketCell.rxRing], port.cells[SocketCell.fillRing]];
  };
  port.isDeep = true;
  for (let i = 0; i < 3; i++) port.refill();
  assert.equal(port.filled, 3 * FILL);
  port.isDeep = false;
  assert.deepEqual(fills(), [0, 1]);
  for (let i = 0; i < 3 * FILL; i++) assert.ok(xsk.deliver(0, new Uint8Array(60)));
  assert.deepEqual(fills(), [1, 0]);
});
