// SPDX-License-Identifier: Apache-2.0
/**
 * An appliance's life on another CPU, kernel and clock than those at hand. As `scripts/vm` stands the CPU
 * has memory protection keys; with VM_APPEND=clocksource=hpet clocks are real system calls, too.
 */

import { strict as assert } from "node:assert";
import { play } from "../syscalls/syscalls.ts";
import { answered, ends, labTest, serve } from "./machine.ts";

const ADDRESSES = { source: "198.18.0.2", target: "198.18.0.1", timeoutMs: 60_000 };
const RELOAD_MILLIS = 240_000;
/** Code that makes late threads, asks for the time, and ends by itself. */
const HONEST = { digests: "status 0", dates: "status 0", abort: "SIGABRT" };

labTest("an appliance serves, reloads and stops in order on this machine", async (lab) => {
  const { host, client } = await ends(lab);
  await lab.join(
    { namespace: host, name: "eth0", addresses: ["198.18.0.1/24"] },
    { namespace: client, name: "eth0", addresses: ["198.18.0.2/24"] },
  );
  const { process } = await serve(host, ["eth0"]);
  assert.equal(await answered(client, ADDRESSES), 3);
  process.kill("SIGHUP");
  await process.stderr.find("reloaded: ", { timeoutMs: RELOAD_MILLIS });
  assert.equal(await answered(client, ADDRESSES), 3);
});

Deno.test("honest code is refused nothing on this machine", async () => {
  for (const [name, end] of Object.entries(HONEST)) {
    const { end: ended, refused } = await play(name, { confined: true });
    assert.deepEqual({ ended, refused }, { ended: end, refused: [] }, name);
  }
});
