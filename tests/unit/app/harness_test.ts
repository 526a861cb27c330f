// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import * as broadcast from "../../../docs/examples/broadcast.ts";
import { Address } from "../../../tiles/app/address.ts";
import type {
  Answers,
  App,
  AppContext,
  Beside,
  BesideContext,
  PlainApp,
} from "../../../tiles/app/contract.ts";
import { AppHarness, type HarnessOptions } from "../../../tiles/app/harness.ts";

const PEER = "198.18.0.2";
const STRANGER = "198.51.100.7";

/** What comes out of an app that does `what` when it is asked, and what is counted as dropped. */
async function outcome(what: (out: Answers) => void, options: HarnessOptions = {}) {
  const app = (): App => ({
    receive(requests, out) {
      while (requests.next()) what(out);
    },
  });
  const harness = await AppHarness.start({ default: app }, { ports: [7, 8], ...options });
  const sent = harness.ask({ payload: "asked", sourceAddress: PEER });
  const dropped = Object.entries(harness.counters).filter(([name, value]) =>
    name.startsWith("tx_drop") && value > 0
  );
  assert.equal(harness.counters.errors, 0, harness.logged[0]);
  return [sent.length, Object.fromEntries(dropped)];
}

/** Sends one byte to `address` and `port`. */
function sending(to: string, { port = 9, sourcePort = 7 } = {}) {
  const address = Address.parse(to)!;
  return (out: Answers) => out.send({ address, port, sourcePort }, out.reserve(1), 1);
}

Deno.test("the harness sends what the net tile would", async () => {
  assert.deepEqual(await outcome((out) => out.reply(out.reserve(65_507), 65_507)), [1, {}]);
  assert.deepEqual(await outcome((out) => out.reflect()), [1, {}]);
  assert.deepEqual(await outcome(sending(PEER, { sourcePort: 8 })), [1, {}]);
  const sendTo = ["192.0.2.1", "198.51.100.0/24"];
  assert.deepEqual(await outcome(sending(STRANGER), { sendTo }), [1, {}]);
});

Deno.test("the harness drops what the net tile would, and counts it by the same name", async () => {
  const tooLong = [0, { tx_drop_too_long: 1 }];
  assert.deepEqual(await outcome((out) => assert.equal(out.reserve(65_508), -1)), tooLong);
  assert.deepEqual(await outcome(sending(PEER, { sourcePort: 9 })), [0, {
    tx_drop_port_not_owned: 1,
  }]);
  assert.deepEqual(await outcome(sending(PEER, { port: 0 })), [0, { tx_drop_port_zero: 1 }]);
  assert.deepEqual(await outcome(sending(STRANGER)), [0, { tx_drop_unsolicited: 1 }]);
  const sendTo = ["192.0.2.0/24"];
  assert.deepEqual(await outcome(sending(STRANGER), { sendTo }), [0, { tx_drop_unsolicited: 1 }]);
});

Deno.test("an app sends from its own ports, and receives there, besides those that it shares", async () => {
  const address = Address.parse(PEER)!;
  const app = ({ ports, ownPorts, instance, instances }: AppContext): App => ({
    receive(requests, out) {
      assert.deepEqual([ports, ownPorts, instance, instances], [[7], [20_000, 20_001], 1, 2]);
      while (requests.next()) {
        const to = { address, port: 9, sourcePort: requests.destinationPort + 1 };
        out.send(to, out.reserve(1), 1);
      }
    },
  });
  const options = { ports: [7], ownPorts: [20_000, 20_001], instance: 1, instances: 2 };
  const harness = await AppHarness.start({ default: app }, options);
  const sent = harness.ask({ payload: "a", port: 20_000 }, { payload: "b", port: 20_001 });
  assert.deepEqual(sent.map(({ sourcePort }) => sourcePort), [20_001]);
  assert.equal(harness.counters.tx_drop_port_not_owned, 1);
});

Deno.test("a broadcast to more than there is room for reaches all, in one round and in order", async () => {
  const harness = await AppHarness.start(broadcast, { startsAt: 0 });
  const ports = Array.from({ length: 2500 }, (_, i) => 10_000 + i);
  for (let from = 0; from < ports.length; from += 1000) {
    harness.ask(
      ...ports.slice(from, from + 1000).map((sourcePort) => ({ payload: "", sourcePort })),
    );
  }
  const round = harness.advance(1000);
  assert.deepEqual(round.map(({ port }) => port), ports);
  assert.equal(new TextDecoder().decode(round[2499].payload), "1970-01-01T00:00:01.000Z");
  assert.equal(harness.counters.tx_drop_reply_link_full, 0);
  assert.throws(() => harness.ask(...Array(1025).fill({ payload: "" })), /at most 1024 datagrams/);
});

