/**
 * Processes of the running program end by force while clients ask: whose end costs whom what.
 */

import { strict as assert } from "node:assert";
import { processTree } from "../../bench/service.ts";
import {
  answeredAtLeast,
  Appliance,
  ask,
  CLIENT,
  ECHO,
  eventually,
  HOST,
  introduce,
  labTest,
  pair,
  xdpProgram,
} from "./lab.ts";

/** Ids of the program's processes of a kind. */
function pidsOf({ process }: Appliance, kind: "appliance" | "app"): number[] {
  return processTree(process.pid).filter((each) => each.kind === kind).map(({ pid }) => pid);
}

/** What ends an appliance, and what the log says then. */
const ENDS = {
  SIGKILL: "appliance: it was ended by SIGKILL; starting the next one",
  SIGSTOP: "appliance: it hangs; starting the next one",
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
    await stderr.find("appliance: the next one serves");
    await answeredAtLeast(asker, (await asker.progress()).answered + 20);
    const { sent, answered, mismatched } = await asker.stop();
    assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
    assert.deepEqual(pidsOf(appliance, "app"), apps);
    assert.equal(pidsOf(appliance, "appliance").includes(killed), false);
  });
}

labTest("a master that is killed leaves no process and no XDP program", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, ECHO);
  assert.equal((await ask(asker)).text, "hello");
  const children = processTree(appliance.process.pid).slice(1);
  assert.equal(children.length, 2);
  await appliance.stop("SIGKILL");
  await eventually("the end of all", () => {
    const left = processTree(1).filter(({ pid }) => children.some((each) => each.pid === pid));
    return Promise.resolve(left.length === 0 || undefined);
  });
  assert.equal(await xdpProgram(host), undefined);
});
