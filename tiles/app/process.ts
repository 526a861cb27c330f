/**
 * The entry of an app's process, which `../../master/app_process.ts` starts. This isolate has the event
 * loop: it starts the worker that runs the app (`process_worker.ts`) and passes messages between it
 * and the master. The worker's thread never returns to its event loop once the tile's loop runs.
 *
 * The process ends when the worker has ended: nothing else keeps its event loop alive.
 */

import { libraryPath, pollSet } from "../../ffi/library.ts";
import { CHANNEL_DESCRIPTOR, openChannel } from "../../ffi/process.ts";
import { openTile } from "../../ffi/tile.ts";
import type { WorkerMessage } from "./process_worker.ts";

const channel = openChannel(CHANNEL_DESCRIPTOR);
const { symbols } = Deno.dlopen(libraryPath(), {
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32", nonblocking: true },
});
// The name that the kernel gives the process is that of its first thread.
openTile().nameThread(Deno.args[1]);
/** How long one wait for `go` lasts; the process may outlive the worker by that. */
const POLL_MILLIS = 500;
/** Lets the event loop end though a promise is pending. */
const unref = (Deno as unknown as Record<symbol, {
  core: { unrefOpPromise(promise: Promise<unknown>): void };
}>)[(Deno as unknown as { internal: symbol }).internal].core.unrefOpPromise;

const worker = new Worker(import.meta.resolve("./process_worker.js"), {
  type: "module",
  name: "app",
});
let isOver = false;

worker.onmessage = ({ data }: MessageEvent<WorkerMessage>) => {
  if (data.type === "left" || data.type === "failed") isOver = true;
  // A log line is lost when the channel is full; the other messages are sent while it is empty.
  channel.send(new TextEncoder().encode(JSON.stringify(data)));
  if (isOver) Deno.exit(data.type === "left" ? 0 : 1);
};
worker.onerror = (event) => {
  event.preventDefault();
  const message = event.message.split("\n")[0].slice(0, 4096);
  channel.send(new TextEncoder().encode(JSON.stringify({ type: "failed", message })));
  Deno.exit(1);
};

/** Resolves with the master's `go`; undefined when the master has closed the channel. */
async function hearGo(): Promise<boolean | undefined> {
  for (;;) {
    const message = channel.receive();
    if (message === undefined) return undefined;
    if (message !== null) {
      const { type, handedOver } = JSON.parse(new TextDecoder().decode(message));
      if (type === "go") return handedOver;
    }
    const polled = symbols.poll(pollSet([CHANNEL_DESCRIPTOR]), 1n, POLL_MILLIS);
    unref(polled);
    await polled;
  }
}

hearGo().then((handedOver) => {
  if (handedOver === undefined) Deno.exit(1);
  worker.postMessage(handedOver);
});
