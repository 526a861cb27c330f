// SPDX-License-Identifier: Apache-2.0
/**
 * Answers what comes by an AF_XDP socket that it was started with, as a net tile does that takes over from
 * another. Says `adopted`, waits for a line, and says what it found in the rings before it serves.
 */

import { openRegions, u8 } from "../../../ffi/region.ts";
import { VISIBLE_HEADER_WORDS, XSK_CURSORS, XskCursor } from "../../../ffi/shared.ts";
import { openXsk } from "../../../ffi/xsk.ts";

const [socket, umem, frames, frameBytes, ring] = Deno.args.map(Number);
const memory = openRegions().mapShared(umem, frames * frameBytes);
const xsk = openXsk();
const slot = xsk.adopt(socket, memory, ring);
if (slot < 0) throw new Error(`adopt: ${slot}`);
console.log("adopted");
Deno.stdin.readSync(new Uint8Array(1));

xsk.resume(slot);
const cursors = new Uint32Array(XSK_CURSORS);
xsk.cursors(slot, cursors);
const visible = new Uint32Array(VISIBLE_HEADER_WORDS + 4 * ring);
const count = xsk.visible(slot, visible);
const [filled, received, sending, sent] = visible;
const { fillProducer, rxConsumer, txProducer, completionConsumer } = XskCursor;
const hidden = (cursors[fillProducer] - cursors[rxConsumer] - filled - received) +
  (cursors[txProducer] - cursors[completionConsumer] - sending - sent);
const frameOf = (offset: number) => Math.floor(offset / frameBytes);
const kernels = new Set(
  visible.subarray(VISIBLE_HEADER_WORDS, VISIBLE_HEADER_WORDS + count)
    .values().map(frameOf),
);
const descriptors = [...Deno.readDirSync("/proc/self/fd")].length;
console.log(JSON.stringify({ received, count, hidden, frames: kernels.size, descriptors }));

// The rest was the predecessor's.
let free = Array.from({ length: frames }, (_, i) => i * frameBytes)
  .filter((offset) => !kernels.has(frameOf(offset)));
const batch = new Uint32Array(2 + 2 * ring);
const done = new Uint32Array(ring);
const pollSet = Int32Array.of(socket, 1);
for (;;) {
  free = free.slice(xsk.fill(slot, Uint32Array.from(free), free.length));
  xsk.wait(pollSet, 1, 1000);
  const count = xsk.receive(slot, batch, ring);
  for (let i = 0; i < count; i++) {
    const [offset, length] = batch.subarray(2 + 2 * i);
    u8(memory)[offset + length - 1] = "!".charCodeAt(0);
  }
  const sent = count === 0 ? 0 : xsk.transmit(slot, batch.subarray(2), count);
  if (sent !== count) throw new Error(`transmitted ${sent} of ${count}`);
  free.push(...done.subarray(0, xsk.complete(slot, done, ring, 0)));
}
