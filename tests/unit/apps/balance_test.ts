// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { heapView, u8 } from "../../../ffi/region.ts";
import * as balance from "../../../apps/balance.ts";
import createBeside from "../../../apps/balance_beside.ts";
import type { BesideContext } from "../../../tiles/app/contract.ts";
import { type Answered, AppHarness, type HarnessOptions } from "../../../tiles/app/harness.ts";
import fc from "../property.ts";

const CLIENT = "198.18.0.2";
const [FIRST, SECOND, THIRD] = ["198.18.5.1", "198.18.5.2", "198.18.5.3"];
/** Ports towards the backends, the last one for probes. */
const OWN_PORTS = [20000, 20001, 20002, 20003, 20004];
const PROBE_PORT = 20004;

/** The address of a client. */
const addressOf = (client: number) => `198.18.0.${2 + client}`;

function balancer(options: Record<string, unknown> = {}, more: HarnessOptions = {}) {
  return AppHarness.start(balance, {
    ports: [53],
    ownPorts: OWN_PORTS,
    sendTo: ["198.18.5.0/24"],
    options: { backends: ["198.18.5.1:53", "198.18.5.2:53"], ...options },
    ...more,
  });
}

/** What a client's datagram becomes. */
function fromClient(harness: AppHarness, client: number, more: { at?: number } = {}): Answered[] {
  const receivedAt = more.at ?? Date.now() * 1e6;
  return harness.ask({
    payload: `of ${client}`,
    sourceAddress: addressOf(client),
    sourcePort: 4000 + client,
    port: 53,
    receivedAt,
  });
}

/** What a backend's answer to a datagram becomes. */
function answerTo(
  harness: AppHarness,
  { address, port, sourcePort, payload }: Answered,
): Answered[] {
  const answer = { payload, sourceAddress: address, sourcePort: port, port: sourcePort };
  return harness.ask({ ...answer, receivedAt: Date.now() * 1e6 });
}

Deno.test("a client's datagrams go to one backend, and its answers to the client", async () => {
  const harness = await balancer();
  for (let client = 0; client < 6; client++) {
    const [first] = fromClient(harness, client);
    assert.ok([FIRST, SECOND].includes(first.address) && first.port === 53);
    assert.ok(first.sourcePort >= 20000 && first.sourcePort < PROBE_PORT);
    assert.equal(new TextDecoder().decode(first.payload), `of ${client}`);
    const [again] = fromClient(harness, client);
    assert.deepEqual([again.address, again.sourcePort], [first.address, first.sourcePort]);
    const [answer] = answerTo(harness, first);
    assert.deepEqual(
      [answer.address, answer.port, answer.sourcePort],
      [addressOf(client), 4000 + client, 53],
    );
  }
  assert.equal(sum(harness, "requests"), 12);
  assert.equal(sum(harness, "answers"), 6);
  assert.equal(sum(harness, "sessions"), 6);
});

/** The sum of a metric over all backends. */
function sum({ counters }: AppHarness, name: string): number {
  return Object.entries(counters).filter(([key]) => key.startsWith(`balance.${name}{`))
    .reduce((sum, [, value]) => sum + value, 0);
}

/** Datagrams that went nowhere, by reason; those of which there were some. */
function drops({ counters }: AppHarness): Record<string, number> {
  return Object.fromEntries(
    Object.entries(counters).flatMap(([key, value]) => {
      const reason = /^balance\.dropped\{reason="(.*)"\}$/.exec(key)?.[1];
      return reason === undefined || value === 0 ? [] : [[reason, value]];
    }),
  );
}

Deno.test("what belongs to no session goes nowhere and is counted", async () => {
  const harness = await balancer({ backends: ["198.18.5.1:53"], allow: ["198.18.0.0/28"] });
  const stray = { payload: "x", port: 20000 };
  assert.deepEqual(harness.ask({ ...stray, sourceAddress: FIRST, sourcePort: 53 }), []);
  assert.deepEqual(harness.ask({ ...stray, sourceAddress: FIRST, sourcePort: 54 }), []);
  assert.deepEqual(harness.ask({ ...stray, sourceAddress: CLIENT, sourcePort: 53 }), []);
  assert.deepEqual(fromClient(harness, 100), []);
  for (let client = 0; client < 6; client++) fromClient(harness, client);
  // Four ports are four sessions.
  assert.deepEqual(drops(harness), { not_allowed: 1, no_port: 2, no_session: 1, not_a_backend: 2 });
});

