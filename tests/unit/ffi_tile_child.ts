/**
 * The process that `ffi_tile_test.ts` confines a worker in, because a mistake there would end it. Its
 * one argument is a list of tasks in JSON; it prints one JSON line for each, and ends in order.
 */

import { openHost } from "../../ffi/host.ts";
import { libraryPath } from "../../ffi/paths.ts";
import { openTile } from "../../ffi/tile.ts";
import type { Task } from "./ffi_tile_worker.ts";

/** What is said of a task; `thread` and `main` are lines of /proc/…/status. */
export interface Result {
  landlock: boolean;
  thread: Record<string, string>;
  main: Record<string, string>;
  results?: Record<string, string>;
  woken?: number;
  pings: number;
  turns?: number;
  error?: string;
}

const host = openHost(libraryPath("host"));
const tile = openTile(libraryPath("tile"));

function status(tid: number | string): Record<string, string> {
  const text = Deno.readTextFileSync(`/proc/self/task/${tid}/status`);
  return Object.fromEntries(text.trim().split("\n").map((line) => line.split(/:\s*/)));
}

/** Lets a new worker do `task`. */
function perform(task: Omit<Task, "eventfd">): Promise<Result> {
  const eventfd = host.eventfd();
  const result: Result = { landlock: false, thread: {}, main: {}, pings: 0 };
  const worker = new Worker(new URL("./ffi_tile_worker.ts", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    worker.onmessage = ({ data }) => {
      if (data.type === "ping") result.pings++;
      if (data.type === "done") result.turns = data.turns;
      if (data.type === "confined") {
        result.landlock = data.landlock;
        result.thread = status(data.tid);
        result.main = status(Deno.pid);
      }
      if (data.type !== "attempts") return;
      result.results = data.results;
      result.woken = tile.wait(eventfd, 5000);
      worker.terminate();
      resolve(result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      result.error = event.message;
      worker.terminate();
      resolve(result);
    };
    worker.postMessage({ ...task, eventfd } satisfies Task);
  });
}

for (const task of JSON.parse(Deno.args[0])) console.log(JSON.stringify(await perform(task)));
// Not by running out of work: Deno would then start threads on behalf of a worker just terminated,
// on that worker's own thread, which may not.
Deno.exit(0);
