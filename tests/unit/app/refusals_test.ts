// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { formatAddress } from "../../../netbase/route.ts";
import { Address } from "../../../tiles/app/address.ts";
import { AppHarness, type Asked, type HarnessOptions } from "../../../tiles/app/harness.ts";
import * as echo from "../../../apps/echo.ts";
import * as ntp from "../../../apps/ntp.ts";
import * as time from "../../../apps/time.ts";
import type { Datagrams } from "../../../tiles/app/contract.ts";
import { refusals } from "../../../tiles/app/host.ts";
import fc from "../property.ts";

/** Some moment, in nanoseconds since 1970. */
const NOW = 1_764_000_000 * 1e9;

/** The short form: answers whatever comes. */
const plain = { answer: () => "x" };

type Module = Parameters<typeof AppHarness.start>[0];

/** Whether a datagram from each source port is answered. */
async function answered(module: Module, ports: readonly number[], options: HarnessOptions = {}) {
  const harness = await AppHarness.start(module, options);
  const all = ports.map((sourcePort) => harness.ask({ payload: "who", sourcePort }).length === 1);
  return { all, refused: harness.counters.rx_drop_refused_source };
}

for (const [name, module] of Object.entries({ echo, time, "an app with answer()": plain })) {
  Deno.test(`${name} does not answer to well-known ports but those of DNS and NTP clients`, async () => {
    const none = [7, 9, 13, 17, 19, 37, 52, 54, 69, 122, 124, 161, 389, 1023];
    assert.deepEqual(await answered(module, none, { ports: [5353] }), {
      all: none.map(() => false),
      refused: none.length,
    });
    const all = [53, 123, 1024, 1900, 11_211, 40_000, 65_535];
    assert.deepEqual(await answered(module, all, { ports: [5353] }), {
      all: all.map(() => true),
      refused: 0,
    });
  });

  Deno.test(`${name} does not answer to a port that is served here, whatever else it is told`, async () => {
    const told = { ports: [7000], served: [7000, 53], refuseSources: [] };
    assert.deepEqual(await answered(module, [7000, 53, 7, 7001], told), {
      all: [false, false, true, true],
      refused: 2,
    });
  });
}

Deno.test("which source ports are refused is as the configuration says, ends included", async () => {
  const range = fc.tuple(fc.nat(65_535), fc.nat(65_535))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
  await fc.assert(fc.asyncProperty(fc.array(range, { maxLength: 3 }), async (refuseSources) => {
    const near = refuseSources.flat().flatMap((port) => [port - 1, port, port + 1]);
    const asked = [1, 7, 1023, ...near].filter((port) => port >= 1 && port <= 65_535 && port !== 7);
    const { all } = await answered(echo, asked, { refuseSources });
    assert.deepEqual(
      all,
      asked.map((port) => !refuseSources.some(([first, last]) => first <= port && port <= last)),
    );
  }));
});

/** A clock that nothing needs. */
const clock = {
  now: () => NOW,
  status: () => ({ synchronised: true, maxErrorMicros: 0, leap: 0 }),
};

Deno.test("ntp answers requests of clients alone, from port 123 too, though that is served", async () => {
  const harness = await AppHarness.start(ntp, { ports: [123], served: [123, 7], clock });
  const asked = (first: number, sourcePort: number) =>
    harness.ask({ payload: Uint8Array.from({ length: 48 }, (_, i) => i ? 0 : first), sourcePort });
  assert.equal(asked(0x23, 123).length, 1);
  assert.equal(asked(0x23, 19).length, 0);
  assert.equal(harness.counters.rx_drop_refused_source, 1);
  // All but mode 3 are somebody's answers, or control and private messages.
  for (let mode = 0; mode < 8; mode++) {
    assert.equal(asked(0x20 | mode, 123).length, mode === 3 ? 1 : 0, `mode ${mode}`);
    assert.equal(asked(0xe0 | mode, 40_000).length, mode === 3 ? 1 : 0, `leap 3, mode ${mode}`);
  }
});

