// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Address } from "../../../tiles/app/address.ts";
import type { Answers, App } from "../../../tiles/app/contract.ts";
import { APP } from "../../../tiles/runtime/counters.ts";
import { buildFrame } from "./frames.ts";
import { ANSWER, PLACES, serve } from "./places.ts";
import { ETH0, REQUEST, SLOT } from "./room.ts";

const TO = { address: new Address(REQUEST.source), port: 9, sourcePort: 7 };
const { errors, tx_drop_reply_link_full } = APP.index;

/** Answers each request with eight bytes, in whichever way `send` does. */
function eight(send: (out: Answers, at: number) => void): App["receive"] {
  return (requests, out) => {
    while (requests.next()) {
      const at = out.reserve(8);
      out.bytes.fill(0x38, at, at + 8);
      send(out, at);
    }
  };
}

for (const place of PLACES) {
  Deno.test(`${place}: what was not reserved does not leave, and asking for it is the app's error`, async () => {
    let wrong: (out: Answers, at: number) => void = () => {};
    const { room, run, counters } = await serve(place, eight((out, at) => wrong(out, at)));
    const ask = (payload = REQUEST.payload) => {
      room.xsk.deliver(SLOT.eth0, buildFrame({ ...REQUEST, payload }));
      run();
      return room.sent(ETH0);
    };
    // Every frame, and the app's own memory, has held something of somebody else's.
    for (let i = 0; i < 100; i++) ask(new TextEncoder().encode("secret ".repeat(200)));
    const spans = [[0, 9], [0, 1000], [0, 1472], [0, 60_000], [-1, 8], [-1, 9], [1, 8], [8, 1]];
    const never = [[0, -1], [0, NaN], [NaN, 8], [0, Infinity], [-Infinity, 8], [0, 2 ** 32 + 8]];
    for (const [before, size] of [...spans, ...never]) {
      for (const way of ["reply", "send"] as const) {
        wrong = (out, at) => {
          if (way === "reply") out.reply(at + before, size);
          else out.send(TO, at + before, size);
        };
        const count = counters[errors];
        assert.deepEqual(ask(), [], `${way} of ${size} bytes, ${before} from the start`);
        assert.equal(counters[errors], count + 1);
      }
    }
    wrong = (out, at) => {
      assert.throws(() => out.reply(at, 9), {
        name: "RangeError",
        message: `an answer of 9 bytes at ${at} is outside the reservation: 8 at ${at}`,
      });
      out.reply(at, 8);
    };
    assert.deepEqual(ask(), [{ ...ANSWER, payload: new Uint8Array(8).fill(0x38) }]);
  });

  Deno.test(`${place}: a part of what was reserved may be sent, and sent again, but then no other part`, async () => {
    const { room, run, counters } = await serve(
      place,
      eight((out, at) => {
        out.bytes.fill(0x31, at + 2, at + 7);
        out.reply(at + 2, 5);
        out.reply(at + 2, 5);
        out.send(TO, at, 1);
      }),
    );
    for (let i = 0; i < 2; i++) room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
    run();
    const answer = { ...ANSWER, payload: new Uint8Array(5).fill(0x31) };
    assert.deepEqual(room.sent(ETH0), [answer, answer, answer, answer]);
    assert.deepEqual([counters[tx_drop_reply_link_full], counters[errors]], [0, 2]);
  });

  Deno.test(`${place}: what throws sends nothing, and what was reserved can be sent otherwise`, async () => {
    const wrong = [
      { address: undefined },
      ...[{ port: 65_536 + 9 }, { port: -1 }, { sourcePort: 2 ** 31 }, { sourcePort: -1 }],
      ...[{ sourceAddress: 1 }, { ttl: 0 }],
    ];
    const { room, run, counters } = await serve(
      place,
      eight((out, at) => {
        for (const part of wrong) {
          const to = { ...TO, ...part } as typeof TO;
          assert.throws(() => out.send(to, at, 3), /port|address|ttl/);
        }
        assert.throws(() => out.reply(at, 3, { dscp: 64 }), /dscp/);
        out.bytes.fill(0x31, at, at + 5);
        out.reply(at, 5);
      }),
    );
    room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
    run();
    assert.deepEqual(room.sent(ETH0), [{ ...ANSWER, payload: new Uint8Array(5).fill(0x31) }]);
    assert.deepEqual([counters[tx_drop_reply_link_full], counters[errors]], [0, 0]);
  });

  Deno.test(`${place}: what is reserved is taken back by a request that goes back as it came`, async () => {
    const { room, run, counters } = await serve(
      place,
      eight((out, at) => {
        out.reflect();
        out.reply(at, 8);
      }),
    );
    room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
    run();
    assert.deepEqual(room.sent(ETH0), [ANSWER]);
    assert.equal(counters[tx_drop_reply_link_full], 1);
  });

  for (const way of ["reply", "reflect"] as const) {
    Deno.test(`${place}: ${way}() without a current datagram is the app's error and sends nothing`, async () => {
      let kept: Answers | null = null;
      const answer = (out: Answers) => {
        if (way === "reflect") out.reflect();
        else out.reply(out.reserve(4), 4);
      };
      const { room, run, tick, counters } = await serve(place, {
        receive(requests, out) {
          kept = out;
          const { offset, size, sourceAddress, destinationPort } = requests;
          // Nothing of the burst before is to be seen.
          assert.deepEqual([offset, size, `${sourceAddress}`, destinationPort], [
            0,
            0,
            "0.0.0.0",
            0,
          ]);
          assert.throws(() => answer(out), {
            name: "TypeError",
            message: `${way}() is about the current datagram, and there is none: ` +
              "next() makes one current, in receive()",
          });
          while (requests.next()) out.reflect();
        },
        tick: answer,
      });
      const free = room.freeFrames();
      for (let burst = 0; burst < 3; burst++) {
        for (let i = 0; i < 2; i++) room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
        run();
        assert.deepEqual(room.sent(ETH0), [ANSWER, ANSWER]);
        run();
        assert.equal(room.freeFrames(), free);
      }
      assert.equal(counters[errors], 0);
      assert.throws(() => answer(kept!));
      tick();
      assert.equal(counters[errors], 1);
      assert.deepEqual(room.sent(ETH0), []);
    });
  }
}
