// SPDX-License-Identifier: Apache-2.0
/**
 * What an app does that it should not: it writes its links' region as it likes, at any time. Whatever
 * that is, each descriptor ends in one counter, and what leaves is right.
 */

import assert from "node:assert/strict";
import { u32 } from "../../../ffi/region.ts";
import { payloadRing, REFLECTED } from "../../../tiles/runtime/link.ts";
import fc from "../property.ts";
import { ANSWER, known, PEER } from "./places.ts";
import { ETH0, ip, REQUEST, Room, SLOT } from "./room.ts";

/** A room whose peer is known. */
function quietRoom(): Room {
  const room = new Room();
  known(room);
  return room;
}

Deno.test("whatever words an app writes, each descriptor ends in one counter and none in an exception", () => {
  const room = quietRoom();
  const word = fc.oneof(
    fc.nat(0xffffffff),
    fc.constantFrom(0, 1, 65_507, 65_508, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 17),
    fc.constantFrom(PEER, ip("8.8.8.8"), ip("127.0.0.1"), (7 << 16) + 5000, REQUEST.destination),
  );
  fc.assert(
    fc.property(fc.array(fc.array(word, { minLength: 5, maxLength: 8 })), (descriptors) => {
      for (const words of descriptors) room.apps[0].raw(words);
      room.turn();
      room.pass(5000);
      const { tx_accepted = 0 } = room.moved();
      assert.equal(tx_accepted, descriptors.length);
      for (const slot of Object.values(SLOT)) room.xsk.sent(slot);
      const { accepted, accounted } = room.balance();
      assert.equal(accounted, accepted, "sent + dropped = accepted");
    }),
    { numRuns: 500 },
  );
});

Deno.test("a payload that leaves the app's ring, by either end, is refused", () => {
  const room = quietRoom();
  const ring = room.apps[0].setup.shape.payloadBytes;
  const rest = [REQUEST.destination, PEER, 7 * 0x10000 + 5000];
  for (const [offset, length] of [[ring - 4, 5], [ring, 1], [0xfffffffc, 8], [0, 65_508]]) {
    room.apps[0].raw([offset, length, ...rest]);
  }
  room.turn();
  assert.deepEqual(room.moved(), { tx_accepted: 4, tx_drop_invalid_descriptor: 4 });
  room.apps[0].raw([ring - 4, 4, ...rest]);
  room.apps[0].raw([ring, 0, ...rest]);
  room.turn();
  assert.deepEqual(room.moved(), { tx_accepted: 2, tx_frames: 2 });
});

Deno.test("an app cannot send from another app's port, nor to port 0", () => {
  const room = quietRoom();
  room.answer({ sourcePort: 9 });
  room.answer({ sourcePort: 0 });
  room.answer({ destinationPort: 0 });
  assert.deepEqual(room.moved(), {
    ...{ tx_accepted: 3, tx_drop_port_not_owned: 2, tx_drop_port_zero: 1 },
  });
});

Deno.test("an answer to a request goes where that came from, whatever else an app says, and to no other", () => {
  const room = new Room();
  known(room);
  const [app, other] = room.apps;
  const elsewhere = [ip("8.8.8.8"), ip("8.8.4.4"), 9 * 0x10000 + 53];
  const refused = (place: number) => {
    app.raw([0, 4, ...elsewhere, place + 1]);
    room.turn();
    assert.deepEqual(
      room.moved(),
      { tx_accepted: 1, tx_drop_invalid_descriptor: 1 },
      `place ${place}`,
    );
  };
  refused(0);
  // What another app has is not there.
  room.receive({ ...REQUEST, destinationPort: 9 });
  room.moved();
  refused(0);
  assert.equal(other.take().length, 1);
  room.receive(REQUEST);
  room.moved();
  for (const place of [1, 63, 64, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe]) refused(place);
  payloadRing(app.region, app.setup.shape).set([1, 2, 3, 4]);
  // It may be answered more than once, and after it was sent back.
  app.raw([0, 4, ...elsewhere, 1]);
  app.raw([0, REFLECTED]);
  app.raw([0, 4, ...elsewhere, 1]);
  room.turn();
  const four = { ...ANSWER, payload: Uint8Array.of(1, 2, 3, 4) };
  assert.deepEqual(room.sent(ETH0), [four, ANSWER, four]);
  app.take();
  room.turn();
  room.moved();
  refused(0);
});

/**
 * Has each byte in `memory` change as soon as it was read by a DataView, by which the net tile reads
 * payloads. Ends with `[Symbol.dispose]`.
 */
function changingOnceRead(memory: SharedArrayBuffer): Disposable {
  const { getInt32, getUint16, getUint8 } = DataView.prototype;
  const change = (view: DataView, at: number, length: number) => {
    if (view.buffer !== memory) return;
    for (let i = at; i < at + length; i++) view.setUint8(i, ~getUint8.call(view, i));
  };
  const changing = {
    getInt32(this: DataView, at: number, isLittleEndian?: boolean) {
      const word = getInt32.call(this, at, isLittleEndian);
      change(this, at, 4);
      return word;
    },
    getUint16(this: DataView, at: number, isLittleEndian?: boolean) {
      const word = getUint16.call(this, at, isLittleEndian);
      change(this, at, 2);
      return word;
    },
    getUint8(this: DataView, at: number) {
      const byte = getUint8.call(this, at);
      change(this, at, 1);
      return byte;
    },
  };
  Object.assign(DataView.prototype, changing);
  return {
    [Symbol.dispose]: () => {
      Object.assign(DataView.prototype, { getInt32, getUint16, getUint8 });
    },
  };
}

Deno.test("a payload that an app changes while it is read has the checksum of what was sent", () => {
  const room = quietRoom();
  const { region, setup: { shape } } = room.apps[0];
  const ring = payloadRing(region, shape);
  // The last is to someone who is not known yet, so it is copied to wait.
  const stranger = REQUEST.source + 1;
  const lengths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 1472, 11];
  const payloads = lengths.map((length) => new Uint8Array(length).map((_, i) => i * 7 + length));
  payloads.forEach((payload, i) => {
    const destination = i === lengths.length - 1 ? stranger : PEER;
    room.apps[0].answer({ destination, payload });
  });
  {
    using _ = changingOnceRead(region.buffer);
    room.turn();
    room.neighbor(stranger);
    room.turn();
  }
  // parseFrame, in sent(), looks at the checksum.
  assert.deepEqual(room.sent(ETH0).map(({ payload }) => payload), payloads);
  assert.equal(ring[1], 0xff & ~payloads[2][0], "it did change");
});

Deno.test("cursors that an app makes up send nothing and are counted", () => {
  const room = quietRoom();
  u32(room.apps[0].region)[0] = 5000;
  room.turn();
  room.pass(100);
  const { link_corrupt, ...others } = room.moved();
  assert.ok(link_corrupt > 0);
  assert.deepEqual(others, {});
});