Deno.test("a session that was idle for too long is another client's", async () => {
  const harness = await balancer({ backends: ["198.18.5.1:53"], idle_timeout: 10 });
  const begun = Date.now() * 1e6;
  const at = (seconds: number) => begun + seconds * 1e9;
  for (let client = 0; client < 4; client++) {
    assert.ok(fromClient(harness, client, { at: at(0) })[0]);
  }
  assert.ok(fromClient(harness, 0, { at: at(9) })[0]);
  assert.deepEqual(fromClient(harness, 4, { at: at(9) }), []);
  const [taken] = fromClient(harness, 4, { at: at(11) });
  const [kept] = fromClient(harness, 0, { at: at(11) });
  assert.notEqual(taken.sourcePort, kept.sourcePort);
  assert.equal(sum(harness, "sessions"), 4);
});

Deno.test("a successor goes on with the sessions, without those of a backend that was removed", async () => {
  const first = await balancer({}, { state: 1 << 20 });
  const before = [0, 1, 2, 3, 4, 5].map((client) => fromClient(first, client)[0]);
  const options = {
    backends: ["198.18.5.3:53", { address: "198.18.5.2:53", drain: true }],
  };
  const second = await balancer(options, { state: first.state });
  assert.match(second.logged.join(), /continues with \d sessions/);
  for (const [client, was] of before.entries()) {
    const [now] = fromClient(second, client);
    if (was.address === SECOND) assert.deepEqual(now, was, "drained, but it has the session");
    else assert.equal(now?.address ?? THIRD, THIRD);
  }
  // The client need not have sent anything to this successor.
  const third = await balancer(options, { state: second.state, sendTo: ["198.18.0.0/16"] });
  const kept = before.find(({ address }) => address === SECOND)!;
  const [answer] = answerTo(third, kept);
  assert.equal(addressOf(answer.port - 4000), answer.address);
});

Deno.test("each address towards the backends has all ports, and answers there are those of its clients", async () => {
  const harness = await balancer({
    ...{ addresses: ["198.18.5.250", "198.18.5.251"], backends: ["198.18.5.1:53"] },
  });
  const sent = Array.from({ length: 9 }, (_, client) => fromClient(harness, client)[0]);
  const places = sent.slice(0, 8).map(({ sourceAddress, sourcePort }) =>
    `${sourceAddress}:${sourcePort}`
  );
  assert.equal(new Set(places).size, 8);
  assert.deepEqual([sent[8], drops(harness)], [undefined, { no_port: 1 }]);
  for (const [client, { sourceAddress, sourcePort }] of sent.slice(0, 8).entries()) {
    const [answer] = harness.ask({
      ...{ payload: "", sourceAddress: FIRST, sourcePort: 53 },
      ...{ address: sourceAddress, port: sourcePort },
    });
    assert.deepEqual([answer.address, answer.port], [addressOf(client), 4000 + client]);
  }
});

Deno.test("of 100 backends one that is removed or drained moves none of the others' clients", async () => {
  const names = Array.from({ length: 100 }, (_, i) => `198.18.5.${i + 1}:53`);
  const ownPorts = Array.from({ length: 65 }, (_, i) => 20_000 + i);
  const clients = Array.from({ length: 500 }, (_, i) => i);
  const where = (harness: AppHarness) =>
    clients.map((client) => {
      const [sent] = harness.ask({
        ...{ payload: "", sourceAddress: `198.18.1.${client % 250}`, sourcePort: 5000 + client },
      });
      return `${sent.address}:${sent.port} from ${sent.sourcePort}`;
    });
  const state = 1 << 20;
  const first = await balancer({ backends: names }, { ownPorts, state });
  const before = where(first);
  await fc.assert(
    fc.asyncProperty(fc.nat(99), fc.boolean(), async (which, isDrained) => {
      const backends = isDrained
        ? names.with(which, { address: names[which], drain: true } as unknown as string)
        : names.toSpliced(which, 1);
      // A copy, so that each case begins with the same sessions.
      const kept = heapView(first.state!.byteLength);
      u8(kept).set(u8(first.state!));
      const after = where(await balancer({ backends }, { ownPorts, state: kept }));
      for (const [client, was] of before.entries()) {
        const isOnIt = was.startsWith(`${names[which]} `);
        if (isDrained || !isOnIt) assert.equal(after[client], was);
        else assert.ok(!after[client].startsWith(`${names[which]} `));
      }
    }),
    { numRuns: 10 },
  );
});

