// SPDX-License-Identifier: Apache-2.0
/** Which time a datagram has: its own if the app wants that, or its burst's. */

import assert from "node:assert/strict";
import type { App } from "../../../tiles/app/contract.ts";
import { PLACES, serve } from "./places.ts";
import { buildFrame } from "./frames.ts";
import { ETH0, REQUEST, SLOT } from "./room.ts";

/** What the fakes say: of a burst, of a frame at least, and of a datagram that the kernel received. */
const BURST_TIME = 0x5678 * 2 ** 32 + 0x1234;
const FRAME_TIME = 0x5679 * 2 ** 32;
const KERNEL_TIME = [0x3000, 0x5670];

/** Answers with the time, as text. */
const receive: App["receive"] = (requests, out) => {
  while (requests.next()) {
    out.send(
      { address: requests.sourceAddress, port: requests.sourcePort },
      String(requests.receivedAt),
    );
  }
};

for (const place of PLACES) {
  for (const packetTimes of [false, true]) {
    Deno.test(`${place}: ${packetTimes ? "each datagram has a time of its own" : "datagrams have the time of their burst"}`, async () => {
      const { room, run } = await serve(place, receive, { packetTimes });
      const answers = () => {
        run();
        return room.sent(ETH0).map(({ payload }) => Number(new TextDecoder().decode(payload)));
      };
      for (let i = 0; i < 3; i++) room.xsk.deliver(SLOT.eth0, buildFrame(REQUEST));
      room.turn();
      const times = answers();
      assert.equal(times.length, 3);
      if (!packetTimes) assert.deepEqual(new Set(times), new Set([BURST_TIME]));
      else {
        assert.equal(new Set(times).size, 3);
        assert.ok(times.every((time) => time >= FRAME_TIME), String(times));
      }
      for (const time of [undefined, KERNEL_TIME]) {
        room.udp.arrive(1007, { ...REQUEST, time });
        room.tile.wait(0);
        const expected = packetTimes && time ? 0x5670 * 2 ** 32 + 0x3000 : BURST_TIME;
        assert.deepEqual(answers(), [expected], "by the kernel's socket");
      }
    });
  }
}
