import assert from "node:assert/strict";
import type { Answers, App } from "../../tiles/app/contract.ts";
import { AppHarness, type HarnessOptions } from "../../tiles/app/harness.ts";

const PEER = 0xc6120002;
const STRANGER = 0xc6336407;

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
function sending(address: number, { port = 9, sourcePort = 7 } = {}) {
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
  const descriptor = [0, { tx_drop_descriptor: 1 }];
  assert.deepEqual(await outcome((out) => out.reply(out.reserve(65_508), 65_508)), descriptor);
  assert.deepEqual(await outcome(sending(PEER, { sourcePort: 9 })), [0, { tx_drop_port: 1 }]);
  assert.deepEqual(await outcome(sending(PEER, { port: 0 })), [0, { tx_drop_port: 1 }]);
  assert.deepEqual(await outcome(sending(STRANGER)), [0, { tx_drop_unasked: 1 }]);
  const sendTo = ["192.0.2.0/24"];
  assert.deepEqual(await outcome(sending(STRANGER), { sendTo }), [0, { tx_drop_unasked: 1 }]);
});

Deno.test("the harness refuses a sendTo that is no prefix", async () => {
  await assert.rejects(outcome(() => {}, { sendTo: ["here/33"] }), /'here\/33' is no IPv4 address/);
});
