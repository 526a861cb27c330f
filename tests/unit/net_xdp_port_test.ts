import assert from "node:assert/strict";
import { heapView } from "../../ffi/view.ts";
import { Umem } from "../../tiles/net/umem.ts";
import { XdpPort } from "../../tiles/net/xdp_port.ts";
import { FakeXsk } from "./net_fakes.ts";

const FRAME_BYTES = 2048;
const FRAMES = 64;
const FILL = 16;

function makePort() {
  const region = heapView(FRAMES * FRAME_BYTES);
  const umem = new Umem(region, { frameBytes: FRAME_BYTES, frames: FRAMES, largeBuffers: 0 });
  const xsk = new FakeXsk(region, { frameBytes: FRAME_BYTES });
  const setup = { slot: 0, ifindex: 2, queue: 0, fill: FILL, tx: FRAMES, partialChecksums: false };
  return { umem, xsk, port: new XdpPort(setup, { xsk, umem }) };
}

/** `count` frames come in by `port` and go out again, 40 bytes into what came. */
function turnRound({ xsk, port }: ReturnType<typeof makePort>, count: number): void {
  for (let i = 0; i < count; i++) assert.ok(xsk.deliver(0, new Uint8Array(60)));
  const words = new Uint32Array(2 + 2 * FILL);
  assert.equal(port.receive(words), count);
  for (let i = 0; i < count; i++) port.queue(words[2 + 2 * i] + 40, 20);
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
