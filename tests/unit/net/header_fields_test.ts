// SPDX-License-Identifier: Apache-2.0
/** TTL, DSCP and ECN: what an app reads of a datagram, and what it sets of its own. */

import assert from "node:assert/strict";
import { Address } from "../../../tiles/app/address.ts";
import type { Answers, App, HeaderFields } from "../../../tiles/app/contract.ts";
import { APP } from "../../../tiles/runtime/counters.ts";
import { PLACES, serve } from "./places.ts";
import { ETH0, ip, REQUEST } from "./room.ts";

/** The same request through the VLAN. */
const TAGGED = {
  ...REQUEST,
  ...{ source: ip("203.0.113.2"), destination: ip("203.0.113.1") },
  tags: [{ protocol: 0x8100, id: 100 }],
};
const OTHER = ip("198.18.0.77");

/** Answers each request by what `send` does. */
function answering(send: (out: Answers, at: number) => void): App["receive"] {
  return (requests, out) => {
    while (requests.next()) send(out, out.reserve(1));
  };
}

for (const place of PLACES) {
  Deno.test(`${place}: an app reads the TTL, DSCP and ECN that a datagram came with`, async () => {
    const { room, run } = await serve(place, (requests, out) => {
      while (requests.next()) {
        const at = out.reserve(3);
        out.bytes.set([requests.ttl, requests.dscp, requests.ecn], at);
        out.reply(at, 3);
      }
    });
    for (const [ttl, dscp, ecn] of [[1, 0, 0], [255, 63, 3], [64, 46, 0], [0, 0, 1], [17, 10, 2]]) {
      for (const request of [REQUEST, TAGGED]) {
        room.receive({ ...request, ttl, tos: (dscp << 2) | ecn });
        run();
        const [answer] = room.sent(ETH0);
        assert.deepEqual([...answer.payload], [ttl, dscp, ecn]);
        assert.deepEqual([answer.ttl, answer.tos], [undefined, undefined], "the usual");
      }
      room.udp.arrive(1007, { ...REQUEST, tosTtl: (dscp << 10) | (ecn << 8) | ttl });
      room.tile.wait(0);
      run();
      assert.deepEqual([...room.sent(ETH0)[0].payload], [ttl, dscp, ecn], "by the kernel's socket");
    }
  });

  Deno.test(`${place}: an answer has the TTL, DSCP and ECN that it was given, the next one the usual`, async () => {
    let fields: HeaderFields | undefined;
    const { room, run } = await serve(place, answering((out, at) => out.reply(at, 1, fields)));
    const sent = (given?: HeaderFields) => {
      fields = given;
      room.receive({ ...REQUEST, ttl: 3, tos: 255 });
      run();
      return room.sent(ETH0).map(({ ttl, tos }) => [ttl, tos]);
    };
    for (let times = 0; times < 2; times++) {
      assert.deepEqual(sent({ ttl: 255, dscp: 46, ecn: 1 }), [[255, (46 << 2) | 1]]);
      assert.deepEqual(sent({ ttl: 1 }), [[1, undefined]]);
      assert.deepEqual(sent({ dscp: 63, ecn: 3 }), [[undefined, 255]]);
      assert.deepEqual(sent({}), [[undefined, undefined]]);
      assert.deepEqual(sent(), [[undefined, undefined]]);
    }
  });

  Deno.test(`${place}: fields that no header has are the app's error, and nothing is sent`, async () => {
    let fields: HeaderFields = {};
    const { room, run, counters } = await serve(
      place,
      answering((out, at) => out.reply(at, 1, fields)),
    );
    const wrong = [{ ttl: 0 }, { ttl: 256 }, { ttl: NaN }, { dscp: 64 }, { dscp: -1 }, { ecn: 4 }];
    for (fields of wrong) {
      room.receive(REQUEST);
      run();
      assert.deepEqual(room.sent(ETH0), []);
    }
    assert.equal(counters[APP.index.errors], wrong.length);
  });

  Deno.test(`${place}: what waits for its neighbour, and what the kernel sends, keep their fields`, async () => {
    const [waits, local] = [new Address(OTHER), new Address(ip("127.0.0.1"))];
    const fields = { port: 9, ttl: 5, dscp: 8, ecn: 2 };
    const { room, run } = await serve(
      place,
      answering((out, at) => {
        out.send({ address: waits, ...fields }, at, 1);
        out.send({ address: local, ...fields }, "x");
        out.send({ address: local, port: 9 }, "y");
      }),
    );
    room.receive(REQUEST);
    run();
    assert.deepEqual(room.udp.sent.map(({ tosTtl }) => tosTtl), [(34 << 8) | 5, undefined]);
    assert.deepEqual(room.sent(ETH0), []);
    room.neighbor(OTHER);
    run();
    assert.deepEqual(room.sent(ETH0).map(({ ttl, tos }) => [ttl, tos]), [[5, 34]]);
  });

  Deno.test(`${place}: a request that goes back as it came has the usual TTL and TOS`, async () => {
    const { room, run } = await serve(place, (requests, out) => {
      while (requests.next()) {
        out.reflect();
        out.reflect();
      }
    });
    for (const request of [REQUEST, { ...REQUEST, source: OTHER }]) {
      room.receive({ ...request, ttl: 9, tos: 77 });
      run();
      room.neighbor(OTHER);
      run();
      const sent = room.sent(ETH0).map(({ ttl, tos }) => [ttl, tos]);
      assert.deepEqual(sent, [[undefined, undefined], [undefined, undefined]]);
    }
  });
}
