/**
 * An app that speaks without being asked: told an address and a port (`198.18.0.2 5000`), it sends the
 * time there at every tick, from then on; with a count behind (`198.18.0.50 5000 10`) to that many
 * addresses in turn, counting up.
 *
 * @module
 */

import type { App, AppContext } from "../../../tiles/app/contract.ts";

/** Milliseconds between two datagrams: long enough for every tile to fall asleep. */
const TICK_MILLIS = 400;

/** Makes the app. */
export default function create(context: AppContext): App {
  let first = 0, port = 0, count = 1, turn = 0;
  return {
    tickMillis: TICK_MILLIS,
    receive(requests) {
      for (let i = 0; i < requests.count; i++) {
        const at = requests.offset(i);
        const text = String.fromCharCode(...requests.bytes.slice(at, at + requests.size(i)));
        const words = text.split(" ");
        first = words[0].split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
        [port, count, turn] = [Number(words[1]), Number(words[2] ?? 1), 0];
      }
    },
    tick(out) {
      if (port === 0) return;
      const text = String(performance.timeOrigin + performance.now());
      const at = out.reserve(text.length);
      if (at < 0) return;
      for (let i = 0; i < text.length; i++) out.bytes[at + i] = text.charCodeAt(i);
      const address = first + turn++ % count;
      out.send({ address, port, sourcePort: context.ports[0] }, at, text.length);
    },
  };
}
