// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { u32 } from "../../../ffi/region.ts";
import { slotsBaseOf, slotsLog2Of } from "../../../netbase/hash_table.ts";
import { Header, NEIGHBOR_TABLE, NEIGHBORS } from "../../../netbase/layout.ts";
import {
  type NeighborEntry,
  NUD_DELAY,
  NUD_FAILED,
  NUD_INCOMPLETE,
  NUD_NOARP,
  NUD_PERMANENT,
  NUD_PROBE,
  NUD_REACHABLE,
  NUD_STALE,
} from "../../../netbase/neighbors.ts";
import { ip } from "../netbase_kernel.ts";
import { makeRoom } from "../netbase_room.ts";
import fc from "../property.ts";

function entry(address: number, rest: Partial<NeighborEntry> = {}): NeighborEntry {
  const mac = { macHead: (address * 7) >>> 0, macTail: address & 0xffff };
  return { ifindex: 2, address, state: NUD_REACHABLE, flags: 0, ...mac, ...rest };
}

/** What a reader sees of one, in the form of an entry; null: nothing. */
function seen(reader: ReturnType<typeof makeRoom>["reader"], ifindex: number, address: number) {
  const record = reader.neighbors.find(ifindex, address);
  if (record < 0) return null;
  const { neighbors } = reader;
  const mac = { macHead: neighbors.macHead(record), macTail: neighbors.macTail(record) };
  return { ...mac, state: neighbors.state(record) };
}

const anyEntry = fc.record({
  ifindex: fc.constantFrom(2, 3, 70000),
  address: fc.integer({ min: 0, max: 250 }).map((i) => (ip("198.18.0.0") + i) >>> 0),
  state: fc.constantFrom(NUD_REACHABLE, NUD_STALE, NUD_PERMANENT, NUD_FAILED),
  flags: fc.constantFrom(0, 0x10),
  macHead: fc.integer({ min: 0, max: 3 }),
  macTail: fc.integer({ min: 0, max: 3 }),
});

type Act =
  | { do: "set"; entry: NeighborEntry }
  | { do: "remove"; entry: NeighborEntry }
  | { do: "quiesce" | "commit" }
  | { do: "sync"; keep: NeighborEntry[] };

const anyActs = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ do: fc.constant("set"), entry: anyEntry }) },
    { weight: 6, arbitrary: fc.record({ do: fc.constant("remove"), entry: anyEntry }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constantFrom("quiesce", "commit") }) },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant("sync"),
        keep: fc.array(anyEntry, { maxLength: 60, size: "max" }),
      }),
    },
  ),
  { minLength: 50, maxLength: 600, size: "max" },
) as fc.Arbitrary<Act[]>;

Deno.test("the table is a Map after any history of changes, deletions and resyncs", () => {
  fc.assert(
    fc.property(anyActs, (acts) => {
      const { writer, reader, standing } = makeRoom();
      const { neighbors } = writer;
      let map = new Map<string, NeighborEntry>();
      const keyOf = (one: NeighborEntry) => `${one.ifindex} ${one.address}`;
      for (const act of acts) {
        if (act.do === "set") {
          assert.ok(neighbors.set(act.entry));
          map.set(keyOf(act.entry), act.entry);
        } else if (act.do === "remove") {
          const { ifindex, address } = act.entry;
          assert.equal(neighbors.remove(ifindex, address), map.delete(keyOf(act.entry)));
        } else if (act.do === "sync") {
          neighbors.beginSync();
          for (const one of act.keep) neighbors.set(one);
          neighbors.endSync();
          map = new Map(act.keep.map((one) => [keyOf(one), one]));
        } else if (act.do === "quiesce") {
          standing.burst++;
        } else {
          writer.commit();
        }
      }
      assert.equal(neighbors.size, map.size);
      for (const ifindex of [2, 3, 70000]) {
        for (let i = 0; i <= 250; i++) {
          const address = ip("198.18.0.0") + i;
          const expected = map.get(`${ifindex} ${address}`);
          const found = seen(reader, ifindex, address);
          assert.deepEqual(
            found,
            expected === undefined ? null : {
              macHead: expected.macHead,
              macTail: expected.macTail,
              state: expected.state,
            },
          );
          const usable = expected !== undefined && expected.state !== NUD_FAILED;
          assert.equal(reader.neighbors.lookup(ifindex, address) >= 0, usable);
        }
      }
      const listed: NeighborEntry[] = [];
      reader.neighbors.forEach((one) => listed.push({ ...one }));
      const byKey = (a: NeighborEntry, b: NeighborEntry) => keyOf(a) < keyOf(b) ? -1 : 1;
      assert.deepEqual(
        listed.sort(byKey),
        [...map.values()].map((one) => ({ ...one })).sort(byKey),
      );
    }),
    { numRuns: 60 },
  );
});