for (const addresses of [[], ["198.18.5.250", "198.18.5.251"]]) {
  const by = addresses.length === 0 ? "" : ", with addresses";
  Deno.test(`a backend that answers no probe gets nothing until it answers one${by}`, async () => {
    const harness = await balancer({
      ...{ probe: "beef", probe_failures: 2, probe_seconds: 1 },
      ...(addresses.length > 0 && { addresses }),
    });
    const answerProbes = (probes: Answered[], dead: string) => {
      for (const probe of probes) {
        assert.deepEqual([...probe.payload], [0xbe, 0xef]);
        assert.equal(probe.sourcePort, PROBE_PORT);
        if (probe.address !== dead) assert.deepEqual(answerTo(harness, probe), []);
      }
    };
    const [session] = fromClient(harness, 0);
    for (let i = 0; i < 3; i++) {
      const probes = harness.tick();
      assert.equal(probes.length, 2);
      answerProbes(probes, session.address);
    }
    assert.match(harness.logged.join(), /198\.18\.5\.\d:53 is down: it did not answer 2 probes/);
    const [moved] = fromClient(harness, 0);
    assert.notEqual(moved.address, session.address);
    answerProbes(harness.tick(), "");
    assert.match(harness.logged.join(), /is up/);
    const used = new Set(
      Array.from({ length: 7 }, (_, i) => fromClient(harness, i + 1)[0]?.address),
    );
    assert.ok(used.has(session.address));
  });
}

Deno.test("a client's rate is limited, and others' is not", async () => {
  const harness = await balancer({ ratelimit: 1, burst: 2 });
  const at = Date.now() * 1e6;
  const sent = [0, 0, 0, 1].map((client) => fromClient(harness, client, { at }).length);
  assert.deepEqual(sent, [1, 1, 0, 1]);
  assert.deepEqual(drops(harness), { rate_limited: 1 });
});

Deno.test("wrong options are refused by name", async () => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ backends: [] }, /options\.backends: must be 1 to 256/],
    [{ backends: ["198.18.5.1"] }, /'198\.18\.5\.1' is not address:port/],
    [{ backends: ["198.18.5.1:0"] }, /is not address:port/],
    [{ backends: ["198.18.5.1:53", "198.18.5.1:53"] }, /198\.18\.5\.1:53 comes twice/],
    [{ backends: [{ address: "198.18.5.1:53", weigth: 2 }] }, /not weigth/],
    [{ backends: [{ address: "198.18.5.1:53", weight: -1 }] }, /the weight of 198\.18\.5\.1:53/],
    [{ probe: "abc" }, /options\.probe/],
    [{ allow: ["198.18.0.0/33"] }, /options\.allow: '198\.18\.0\.0\/33' is not an IPv4/],
    [{ addresses: ["eth1"] }, /options\.addresses: 'eth1' is not an IPv4 address/],
    [{ idle_timeout: 0 }, /options\.idle_timeout: must be a number from 1/],
    [{ probe_failures: 1.5 }, /options\.probe_failures: must be a whole number from 1 to 100$/],
    [{ probe_failures: 101 }, /options\.probe_failures: must be a whole number from 1 to 100$/],
    [{ probe_seconds: "1" }, /options\.probe_seconds: must be a number from 0\.1 to 60$/],
    [{ ratelimit: -1 }, /options\.ratelimit: must be a number from 0 to 10000000$/],
    [{ burst: 2.5 }, /options\.burst: must be a whole number from 1 to 10000000$/],
  ];
  for (const [options, sentence] of wrong) await assert.rejects(balancer(options), sentence);
  await assert.rejects(balancer({}, { ownPorts: [20000] }), /own_ports: each instance needs two/);
  await assert.rejects(
    balancer({}, { state: 4096 }),
    /state: 2 backends with 4 ports for sessions need "1M"/,
  );
});

