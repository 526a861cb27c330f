// SPDX-License-Identifier: Apache-2.0
/** The neighbour table at its end: no room for what is new, or none until a reader has moved on. */

import assert from "node:assert/strict";
import { NEIGHBORS } from "../../../netbase/layout.ts";
import { type NeighborEntry, NUD_REACHABLE } from "../../../netbase/neighbors.ts";
import { makeRoom } from "../netbase_room.ts";

function entry(address: number, mac: number): NeighborEntry {
  return { ifindex: 2, address, state: NUD_REACHABLE, flags: 0, macHead: mac, macTail: 0 };
}

Deno.test("a full table takes each change of those in it, however many it has refused", () => {
  const { writer, reader, standing } = makeRoom();
  standing.asleep = true;
  const { neighbors } = writer;
  for (let address = 1; address <= NEIGHBORS; address++) neighbors.set(entry(address, 1));
  writer.commit();
  assert.equal(neighbors.size, NEIGHBORS);
  // As many as there are records: none of them may stay behind.
  for (let i = 1; i <= 2 * NEIGHBORS; i++) {
    assert.equal(neighbors.set(entry(NEIGHBORS + i, 1)), false);
  }
  assert.equal(neighbors.full, 2 * NEIGHBORS);
  for (let mac = 2; mac < 10; mac++) {
    assert.ok(neighbors.set(entry(7, mac)));
    writer.commit();
    const record = reader.neighbors.lookup(2, 7);
    assert.equal(reader.neighbors.macHead(record), mac);
  }
});

Deno.test("a neighbour whose new MAC finds no room is not sent to by its old one", () => {
  const { writer, reader } = makeRoom();
  const { neighbors } = writer;
  // The reader stands still, so that no record that was replaced can be used again.
  let mac = 1;
  while (neighbors.set(entry(7, mac))) {
    assert.ok(mac <= 2 * NEIGHBORS, "there is no end");
    mac++;
  }
  assert.equal(reader.neighbors.find(2, 7), -1);
  assert.equal(neighbors.full, 1);
});
