// SPDX-License-Identifier: Apache-2.0
/**
 * Sends the time to all subscribers, once a second. Whoever sends a datagram subscribes. More subscribers
 * than there is room for get theirs when there is room again, before the next round begins.
 */

import type { Answers, App, AppContext, Destination } from "../../tiles/app/contract.ts";

const MOST_SUBSCRIBERS = 100_000;

/** Makes the app. Option `interval`: milliseconds between two rounds. */
export default function create({ every, metric, mayLoop, options }: AppContext): App {
  const subscribers: Destination[] = [];
  const known = new Set<string>();
  const late = metric("broadcast.late", "counter")!;
  let round = new Uint8Array(0);
  /** The first subscriber that has not had the round. */
  let next = 0;

  function goOn(out: Answers): void {
    if (next === subscribers.length || out.room === 0) return;
    const at = out.reserve(round.length);
    if (at < 0) return;
    out.bytes.set(round, at);
    while (next < subscribers.length && out.room > 0) {
      out.send(subscribers[next++], at, round.length);
    }
  }

  every(Number(options.interval ?? 1000), (out, now) => {
    // The round before is not over.
    if (next < subscribers.length) return void late.value++;
    round = new TextEncoder().encode(new Date(now / 1e6).toISOString());
    next = 0;
    goOn(out);
  });

  return {
    receive(requests) {
      while (requests.next()) {
        if (mayLoop(requests)) continue;
        const { sourceAddress, sourcePort: port, destinationPort: sourcePort } = requests;
        const subscriber = `${sourceAddress}:${port}`;
        if (known.has(subscriber) || known.size === MOST_SUBSCRIBERS) continue;
        known.add(subscriber);
        // From the next round on.
        if (next === subscribers.length) next++;
        subscribers.push({ address: sourceAddress.copy(), port, sourcePort });
      }
    },
    drain: goOn,
  };
}
