// SPDX-License-Identifier: Apache-2.0
/** Events that come while a table is read: kept in order, and never lost silently. */

import assert from "node:assert/strict";
import { ChangeLog, Resync } from "../../../tiles/netlink/mirror.ts";
import { type Dumper, MessageCursor, type ReplyHandler } from "../../../tiles/netlink/rtnetlink.ts";
import { type Table, TableBit } from "../../../tiles/netlink/tables.ts";
import fc from "../property.ts";

/** What the kept events take at most, and a message of which few fill that. */
const MOST_BYTES = 64 << 20;
const LARGE = 4 << 20;
const LARGE_FIT = MOST_BYTES / LARGE;

/** A cursor at a message of `length` bytes in all, with a sequence number. */
function message(length: number, sequence: number): MessageCursor {
  const cursor = new MessageCursor(new Uint8Array((length + 3) & ~3));
  cursor.u32.set([length, 24, sequence]);
  cursor.begin(0, cursor.u8.length);
  assert.ok(cursor.next());
  return cursor;
}

/** Lengths and sequence numbers of all that is kept. */
function kept(log: ChangeLog): [number, number][] {
  const all: [number, number][] = [];
  log.forEach(({ bodyAt, end, sequence }) => all.push([end - bodyAt + 16, sequence]));
  return all;
}

Deno.test("events are kept in order and whole, until they are forgotten", () => {
  const lengths = fc.array(fc.oneof(fc.integer({ min: 16, max: 99 }), fc.constant(40_000)));
  fc.assert(fc.property(fc.array(lengths, { maxLength: 3 }), (rounds) => {
    const log = new ChangeLog();
    for (const lengths of rounds) {
      lengths.forEach((length, i) => log.add(message(length, i)));
      assert.deepEqual(kept(log), lengths.map((length, i) => [length, i]));
      assert.equal(log.overflowed, false);
      log.clear();
      assert.deepEqual(kept(log), []);
    }
  }));
});

Deno.test("of more events than it takes the log says so, until it is cleared", () => {
  const log = new ChangeLog();
  for (let i = 0; i < LARGE_FIT; i++) log.add(message(LARGE, i));
  assert.equal(log.overflowed, false);
  log.add(message(16, 100));
  assert.equal(log.overflowed, true);
  assert.equal(kept(log).length, LARGE_FIT);
  log.clear();
  log.add(message(16, 7));
  assert.deepEqual([log.overflowed, kept(log)], [false, [[16, 7]]]);
});

Deno.test("a dump beside which more events came than are kept is made again", () => {
  const applied: string[] = [];
  const table: Table = {
    ...{ bit: TableBit.routes, dumps: ["routes"], types: [24], ordered: true },
    apply({ sequence }, source) {
      applied.push(`${source === "replay" ? "behind a dump" : "alone"} ${sequence}`);
      return 0;
    },
    beginSync: () => void applied.push("begin"),
    endSync: () => void applied.push("end"),
  };
  let handler: ReplyHandler | null = null;
  const dumper = {
    busy: false,
    dump: (_: unknown, asking: ReplyHandler) => (handler = asking) !== null,
  };
  const resync = new Resync(dumper as unknown as Dumper, {
    tables: [table],
    log: (line) => assert.fail(line),
  });
  const read = (events: number) => {
    const due = resync.nextDue(0);
    assert.equal(resync.turn(due), 1);
    for (let i = 0; i < events; i++) resync.event(message(LARGE, i), 0);
    handler!.done("done", 0, due);
  };
  resync.markStale(TableBit.routes, 0);
  read(LARGE_FIT + 1);
  assert.ok(!applied.includes("end"), "what was not named may be there");
  assert.equal(resync.current, false);
  applied.length = 0;
  read(1);
  assert.deepEqual(applied, ["begin", "behind a dump 0", "end"]);
  assert.equal(resync.current, true);
});
