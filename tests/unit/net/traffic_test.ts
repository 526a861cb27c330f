// SPDX-License-Identifier: Apache-2.0
/** What a net tile counts by port and socket, and how long datagrams take. */

import assert from "node:assert/strict";
import { HISTOGRAMS } from "../../../tiles/runtime/counters.ts";
import { DESCRIPTOR_WORDS, linkWords } from "../../../tiles/runtime/link.ts";
import { SocketCell } from "../../../tiles/net/rings.ts";
import { heapView } from "../../../ffi/region.ts";
import {
  latencyBucket,
  PortCell,
  Traffic,
  TRAFFIC_BYTES,
  TrafficCounter,
} from "../../../tiles/net/traffic.ts";
import * as route from "../../../netbase/route.ts";
import { ETH0, ip, PEER_MAC } from "./host.ts";
import { REQUEST, Room } from "./room.ts";

/** What a port has counted, by the names of its cells. */
function port(room: Room, number: number): Record<string, number> {
  room.tile.housekeeping!(room.now);
  const cells = new Traffic(room.setup.traffic).port(number);
  return Object.fromEntries(Object.entries(PortCell).map(([name, i]) => [name, cells[i]]));
}

/** Counts of a histogram that are not 0, by bucket; the sum last. */
function histogram(room: Room, { at, sum }: { at: number; sum: number }): [number, number][] {
  return [...room.counters.subarray(at, sum + 1)].map((count, i): [number, number] => [i, count])
    .filter(([, count]) => count !== 0);
}

Deno.test("a bucket of latency begins where the one before it ends, in ticks as in seconds", () => {
  const { bounds } = HISTOGRAMS.latency;
  assert.equal(bounds.length, 41);
  bounds.forEach((bound, i) => {
    const ticks = bound * 1e9 / 256;
    assert.equal(ticks, Math.round(ticks));
    assert.equal(latencyBucket(ticks - 1), i);
    assert.equal(latencyBucket(ticks), i + 1);
  });
  assert.equal(latencyBucket(2 ** 31 - 1), bounds.length);
});

Deno.test("datagrams are counted at their port, with the bytes of their payloads, both ways", () => {
  const room = new Room({ ports: [[7], [9, 53]] });
  room.neighbor(REQUEST.source);
  for (const destinationPort of [7, 53, 53]) room.receive({ ...REQUEST, destinationPort });
  const size = REQUEST.payload.length;
  room.answer({ payload: new Uint8Array(100) });
  assert.deepEqual(port(room, 7), {
    ...{ rxPackets: 1, rxBytes: size, txPackets: 1, txBytes: 100, rxDrops: 0, txDrops: 0 },
  });
  assert.deepEqual(port(room, 53), {
    ...{ rxPackets: 2, rxBytes: 2 * size, txPackets: 0, txBytes: 0, rxDrops: 0, txDrops: 0 },
  });
  const cells = new Traffic(room.setup.traffic).socket(0);
  assert.equal(cells[SocketCell.rxPackets], 3);
  assert.equal(cells[SocketCell.rxBytes], 3 * (42 + size));
  const sent = new Traffic(room.setup.traffic).socket(room.xsk.sent(0).length === 1 ? 0 : 1);
  assert.equal(sent[SocketCell.txPackets], 1);
  assert.equal(sent[SocketCell.txBytes], 142);
  room.balance();
});

Deno.test("what is dropped for a full link, and what an app cannot send, is counted at its port", () => {
  const room = new Room({ ports: [[7]] });
  const { depth } = room.apps[0].setup.shape;
  for (let i = 0; i < depth + 3; i++) room.receive(REQUEST);
  assert.equal(port(room, 7).rxPackets, depth);
  assert.equal(port(room, 7).rxDrops, 3);
  room.route({ destination: ip("8.8.8.8"), prefixLength: 32, type: route.RTN_BLACKHOLE });
  room.answer({ destination: ip("8.8.8.8") });
  assert.equal(port(room, 7).txDrops, 1);
  // A port of nobody's.
  room.answer({ sourcePort: 8 });
  assert.equal(port(room, 8).txDrops, 0);
  assert.equal(port(room, 0).txDrops, 1);
  room.balance();
});

Deno.test("an answer took as long as from its burst's arrival until the turn's end", async () => {
  const room = await Room.inline((requests, out) => {
    while (requests.next()) out.reflect();
  });
  room.neighbor(REQUEST.source, { ifindex: ETH0, mac: PEER_MAC });
  for (let i = 0; i < 3; i++) room.receive(REQUEST);
  // 40 ticks are 10.24 µs.
  const { sum, at } = HISTOGRAMS.latency;
  assert.deepEqual(histogram(room, HISTOGRAMS.latency), [
    [latencyBucket(40), 3],
    [sum - at, 3 * 40 * 256e-9],
  ]);
  assert.deepEqual(histogram(room, HISTOGRAMS.rx_batch), [[0, 3], [8, 3]]);
  assert.deepEqual(histogram(room, HISTOGRAMS.tx_batch), [[0, 3], [8, 3]]);
});

Deno.test("an answer by a link took as long as since its request arrived; other datagrams none", () => {
  const room = new Room({ ports: [[7]] });
  room.neighbor(REQUEST.source);
  room.receive(REQUEST);
  const app = room.apps[0];
  const place = (app.consumer.slot(0) - linkWords(app.setup.shape).base) / DESCRIPTOR_WORDS;
  app.raw([0, 4, 0, 0, 0, place + 1]);
  room.turn();
  const { latency } = HISTOGRAMS;
  const took = [[latencyBucket(40), 1], [latency.sum - latency.at, 40 * 256e-9]];
  assert.deepEqual(histogram(room, latency), took);
  room.answer({});
  assert.deepEqual(histogram(room, latency), took);
  room.balance();
});

Deno.test("however many of the longest datagrams come between two housekeepings, all are counted", () => {
  const traffic = heapView(TRAFFIC_BYTES);
  const counter = new TrafficCounter({
    traffic,
    dispatch: { serves: () => true, ports: [53] },
    counters: new Float64Array(256),
    xsk: { ticks: () => 0 },
  });
  const [bursts, count, bytes] = [10_000, 64, 65_507];
  for (let i = 0; i < bursts; i++) {
    for (let j = 0; j < count; j++) counter.received(53, bytes);
    counter.passed(count * bytes);
  }
  counter.flush();
  const cells = new Traffic(traffic).port(53);
  assert.equal(cells[PortCell.rxPackets], bursts * count);
  assert.equal(cells[PortCell.rxBytes], bursts * count * bytes);
});
