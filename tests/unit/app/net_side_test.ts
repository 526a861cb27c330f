// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, u32, u8 } from "../../../ffi/region.ts";
import { Address } from "../../../tiles/app/address.ts";
import { NetSide } from "../../../tiles/app/host.ts";
import { APP } from "../../../tiles/runtime/counters.ts";
import {
  appLinkBytes,
  Descriptor,
  LARGEST_PAYLOAD,
  LinkConsumer,
  LinkProducer,
  type LinkShape,
  netLinkBytes,
  payloadRing,
} from "../../../tiles/runtime/link.ts";
import { TILE_REGION_BYTES, TileRegion } from "../../../tiles/runtime/tile.ts";
import fc from "../property.ts";

const SHAPE: LinkShape = { depth: 8, payloadBytes: 256 };
const UMEM_BYTES = 4096 + 65_536;

/** An app's side with this test as its net tile. */
function room() {
  const net = heapView(netLinkBytes(SHAPE));
  const app = heapView(appLinkBytes(SHAPE));
  const umem = heapView(UMEM_BYTES);
  const tile = heapView(TILE_REGION_BYTES);
  const wakes = { count: 0 };
  const counters = new Float64Array(8);
  const join = (handedOver = false) =>
    new NetSide({
      own: app,
      peer: net,
      payloads: umem,
      shape: SHAPE,
      tile,
    }, { counters, firstPort: 7, wake: () => wakes.count++, handedOver });
  return {
    app,
    umem,
    wakes,
    counted: (name: keyof typeof APP.index) => counters[APP.index[name]],
    /** The net tile's. */
    region: new TileRegion(tile),
    join,
    side: join(),
    ring: payloadRing(app, SHAPE),
    requests: new LinkProducer(net, app, SHAPE),
    answers: new LinkConsumer(net, app, SHAPE),
  };
}

function ask(link: LinkProducer, fields: Partial<Record<keyof typeof Descriptor, number>>): void {
  const slot = link.slot();
  for (const [name, value] of Object.entries(fields)) {
    link.words[slot + Descriptor[name as keyof typeof Descriptor]] = value;
  }
  link.push();
  link.publish();
}

Deno.test("an answer names the request that it is to, and has the payload it was given", () => {
  const { umem, side, ring, requests, answers } = room();
  u8(umem).set([1, 2, 3, 4, 5], 320);
  ask(requests, {
    offset: 320,
    length: 5,
    source: 0xc6120002,
    destination: 0xc6120001,
    ports: (40000 << 16) | 7,
  });
  assert.equal(side.take(), 1);
  assert.ok(side.requests.next());
  assert.equal(`${side.requests.sourceAddress}`, "198.18.0.2");
  assert.equal(side.requests.sourcePort, 40000);
  assert.equal(side.requests.destinationPort, 7);
  const at = side.answers.reserve(5);
  side.answers.copy(at);
  side.answers.reply(at, 5);
  side.finish();
  assert.equal(answers.available(), 1);
  const slot = answers.slot(0);
  assert.equal(answers.words[slot + Descriptor.request], 1, "it names the first of the link");
  const offset = answers.words[slot + Descriptor.offset];
  assert.deepEqual([...ring.subarray(offset, offset + 5)], [1, 2, 3, 4, 5]);
});

Deno.test("payloads on their way are never overwritten, whatever sizes come and go", () => {
  const steps = fc.array(
    fc.record({
      size: fc.integer({ min: 0, max: 300 }),
      read: fc.integer({ min: 0, max: 3 }),
      skip: fc.integer({ min: 0, max: 20 }),
      times: fc.constantFrom(1, 1, 2, 3),
    }),
    { maxLength: 200, size: "max" },
  );
  fc.assert(fc.property(steps, (all) => {
    const { side, ring, answers } = room();
    const to = { address: new Address(1), port: 9, sourcePort: 7 };
    const expected: { offset: number; size: number; mark: number }[] = [];
    let mark = 0;
    for (const { size: reserved, read, skip, times } of all) {
      side.answers.refresh();
      const room = side.answers.reserve(reserved);
      if (room >= 0) {
        mark = (mark + 1) & 0xff;
        side.answers.bytes.fill(mark, room, room + reserved);
        const at = room + Math.min(skip, reserved);
        const size = room + reserved - at;
        const count = Math.min(times, side.answers.room);
        for (let time = 0; time < count; time++) {
          side.answers.send(to, at, size);
          expected.push({ offset: at, size, mark });
        }
        side.finish();
      }
      for (const each of expected) {
        assert.ok(each.offset + each.size <= SHAPE.payloadBytes);
        assert.ok(
          ring.subarray(each.offset, each.offset + each.size).every((b) => b === each.mark),
        );
      }
      const done = Math.min(read, answers.available());
      answers.release(done);
      expected.splice(0, done);
    }
  }));
});

