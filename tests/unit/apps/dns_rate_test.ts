// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { fileURLToPath } from "node:url";
import packet from "dns-packet";
import * as dns from "../../../apps/dns/dns.ts";
import { RateLimit, Verdict } from "../../../apps/dns/dns.ts";
import { formatAddress } from "../../../netbase/route.ts";
import { Address } from "../../../tiles/app/address.ts";
import { AppHarness, type HarnessOptions } from "../../../tiles/app/harness.ts";
import fc from "../property.ts";

const ZONE = fileURLToPath(new URL("../../fixtures/app/example.zone", import.meta.url));
/** A second since 1970, and a network that somebody forges. */
const NOW = 1_764_000_000;
const VICTIM = 0xc6336400;
/** Of 200 a second: as many answers as a rate that begins at 0 lets through. */
const FIRST = 399;

async function server(options: Record<string, unknown> = {}, others: HarnessOptions = {}) {
  return await AppHarness.start(dns, {
    ports: [53],
    options: { zone: ZONE, ...options },
    ...others,
  });
}

interface Flood {
  readonly type?: string;
  readonly second?: number;
  readonly address?: number;
  readonly edns?: boolean;
}

/** Asks `times` times, from all over a /24, and returns the answers. `name` may say a name for each. */
function flood(
  harness: AppHarness,
  name: string | ((i: number) => string),
  times: number,
  { type = "A", second = NOW, address = VICTIM, edns = false }: Flood = {},
) {
  const additionals = edns ? [{ type: "OPT", name: ".", udpPayloadSize: 1232 }] : [];
  const replies = Array.from({ length: times }, (_, i) => {
    const questions = [{ name: typeof name === "string" ? name : name(i), type }];
    const payload = packet.encode({ type: "query", id: i, questions, additionals });
    const sourceAddress = formatAddress(address + i % 256);
    const asked = { payload, sourceAddress, sourcePort: 1024 + i, receivedAt: second * 1e9 };
    return harness.ask(asked).map((answer) => ({
      ...packet.decode(Buffer.from(answer.payload)),
      bytes: answer.payload.length,
      asked: payload.length,
    }));
  }).flat();
  const cut = replies.filter(({ flag_tc }) => flag_tc);
  return { replies, whole: replies.length - cut.length, cut };
}

Deno.test("of 1,000 queries that come from one /24 most are not answered, and others' are", async () => {
  const harness = await server();
  const { whole, cut } = flood(harness, "web.example.org", 1000);
  assert.deepEqual([whole, cut.length], [FIRST, (1000 - FIRST - 1) / 2]);
  assert.equal(flood(harness, "web.example.org", FIRST, { address: VICTIM + 0x100 }).whole, FIRST);
  assert.equal(flood(harness, "web.example.org", FIRST, { address: VICTIM - 0x100 }).whole, FIRST);
  const { counters } = harness;
  assert.equal(counters["dns.rrl_dropped"], (1000 - FIRST + 1) / 2);
  assert.equal(counters["dns.rrl_truncated"], (1000 - FIRST - 1) / 2);
  const sum = (name: string) =>
    Object.entries(counters).reduce(
      (sum, [each, count]) => sum + (each.startsWith(`${name}{`) ? count : 0),
      0,
    );
  assert.equal(sum("dns.queries"), 1000 + 2 * FIRST);
  assert.equal(sum("dns.answers") + counters["dns.rrl_dropped"], sum("dns.queries"));
});

Deno.test("answers of each kind are counted apart, and made-up names together", async () => {
  const harness = await server();
  const kinds: [string | ((i: number) => string), string?][] = [
    ["web.example.org"],
    ["mail.example.org"],
    ["mail.example.org", "AAAA"],
    [(i) => `no${i}.example.org`],
    ["web.example.org", "SRV"],
    [(i) => `${i}.wild.example.org`],
    [(i) => `${i}.sub.example.org`],
    [(i) => `${i}.example.com`],
    ["web.example.org", "AXFR"],
  ];
  for (const [name, type] of kinds) {
    assert.equal(flood(harness, name, 500, { type }).whole, FIRST, `${name} ${type}`);
  }
});

Deno.test("a truncated answer says no more than was asked, with the code that it would have", async () => {
  for (const edns of [false, true]) {
    const harness = await server();
    for (
      const [name, rcode, authoritative] of [
        ["example.org", "NOERROR", true],
        ["no.example.org", "NXDOMAIN", true],
        ["example.com", "REFUSED", false],
      ] as const
    ) {
      const { cut } = flood(harness, name, FIRST + 2, { type: "MX", edns });
      assert.equal(cut.length, 1);
      const [{ answers, authorities, bytes, asked, questions, flag_aa, rcode: said }] = cut;
      assert.deepEqual([answers, authorities, bytes], [[], [], asked]);
      assert.deepEqual([said, flag_aa, questions[0].name], [rcode, authoritative, name]);
    }
  }
});

Deno.test("when the flood is over, the network is answered again in seconds", async () => {
  const harness = await server();
  flood(harness, "web.example.org", 1000);
  const after = [1, 2, 3].map((seconds) =>
    flood(harness, "web.example.org", 1, { second: NOW + seconds }).whole
  );
  assert.deepEqual(after, [0, 0, 1]);
  // A clock that was set back stops nobody; a burst that came late brings nothing new.
  flood(harness, "web.example.org", 1000, { second: NOW + 60 });
  assert.equal(flood(harness, "web.example.org", 10, { second: NOW + 59 }).whole, 0);
  assert.equal(flood(harness, "web.example.org", 10, { second: NOW - 60 }).whole, 10);
});

