// SPDX-License-Identifier: Apache-2.0
/**
 * The process of an appliance with its usual four tiles (netlink, net, app, status):
 *
 * `idle cpu`: its use of a core without traffic, also with the largest number of ports. `start`: the time from its
 * start until it is ready, likewise. `echo gc scavenge` and `echo gc mark-compact`: garbage collections a minute
 * under load, next to the same time without load (`idle`). An allocation per packet would show as a difference.
 */

import { setTimeout as delay } from "node:timers/promises";
import type { LabProcess } from "../demo/lab.ts";
import { MOST_PORTS_SERVED } from "../tiles/runtime/plan.ts";
import { PORT, tegula } from "./echo_peers.ts";
import { isWanted, type Report, resultOf, type Selection, TEGULA } from "./harness.ts";
import { processorSeconds } from "./processes.ts";
import type { Track } from "./track.ts";

const SECONDS = 10;
const STARTS = 5;
/** Time for the work that a start leaves behind. */
const SETTLE_MILLIS = 2000;
const WINDOW = 512;

interface Wanted {
  readonly report: Report;
  readonly selection: Selection;
}

/** Measures `start` and `idle cpu`. */
export async function measureIdle(track: Track, { report, selection }: Wanted): Promise<void> {
  const seconds = selection.seconds ?? SECONDS;
  for (const [ending, ports] of [["", 1], [` ports ${MOST_PORTS_SERVED}`, MOST_PORTS_SERVED]]) {
    const start = { bench: "echo", case: `start${ending}`, unit: "ms" } as const;
    const idle = { bench: "echo", case: `idle cpu${ending}`, unit: "% of a core" } as const;
    const [wantsStart, wantsIdle] = [start, idle].map((what) => isWanted(what.case, selection));
    const starts: number[] = [];
    for (let i = 0; wantsStart && i < STARTS; i++) {
      const begin = performance.now();
      await track.during(tegula({ ports: Number(ports) }), () => {
        starts.push(performance.now() - begin);
        return Promise.resolve();
      });
    }
    if (wantsStart) report(resultOf(start, new Map([[TEGULA, starts]])));
    if (!wantsIdle) continue;
    const percent = await track.during(tegula({ ports: Number(ports) }), async ({ pid }) => {
      await delay(SETTLE_MILLIS);
      const before = processorSeconds(pid);
      await delay(seconds * 1000);
      return (processorSeconds(pid) - before) / seconds * 100;
    });
    report(resultOf(idle, new Map([[TEGULA, [percent]]])));
  }
}

/** Measures `echo gc …`. */
export async function measureGarbage(track: Track, { report, selection }: Wanted): Promise<void> {
  const kinds = { "echo gc scavenge": /: Scavenge /, "echo gc mark-compact": /: Mark-Compact / };
  const wanted = Object.entries(kinds).filter(([name]) => isWanted(name, selection));
  if (wanted.length === 0) return;
  const seconds = selection.seconds ?? SECONDS;
  const asked = { port: PORT, window: WINDOW };
  // V8 writes it to standard output, which the C library would buffer.
  const start = ["stdbuf", "--output=L", ...tegula()];
  const [idle, loaded] = await track.during(start, async ({ stdout }: LabProcess) => {
    const during = async (body: () => Promise<unknown>) => {
      const from = stdout.all.length;
      await body();
      return stdout.all.slice(from);
    };
    await track.load({ ...asked, millis: SETTLE_MILLIS });
    if (stdout.all.length === 0) {
      throw new Error("V8 says nothing of its garbage, not even at start");
    }
    return [
      await during(() => delay(seconds * 1000)),
      await during(() => track.load({ ...asked, millis: seconds * 1000 })),
    ];
  }, { env: { DENO_V8_FLAGS: "--trace-gc" } });
  for (const [name, pattern] of wanted) {
    const count = (lines: string[]) => [lines.filter((line) => pattern.test(line)).length];
    const perMinute = (lines: string[]) => count(lines).map((each) => each * 60 / seconds);
    const samples = new Map([[TEGULA, perMinute(loaded)], ["idle", perMinute(idle)]]);
    report(resultOf({ bench: "echo", case: name, unit: "GCs/min" }, samples));
  }
}
