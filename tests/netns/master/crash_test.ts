// SPDX-License-Identifier: Apache-2.0
/**
 * The appliance of the running program ends by force while clients ask: that costs nobody anything.
 */

import { strict as assert } from "node:assert";
import { processTree } from "../../../bench/service.ts";
import {
  answeredAtLeast,
  Appliance,
  CLIENT,
  ECHO,
  HOST,
  introduce,
  labTest,
  pair,
} from "../lab.ts";

/** Ids of the program's processes of a kind. */
function pidsOf({ process }: Appliance, kind: "appliance" | "app"): number[] {
  return processTree(process.pid).filter((each) => each.kind === kind).map(({ pid }) => pid);
}

/** What ends an appliance, and what the log says then. */
const ENDS = {
  SIGKILL: "appliance: it was ended by SIGKILL; starting a successor",
  SIGSTOP: "appliance: it hangs; starting a successor",
} as const;

for (const [signal, said] of Object.entries(ENDS)) {
  labTest(`an appliance that ends by ${signal} loses no datagram, and no app ends`, async (lab) => {
    const { host, client, asker } = await pair(lab);
    await introduce({ host, client });
    const appliance = await Appliance.start(host, ECHO);
    const { stderr } = appliance.process;
    // What comes until a hang is noticed has to fit into the RX ring.
    await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 50 });
    await answeredAtLeast(asker, 20);
    const [apps, [killed]] = [pidsOf(appliance, "app"), pidsOf(appliance, "appliance")];
    Deno.kill(killed, signal as Deno.Signal);
    await stderr.find(said);
    await stderr.find("appliance: the successor serves");
    await answeredAtLeast(asker, (await asker.progress()).answered + 20);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    assert.deepEqual(pidsOf(appliance, "app"), apps);
    assert.equal(pidsOf(appliance, "appliance").includes(killed), false);
  });
}
