// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { AppHarness, type HarnessOptions } from "../../../tiles/app/harness.ts";
import * as ntp from "../../../apps/ntp.ts";

const UNIX_EPOCH = 2_208_988_800;
/** A moment, in nanoseconds since 1970. */
const NOW = 1_764_000_000_250_000_128;

function clock(status: { synchronised?: boolean; leap?: number } = {}) {
  return {
    now: () => NOW,
    status: () => ({ synchronised: true, maxErrorMicros: 500_000, leap: 0, ...status }),
  };
}

/** A client's request: version, mode, and a transmit time to be given back. */
function request({ version = 4, mode = 3, size = 48 } = {}): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(48);
  bytes[0] = (version << 3) | mode;
  bytes[2] = 6;
  bytes.set([1, 2, 3, 4, 5, 6, 7, 8], 40);
  return bytes.slice(0, size);
}

async function ask(payload: Uint8Array, options: HarnessOptions = { clock: clock() }) {
  const harness = await AppHarness.start(ntp, { ports: [123], ...options });
  const answers = harness.ask({ payload, receivedAt: NOW - 1e9 });
  assert.ok(answers.length <= 1);
  return answers.length === 0 ? null : new DataView(answers[0].payload.buffer);
}

function time(view: DataView, at: number): number {
  return view.getUint32(at) - UNIX_EPOCH + view.getUint32(at + 4) / 2 ** 32;
}

Deno.test("an answer has the times of reception and of sending, and the request's own", async () => {
  const answer = (await ask(request()))!;
  assert.equal(answer.byteLength, 48);
  assert.equal(answer.getUint8(0), (0 << 6) | (4 << 3) | 4);
  assert.equal(answer.getUint8(1), 3);
  assert.equal(answer.getUint8(2), 6);
  assert.equal(answer.getInt8(3), -20);
  assert.equal(answer.getUint32(8), 0x8000, "half a second, in 16.16 bits");
  assert.deepEqual([...new Uint8Array(answer.buffer, 24, 8)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.ok(Math.abs(time(answer, 32) - (NOW - 1e9) / 1e9) < 1e-6);
  assert.ok(Math.abs(time(answer, 40) - NOW / 1e9) < 1e-6);
  assert.ok(time(answer, 16) <= time(answer, 40));
});

Deno.test("what the kernel says of its clock is passed on: unsynchronised, a leap second to come", async () => {
  const unsynchronised = (await ask(request(), { clock: clock({ synchronised: false }) }))!;
  assert.equal(unsynchronised.getUint8(0) >>> 6, 3);
  assert.equal(unsynchronised.getUint8(1), 0);
  assert.equal(unsynchronised.getBigUint64(16), 0n, "never set");
  assert.equal(unsynchronised.getUint32(12), 0x494e4954, "INIT");
  for (const [leap, bits] of [[1, 1], [-1, 2]]) {
    const answer = (await ask(request(), { clock: clock({ leap }) }))!;
    assert.equal(answer.getUint8(0) >>> 6, bits);
  }
});

Deno.test("only clients of versions 1 to 4 are answered, in their version", async () => {
  for (const version of [1, 2, 3, 4]) {
    assert.equal((await ask(request({ version })))!.getUint8(0) >>> 3 & 7, version);
  }
  for (const wrong of [{ version: 0 }, { version: 5 }, { mode: 4 }, { mode: 6 }, { size: 47 }]) {
    assert.equal(await ask(request(wrong)), null);
  }
});

Deno.test("stratum and reference are as configured, and wrong ones are refused", async () => {
  const options = { stratum: 1, reference: "PPS" };
  const answer = (await ask(request(), { clock: clock(), options }))!;
  assert.equal(answer.getUint8(1), 1);
  assert.equal(answer.getUint32(12), 0x50505300);
  const wrong = (options: Record<string, unknown>) =>
    AppHarness.start(ntp, { clock: clock(), options });
  await assert.rejects(
    wrong({ stratum: 0 }),
    /options.stratum: must be a whole number from 1 to 15/,
  );
  await assert.rejects(
    wrong({ stratum: 2.5 }),
    /options.stratum: must be a whole number from 1 to 15/,
  );
  await assert.rejects(wrong({ reference: "here" }), /reference: must be an IPv4 address/);
  await assert.rejects(AppHarness.start(ntp), /not granted the clock/);
});

Deno.test("above its rate an address gets a kiss-o'-death now and then, and others are served", async () => {
  const options = { ratelimit: 0.5, burst: 2 };
  const harness = await AppHarness.start(ntp, { ports: [123], clock: clock(), options });
  const strata = (client: number, seconds: number) =>
    harness.ask({
      payload: request(),
      sourceAddress: `198.18.0.${client}`,
      receivedAt: NOW + seconds * 1e9,
    })
      .map(({ payload }) => {
        const view = new DataView(payload.buffer, payload.byteOffset);
        assert.equal(view.getUint32(12) === 0x52415445, view.getUint8(1) === 0, "RATE");
        assert.deepEqual([...payload.subarray(24, 32)], [1, 2, 3, 4, 5, 6, 7, 8]);
        return view.getUint8(1);
      });
  assert.deepEqual([0, 0, 0, 0, 0, 0, 0].flatMap((at) => strata(1, at)), [3, 3, 0, 0]);
  assert.equal(harness.counters["ntp.limited"], 5);
  assert.deepEqual(strata(2, 0), [3]);
  assert.deepEqual([2, 2].flatMap((at) => strata(1, at)), [3], "one more after two seconds");
  const wrong = { clock: clock(), options: { ratelimit: -1 } };
  await assert.rejects(AppHarness.start(ntp, wrong), /options.ratelimit: must be a number/);
  const broken = { clock: clock(), options: { burst: 1.5 } };
  await assert.rejects(
    AppHarness.start(ntp, broken),
    /options.burst: must be a whole number from 1/,
  );
});
