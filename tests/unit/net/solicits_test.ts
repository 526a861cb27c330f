// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import {
  ASK_AGAIN_MILLIS,
  SOLICIT_LINK_BYTES,
  SolicitConsumer,
  SolicitProducer,
  Solicits,
} from "../../../tiles/net/arp_queue.ts";
import { NET } from "../../../tiles/runtime/counters.ts";

function room() {
  const view = heapView(SOLICIT_LINK_BYTES);
  const consumer = new SolicitConsumer(view);
  const counters = new Float64Array(Object.keys(NET.help).length);
  const solicits = new Solicits(new SolicitProducer(view), { counters, seed: 1 });
  const asked = () => {
    solicits.publish();
    const out = new Uint32Array(2048);
    const count = consumer.take(out, 1024);
    return Array.from({ length: count }, (_, i) => [out[2 * i], out[2 * i + 1]]);
  };
  return { solicits, asked, counters };
}

Deno.test("a neighbour is asked for once in a while, not with every packet", () => {
  const { solicits, asked, counters } = room();
  solicits.clock(1000);
  for (let i = 0; i < 100; i++) solicits.ask(3, 0xc6120001 | 0);
  solicits.ask(4, 0xc6120001 | 0);
  assert.deepEqual(asked(), [[3, 0xc6120001], [4, 0xc6120001]]);
  solicits.clock(1000 + ASK_AGAIN_MILLIS - 1);
  solicits.ask(3, 0xc6120001 | 0);
  assert.deepEqual(asked(), []);
  solicits.clock(1000 + ASK_AGAIN_MILLIS);
  solicits.ask(3, 0xc6120001 | 0);
  assert.deepEqual(asked(), [[3, 0xc6120001]]);
  assert.equal(counters[NET.index.solicits], 3);
});

Deno.test("a neighbour that was found and lost again is asked for at once", () => {
  const { solicits, asked } = room();
  solicits.clock(1000);
  solicits.ask(3, 0xc6120001 | 0);
  solicits.forget(3, 0xc6120002 | 0);
  solicits.ask(3, 0xc6120001 | 0);
  assert.equal(asked().length, 1, "another neighbour was found");
  solicits.forget(3, 0xc6120001 | 0);
  solicits.ask(3, 0xc6120001 | 0);
  assert.equal(asked().length, 1);
  assert.equal(solicits.askedBefore(3, 0xc6120001 | 0), true);
});

Deno.test("whoever was asked for before is remembered for a while, then forgotten", () => {
  const { solicits } = room();
  solicits.clock(10_000);
  assert.equal(solicits.askedBefore(3, 5), false);
  solicits.ask(3, 5);
  assert.equal(solicits.askedBefore(3, 5), true);
  assert.equal(solicits.askedBefore(4, 5), false);
  solicits.clock(12_000);
  assert.equal(solicits.askedBefore(3, 5), true, "in the window before");
  solicits.clock(14_000);
  assert.equal(solicits.askedBefore(3, 5), false);
  solicits.ask(3, 6);
  solicits.clock(99_000);
  assert.equal(solicits.askedBefore(3, 6), false, "a long silence forgets all");
});

Deno.test("a flood of strangers makes few others look as if they had been asked for", () => {
  const { solicits } = room();
  solicits.clock(0);
  for (let i = 0; i < 20_000; i++) solicits.ask(3, i);
  let mistaken = 0;
  for (let i = 0; i < 10_000; i++) if (solicits.askedBefore(3, 1_000_000 + i)) mistaken++;
  assert.ok(mistaken < 1500, `${mistaken} of 10,000`);
});
