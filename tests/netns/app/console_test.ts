// SPDX-License-Identifier: Apache-2.0
/**
 * What an app writes with `console` is in the log, and costs no answer.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { Appliance, ask, labTest, pair } from "../lab.ts";

const TALKATIVE = fileURLToPath(new URL("../../fixtures/app/talkative.ts", import.meta.url));

for (const [place, tile] of [["", TALKATIVE], ["@inline", "net0"]]) {
  labTest(`an app may use console (talkative${place})`, async (lab) => {
    const { host, asker } = await pair(lab);
    const args = ["--interface", "eth0", "--listen", `7=${TALKATIVE}${place}`];
    const appliance = await Appliance.start(host, args);
    const { stderr, stdout } = appliance.process;
    await stderr.find(`${tile}: being loaded`);
    assert.equal((await ask(asker, { payload: "hello" })).text, "hello");
    await stderr.find(`${tile}: got { word: "hello" } from 198.18.0.2`);
    assert.equal((await ask(asker, { payload: "many" })).text, "many");
    await stderr.find(`${tile}: it writes more than 50 lines in a second`);
    assert.equal((await appliance.counters()).get("errors"), 0);
    assert.equal((await appliance.stop()).code, 0);
    const more = stderr.all.filter((line) => line.includes("once more"));
    assert.ok(more.length < 100, `${more.length} lines of a thousand`);
    assert.deepEqual(stdout.all, []);
  });
}