Deno.test("wrong options are refused by name by the slow side too", async () => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ probe_failures: 1.5 }, /options\.probe_failures: must be a whole number from 1 to 100$/],
    [{ check_port: 80.5 }, /options\.check_port: must be a whole number from 0 to 65535$/],
    [{ check_port: 65_536 }, /options\.check_port: must be a whole number from 0 to 65535$/],
    [{ resolve: 0 }, /options\.resolve: must be a number from 1 to 86400$/],
  ];
  for (const [options, message] of wrong) {
    const context = { options: { backends: ["198.18.5.1:53"], ...options } };
    await assert.rejects(createBeside(context as unknown as BesideContext), { message });
  }
});

/** A balancer whose slow side says what `mails` say, one after the other, each time it is asked to. */
async function told(mails: readonly unknown[], options: Record<string, unknown> = {}) {
  let post = (_: unknown) => {};
  const beside = {
    default: ({ mailbox }: BesideContext) => {
      post = (mail) => mailbox.post(new TextEncoder().encode(JSON.stringify(mail)));
      return {};
    },
  };
  const harness = await balancer({ backends: undefined, backends_file: "f", ...options }, {
    beside,
  });
  const tell = (mail: unknown) => {
    post(mail);
    return harness.deliver();
  };
  mails.forEach(tell);
  return { harness, tell };
}

Deno.test("backends that the slow side names are used, and others' sessions end", async () => {
  const { harness, tell } = await told([{ backends: ["198.18.5.1:53", "198.18.5.2:53"] }]);
  const before = Array.from({ length: 6 }, (_, client) => fromClient(harness, client)[0]);
  assert.deepEqual(new Set(before.map(({ address }) => address)), new Set([FIRST, SECOND]));
  tell({ backends: ["198.18.5.2:53", { address: "198.18.5.3:53", weight: 2 }] });
  for (const [client, { address, sourcePort }] of before.entries()) {
    const [now] = fromClient(harness, client);
    if (address === SECOND) assert.deepEqual([now.address, now.sourcePort], [SECOND, sourcePort]);
    else assert.notEqual(now.address, FIRST);
  }
});

Deno.test("a backend that fails the checks of the slow side gets nothing until it passes", async () => {
  const { harness, tell } = await told([{ backends: ["198.18.5.1:53", "198.18.5.2:53"] }]);
  const [session] = fromClient(harness, 0);
  tell({ failing: [`${session.address}:53`] });
  assert.notEqual(fromClient(harness, 0)[0].address, session.address);
  tell({ failing: [] });
  assert.equal(harness.logged.filter((line) => line.includes(" is up")).length, 1);
});

Deno.test("before the slow side says anything the backends in the state go on", async () => {
  const { harness: first } = await told([{ backends: ["198.18.5.1:53"] }]);
  assert.deepEqual(fromClient(await balancer({ backends: undefined, resolve: 1 }), 0), []);
  assert.equal(fromClient(first, 0).length, 1);
  const list = { backends: undefined, backends_file: "f" };
  const one = await balancer({ backends: ["198.18.5.1:53"] }, { state: 1 << 20 });
  const [was] = fromClient(one, 0);
  const two = await balancer(list, { state: one.state });
  assert.deepEqual(fromClient(two, 0)[0], was);
});

Deno.test("however many addresses backends have had, others are balanced to", async () => {
  const { harness, tell } = await told([{ backends: ["198.18.5.1:53"] }]);
  // Four metrics each; an app has 4,096.
  for (let i = 0; i < 1100; i++) {
    tell({ backends: [`198.18.5.${2 + i % 200}:${53 + Math.floor(i / 200)}`] });
  }
  assert.equal(fromClient(harness, 0)[0].address, "198.18.5.101");
});
