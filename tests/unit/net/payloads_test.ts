// SPDX-License-Identifier: Apache-2.0
/** What an app gets to see of payloads: its own where it is alone, and of several each its own. */

import assert from "node:assert/strict";
import { u8 } from "../../../ffi/region.ts";
import type { App } from "../../../tiles/app/contract.ts";
import spy from "../../fixtures/app/spy.ts";
import { UNTOUCHED } from "./fakes.ts";
import { buildFrame } from "./frames.ts";
import { attach, known, PEER } from "./places.ts";
import { ETH0, ip, REQUEST, Room, SLOT } from "./room.ts";

const SECRET = "for the other app's eyes alone";
/** Ports of the spy and of the other app, and the kernel socket of the latter. */
const [SPY, OTHER, FD] = [7, 9, 1009];

/** Answers in each way that there is, one after the other. */
function answering(): App {
  let turn = 0;
  return {
    receive(requests, out) {
      while (requests.next()) {
        const way = turn++ % 3;
        if (way === 0) out.reflect();
        if (way !== 1) continue;
        const at = out.reserve(requests.size);
        if (at >= 0) out.copy(at);
        if (at >= 0) out.reply(at, requests.size);
      }
    },
  };
}

/** Sends the secret to the other app in every way, and returns in how many places the spy saw it. */
async function spied(apart: boolean, rounds: number): Promise<number> {
  const room = new Room({ ports: [[SPY], [OTHER]], apart });
  known(room);
  const { side, run } = await attach(room, 0, { default: spy }, { secret: SECRET });
  const other = await attach(room, 1, { default: answering });
  const free = room.freeFrames();
  let [searched, found] = [0, 0];
  for (let i = 0; i < rounds; i++) {
    const size = [SECRET.length, 1000, 1472, 5000, 65_507][i % 5];
    const payload = new TextEncoder().encode(SECRET.padEnd(size, " "));
    // One that is not known yet has its answer held.
    const source = i % 7 === 0 ? ip("198.18.0.100") + i : PEER;
    const secret = { ...REQUEST, source, destinationPort: OTHER, payload };
    if (size > 1472 || i % 2 === 0) room.udp.arrive(FD, secret);
    else room.xsk.deliver(SLOT.eth0, buildFrame(secret));
    room.tile.wait(0);
    // The spy looks while the secret is on its way, and again when it has been answered.
    for (const answered of [false, true]) {
      if (answered) other.run();
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, payload: Uint8Array.of(i) }));
      run();
      const [seen] = room.sent(ETH0).filter(({ sourcePort }) => sourcePort === SPY);
      const [bytes, places] = new TextDecoder().decode(seen.payload).split(" ").map(Number);
      searched = bytes;
      found += places;
    }
    assert.equal(other.side.requests.isAtOne, false);
    room.udp.sent.splice(0);
    if (i % 10 === 0) room.pass(5000);
  }
  assert.ok(searched >= side.requests.bytes.buffer.byteLength);
  room.pass(5000);
  other.run();
  run();
  assert.equal(room.freeFrames(), free);
  return found;
}

Deno.test("an app beside another finds nothing of what that is sent in the memory that it is given", async () => {
  assert.equal(await spied(true, 200), 0);
});

Deno.test("an app that were given the UMEM would find it", async () => {
  assert.ok(await spied(false, 10) > 0);
});

Deno.test("what is behind a payload in its frame is not copied with it", () => {
  const room = new Room({ ports: [[SPY], [OTHER]] });
  known(room);
  const [app] = room.apps;
  for (const size of [1, 2, 3, 5]) {
    room.receive({ ...REQUEST, payload: new Uint8Array(size) });
    room.udp.arrive(1000 + SPY, { ...REQUEST, payload: new Uint8Array(size) });
    room.tile.wait(0);
    room.turn();
  }
  assert.equal(app.take().length, 8);
  assert.ok(!u8(app.payloads).includes(UNTOUCHED));
});

Deno.test("an app alone reads its payloads where they came in", async () => {
  const room = new Room({ ports: [[SPY]] });
  known(room);
  const { side } = await attach(room, 0, { default: answering });
  room.receive(REQUEST);
  assert.equal(side.take(), 1);
  const { requests } = side;
  assert.ok(requests.next());
  const { bytes, offset, size } = requests;
  assert.equal(bytes.buffer, room.setup.umem.buffer);
  assert.deepEqual(bytes.slice(offset, offset + size), REQUEST.payload);
  assert.deepEqual(
    bytes.slice(offset - 42, offset),
    buildFrame(REQUEST).slice(0, 42),
    "its headers are before it",
  );
});

Deno.test("a payload that has no room in its app's ring costs that app the datagram, and no other", () => {
  const room = new Room({ ports: [[SPY], [OTHER]] });
  known(room);
  const [app, other] = room.apps;
  const free = room.freeFrames();
  const large = new Uint8Array(65_507).fill(1);
  room.udp.arrive(1000 + SPY, { ...REQUEST, payload: large });
  room.tile.wait(0);
  room.turn();
  const { requestBytes = 0 } = app.setup.shape;
  const fitting = Math.floor((requestBytes - 65_512) / 1472);
  const payload = (i: number) => new Uint8Array(1472).fill(i);
  for (let i = 0; i <= fitting; i++) room.receive({ ...REQUEST, payload: payload(i) });
  const { rx_delivered, rx_drop_app_link_full } = room.moved();
  assert.deepEqual({ rx_delivered, rx_drop_app_link_full }, {
    rx_delivered: 1 + fitting,
    rx_drop_app_link_full: 1,
  });
  room.receive({ ...REQUEST, destinationPort: OTHER });
  assert.deepEqual(other.take().map(({ payload }) => payload), [REQUEST.payload]);
  assert.deepEqual(app.take().map(({ payload }) => payload), [
    large,
    ...Array.from({ length: fitting }, (_, i) => payload(i)),
  ]);
  room.receive(REQUEST);
  assert.deepEqual(app.take().map(({ payload }) => payload), [REQUEST.payload]);
  room.turn();
  assert.equal(room.freeFrames(), free);
});
