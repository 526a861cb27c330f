// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import {
  ARP_QUEUE_ENTRIES,
  HEADROOM_BYTES,
  LINK_DEPTH,
  planTiles,
  SOCKET_FRAMES,
  SPARE_FRAMES,
} from "../../../tiles/runtime/plan.ts";
import fc from "../property.ts";

Deno.test("net tiles are as many as queues, at most the cores less one, at least one", () => {
  const netTiles = (queues: number[], cores: number) =>
    planTiles({ queues, cores, apps: [{}] }).netTiles;
  assert.equal(netTiles([1], 2), 1);
  assert.equal(netTiles([4, 2], 16), 4);
  assert.equal(netTiles([8], 4), 3);
  assert.equal(netTiles([8], 1), 1);
  assert.equal(netTiles([], 8), 1);
  assert.equal(planTiles({ queues: [1], cores: 2, apps: [{}], netTiles: 5 }).netTiles, 5);
});

Deno.test("every queue has exactly one net tile, and each UMEM has a frame for all that may hold one", () => {
  const host = fc.record({
    queues: fc.array(fc.integer({ min: 1, max: 16 }), { maxLength: 4 }),
    cores: fc.integer({ min: 1, max: 32 }),
    apps: fc.array(fc.constantFrom({}, { depth: 64 }, { depth: 4096 }), {
      minLength: 1,
      maxLength: 16,
    }),
  });
  fc.assert(fc.property(host, (shape) => {
    const { netTiles, shares, frames } = planTiles(shape);
    const owners = new Set(shares.map((share) => `${share.interface}/${share.queue}`));
    assert.equal(owners.size, shares.length);
    assert.equal(shares.length, shape.queues.reduce((sum, count) => sum + count, 0));
    for (const { queue, netTile } of shares) assert.equal(netTile, queue % netTiles);
    frames.forEach((count, tile) => {
      const sockets = shares.filter((share) => share.netTile === tile).length;
      const most = sockets * 2 * SOCKET_FRAMES + (sockets > 0 ? SPARE_FRAMES : 0) +
        shape.apps.reduce((sum, { depth = LINK_DEPTH }: { depth?: number }) => sum + depth, 0) +
        ARP_QUEUE_ENTRIES;
      assert.equal(count, most);
    });
  }));
});

Deno.test("the headroom aligns an untagged frame's headers, and has the shortest in one cache line", () => {
  const begin = 256 + HEADROOM_BYTES;
  assert.equal((begin + 14) % 4, 0);
  assert.equal(begin >>> 6, (begin + 60 - 1) >>> 6);
});