Deno.test("an answer that finds no room is refused and counted, and room comes back", () => {
  const { side, requests, answers, counted } = room();
  ask(requests, { offset: 0, length: 0, source: 0xc6120002 });
  side.take();
  side.requests.next();
  for (let i = 0; i < SHAPE.depth; i++) side.answers.reply(side.answers.reserve(8), 8);
  assert.equal(side.answers.reserve(8), -1);
  // An app that overlooks that must not put its answer into one that is on its way.
  side.answers.reply(-1, 8);
  side.answers.send({ address: new Address(1), port: 1, sourcePort: 1 }, -1, 8);
  side.answers.reflect();
  side.finish();
  assert.deepEqual([counted("tx_drop_reply_link_full"), counted("answers")], [4, SHAPE.depth]);
  for (let i = 0; i < SHAPE.depth; i++) {
    const { words } = answers;
    const slot = answers.slot(i);
    assert.equal(words[slot + Descriptor.request], 1);
    assert.equal(words[slot + Descriptor.length], 8);
  }
  answers.release(answers.available());
  side.answers.refresh();
  assert.notEqual(side.answers.reserve(8), -1);
});

Deno.test("the same bytes go to several, without being written again, until the handler ends", () => {
  const { side, requests, answers, counted } = room();
  ask(requests, { offset: 0, length: 0, source: 0xc6120002 });
  side.take();
  side.requests.next();
  assert.equal(side.answers.room, SHAPE.depth);
  const at = side.answers.reserve(200);
  side.answers.send({ address: new Address(1), port: 1, sourcePort: 7 }, at + 8, 100);
  side.answers.send({ address: new Address(2), port: 1, sourcePort: 7 }, at + 8, 100);
  side.answers.reply(at + 8, 100);
  assert.equal(side.answers.room, SHAPE.depth - 3);
  for (const [offset, size] of [[at, 100], [at + 8, 99]]) {
    assert.throws(() => side.answers.reply(offset, size), /100 bytes at 8 were sent: only these/);
  }
  side.finish();
  side.answers.send({ address: new Address(3), port: 1, sourcePort: 7 }, at + 8, 100);
  assert.equal(counted("tx_drop_reply_link_full"), 1, "it is over with the handler");
  const seen = [0, 1, 2].map((i) => {
    const slot = answers.slot(i);
    const { offset, length, destination, request } = Descriptor;
    return [offset, length, request, destination].map((field) => answers.words[slot + field]);
  });
  assert.deepEqual(seen.map((all) => all.slice(0, 3)), [[8, 100, 0], [8, 100, 0], [8, 100, 1]]);
  assert.deepEqual([seen[0][3], seen[1][3]], [1, 2]);
  side.answers.refresh();
  assert.equal(side.answers.reserve(150), -1, "the bytes are on their way");
  assert.notEqual(side.answers.reserve(144), -1, "they are there once");
  answers.release(3);
  side.answers.refresh();
  assert.notEqual(side.answers.reserve(150), -1);
});

Deno.test("offsets and sizes that leave their memory are bounded whatever the net tile wrote", () => {
  const { side, requests } = room();
  for (const offset of [0, UMEM_BYTES - 65_536, UMEM_BYTES - 1, UMEM_BYTES, 0xffffffff]) {
    for (const length of [0, 1, 65_507, 65_508, 0xffffffff]) {
      requests.refresh();
      ask(requests, { offset, length });
      side.take();
      assert.ok(side.requests.next());
      const { size } = side.requests;
      assert.ok(size <= LARGEST_PAYLOAD, `${size} bytes are more than a datagram has`);
      const end = side.requests.offset + size;
      assert.ok(end <= UMEM_BYTES, `${length} bytes at ${offset} end at ${end}`);
      side.finish();
    }
  }
});

