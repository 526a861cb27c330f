// SPDX-License-Identifier: Apache-2.0
/** The mailbox between an app and its slow side, with both ends in this process. */

import { strict as assert } from "node:assert";
import fc from "fast-check";
import { heapView, slice, u32, type View } from "../../../ffi/region.ts";
import { LONGEST_MAIL, MAILBOX_BYTES, MailboxEnd } from "../../../tiles/app/mailbox.ts";
import { TILE_REGION_BYTES } from "../../../tiles/runtime/tile.ts";

/** What a full mailbox holds. */
const [MOST_MAILS, MOST_BYTES] = [1024, 1 << 20];

/** An end at `own`, and how often it woke the other. */
function endAt(own: View, peer: View) {
  const made = { wakes: 0, end: new MailboxEnd({ own, peer }, () => made.wakes++) };
  return made;
}

function pair() {
  const [one, other] = [heapView(MAILBOX_BYTES), heapView(MAILBOX_BYTES)];
  return { one, other, from: endAt(one, other), to: endAt(other, one) };
}

function taken(end: MailboxEnd): Uint8Array[] {
  const all: Uint8Array[] = [];
  while (end.take((bytes) => all.push(bytes)) > 0);
  return all;
}

/** Mail of `size` bytes that tells which it is. */
function mail(size: number, number: number): Uint8Array {
  return new Uint8Array(size).fill(number);
}

Deno.test("mail arrives whole and in order, and what does not fit is refused", () => {
  const steps = fc.array(
    fc.oneof(
      { weight: 3, arbitrary: fc.record({ size: fc.integer({ min: 0, max: LONGEST_MAIL }) }) },
      { weight: 1, arbitrary: fc.constant(null) },
    ),
    { maxLength: 200 },
  );
  fc.assert(fc.property(steps, (steps) => {
    const { from, to } = pair();
    const posted: Uint8Array[] = [];
    const received: Uint8Array[] = [];
    let number = 0;
    for (const step of steps) {
      if (step === null) {
        to.end.take((bytes) => received.push(bytes));
        continue;
      }
      const bytes = mail(step.size, number++);
      const waiting = posted.slice(received.length);
      const used = waiting.reduce((sum, { length }) => sum + length, 0);
      if (from.end.post(bytes)) posted.push(bytes);
      // It may waste the end of the ring, and what lies between mails, but no more.
      else assert.ok(used + 2 * LONGEST_MAIL + 8 * waiting.length > MOST_BYTES);
    }
    received.push(...taken(to.end));
    assert.deepEqual(received, posted);
  }));
});

Deno.test("a full mailbox refuses mail until the other side has taken some", () => {
  const { from, to } = pair();
  for (let i = 0; i < MOST_MAILS; i++) assert.ok(from.end.post(mail(1, i)));
  assert.equal(from.end.post(mail(1, 0)), false);
  assert.equal(to.end.take(() => {}), 64);
  assert.ok(from.end.post(mail(1, 0)));
  assert.equal(taken(to.end).length, MOST_MAILS - 64 + 1);
});

Deno.test("mail that is too long, or no bytes, is an error of who posts it", () => {
  const { from, to } = pair();
  assert.throws(() => from.end.post(mail(LONGEST_MAIL + 1, 0)), {
    name: "RangeError",
    message: "a mail has at most 65536 bytes, not 65537",
  });
  for (const wrong of ["text", [1], { length: -1 }, undefined, new Uint16Array(1)]) {
    assert.throws(() => from.end.post(wrong as Uint8Array), TypeError);
  }
  assert.ok(from.end.post(mail(LONGEST_MAIL, 7)));
  assert.deepEqual(taken(to.end), [mail(LONGEST_MAIL, 7)]);
});

Deno.test("mail wakes the other side once per sleep", () => {
  const { from, to } = pair();
  from.end.post(mail(1, 0));
  assert.equal(from.wakes, 0);
  for (let sleep = 1; sleep < 3; sleep++) {
    to.end.region.fallAsleep();
    from.end.post(mail(1, 0));
    from.end.post(mail(1, 0));
    assert.equal(from.wakes, sleep);
    to.end.region.awake();
  }
});

Deno.test("a mail whose reader throws is passed all the same", () => {
  const { from, to } = pair();
  for (const number of [1, 2]) from.end.post(mail(1, number));
  assert.throws(() =>
    to.end.take(() => {
      throw new Error("no");
    })
  );
  assert.deepEqual(taken(to.end), [mail(1, 2)]);
});

Deno.test("a successor takes no mail of its predecessor, and overwrites none that waits", () => {
  const { one, other, from, to } = pair();
  for (let i = 0; i < 10; i++) from.end.post(mail(60_000, i));
  to.end.post(mail(1, 99));
  const successor = endAt(one, other);
  assert.deepEqual(taken(successor.end), []);
  assert.equal(successor.end.post(mail(1, 0)), false);
  assert.deepEqual(taken(to.end).map(([number]) => number), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.ok(successor.end.post(mail(1, 11)));
  assert.deepEqual(taken(to.end), [mail(1, 11)]);
});

Deno.test("whatever the other side writes, an end reads its own memory alone and waits for nothing", () => {
  const word = fc.oneof(fc.integer({ min: 0, max: 2048 }), fc.maxSafeInteger());
  fc.assert(fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 48 }), word)), (stores) => {
    const { one, from, to } = pair();
    from.end.post(mail(100, 1));
    const link = u32(slice(one, TILE_REGION_BYTES, MAILBOX_BYTES - TILE_REGION_BYTES));
    for (const [at, value] of stores) link[at] = value;
    for (let turn = 0; turn < 3; turn++) {
      to.end.take((bytes) => assert.ok(bytes.length <= LONGEST_MAIL));
      to.end.post(mail(100, 2));
    }
  }));
});
