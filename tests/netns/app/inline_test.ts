// SPDX-License-Identifier: Apache-2.0
/**
 * Apps inside the net tiles answer as those in processes of their own do, and are counted as they are.
 */

import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import {
  answeredAtLeast,
  Appliance,
  ask,
  askUntilAnswered,
  CLIENT,
  Client,
  HOST,
  introduce,
  labTest,
  noise,
  pair,
  SILENCE_MILLIS,
} from "../lab.ts";
import { childrenByUser } from "../processes.ts";
import { assertBalanced, tileCounters } from "../wire_balance.ts";

const PORT = 4000;
/** What a net tile has in hand at most. */
const BURST = 64;
const MOODY = fileURLToPath(new URL("../../fixtures/app/moody.ts", import.meta.url));
const INLINE = ["--interface", "eth0", "--listen", "7=echo@inline"];

for (const provider of ["xdp", "socket"]) {
  labTest(
    `an app inside the net tile answers every size, byte by byte (${provider})`,
    async (lab) => {
      const { host, asker } = await pair(lab);
      const appliance = await Appliance.start(host, [...INLINE, "--provider", provider]);
      const sizes = [0, 1, 2, 3, 18, 63, 64, 1000, 1471, 1472, 1473, 2000, 9000, 65_507];
      for (const size of sizes) {
        const payload = noise(size);
        assert.deepEqual((await ask(asker, { payload })).bytes, payload, `${size} bytes`);
      }
      await assertBalanced(appliance);
      const { net0, "echo@net0": echo } = await tileCounters(appliance.process);
      assert.deepEqual([echo.requests, echo.answers], [sizes.length, sizes.length]);
      assert.equal(net0.tx_accepted, sizes.length);
      assert.equal(net0.tx_frames + net0.tx_socket, sizes.length);
      assert.equal((await appliance.stop()).code, 0);
    },
  );
}

labTest("each of several net tiles has an app of its own, beside apps in tiles", async (lab) => {
  const { host, client, asker } = await pair(lab, { queues: 4 });
  await introduce({ host, client });
  const listen = ["--listen", "9=discard", "--listen", "8=echo", "--net-tiles", "2"];
  const appliance = await Appliance.start(host, [...INLINE, ...listen]);
  const ready = await appliance.process.stderr.find("ready:");
  assert.match(ready, / answering 7=echo@inline 9=discard 8=echo\b/);
  const flows = Array.from({ length: 64 }, (_, i) => ({
    source: CLIENT,
    target: HOST,
    port: 7 + i % 2,
  }));
  await asker.start({ flows, rate: 1000 });
  await answeredAtLeast(asker, 500);
  const { sent, answered, mismatched } = await asker.stop();
  assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
  const { "echo@net0": one, "echo@net1": other, echo } = await tileCounters(appliance.process);
  assert.ok(one.requests > 0 && other.requests > 0 && echo.requests > 0);
  assert.equal(one.requests + other.requests + echo.requests, sent);
});

labTest("an app inside the net tile reads the clock that it was granted", async (lab) => {
  const { host, asker } = await pair(lab);
  const appliance = await Appliance.start(host, [
    ...["--interface", "eth0", "--listen", `${PORT}=ntp@inline`],
  ]);
  // NTP version 4, a client's.
  const payload = new Uint8Array(48);
  payload[0] = 0x23;
  const { bytes } = await ask(asker, { port: PORT, payload });
  assert.equal(bytes?.length, 48);
  assert.equal(bytes![0] & 7, 4, "a server's");
  assert.equal((await appliance.counters()).get("errors"), 0);
});

labTest("what an app inside the net tile throws costs a datagram and not the tile", async (lab) => {
  const { host, asker } = await pair(lab);
  const args = ["--interface", "eth0", "--listen", `7=${MOODY}@inline`];
  const appliance = await Appliance.start(host, args);
  const told = { payload: "throw", timeoutMs: SILENCE_MILLIS };
  for (let i = 0; i < 3; i++) assert.equal((await ask(asker, told)).bytes, null);
  assert.equal((await ask(asker, { payload: "fine" })).text, "fine");
  assert.equal((await ask(asker, { payload: "read" })).text, "NotCapable");
  const said = appliance.process.stderr.all.filter((line) => line.includes("as I was told"));
  assert.equal(said.length, 1, said.join("\n"));
  assert.equal((await appliance.counters()).get("errors"), 3);
});

for (const [word, why] of [["hang", "net0 ended: it hangs"], ["exit", "net0 ended: it left"]]) {
  labTest(
    `an app that is told to ${word} inside a net tile costs the appliance alone`,
    async (lab) => {
      const { host, client, asker } = await pair(lab);
      const listen = ["--listen", `${PORT}=${MOODY}@inline`, "--listen", "8=echo"];
      const appliance = await Appliance.start(host, [...INLINE, ...listen]);
      const { stderr } = appliance.process;
      const before = childrenByUser(appliance.process.pid);
      const other = new Client(client);
      const flows = [{ source: CLIENT, target: HOST, port: 8 }];
      await other.start({ flows, rate: 100 });
      await answeredAtLeast(other, 20);
      await ask(asker, { port: PORT, payload: word, timeoutMs: 1 });
      await stderr.find(`appliance: ${why}; starting a successor`);
      assert.equal((await askUntilAnswered(asker, { port: PORT, payload: "fine" })).text, "fine");
      await stderr.find("appliance: the successor serves");
      await answeredAtLeast(other, 3 * BURST);
      const after = childrenByUser(appliance.process.pid);
      const isSame = Object.keys(before).map((user) => before[user] === after[user]);
      assert.deepEqual(isSame, [false, true], "the app in its own process runs on");
      // What waited in the ring meanwhile is answered.
      const { sent, answered, mismatched } = await other.stop();
      assert.deepEqual({ answered, mismatched }, { answered: sent, mismatched: 0 });
      const ends = stderr.all.filter((line) => line.startsWith("appliance: net0 ended"));
      assert.equal(ends.length, 1, stderr.all.join("\n"));
      assert.equal((await appliance.stop()).code, 0);
    },
  );
}