Deno.test("the generation moves for what a packet can see, and for nothing else", () => {
  const { writer } = makeRoom();
  const { neighbors } = writer;
  const one = entry(ip("198.18.0.9"));
  neighbors.set(one);
  assert.ok(writer.commit(), "a new neighbour");
  neighbors.set({ ...one, state: NUD_STALE });
  assert.equal(writer.commit(), false, "the same MAC, older");
  neighbors.set({ ...one, macTail: 1 });
  assert.ok(writer.commit(), "another MAC");
  neighbors.set({ ...one, macTail: 1, state: NUD_FAILED });
  assert.ok(writer.commit(), "not usable any more");
  neighbors.set(one);
  neighbors.wantRefresh(2, one.address);
  assert.ok(writer.commit(), "a tile must see that a refresh is wanted");
  neighbors.remove(2, one.address);
  assert.ok(writer.commit(), "gone");
});

Deno.test("a wanted refresh is seen until the neighbour is told of again", () => {
  const { writer, reader } = makeRoom();
  const one = entry(ip("198.18.0.9"));
  writer.neighbors.set(one);
  const record = reader.neighbors.lookup(2, one.address);
  assert.equal(reader.neighbors.refreshWanted(record), false);
  assert.ok(writer.neighbors.wantRefresh(2, one.address));
  assert.ok(reader.neighbors.refreshWanted(record));
  assert.equal(reader.neighbors.state(record), NUD_REACHABLE);
  writer.neighbors.set(one);
  assert.equal(reader.neighbors.refreshWanted(record), false);
  assert.equal(writer.neighbors.wantRefresh(3, one.address), false);
});

Deno.test("a table of 64 slots grows to hold 100,000, and what a reader found stays true meanwhile", () => {
  const { writer, reader, standing } = makeRoom(64);
  const first = entry(1);
  writer.neighbors.set(first);
  const held = reader.neighbors.lookup(2, 1);
  for (let address = 1; address <= 100_000; address++) {
    assert.ok(writer.neighbors.set(entry(address, { state: NUD_PERMANENT })));
    if (address % 1000 === 0) {
      writer.commit();
      assert.equal(reader.neighbors.macHead(held), first.macHead);
    }
  }
  assert.equal(writer.neighbors.size, 100_000);
  for (let address = 1; address <= 100_000; address++) {
    const record = reader.neighbors.lookup(2, address);
    assert.equal(reader.neighbors.macHead(record), (address * 7) >>> 0);
  }
  standing.burst++;
  writer.commit();
  assert.equal(writer.neighbors.full, 0);
});

Deno.test("a full table refuses what is new, counts it, and keeps what it has", () => {
  const { writer, reader, standing } = makeRoom(64);
  for (let address = 1; address <= NEIGHBORS; address++) {
    assert.ok(writer.neighbors.set(entry(address)));
    if (address % 4096 === 0) {
      standing.burst++;
      writer.commit();
    }
  }
  for (let address = NEIGHBORS + 1; address <= NEIGHBORS + 100; address++) {
    assert.equal(writer.neighbors.set(entry(address)), false);
  }
  assert.equal(writer.neighbors.full, 100);
  for (let address = 1; address <= NEIGHBORS; address++) {
    assert.ok(reader.neighbors.lookup(2, address) >= 0);
  }
  assert.equal(reader.neighbors.lookup(2, NEIGHBORS + 1), -1);
  assert.ok(writer.neighbors.remove(2, 5));
  assert.ok(writer.neighbors.set(entry(NEIGHBORS + 1)), "there is room again");
});

