// SPDX-License-Identifier: Apache-2.0
/**
 * An app that speaks without being asked: at every tick it sends the time to the next of those that it
 * has heard from, to port 5000.
 */

import type { Address, App, AppContext } from "../../../tiles/app/contract.ts";

const PORT = 5000;
/** Milliseconds between two datagrams: long enough for every tile to fall asleep. */
const TICK_MILLIS = 300;

/** Makes the app. */
export default function create(_: AppContext): App {
  const heard: Address[] = [];
  let turn = 0;
  return {
    tickMillis: TICK_MILLIS,
    receive(requests) {
      while (requests.next()) heard.push(requests.sourceAddress.copy());
    },
    tick(out) {
      if (turn === heard.length) return;
      const at = out.reserve(8);
      if (at < 0) return;
      const now = performance.timeOrigin + performance.now();
      new DataView(out.bytes.buffer, out.bytes.byteOffset).setFloat64(at, now);
      out.send({ address: heard[turn++], port: PORT }, at, 8);
    },
  };
}