Deno.test("options set the limit and its slip, or turn them off", async () => {
  const outcome = async (options: Record<string, unknown>) => {
    const { whole, cut } = flood(await server(options), "web.example.org", 100);
    return [whole, cut.length];
  };
  assert.deepEqual(await outcome({ rrl_ratelimit: 10 }), [19, 40]);
  assert.deepEqual(await outcome({ rrl_ratelimit: 10, rrl_slip: 0 }), [19, 0]);
  assert.deepEqual(await outcome({ rrl_ratelimit: 10, rrl_slip: 1 }), [19, 81]);
  assert.deepEqual(await outcome({ rrl_ratelimit: 10, rrl_slip: 3 }), [19, 27]);
  assert.equal(flood(await server({ rrl_ratelimit: 0 }), "web.example.org", 5000).whole, 5000);
  for (const wrong of [-1, 1.5, "200", NaN, 1e10, null]) {
    await assert.rejects(server({ rrl_ratelimit: wrong }), {
      message: "options.rrl_ratelimit: must be a whole number from 0 to 1000000000",
    });
  }
  await assert.rejects(server({ rrl_slip: 11 }), {
    message: "options.rrl_slip: must be a whole number from 0 to 10",
  });
});

Deno.test("what is no query is not answered, nor a query from a port that is no client's", async () => {
  const harness = await server({}, { served: [53, 7] });
  const questions = [{ name: "example.org", type: "A" }];
  const [query, response] = (["query", "response"] as const).map((type) =>
    packet.encode({ type, id: 1, questions })
  );
  const from = (sourcePort: number, payload: Uint8Array) =>
    harness.ask({ payload, sourcePort }).length;
  assert.deepEqual([53, 40_000].map((port) => from(port, response)), [0, 0]);
  assert.deepEqual([53, 123, 40_000].map((port) => from(port, query)), [1, 1, 1]);
  // What chargen and quotd send looks like a query that is malformed, and would be told so for ever.
  const text = new TextEncoder().encode(`!"#$%&'()*+,-./0123456789`);
  assert.deepEqual([7, 13, 17, 19, 37].map((port) => from(port, text)), [0, 0, 0, 0, 0]);
  assert.equal(from(40_000, text), 1);
  assert.equal(harness.counters.rx_drop_refused_source, 5);
});

Deno.test("a clock that is set back by however much stops nobody", () => {
  const limit = new RateLimit({ ratelimit: 1, slip: 2 });
  for (let back = 2; back < 100; back++) {
    for (let i = 0; i < 1000; i++) limit.judge(new Address(VICTIM), 77, NOW + (i >>> 8));
    assert.equal(
      limit.judge(new Address(VICTIM), 77, NOW + 3 - back),
      Verdict.send,
      `by ${back} s`,
    );
  }
});

Deno.test("whose place a network takes in the table differs from one server to another", () => {
  const [one, other] = [1, 2].map(() => {
    const limit = new RateLimit({ ratelimit: 1, slip: 2 });
    const [victim, other] = [new Address(VICTIM), new Address()];
    return (network: number) => {
      for (let i = 0; i < 2; i++) limit.judge(victim, 77, NOW);
      other.words[3] = network << 8;
      limit.judge(other, 77, NOW);
      return limit.judge(victim, 77, NOW) === Verdict.send;
    };
  });
  const chosen = Array.from({ length: 1 << 21 }, (_, network) => network).filter(one);
  assert.ok(chosen.length > 0 && chosen.length < 32, `${chosen.length} of two million`);
  assert.ok(chosen.filter(other).length < chosen.length / 2);
});

/**
 * The same as NSD's manual has it, of one network and answer: rate = rate / 2 + this second's. Over
 * several seconds without a query NSD halves the old rate and the last count apart, and rounds each.
 */
class Slow {
  #rate = 0;
  #count = 0;
  #second = -1;

  judge(second: number, limit: number): boolean {
    if (this.#second < 0) this.#second = second;
    const halved = [this.#rate, 2 * this.#count];
    for (; this.#second < second; this.#second++) {
      for (const i of [0, 1]) halved[i] = Math.floor(halved[i] / 2);
      this.#rate = halved[0] + halved[1];
      this.#count = 0;
    }
    this.#count++;
    return Math.max(this.#rate, this.#count + Math.floor(this.#rate / 2)) < 2 * limit;
  }
}

Deno.test("the rate is smoothed as by the slow and obvious way", () => {
  const steps = fc.array(
    fc.record({ pause: fc.integer({ min: 1, max: 20 }), queries: fc.nat(30) }),
    { maxLength: 12 },
  );
  fc.assert(fc.property(fc.integer({ min: 1, max: 12 }), steps, (ratelimit, steps) => {
    const [limit, slow] = [new RateLimit({ ratelimit, slip: 2 }), new Slow()];
    let second = NOW;
    for (const { pause, queries } of steps) {
      second += pause;
      for (let i = 0; i < queries; i++) {
        const isSent = limit.judge(new Address(VICTIM), 77, second) === Verdict.send;
        assert.equal(isSent, slow.judge(second, ratelimit));
      }
    }
  }));
});
