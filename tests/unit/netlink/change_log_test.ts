// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { ChangeLog } from "../../../tiles/netlink/mirror.ts";
import { MessageCursor, MessageWriter, NLMSG_HDRLEN } from "../../../tiles/netlink/rtnetlink.ts";

/** A message that carries `value` in a body of `words` words. */
function message(value: number, words = 1): MessageCursor {
  const writer = new MessageWriter(NLMSG_HDRLEN + 4 * words).begin({ type: 24, flags: 0 });
  for (let i = 0; i < words; i++) writer.u32(value);
  const length = writer.finish();
  const cursor = new MessageCursor(writer.bytes);
  cursor.begin(0, length);
  assert.ok(cursor.next());
  return cursor;
}

/** What is kept, by the first word of each message's body. */
function kept(log: ChangeLog): number[] {
  const values: number[] = [];
  log.forEach(({ u32, bodyAt }) => values.push(u32[bodyAt >>> 2]));
  return values;
}

Deno.test("events are kept in their order, of any size, until they are forgotten", () => {
  const log = new ChangeLog();
  const values = Array.from({ length: 100 }, (_, i) => i);
  for (const value of values) log.add(message(value, 1 + value * 37));
  assert.deepEqual(kept(log), values);
  log.clear();
  assert.deepEqual(kept(log), []);
  log.add(message(7));
  assert.deepEqual([kept(log), log.overflowed], [[7], false]);
});

Deno.test("more events than are kept are told, until they are forgotten", () => {
  const log = new ChangeLog();
  const large = message(1, 1 << 20);
  let added = 0;
  while (!log.overflowed) {
    assert.ok(added < 32, "it takes 128 MiB and more");
    log.add(large);
    added++;
  }
  log.add(message(2));
  assert.deepEqual(kept(log), Array(added - 1).fill(1), "none is kept behind one that is not");
  log.clear();
  log.add(message(3));
  assert.deepEqual([kept(log), log.overflowed], [[3], false]);
});
