// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { BURST } from "../../../ffi/shared.ts";
import type { TileLibrary } from "../../../ffi/tile.ts";
import type { Xsk } from "../../../ffi/xsk.ts";
import { PollSet } from "../../../tiles/net/sockets.ts";
import { FakeUdp } from "./fakes.ts";

const EVENTFD = 3;
const DATAGRAM = {
  ...{ source: 1, destination: 2, sourcePort: 3, destinationPort: 4 },
  payload: new Uint8Array(1),
};

/** A poll set of `count` sockets, from descriptor 100 on; of all descriptors those in `readable` are. */
function make(count: number) {
  const udp = new FakeUdp();
  const readable = new Set<number>();
  const emptied: number[] = [];
  const xsk = {
    wait(set: Int32Array, count: number) {
      for (let i = 0; i < count; i++) {
        const word = set[2 * i + 1] & 0xffff;
        set[2 * i + 1] = word | (readable.has(set[2 * i]) ? word << 16 : 0);
      }
      return readable.size;
    },
  } as unknown as Xsk;
  const tile = { wait: (fd: number) => emptied.push(fd) } as unknown as TileLibrary;
  const sockets = Array.from({ length: count }, (_, i) => 100 + i);
  const set = new PollSet({ xsk, udp, tile }, { eventfd: EVENTFD, xdpSockets: [], sockets });
  const ready = () => [...set.ready.subarray(0, set.readyCount)].sort((a, b) => a - b);
  return { set, udp, readable, emptied, ready };
}

Deno.test("a socket that goes on having something is told once", () => {
  const { set, udp, ready } = make(3);
  udp.arrive(101, DATAGRAM);
  for (let i = 0; i < 2 * BURST; i++) set.poll();
  udp.arrive(102, DATAGRAM);
  set.poll();
  assert.deepEqual(ready(), [1, 2]);
});

Deno.test("a socket that was emptied is told again, and the others stay", () => {
  const { set, udp, ready } = make(3);
  for (const fd of [100, 101, 102]) udp.arrive(fd, DATAGRAM);
  set.poll();
  set.emptied(set.ready.indexOf(0));
  assert.deepEqual(ready(), [1, 2]);
  set.poll();
  assert.deepEqual(ready(), [0, 1, 2]);
});

Deno.test("sockets beyond those that one look finds get their turn, however busy the others stay", () => {
  const count = BURST + 1;
  const { set, udp, ready } = make(count);
  for (let i = 0; i < count; i++) udp.arrive(100 + i, DATAGRAM);
  const told = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    set.poll();
    assert.equal(set.full, true);
    for (const index of ready()) told.set(index, (told.get(index) ?? 0) + 1);
  }
  assert.deepEqual(new Set(told.values()), new Set([BURST]), "each in 64 of 65 looks");
  assert.equal(told.size, count);
});

Deno.test("one look finds as many sockets as a burst has datagrams, and fewer are not full", () => {
  const { set, udp, ready } = make(BURST);
  for (let i = 1; i < BURST; i++) udp.arrive(100 + i, DATAGRAM);
  set.poll();
  assert.deepEqual([ready().length, set.full], [BURST - 1, false]);
});

Deno.test("wait() empties the eventfd when that was written, and looks at sockets when one has something", () => {
  const { set, udp, readable, emptied, ready } = make(1);
  udp.arrive(100, DATAGRAM);
  readable.add(EVENTFD);
  set.wait(0);
  assert.deepEqual([emptied, ready()], [[EVENTFD], []]);
  readable.delete(EVENTFD);
  readable.add(udp.watch(Int32Array.of(100)));
  set.wait(0);
  assert.deepEqual([emptied, ready()], [[EVENTFD], [0]]);
});
