// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, u32 } from "../../../ffi/region.ts";
import {
  appLinkBytes,
  DESCRIPTOR_WORDS,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
} from "../../../tiles/runtime/link.ts";
import fc from "../property.ts";

const SHAPE: LinkShape = { depth: 8, payloadBytes: 64 };

function pair() {
  const net = heapView(netLinkBytes(SHAPE));
  const app = heapView(appLinkBytes(SHAPE));
  return {
    net,
    app,
    producer: new LinkProducer(net, app, SHAPE),
    consumer: new LinkConsumer(app, net, SHAPE),
  };
}

/** Pushes `value` as a descriptor whose words all say so. */
function push(producer: LinkProducer, value: number): void {
  producer.words.fill(value, producer.slot(), producer.slot() + DESCRIPTOR_WORDS);
  producer.push();
}

Deno.test("a link hands over what was published, in order, and never more than its depth", () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant("push" as const), count: fc.integer({ min: 1, max: 9 }) }),
    fc.record({ kind: fc.constant("publish" as const), count: fc.constant(0) }),
    fc.record({ kind: fc.constant("take" as const), count: fc.integer({ min: 1, max: 9 }) }),
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 200, size: "max" }), (steps) => {
    const { producer, consumer } = pair();
    let pushed = 0;
    let published = 0;
    let taken = 0;
    for (const { kind, count } of steps) {
      if (kind === "push") {
        producer.refresh();
        assert.equal(producer.free, SHAPE.depth - (pushed - taken));
        for (let i = 0; i < count && producer.free > 0; i++) push(producer, pushed++);
      } else if (kind === "publish") {
        assert.equal(producer.publish(), pushed !== published);
        published = pushed;
      } else {
        assert.equal(consumer.available(), published - taken);
        const take = Math.min(count, consumer.available());
        for (let i = 0; i < take; i++) assert.equal(consumer.words[consumer.slot(i)], taken + i);
        consumer.release(take);
        taken += take;
      }
    }
  }));
});

Deno.test("a link goes on through the end of 32-bit cursors", () => {
  const net = heapView(netLinkBytes(SHAPE));
  const app = heapView(appLinkBytes(SHAPE));
  u32(net)[0] = 0xfffffffe;
  u32(app)[16] = 0xfffffffe;
  const producer = new LinkProducer(net, app, SHAPE);
  const consumer = new LinkConsumer(app, net, SHAPE);
  for (let i = 0; i < 20; i++) {
    assert.equal(producer.refresh(), SHAPE.depth);
    push(producer, i);
    producer.publish();
    assert.equal(consumer.available(), 1);
    assert.equal(consumer.words[consumer.slot(0)], i);
    consumer.release(1);
  }
});

Deno.test("a consumer's cursor that cannot be true is not believed", () => {
  const { app, producer } = pair();
  for (let i = 0; i < 4; i++) push(producer, i);
  producer.publish();
  for (const lie of [5, 100, 0xffffffff, 0x80000000]) {
    u32(app)[16] = lie;
    assert.equal(producer.refresh(), SHAPE.depth - 4, `cursor ${lie}`);
  }
  u32(app)[16] = 3;
  assert.equal(producer.refresh(), SHAPE.depth - 1);
  u32(app)[16] = 1;
  assert.equal(producer.refresh(), SHAPE.depth - 1, "a cursor does not go back");
});

Deno.test("a producer's cursor that claims more than the depth counts as nothing", () => {
  const { net, consumer } = pair();
  for (const lie of [SHAPE.depth + 1, 1000, 0xffffffff]) {
    u32(net)[0] = lie;
    assert.equal(consumer.available(), 0, `cursor ${lie}`);
  }
});

Deno.test("a restarted app passes over what its predecessor left, and the producer is free again", () => {
  const { net, app, producer } = pair();
  for (let i = 0; i < SHAPE.depth; i++) push(producer, i);
  producer.publish();
  assert.equal(producer.refresh(), 0);
  const successor = new LinkConsumer(app, net, SHAPE, { skip: true });
  assert.equal(successor.available(), 0);
  assert.equal(producer.refresh(), SHAPE.depth);
});
