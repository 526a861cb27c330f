// SPDX-License-Identifier: Apache-2.0
/**
 * The process that `tile_test.ts` confines a worker in, because a mistake there would end it. Its
 * one argument is a list of tasks in JSON; it prints one JSON line for each, and ends in order.
 */

import { openHost } from "../../../ffi/host.ts";
import { OBSERVED_CALLS } from "../../../ffi/shared.ts";
import { openObserver, openTile, SLOT_BYTES } from "../../../ffi/tile.ts";
import type { Task } from "./tile_worker.ts";

/** What is said of a task; `thread` and `main` are lines of /proc/…/status. */
export interface Result {
  landlock: boolean;
  observed: boolean;
  /** Names of the calls that the observer counted for this task, and how often. */
  refused: Record<string, number>;
  thread: Record<string, string>;
  main: Record<string, string>;
  results?: Record<string, string>;
  woken?: number;
  pings: number;
  turns?: number;
  error?: string;
}

const host = openHost();
const tile = openTile();
const tasks: Omit<Task, "eventfd" | "slot">[] = JSON.parse(Deno.args[0]);
const counters = new Uint32Array(new SharedArrayBuffer(SLOT_BYTES * tasks.length));
openObserver().start(counters);

function refused(slot: number): Record<string, number> {
  const own = counters.subarray(slot * OBSERVED_CALLS, (slot + 1) * OBSERVED_CALLS);
  return Object.fromEntries(
    [...own.entries()].filter(([, count]) => count > 0)
      .map(([call, count]) => [tile.callName(call), count]),
  );
}

function status(tid: number | string): Record<string, string> {
  const text = Deno.readTextFileSync(`/proc/self/task/${tid}/status`);
  return Object.fromEntries(text.trim().split("\n").map((line) => line.split(/:\s*/)));
}

/** Lets a new worker do `task`. */
function perform(task: Omit<Task, "eventfd" | "slot">, slot: number): Promise<Result> {
  const eventfd = host.eventfd();
  const result: Result = {
    ...{ landlock: false, observed: false, refused: {}, thread: {}, main: {}, pings: 0 },
  };
  // Not inherited: what one revokes of an inherited set is gone for main, too.
  const all = {
    ...{ ffi: true, read: true, write: true, net: true, env: true, sys: true, run: true },
    import: true,
  };
  const worker = new Worker(new URL("./tile_worker.ts", import.meta.url), {
    type: "module",
    deno: { permissions: all },
  });
  return new Promise((resolve) => {
    worker.onmessage = ({ data }) => {
      if (data.type === "ping") result.pings++;
      if (data.type === "done") result.turns = data.turns;
      if (data.type === "confined") {
        result.landlock = data.landlock;
        result.observed = data.observed;
        result.thread = status(data.tid);
        result.main = status(Deno.pid);
      }
      if (data.type !== "attempts") return;
      result.results = data.results;
      result.refused = refused(slot);
      result.woken = tile.wait(eventfd, 5000);
      worker.terminate();
      resolve(result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      result.error = event.message;
      result.refused = refused(slot);
      worker.terminate();
      resolve(result);
    };
    worker.postMessage({ ...task, eventfd, slot } satisfies Task);
  });
}

for (const [i, task] of tasks.entries()) console.log(JSON.stringify(await perform(task, i)));
// Not by running out of work: Deno would then start threads on behalf of a worker just terminated,
// on that worker's own thread, which may not.
Deno.exit(0);
