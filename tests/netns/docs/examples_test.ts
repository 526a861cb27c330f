// SPDX-License-Identifier: Apache-2.0
/** The examples of docs/, with real clients. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { configured } from "../config_file.ts";
import { Appliance, HOST, labTest, pair } from "../lab.ts";

const EXAMPLES = fileURLToPath(new URL("../../../docs/examples/", import.meta.url));

/** About twice as many as an app can send to at once. */
const SUBSCRIBERS = 2000;

for (const placement of ["", "@inline"]) {
  labTest(`broadcast${placement} reaches 2,000 subscribers in one round`, async (lab) => {
    const { host, client } = await pair(lab);
    const appliance = await Appliance.start(
      host,
      configured(`listen = ["7=broadcast${placement}"]
[apps.broadcast]
module = "${EXAMPLES}broadcast.ts"
options = { interval = 300 }
`),
    );
    const program = fileURLToPath(new URL("./subscribers.ts", import.meta.url));
    const flags = ["run", "--allow-net", "--no-check"];
    const subscribers = client.spawn([
      ...[Deno.execPath(), ...flags, program, HOST, String(SUBSCRIBERS)],
    ]);
    await subscribers.stdout.find("subscribed", { timeoutMs: 60_000 });
    // In the first rounds some may not have subscribed yet.
    assert.match(await subscribers.stdout.find("20", { timeoutMs: 30_000 }), /reached all$/);
    const counters = await appliance.counters();
    assert.equal(counters.get("tx_drop_reply_link_full") ?? 0, 0);
  });
}
