// SPDX-License-Identifier: Apache-2.0
/** Requests that are sent back where others are in the way. */

import assert from "node:assert/strict";
import { heapView } from "../../../ffi/region.ts";
import { Address } from "../../../tiles/app/address.ts";
import { ROUTE_CACHE_BYTES, RouteCache } from "../../../tiles/net/route_cache.ts";
import { buildFrame } from "./frames.ts";
import { ANSWER, echo, PEER, PLACES, serve } from "./places.ts";
import { ETH0, ETH1, ip, MAC, REQUEST, SLOT } from "./room.ts";

/** Bytes of an answer that does not fit before the request that it answers. */
const MORE = 400;

for (const place of PLACES) {
  Deno.test(`${place}: of a burst that a ring has no room for what fits goes back, and all else`, async () => {
    const { room, run } = await serve(place, echo);
    const other = ip("198.19.0.2");
    const free = room.freeFrames();
    const deliver = (from: number, to: number, also: boolean) => {
      for (let i = from; i < to; i++) {
        const payload = Uint8Array.of(i);
        room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, payload }));
        if (!also) continue;
        room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, source: other, payload }));
      }
      run();
    };
    deliver(0, 1, true);
    assert.deepEqual([room.sent(ETH0).length, room.sent(ETH1).length], [1, 1]);
    room.moved();
    for (const slot of [SLOT.eth0, SLOT.eth0Second]) room.xsk.rings(slot).room = 0;
    deliver(0, 28, false);
    // Here the ring gets full amid a burst, of which every other request goes another way.
    deliver(28, 42, true);
    const moved = room.moved();
    assert.deepEqual([moved.tx_accepted, moved.tx_drop_ring_full, moved.tx_frames], [56, 10, 14]);
    const numbers = (ifindex: number) => room.sent(ifindex).map(({ payload }) => payload[0]);
    assert.deepEqual(numbers(ETH1), Array.from({ length: 14 }, (_, i) => 28 + i));
    assert.deepEqual(numbers(ETH0), []);
    for (const slot of [SLOT.eth0, SLOT.eth0Second]) room.xsk.rings(slot).room = Infinity;
    run();
    assert.deepEqual(numbers(ETH0), Array.from({ length: 32 }, (_, i) => i));
    run();
    assert.equal(room.freeFrames(), free);
    const { accepted, accounted } = room.balance();
    assert.equal(accounted, accepted);
  });

  Deno.test(`${place}: a request goes back to its sender when others have its entry meanwhile`, async () => {
    let crowd: number[] = [];
    const sourceAddress = new Address(REQUEST.destination);
    const { room, run } = await serve(place, (requests, out) => {
      while (requests.next()) {
        for (const address of crowd) {
          const at = out.reserve(MORE);
          out.send(
            { address: new Address(address), port: 9, sourcePort: 7, sourceAddress },
            at,
            MORE,
          );
        }
        out.reflect();
      }
    });
    room.neighbor(ip("198.18.0.254"), { mac: MAC[ETH1] });
    room.receive(REQUEST);
    run();
    assert.deepEqual(room.sent(ETH0), [ANSWER]);
    crowd = sharers(PEER, REQUEST.destination);
    room.receive(REQUEST);
    run();
    const sent = room.sent(ETH0);
    assert.deepEqual(sent.filter(({ payload }) => payload.length < MORE), [ANSWER]);
    assert.equal(sent.length, crowd.length + 1);
  });
}

/** Addresses whose entries in the route cache have their place where that of `address` has it. */
function sharers(address: number, source: number): number[] {
  const cache = new RouteCache(heapView(ROUTE_CACHE_BYTES), 1);
  const found: number[] = [];
  const place = cache.insert(address | 0, source | 0, 0);
  for (let other = ip("203.0.114.0"); found.length < 8; other++) {
    cache.clear();
    if (cache.insert(other | 0, source | 0, 0) === place) found.push(other);
  }
  return found;
}
