/**
 * With every tile asleep, what an app sends of its own accord goes out at once, and so does a solicit:
 * nobody waits for a time-out, of which the shortest is a second (`tiles/runtime/loop.ts`).
 */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { configured } from "./config_file.ts";
import { Appliance, eventually, labTest, pair } from "./lab.ts";

/** Far from a time-out's average of 500 ms, and far from what a busy machine needs. */
const AT_ONCE_MILLIS = 150;
/** Between two ticks of the app; the longest sleep is over three times as long. */
const TICK_MILLIS = 300;
/** Of ticks that wait for a time-out every second one is. */
const MOST_LATE = 2;
const DATAGRAMS = 9;

function fixture(name: string): string {
  return fileURLToPath(new URL(`../fixtures/waking/${name}`, import.meta.url));
}

/** Lets the app send to a client that it has not heard from. */
const TICKER = `[apps.ticker]
module = "${fixture("ticker.ts")}"
send_to = ["198.18.0.2"]`;

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
      const appliance = await Appliance.start(
        host,
        [...configured(TICKER), "--listen", `9000=ticker${place}`, "--provider", provider],
      );
      const lines = await eventually(`${DATAGRAMS} datagrams`, async () => {
        await receiver.stdout.find("took", { from: receiver.stdout.all.length });
        const lines = receiver.stdout.all.filter((line) => line.startsWith("took "));
        return lines.length < DATAGRAMS ? undefined : lines;
      }, { timeoutMs: 30_000 });
      const [first, ...took] = lines.map((line) => Number(line.split(" ")[1]));
      const [, ...after] = lines.map((line) => Number(line.split(" ")[3]));
      assert.ok(
        first < 3 * AT_ONCE_MILLIS,
        `the first, whose neighbour was unknown, took ${first} ms`,
      );
      const median = took.toSorted((a, b) => a - b)[took.length >> 1];
      assert.ok(median < AT_ONCE_MILLIS, `the median is ${median} ms of ${took.join(" ")}`);
      const late = after.filter((millis) => millis > TICK_MILLIS + AT_ONCE_MILLIS);
      assert.ok(late.length <= MOST_LATE, `milliseconds after another: ${after.join(" ")}`);
      const counters = await appliance.counters();
      assert.ok((counters.get("wakeups") ?? 0) > 0, "the tiles did sleep");
      assert.equal((await appliance.stop()).code, 0);
    },
  );
}