Deno.test("neighbours may come and go for ever at the load limit", () => {
  const { writer, reader, standing } = makeRoom(64);
  const count = 19;
  for (let i = 0; i < 200_000; i++) {
    assert.ok(writer.neighbors.set(entry(i)));
    if (i >= count) assert.ok(writer.neighbors.remove(2, i - count));
    if (i % 64 === 0) {
      standing.burst++;
      writer.commit();
    }
  }
  for (let i = 200_000 - count; i < 200_000; i++) assert.ok(reader.neighbors.lookup(2, i) >= 0);
  assert.equal(reader.neighbors.lookup(2, 3), -1);
});

Deno.test("while a reader stands still nothing that it may hold is written to again", () => {
  const { writer, reader, standing } = makeRoom(64);
  for (let i = 0; i < 8; i++) writer.neighbors.set(entry(i));
  const held = Array.from({ length: 8 }, (_, i) => reader.neighbors.lookup(2, i));
  for (let round = 1; round < 1000; round++) {
    for (let i = 0; i < 8; i++) writer.neighbors.set(entry(i, { macHead: round }));
    writer.commit();
  }
  held.forEach((record, i) => assert.equal(reader.neighbors.macHead(record), (i * 7) >>> 0));
  standing.asleep = true;
  for (let round = 0; round < 40_000; round++) {
    for (let i = 0; i < 8; i++) assert.ok(writer.neighbors.set(entry(i, { macTail: round })));
    writer.commit();
  }
  assert.equal(writer.neighbors.full, 0, "a sleeper holds nothing, so records are used again");
});

Deno.test("a table's old place is used again when no reader can look at it, and not before", () => {
  const { view, writer, standing } = makeRoom(64);
  const words = u32(view);
  const published = () => words[Header.neighborTable];
  const slots = (table: number) => {
    const base = slotsBaseOf(table, NEIGHBOR_TABLE);
    return words.slice(base, base + (1 << slotsLog2Of(table)));
  };
  let next = 0;
  // Neighbours that come and go leave tombstones, so that the table is built anew, no larger.
  const churn = () => {
    assert.ok(writer.neighbors.set(entry(next)));
    if (next >= 18) assert.ok(writer.neighbors.remove(2, next - 18));
    next++;
    writer.commit();
  };
  const first = published();
  while (published() === first) churn();
  assert.equal(slotsLog2Of(published()), slotsLog2Of(first));
  const [left, second] = [slots(first), published()];
  for (let i = 0; i < 10_000; i++) churn();
  assert.deepEqual(
    slots(first),
    left,
    "a reader that stands still may be in the middle of a lookup",
  );
  standing.burst++;
  for (let i = 0; published() === second; i++) {
    assert.ok(i < 1_000, "the place is never used again");
    churn();
  }
  const bits = 0x3f;
  assert.equal(published() & bits, first & bits, "the table is back in its first place");
});

Deno.test("a neighbour's MAC may be used in every state that the kernel sends in, and in no other", () => {
  const { writer, reader } = makeRoom();
  // include/net/neighbour.h: NUD_VALID.
  const valid = [NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP, NUD_PERMANENT];
  const states = [0, NUD_INCOMPLETE, NUD_FAILED, ...valid];
  states.forEach((state, i) => assert.ok(writer.neighbors.set(entry(i, { state }))));
  const usable = states.filter((_, i) => reader.neighbors.lookup(2, i) >= 0);
  assert.deepEqual(usable, valid);
  // And as it ages, in place.
  for (const state of [...valid, NUD_FAILED]) {
    assert.ok(writer.neighbors.set(entry(0, { state })));
    assert.equal(reader.neighbors.lookup(2, 0) >= 0, state !== NUD_FAILED, `state ${state}`);
  }
});

Deno.test("removeInterface() takes the neighbours of one interface", () => {
  const { writer, reader } = makeRoom();
  for (let i = 0; i < 30; i++) writer.neighbors.set(entry(i, { ifindex: 2 + i % 2 }));
  writer.neighbors.removeInterface(3);
  assert.equal(writer.neighbors.size, 15);
  assert.ok(reader.neighbors.lookup(2, 0) >= 0);
  assert.equal(reader.neighbors.lookup(3, 1), -1);
});