Deno.test("most_per_second bounds the answers to one port of one address, and to nobody else", async () => {
  const harness = await AppHarness.start(echo, { ports: [7000, 7001], mostPerSecond: 3 });
  const count = (times: number, asked: Partial<Asked> = {}) =>
    Array.from(
      { length: times },
      () => harness.ask({ payload: "x", receivedAt: NOW + 5e8, ...asked }).length,
    )
      .reduce((sum, each) => sum + each, 0);
  assert.equal(count(10), 3);
  assert.equal(count(10, { sourcePort: 40_001 }), 3);
  assert.equal(count(10, { port: 7001 }), 3);
  assert.equal(count(10, { sourceAddress: "198.18.0.3" }), 3);
  assert.equal(harness.counters.rx_drop_rate_limited, 28);
  assert.equal(
    count(10, { receivedAt: NOW + 1.2e9 }),
    3,
    "in the next second there are three more",
  );
  assert.equal(
    count(10, { receivedAt: NOW + 0.9e9 }),
    0,
    "a burst that came late brings no others",
  );
  assert.equal(count(10, { receivedAt: NOW - 9e9 }), 3, "a clock that was set back stops nobody");
});

Deno.test("without most_per_second nobody is bounded", async () => {
  const harness = await AppHarness.start(echo);
  const burst = Array.from({ length: 64 }, () => ({ payload: "x", receivedAt: NOW }));
  for (let i = 0; i < 100; i++) assert.equal(harness.ask(...burst).length, 64);
});

Deno.test("however many senders there are, none has more than most_per_second while it asks", async () => {
  const harness = await AppHarness.start(echo, { mostPerSecond: 2 });
  let answers = 0;
  for (let i = 0; i < 2000; i++) {
    harness.ask({ payload: "x", receivedAt: NOW, sourceAddress: formatAddress(0x0a000000 + i) });
    answers += harness.ask({ payload: "x", receivedAt: NOW }).length;
  }
  // One of 65,536 slots is its own; now and then another takes it.
  assert.ok(answers >= 2 && answers <= 6, `${answers} answers`);
});

Deno.test("two echoes that may answer each other stop at the bound", async () => {
  const both = await Promise.all(
    [7000, 7001].map((port) => AppHarness.start(echo, { ports: [port], mostPerSecond: 10 })),
  );
  let rounds = 0;
  const bounce = () =>
    both[rounds % 2].ask({ payload: "x", sourcePort: 7001 - rounds % 2, receivedAt: NOW });
  while (rounds < 1000 && bounce().length > 0) rounds++;
  assert.equal(rounds, 20);
});

Deno.test("whose place a sender takes in the table differs from one appliance to another", () => {
  type Sender = readonly [address: number, sourcePort: number];
  const victim: Sender = [0xc6120002, 40_000];
  const [one, other] = [1, 2].map(() => {
    const { mayLoop } = refusals({ served: [], mostPerSecond: 1 }, new Float64Array(64));
    const sourceAddress = new Address();
    const asked = ([address, sourcePort]: Sender) => {
      sourceAddress.words[3] = address;
      const request = { sourceAddress, sourcePort, destinationPort: 7, receivedAt: NOW };
      return mayLoop(request as Partial<Datagrams> as Datagrams);
    };
    return (sender: Sender) => {
      asked(victim);
      asked(sender);
      return !asked(victim);
    };
  });
  const all = Array.from({ length: 1 << 20 }, (_, i): Sender => [0x0a000000 + i, 40_000]);
  const chosen = all.filter(one);
  assert.ok(chosen.length > 4 && chosen.length < 64, `${chosen.length} of a million`);
  assert.ok(chosen.filter(other).length < chosen.length / 2);
  // Neighbours of the victim's by one bit are what a weak hash has meet whatever its key is.
  const near = Array.from(
    { length: 48 },
    (_, bit): Sender =>
      bit < 32
        ? [(victim[0] ^ (1 << bit)) >>> 0, victim[1]]
        : [victim[0], victim[1] ^ (1 << (bit - 32))],
  );
  assert.deepEqual(near.filter((sender) => one(sender) && other(sender)), []);
});
