// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { ArpQueue, type ArpQueueLimits, Rank } from "../../../tiles/net/arp_queue.ts";
import { Packet, PACKET_WORDS } from "../../../tiles/net/rings.ts";
import fc from "../property.ts";

const LIMITS: ArpQueueLimits = { total: 16, perNeighbor: 4, perNeighborCrowded: 2 };

/** Adds the packet in `frame` to the queue of a neighbour on interface 1. */
function add(queue: ArpQueue, neighbor: number, rank: number, frame: number, deadline = 0) {
  const packet = new Int32Array(PACKET_WORDS);
  packet[Packet.frame] = frame;
  return queue.add({ ifindex: 1, neighbor, rank }, packet, deadline);
}

function makeQueue(drop: (frame: number) => void): ArpQueue {
  return new ArpQueue(LIMITS, {
    drop: (packet) => drop(packet[Packet.frame]),
    solicits: { ask() {} },
    random: Math.random,
    seed: 1,
  });
}

/** Takes everything that waits for a neighbour. */
function drain(queue: ArpQueue, ifindex: number, address: number): number[] {
  const frames: number[] = [];
  const out = new Int32Array(PACKET_WORDS);
  for (;;) {
    const neighbor = queue.find(ifindex, address);
    if (neighbor < 0) return frames;
    queue.peek(neighbor, out);
    frames.push(out[Packet.frame]);
    queue.shift(neighbor);
  }
}

Deno.test("datagrams leave in the order they came, each with all it came with", () => {
  const queue = makeQueue(() => assert.fail("nothing is displaced"));
  for (const frame of [7, 5, 9]) {
    const packet = Int32Array.from({ length: PACKET_WORDS }, (_, i) => i % 2 === 0 ? -i : i);
    packet[Packet.frame] = frame;
    const neighbor = { ifindex: 3, neighbor: -77, rank: Rank.stranger };
    assert.ok(queue.add(neighbor, packet, 9));
    if (frame !== 7) continue;
    const out = new Int32Array(PACKET_WORDS);
    assert.equal(queue.peek(queue.find(3, -77), out), 9, "its deadline");
    assert.deepEqual(out, packet);
  }
  assert.equal(queue.find(4, -77), -1, "another interface is another neighbour");
  assert.deepEqual(drain(queue, 3, -77), [7, 5, 9]);
  assert.equal(queue.count, 0);
});

Deno.test("a neighbour holds its share and no more, less when the queue is crowded", () => {
  const queue = makeQueue(() => assert.fail("nothing is displaced"));
  for (let i = 0; i < 4; i++) assert.ok(add(queue, 1, Rank.stranger, i));
  assert.equal(add(queue, 1, Rank.stranger, 99), false);
  for (let i = 0; i < 4; i++) assert.ok(add(queue, 2, Rank.stranger, 10 + i));
  assert.ok(add(queue, 3, Rank.stranger, 20));
  assert.ok(add(queue, 3, Rank.stranger, 21));
  assert.equal(add(queue, 3, Rank.stranger, 22), false, "crowded: two each");
});

Deno.test("a flood of strangers displaces strangers alone", () => {
  const displaced: number[] = [];
  const queue = makeQueue((frame) => displaced.push(frame));
  assert.ok(add(queue, 1, Rank.gateway, 1));
  assert.ok(add(queue, 2, Rank.acquainted, 2));
  for (let i = 0; i < 10_000; i++) {
    assert.ok(add(queue, 1000 + i, Rank.stranger, 1000 + i));
    assert.ok(queue.count <= LIMITS.total);
  }
  assert.equal(displaced.length, 10_002 - LIMITS.total);
  assert.ok(displaced.every((frame) => frame >= 1000));
  assert.ok(add(queue, 3, Rank.acquainted, 3), "who is acquainted displaces a stranger");
  assert.deepEqual(drain(queue, 1, 1), [1]);
  assert.deepEqual(drain(queue, 1, 2), [2]);
  assert.deepEqual(drain(queue, 1, 3), [3]);
});

Deno.test("who is asked for again while the first datagram waits is a stranger no more", () => {
  const queue = makeQueue((frame) => assert.ok(frame >= 1000, `${frame} is displaced`));
  assert.ok(add(queue, 1, Rank.stranger, 1));
  assert.ok(add(queue, 1, Rank.acquainted, 2));
  assert.ok(add(queue, 1, Rank.stranger, 3), "and does not become one again");
  for (let i = 0; i < 1000; i++) add(queue, 1000 + i, Rank.stranger, 1000 + i);
  assert.deepEqual(drain(queue, 1, 1), [1, 2, 3]);
});

Deno.test("a flood of the acquainted leaves gateways alone", () => {
  const queue = makeQueue((frame) => assert.notEqual(frame, 1));
  assert.ok(add(queue, 1, Rank.gateway, 1));
  for (let i = 0; i < 1000; i++) add(queue, 1000 + i, Rank.acquainted, 1000 + i);
  assert.ok(add(queue, 2, Rank.gateway, 2));
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
      assert.ok(add(queue, i >> 1, waiting, i));
    }
    for (let i = 0; i < 100; i++) {
      assert.equal(add(queue, 1000 + i, newcomer, 1000 + i), false);
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
        const taken = add(queue, step.add, step.rank, frame, frame);
        const frames = inside.get(step.add) ?? [];
        if (taken) inside.set(step.add, [...frames, frame]);
      } else {
        const neighbor = queue.find(1, step.take);
        const frames = inside.get(step.take) ?? [];
        assert.equal(neighbor >= 0, frames.length > 0);
        if (neighbor >= 0) {
          assert.equal(queue.peek(neighbor, new Int32Array(PACKET_WORDS)), frames[0]);
          assert.equal(queue.shift(neighbor), frames.length - 1);
          gone.add(frames.shift()!);
        }
      }
      const waiting = [...inside.values()].flat().length;
      assert.equal(queue.count, waiting);
      assert.ok(waiting <= LIMITS.total);
    });
    const keys = new Int32Array(2 * LIMITS.total);
    const count = queue.neighbors(keys);
    const addresses = Array.from({ length: count }, (_, i) => keys[2 * i + 1]);
    const expected = [...inside].filter(([, frames]) => frames.length > 0).map(([key]) => key);
    assert.deepEqual(addresses.toSorted(), expected.toSorted());
    for (const [address, frames] of inside) assert.deepEqual(drain(queue, 1, address), frames);
    assert.equal(queue.count, 0);
  }));
});
