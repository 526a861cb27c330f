import assert from "node:assert/strict";
import { PacketQueues, type QueueLimits } from "../../tiles/net/arp_queue.ts";
import { Rank } from "../../tiles/net/route_cache.ts";
import { Row, ROW_WORDS } from "../../tiles/net/tx.ts";
import fc from "./property.ts";

const LIMITS: QueueLimits = { total: 16, perNeighbor: 4, perNeighborCrowded: 2 };

function held(frame: number, deadline = 0): { row: Int32Array; deadline: number } {
  const row = new Int32Array(ROW_WORDS);
  row[Row.frame] = frame;
  return { row, deadline };
}

function makeQueue(drop: (frame: number) => void): PacketQueues {
  return new PacketQueues(LIMITS, { drop, random: Math.random, seed: 1 });
}

/** Takes everything that waits for a neighbour. */
function drain(queue: PacketQueues, ifindex: number, address: number): number[] {
  const frames: number[] = [];
  const out = new Int32Array(ROW_WORDS);
  for (;;) {
    const neighbor = queue.find(ifindex, address);
    if (neighbor < 0) return frames;
    queue.peek(neighbor, out);
    frames.push(out[Row.frame]);
    queue.shift(neighbor);
  }
}

Deno.test("datagrams leave in the order they came, each with all it came with", () => {
  const queue = makeQueue(() => assert.fail("nothing is displaced"));
  for (const frame of [7, 5, 9]) {
    const row = Int32Array.of(1, 2, -3, -4, -5, 6, frame, 8);
    assert.ok(queue.add(3, -77, Rank.stranger, { row, deadline: 9 }));
    if (frame !== 7) continue;
    const out = new Int32Array(ROW_WORDS);
    queue.peek(queue.find(3, -77), out);
    assert.deepEqual(out, row);
    assert.equal(queue.deadline(queue.find(3, -77)), 9);
  }
  assert.equal(queue.find(4, -77), -1, "another interface is another neighbour");
  assert.deepEqual(drain(queue, 3, -77), [7, 5, 9]);
  assert.equal(queue.count, 0);
});

Deno.test("a neighbour holds its share and no more, less when the queue is crowded", () => {
  const queue = makeQueue(() => assert.fail("nothing is displaced"));
  for (let i = 0; i < 4; i++) assert.ok(queue.add(1, 1, Rank.stranger, held(i)));
  assert.equal(queue.add(1, 1, Rank.stranger, held(99)), false);
  for (let i = 0; i < 4; i++) assert.ok(queue.add(1, 2, Rank.stranger, held(10 + i)));
  assert.ok(queue.add(1, 3, Rank.stranger, held(20)));
  assert.ok(queue.add(1, 3, Rank.stranger, held(21)));
  assert.equal(queue.add(1, 3, Rank.stranger, held(22)), false, "crowded: two each");
});

Deno.test("a flood of strangers displaces strangers alone", () => {
  const displaced: number[] = [];
  const queue = makeQueue((frame) => displaced.push(frame));
  assert.ok(queue.add(1, 1, Rank.gateway, held(1)));
  assert.ok(queue.add(1, 2, Rank.acquainted, held(2)));
  for (let i = 0; i < 10_000; i++) {
    assert.ok(queue.add(1, 1000 + i, Rank.stranger, held(1000 + i)));
    assert.ok(queue.count <= LIMITS.total);
  }
  assert.equal(displaced.length, 10_002 - LIMITS.total);
  assert.ok(displaced.every((frame) => frame >= 1000));
  assert.ok(queue.add(1, 3, Rank.acquainted, held(3)), "who is acquainted displaces a stranger");
  assert.deepEqual(drain(queue, 1, 1), [1]);
  assert.deepEqual(drain(queue, 1, 2), [2]);
  assert.deepEqual(drain(queue, 1, 3), [3]);
});

