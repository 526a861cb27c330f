// SPDX-License-Identifier: Apache-2.0
/**
 * With every tile asleep, what an app sends of its own accord goes out at once, and so does a solicit:
 * nobody waits for a time-out, of which the shortest is a second (`tiles/runtime/tile.ts`).
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { configured } from "../config_file.ts";
import { Appliance, assertPrompt, eventually, labTest, pair } from "../lab.ts";

/** Far from a time-out's average of 500 ms, and far from what a busy machine needs. */
const AT_ONCE_MILLIS = 150;
/** Between two ticks of the app; the longest sleep is over three times as long. */
const TICK_MILLIS = 300;
/** Of ticks that wait for a time-out every second one is. */
const MOST_LATE = 3;
const DATAGRAMS = 17;

function fixture(name: string): string {
  return fileURLToPath(new URL(`../../fixtures/waking/${name}`, import.meta.url));
}

/** Lets the app send to a client that it has not heard from. */
const TICKER = `[apps.ticker]
module = "${fixture("ticker.ts")}"
send_to = ["198.18.0.2"]`;

/** What was too slow, of what the receiver says of one appliance's datagrams. */
function slowness(lines: readonly string[]): string | undefined {
  const [first, ...took] = lines.map((line) => Number(line.split(" ")[1]));
  const [, ...after] = lines.map((line) => Number(line.split(" ")[3]));
  if (first >= 3 * AT_ONCE_MILLIS) return `the first, of an unknown neighbour, took ${first} ms`;
  const slow = took.filter((millis) => millis >= AT_ONCE_MILLIS);
  if (slow.length > MOST_LATE) return `milliseconds: ${took.join(" ")}`;
  const late = after.filter((millis) => millis > TICK_MILLIS + AT_ONCE_MILLIS);
  return late.length > MOST_LATE ? `milliseconds after another: ${after.join(" ")}` : undefined;
}

for (const [provider, place] of [["xdp", ""], ["socket", ""], ["xdp", "@inline"]]) {
  labTest(
    `an unsolicited datagram goes out at its time, at once, though all tiles sleep (${provider}${place})`,
    async (lab) => {
      const { host, client } = await pair(lab);
      const receiver = client.spawn([
        Deno.execPath(),
        "run",
        "--allow-net",
        fixture("receiver.ts"),
      ]);
      await receiver.stdout.find("serving");
      const args = [...configured(TICKER), "--listen", `9000=ticker${place}`];
      await assertPrompt(async () => {
        await host.ip("neigh flush dev eth0");
        const from = receiver.stdout.all.length;
        const appliance = await Appliance.start(host, [...args, "--provider", provider]);
        const lines = await eventually(`${DATAGRAMS} datagrams`, () => {
          const lines = receiver.stdout.all.slice(from);
          return Promise.resolve(lines.length < DATAGRAMS ? undefined : lines);
        });
        const counters = await appliance.counters();
        assert.ok((counters.get("wakeups") ?? 0) > 0, "the tiles did sleep");
        assert.equal((await appliance.stop()).code, 0);
        return slowness(lines);
      });
    },
  );
}