Deno.test("a burst goes on round the end of the ring, one datagram after the other", () => {
  const { side, requests } = room();
  const seen: number[] = [];
  for (let burst = 0; burst < 5; burst++) {
    requests.refresh();
    for (let i = 0; i < 5; i++) ask(requests, { source: 5 * burst + i });
    side.take();
    while (side.requests.next()) seen.push(side.requests.sourceAddress.words[3]);
    side.finish();
  }
  assert.deepEqual(seen, Array.from({ length: 25 }, (_, i) => i));
});

Deno.test("the receive time is that of the descriptor, in nanoseconds", () => {
  const { side, requests } = room();
  const time = 1_764_000_000_123_456_789n;
  ask(requests, { timeLow: Number(time & 0xffffffffn), timeHigh: Number(time >> 32n) });
  side.take();
  side.requests.next();
  assert.ok(Math.abs(side.requests.receivedAt - Number(time)) <= 256);
});

Deno.test("a restarted app writes over no answer of its predecessor that is not read yet", () => {
  const { side, join, requests, answers, ring } = room();
  ask(requests, {});
  side.take();
  side.requests.next();
  const at = side.answers.reserve(8);
  side.answers.bytes.fill(1, at, at + 8);
  side.answers.reply(at, 8);
  side.finish();
  const successor = join();
  assert.equal(successor.answers.reserve(8), -1);
  assert.deepEqual([...ring.subarray(at, at + 8)], new Array(8).fill(1));
  answers.release(1);
  successor.answers.refresh();
  assert.notEqual(successor.answers.reserve(8), -1);
});

Deno.test("who takes over answers what was left unread, once the answers before have been read", () => {
  const { join, side, requests, answers } = room();
  ask(requests, { ports: 1 << 16 | 7 });
  ask(requests, { ports: 2 << 16 | 7 });
  side.take();
  side.requests.next();
  side.answers.reply(side.answers.reserve(4), 4);
  side.finish();
  ask(requests, { ports: 3 << 16 | 7 });
  const failed = join();
  assert.ok(!failed.waiting, "what a failed one left is passed");
  ask(requests, { ports: 4 << 16 | 7 });
  const successor = join(true);
  assert.equal(successor.take(), 0);
  assert.ok(successor.waiting);
  answers.release(answers.available());
  assert.equal(successor.take(), 1);
  successor.requests.next();
  assert.equal(successor.requests.sourcePort, 4);
});

Deno.test("an app that writes over its link ends with a sentence, and its successor is served again", () => {
  const { app, join, side, requests, answers } = room();
  const answer = (side: NetSide) => {
    side.take();
    side.requests.next();
    side.answers.reply(side.answers.reserve(4), 4);
    side.finish();
  };
  // The net tile believes it as far as it can be true.
  u32(app)[0] = 3;
  answers.release(answers.available());
  ask(requests, {});
  assert.throws(
    () => answer(side),
    /^Error: it wrote outside of its reservation, over its link/,
  );
  // Wherever the cursor of what it has taken is.
  u32(app)[16] = 9999;
  const successor = join(true);
  assert.equal(answers.available(), 0);
  ask(requests, {});
  answer(successor);
  assert.equal(answers.available(), 1);
  assert.equal(requests.refresh(), SHAPE.depth);
});

Deno.test("a sleeping net tile is woken by answers, and by nothing else", () => {
  const { side, requests, region, wakes } = room();
  const serve = (answer: boolean) => {
    ask(requests, { offset: 0, length: 1 });
    assert.equal(side.take(), 1);
    side.requests.next();
    if (answer) side.answers.reflect();
    side.finish();
  };
  serve(true);
  assert.equal(wakes.count, 0, "it is awake");
  region.fallAsleep();
  serve(false);
  assert.equal(wakes.count, 0, "there is nothing for it");
  serve(true);
  assert.equal(wakes.count, 1);
});

Deno.test("a burst's answers are published before its requests are passed, which frees their frames", () => {
  const { side, requests, answers } = room();
  ask(requests, { offset: 0, length: 1 });
  side.take();
  side.requests.next();
  side.answers.reflect();
  const { store } = Atomics;
  /** How many answers the net tile would find at each store that the app makes. */
  const found: number[] = [];
  Atomics.store = ((array: Uint32Array, index: number, value: number) => {
    const stored = store(array, index, value);
    if (requests.depth - requests.refresh() === 0) found.push(answers.available());
    return stored;
  }) as typeof Atomics.store;
  try {
    side.finish();
  } finally {
    Atomics.store = store;
  }
  assert.deepEqual(found, [1], "when all is passed the answer is there");
});
