// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { hash, keyOf, Use } from "../../../netbase/hash.ts";
import { RECENT_PEERS_BYTES, RecentPeers } from "../../../tiles/net/app_link.ts";
import fc from "../property.ts";

Deno.test("an address is known when it was put in, and no other is", () => {
  const address = fc.oneof(fc.integer(), fc.integer({ min: 1, max: 50 })).filter((a) => a !== 0);
  fc.assert(
    fc.property(fc.array(address), fc.array(address), (put, others) => {
      const view = heapView(RECENT_PEERS_BYTES);
      const heard = new RecentPeers(view, 1);
      for (const each of put) heard.add(each);
      const reader = new RecentPeers(view);
      const known = new Set(put);
      for (const each of [...put, ...others, 0]) assert.equal(reader.has(each), known.has(each));
    }),
    { numRuns: 50 },
  );
});

Deno.test("of a flood of strangers the last 32,768 are known, and the oldest are forgotten", () => {
  const heard = new RecentPeers(heapView(RECENT_PEERS_BYTES), 1);
  const count = 200_000;
  for (let i = 1; i <= count; i++) {
    heard.add(Math.imul(i, 0x01000193));
    assert.ok(heard.has(Math.imul(i, 0x01000193)));
  }
  for (let i = count - 32_767; i <= count; i++) assert.ok(heard.has(Math.imul(i, 0x01000193)));
  let known = 0;
  for (let i = 1; i <= count; i++) if (heard.has(Math.imul(i, 0x01000193))) known++;
  assert.ok(known <= 65_536, `${known}`);
});

Deno.test("who asked just now is known though others have all places that it may be in", () => {
  const seed = 1;
  const { add, first, second } = keyOf(seed, Use.recentPeers);
  // Addresses that all begin their search within the same few of 65,536 slots.
  const crowd: number[] = [];
  for (let address = 1; crowd.length < 300; address++) {
    if ((hash(0, address, add, first, second) & 0xffff) < 32) crowd.push(address);
  }
  const heard = new RecentPeers(heapView(RECENT_PEERS_BYTES), seed);
  for (const address of crowd) {
    heard.add(address);
    assert.ok(heard.has(address), `${address} asked just now`);
  }
  const known = crowd.filter((address) => heard.has(address)).length;
  assert.ok(known < crowd.length, "there were more than places");
});

Deno.test("one that takes over goes on with what was heard, and forgets no later and no earlier", () => {
  const view = heapView(RECENT_PEERS_BYTES);
  const address = (i: number) => Math.imul(i, 0x01000193);
  const count = 100_000;
  let heard = new RecentPeers(view, 1);
  for (let i = 1; i <= count; i++) {
    // Another seed each time: what was put in by the first must be found.
    if (i % 1000 === 0) heard = new RecentPeers(view, i);
    heard.add(address(i));
    if (i % 1000 === 0) assert.ok(heard.has(address(Math.max(1, i - 32_767))), `${i}`);
  }
  const known = Array.from({ length: count }, (_, i) => address(i + 1))
    .filter((each) => new RecentPeers(view).has(each)).length;
  assert.ok(known >= 32_768 && known <= 65_536, `${known}`);
});