Deno.test("who is asked for again while the first datagram waits is a stranger no more", () => {
  const queue = makeQueue((frame) => assert.ok(frame >= 1000, `${frame} is displaced`));
  assert.ok(queue.add(1, 1, Rank.stranger, held(1)));
  assert.ok(queue.add(1, 1, Rank.acquainted, held(2)));
  assert.ok(queue.add(1, 1, Rank.stranger, held(3)), "and does not become one again");
  for (let i = 0; i < 1000; i++) queue.add(1, 1000 + i, Rank.stranger, held(1000 + i));
  assert.deepEqual(drain(queue, 1, 1), [1, 2, 3]);
});

Deno.test("a flood of the acquainted leaves gateways alone", () => {
  const queue = makeQueue((frame) => assert.notEqual(frame, 1));
  assert.ok(queue.add(1, 1, Rank.gateway, held(1)));
  for (let i = 0; i < 1000; i++) queue.add(1, 1000 + i, Rank.acquainted, held(1000 + i));
  assert.ok(queue.add(1, 2, Rank.gateway, held(2)));
  assert.deepEqual(drain(queue, 1, 1), [1]);
  assert.deepEqual(drain(queue, 1, 2), [2]);
});

Deno.test("where nobody of its rank or a lower one waits, a newcomer is refused", () => {
  const { stranger, acquainted, gateway } = Rank;
  for (
    const [waiting, newcomer] of [[gateway, stranger], [gateway, acquainted], [
      acquainted,
      stranger,
    ]]
  ) {
    const queue = makeQueue((frame) => assert.fail(`${frame} is displaced`));
    for (let i = 0; i < LIMITS.total; i++) {
      assert.ok(queue.add(1, i >> 1, waiting, held(i)));
    }
    for (let i = 0; i < 100; i++) {
      assert.equal(queue.add(1, 1000 + i, newcomer, held(1000 + i)), false);
    }
    for (let i = 0; i < LIMITS.total; i += 2) assert.deepEqual(drain(queue, 1, i >> 1), [i, i + 1]);
  }
});

Deno.test("every datagram is in the queue, taken out, or displaced: once", () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ add: fc.nat(30), rank: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ take: fc.nat(30) }) },
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 300, size: "max" }), (steps) => {
    const inside = new Map<number, number[]>();
    const gone = new Set<number>();
    const queue = makeQueue((frame) => {
      const address = [...inside].find(([, frames]) => frames[0] === frame)?.[0];
      assert.notEqual(address, undefined, "the oldest of a neighbour goes first");
      inside.get(address!)!.shift();
      assert.ok(!gone.has(frame));
      gone.add(frame);
    });
    steps.forEach((step, frame) => {
      if ("add" in step) {
        const taken = queue.add(1, step.add, step.rank, held(frame, frame));
        const frames = inside.get(step.add) ?? [];
        if (taken) inside.set(step.add, [...frames, frame]);
      } else {
        const neighbor = queue.find(1, step.take);
        const frames = inside.get(step.take) ?? [];
        assert.equal(neighbor >= 0, frames.length > 0);
        if (neighbor >= 0) {
          assert.equal(queue.deadline(neighbor), frames[0]);
          assert.equal(queue.shift(neighbor), frames.length - 1);
          gone.add(frames.shift()!);
        }
      }
      const waiting = [...inside.values()].flat().length;
      assert.equal(queue.count, waiting);
      assert.ok(waiting <= LIMITS.total);
    });
    const keys = new Int32Array(2 * LIMITS.total);
    const count = queue.keys(keys);
    const addresses = Array.from({ length: count }, (_, i) => keys[2 * i + 1]);
    const expected = [...inside].filter(([, frames]) => frames.length > 0).map(([key]) => key);
    assert.deepEqual(addresses.toSorted(), expected.toSorted());
    for (const [address, frames] of inside) assert.deepEqual(drain(queue, 1, address), frames);
    assert.equal(queue.count, 0);
  }));
});
