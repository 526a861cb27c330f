// SPDX-License-Identifier: Apache-2.0
/**
 * With every tile asleep nothing waits for a time-out: the solicit for a neighbour goes out at once,
 * and what waited for it as soon as the neighbour is known (`waking_test.ts` has datagrams to known
 * ones); and asleep costs no processor time.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { setTimeout as delay } from "node:timers/promises";
import { pinHost } from "../../../demo/scenes.ts";
import {
  Appliance,
  ask,
  assertGrowth,
  assertPrompt,
  type Client,
  ECHO,
  labTest,
  pair,
  peer,
} from "../lab.ts";
import { processesOf } from "../processes.ts";

const PORT = 4000;
/** Datagrams that are looked at. */
const TAKEN = 10;
/** Far below any time-out, the shortest of which is a second, and far above what it takes. */
const AT_ONCE_MILLIS = 150;
/** The same for a question and its answer, with what the client\'s process and its ARP take. */
const ANSWER_MILLIS = 200;
/** Of several looked at together so many may be late: the first finds code that was never run before. */
const MOST_LATE = 1;

labTest("a solicit goes out at once", async (lab) => {
  const { host, client, asker } = await pair(lab);
  const addresses = Array.from({ length: TAKEN }, (_, i) => `198.18.0.${50 + i}`);
  await client.batch(addresses.map((address) => `address add ${address}/24 dev eth0`));
  await pinHost({ host, client });
  const app = fileURLToPath(new URL("./caller.ts", import.meta.url));
  const args = ["--interface", "eth0", "--listen", `${PORT}=${app}`];
  const sink = await peer(client, "sink", "0.0.0.0", "5000");
  let from = 1;
  await assertPrompt(async () => {
    await host.ip("neigh flush dev eth0");
    const appliance = await Appliance.start(host, args);
    for (const source of addresses) await ask(asker, { source, port: PORT, timeoutMs: 1 });
    const late: number[] = [];
    for (; late.length < TAKEN; from++) {
      late.push(Number((await sink.stdout.find("late ", { from })).slice("late ".length)));
    }
    await assertGrowth(appliance, new Map(), { solicits_sent: TAKEN });
    assert.equal((await appliance.stop()).code, 0);
    return tooLate(late, AT_ONCE_MILLIS);
  });
});

labTest("the first request of an unknown client is answered at once", async (lab) => {
  const { host, client, asker } = await pair(lab);
  await Appliance.start(host, ECHO);
  await pinHost({ host, client });
  await assertAnswersAtOnce(async () => {
    await host.ip("neigh flush dev eth0");
  }, asker);
});

/** What was too slow of what took so many milliseconds each, where that is more than one. */
function tooLate(took: readonly number[], most: number): string | undefined {
  const late = took.filter((millis) => millis >= most).length;
  return late > MOST_LATE ? `milliseconds: ${took.map(Math.round).join(", ")}` : undefined;
}

/** Asserts that answers come at once, of five asked each after `before`. */
function assertAnswersAtOnce(before: () => Promise<void>, asker: Client): Promise<void> {
  return assertPrompt(async () => {
    const took: number[] = [];
    while (took.length < 5) {
      await before();
      const begin = performance.now();
      assert.equal((await ask(asker)).text, "hello");
      took.push(performance.now() - begin);
    }
    return tooLate(took, ANSWER_MILLIS);
  });
}

/** Processor time that a process has used, milliseconds, by /proc/PID/stat (proc(5)). */
function processorMillis(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /, "").split(" ");
  // utime and stime are fields 14 and 15 of the whole line, in hundredths of a second.
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** How much processor time the master, the appliance and apps use together in a quiet second. */
async function idleMillis(appliance: Appliance): Promise<number> {
  await delay(1000);
  const all = processesOf(appliance.process.pid);
  assert.deepEqual(all.map(({ role }) => role), ["main", "appliance", "app"]);
  const used = () => all.reduce((sum, { pid }) => sum + processorMillis(pid), 0);
  const before = used();
  await delay(2000);
  return (used() - before) / 2;
}

labTest(
  "an idle appliance uses next to no processor time, and answers at once all the same",
  async (lab) => {
    const { host, asker } = await pair(lab);
    const appliance = await Appliance.start(host, ECHO);
    await assertPrompt(async () => {
      const used = await idleMillis(appliance);
      return used <= 20 ? undefined : `${used} ms of processor time in a quiet second`;
    });
    await assertAnswersAtOnce(() => delay(300), asker);
  },
);
