// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { RecentPeers } from "../../../tiles/net/app_link.ts";
import { ETH0, ip, REQUEST, Room } from "./room.ts";

const PEER = REQUEST.source;
const STRANGER = ip("198.18.0.77");

function room(sendTo: { address: number; mask: number }[] = []): Room {
  const room = new Room({ sendTo });
  room.neighbor(PEER);
  room.neighbor(STRANGER);
  room.turn();
  room.moved();
  return room;
}

Deno.test("an app that sends to whom it has not heard from sends nothing, and that is counted", () => {
  const host = room();
  host.answer({ destination: STRANGER });
  assert.deepEqual(host.sent(ETH0), []);
  assert.deepEqual(host.moved(), { tx_accepted: 1, tx_drop_unsolicited: 1 });
});

Deno.test("an app answers, and may send later and on other ports, to whom it heard from", () => {
  const host = room();
  host.receive(REQUEST);
  host.answer({});
  host.pass(10_000);
  host.answer({ destinationPort: 9 });
  assert.equal(host.sent(ETH0).length, 2);
  host.answer({ destination: STRANGER });
  assert.equal(host.sent(ETH0).length, 0);
});

Deno.test("who asks is heard anew when others were forgotten, though the way there is known", () => {
  const host = room();
  const ask = () => {
    host.receive(REQUEST);
    host.apps[0].take();
  };
  ask();
  host.answer({});
  assert.equal(host.sent(ETH0).length, 1);
  // Each flood makes the table forget its older half; REQUEST comes in between, and is known.
  const flood = (first: number) => {
    for (let i = 0; i < 33_000; i++) {
      host.receive({ ...REQUEST, source: first + i });
      host.apps[0].take();
    }
  };
  flood(ip("192.0.2.0"));
  ask();
  flood(ip("203.0.113.0"));
  host.pass(100);
  host.answer({});
  assert.equal(host.sent(ETH0).length, 1);
  // A peer that sends again, though answered meanwhile, is among the youngest again.
  flood(ip("192.1.0.0"));
  host.answer({});
  ask();
  flood(ip("203.1.0.0"));
  host.pass(100);
  host.answer({});
  assert.equal(host.sent(ETH0).length, 2);
});

Deno.test("what another net tile heard counts", () => {
  const host = room();
  new RecentPeers(host.apps[0].otherRecentPeers, 2).add(PEER | 0);
  host.answer({});
  assert.equal(host.sent(ETH0).length, 1);
});

Deno.test("what another app heard does not count, though the way there is known", () => {
  const host = room();
  host.receive(REQUEST);
  host.answer({});
  assert.equal(host.sent(ETH0).length, 1);
  host.apps[1].answer({ sourcePort: 9 });
  host.turn();
  assert.equal(host.sent(ETH0).length, 0);
});

Deno.test("an app may send to addresses that it is configured to, and to no others", () => {
  const host = room([{ address: ip("198.18.0.64") | 0, mask: 0xffffffc0 | 0 }]);
  host.answer({ destination: STRANGER });
  assert.equal(host.sent(ETH0).length, 1);
  host.answer({});
  assert.equal(host.sent(ETH0).length, 0);
});
