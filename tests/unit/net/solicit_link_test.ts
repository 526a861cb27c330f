// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import {
  SOLICIT_DEPTH,
  SOLICIT_LINK_BYTES,
  SolicitConsumer,
  SolicitProducer,
} from "../../../tiles/net/arp_queue.ts";
import fc from "../property.ts";

Deno.test("solicits arrive in order, and one that laps the reader costs only the lapped", () => {
  const bursts = fc.array(
    fc.record({
      push: fc.integer({ min: 0, max: SOLICIT_DEPTH - 1 }),
      take: fc.integer({ min: 0, max: SOLICIT_DEPTH >>> 2 }),
    }),
    { maxLength: 10 },
  );
  fc.assert(fc.property(bursts, (steps) => {
    const view = heapView(SOLICIT_LINK_BYTES);
    const producer = new SolicitProducer(view);
    const consumer = new SolicitConsumer(view);
    const out = new Uint32Array(SOLICIT_DEPTH);
    let pushed = 0;
    let next = 0;
    for (const { push, take } of steps) {
      for (let i = 0; i < push; i++) producer.push(7, pushed++);
      assert.equal(producer.publish(), push > 0);
      const lappedBefore = consumer.lapped;
      const count = consumer.take(out, take);
      next += consumer.lapped - lappedBefore;
      for (let i = 0; i < count; i++) {
        assert.equal(out[i * 2], 7);
        assert.equal(out[i * 2 + 1], next++);
      }
      assert.ok(pushed - next < SOLICIT_DEPTH, "what is left was not overwritten");
    }
  }));
});

Deno.test("a new reader begins with what is asked from now on", () => {
  const view = heapView(SOLICIT_LINK_BYTES);
  const producer = new SolicitProducer(view);
  producer.push(1, 1);
  producer.publish();
  const consumer = new SolicitConsumer(view);
  assert.equal(consumer.take(new Uint32Array(8), 4), 0);
});

Deno.test("what is overwritten while it is read is thrown away, and counted", () => {
  const view = heapView(SOLICIT_LINK_BYTES);
  const producer = new SolicitProducer(view);
  const consumer = new SolicitConsumer(view);
  for (let i = 0; i < 3; i++) producer.push(1, i);
  producer.publish();
  let overtakes = true;
  const pairs = new Uint32Array(16);
  // Lets the producer go once round while the first message is taken.
  const out = new Proxy(pairs, {
    get: (target, key) => Reflect.get(target, key),
    set(target, key, value) {
      for (let i = 0; overtakes && i < SOLICIT_DEPTH; i++) producer.push(2, i);
      producer.publish();
      overtakes = false;
      return Reflect.set(target, key, value);
    },
  });
  assert.equal(consumer.take(out, 8), 0);
  const { lapped } = consumer;
  assert.ok(lapped >= 3 && lapped < SOLICIT_DEPTH, `${lapped} lapped`);
  assert.equal(consumer.take(out, 8), 8);
  assert.deepEqual([...pairs.subarray(0, 2)], [2, lapped - 3], "all else is still there");
});

Deno.test("what the producer overwrites before it publishes is not read", () => {
  const view = heapView(SOLICIT_LINK_BYTES);
  const producer = new SolicitProducer(view);
  const consumer = new SolicitConsumer(view);
  const out = new Uint32Array(SOLICIT_DEPTH);
  for (let i = 0; i < SOLICIT_DEPTH - 1; i++) producer.push(1, i);
  producer.publish();
  // A turn asks for more than one before it publishes.
  for (let i = 0; i < 64; i++) producer.push(2, i);
  const count = consumer.take(out, 64);
  assert.deepEqual(
    Array.from({ length: count }, (_, i) => out[i * 2]),
    Array.from({ length: count }, () => 1),
  );
});