Deno.test("there is room for as many datagrams of 1,500 bytes as the app's link is deep", async () => {
  for (const [depth, room] of [[undefined, 1024], [64, 64], [4096, 4096]] as const) {
    let [before, sent] = [0, 0];
    const app = (): App => ({
      receive(requests, out) {
        before = out.room;
        while (requests.next());
        for (let at = out.reserve(1500); at >= 0; at = out.reserve(1500), sent++) {
          out.send({ address: Address.parse(PEER)!, port: 9 }, at, 1500);
        }
      },
    });
    const harness = await AppHarness.start({ default: app }, { depth });
    assert.equal(harness.ask({ payload: "" }).length, room);
    assert.deepEqual([before, sent], [room, room]);
  }
});

Deno.test("the harness refuses a sendTo that is no prefix", async () => {
  await assert.rejects(
    outcome(() => {}, { sendTo: ["here/33"] }),
    /'here\/33' is not an IPv4 address/,
  );
});

/** Counts its lives in its state; each datagram is answered with their number. */
function counting({ state }: AppContext): PlainApp {
  return {
    begin() {
      state!.view[0] = state!.version === 7 ? state!.view[0] + 1 : 1;
      state!.setVersion(7);
    },
    answer: () => Uint8Array.of(state!.view[0]),
  };
}

Deno.test("a successor finds its predecessor's state as it was, with its version", async () => {
  let first = await AppHarness.start({ default: counting }, { state: 64 });
  for (const life of [1, 2, 3]) {
    assert.deepEqual(first.ask({ payload: "" })[0].payload, Uint8Array.of(life));
    first = await AppHarness.start({ default: counting }, { state: first.state });
  }
});

Deno.test("state has the bytes that were asked for, zeros and version 0 at first", async () => {
  let seen;
  const app = ({ state }: AppContext): PlainApp => ({
    begin: () => void (seen = [state!.version, state!.view.length, state!.view.some(Boolean)]),
    answer() {},
  });
  await AppHarness.start({ default: app }, { state: 100 });
  assert.deepEqual(seen, [0, 100, false]);
});

Deno.test("an app without state has none, and a version is 32 bits", async () => {
  await AppHarness.start({
    default: ({ state }: AppContext) => {
      assert.equal(state, undefined);
      return { answer() {} };
    },
  });
  for (const version of [-1, 1.5, 2 ** 32]) {
    const app = ({ state }: AppContext) => ({
      begin: () => state!.setVersion(version),
      answer() {},
    });
    await assert.rejects(
      AppHarness.start({ default: app }, { state: 1 }),
      /whole number of 32 bits/,
    );
  }
});

Deno.test("begin() is called once, before the first datagram, and what it throws ends the start", async () => {
  const calls: string[] = [];
  const app: App = {
    begin: () => void calls.push("begin"),
    receive: () => void calls.push("receive"),
  };
  const harness = await AppHarness.start({ default: () => app });
  harness.ask({ payload: "" }, { payload: "" });
  assert.deepEqual(calls, ["begin", "receive"]);
  const failing = {
    answer() {},
    begin() {
      throw new Error("not today");
    },
  };
  await assert.rejects(AppHarness.start(failing), /not today/);
  await assert.rejects(
    AppHarness.start({ default: () => ({ answer() {}, begin: async () => {} }) }),
    /its begin\(\) must not be async/,
  );
});

Deno.test("the harness has the counters of an app and of its slow side", async () => {
  const app = ({ metric }: AppContext): PlainApp => {
    metric("of the app", "counter")!.value = 1;
    return { answer() {} };
  };
  const beside = ({ metric, histogram }: BesideContext): Beside => {
    metric("of its slow side", "gauge", { kind: "a" })!.value = 2;
    histogram("sizes", [64])!.observe(3);
    return {};
  };
  const { counters } = await AppHarness.start({ default: app }, { beside: { default: beside } });
  assert.equal(counters["of the app"], 1);
  assert.equal(counters['of its slow side{kind="a"}'], 2);
  assert.equal(counters["sizes ≤ 64"], 1);
});
