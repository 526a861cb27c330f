// SPDX-License-Identifier: Apache-2.0
/** How many turns a tile takes before it blocks, in the real program. */

import { strict as assert } from "node:assert";
import { TILE_REGION_BYTES, TileReader } from "../../../tiles/runtime/tile.ts";
import { Appliance, ask, type Client, eventually, labTest, type Namespace, pair } from "../lab.ts";
import { readRegion } from "./process_regions.ts";
import { applianceOf } from "../processes.ts";

/** Times that the net tile falls asleep while it is watched, and the most datagrams that may take. */
const SLEEPS = 20;
const MOST_ASKED = 400;

/** Starts `tegula run ARGS…` on one processor. */
async function startOnOne(host: Namespace, args: readonly string[]): Promise<Appliance> {
  const status = Deno.readTextFileSync("/proc/self/status");
  const [, processor] = status.match(/^Cpus_allowed_list:\s+(\d+)/m)!;
  const appliance = Appliance.launch({
    spawn: (command, options) =>
      host.spawn(["taskset", "--cpu-list", processor, ...command], options),
  }, args);
  await appliance.ready();
  return appliance;
}

/** How many turns the net tile takes for each time that it falls asleep, over a few datagrams. */
async function turnsPerSleep(appliance: Appliance, asker: Client): Promise<number> {
  const pid = applianceOf(appliance.process.pid);
  const net = () => new TileReader(readRegion(pid, "tile net0", TILE_REGION_BYTES));
  const before = net();
  for (let asked = 0; asked < MOST_ASKED; asked++) {
    assert.equal((await ask(asker)).text, "hello");
    // Where both share a processor, the client asks again before the tile has looked for more.
    const now = await eventually("sleep", () => {
      const seen = net();
      return Promise.resolve(seen.asleep ? seen : undefined);
    });
    const sleeps = (now.sleepSequence - before.sleepSequence) / 2;
    if (sleeps >= SLEEPS) return (now.burst - before.burst) / sleeps;
  }
  assert.fail("it does not fall asleep");
}

labTest("a tile spins 200 turns for the next burst before it blocks", async (lab) => {
  const { host, asker } = await pair(lab);
  const args = ["--interface", "eth0", "--listen", "7=echo@inline"];
  const turns = await turnsPerSleep(await startOnOne(host, args), asker);
  assert.ok(turns > 180 && turns < 600, `${turns} turns`);
});

labTest("a tile hands its core over where net and app tiles outnumber cores", async (lab) => {
  const { host, asker } = await pair(lab);
  const args = ["--interface", "eth0", "--listen", "7=echo"];
  const turns = await turnsPerSleep(await startOnOne(host, args), asker);
  // One turn after a wake, where an answer can only come once the other has the core; else twenty.
  assert.ok(turns > 5 && turns < 20, `${turns} turns`);
});
