// SPDX-License-Identifier: Apache-2.0
/**
 * Measurements of the mirror in its own process, in which nothing has been compiled, cached or allocated:
 *
 *     mirror_child.ts sync       a mirror's first full copy; prints its milliseconds
 *     mirror_child.ts idle       four idle workers; prints a line and waits
 */

import { openMirror } from "./mirror_events.ts";

const IDLE_WORKERS = 4;

function sync(): void {
  const mirror = openMirror();
  const begin = performance.now();
  mirror.sync();
  console.log(performance.now() - begin);
  Deno.exit(0);
}

async function idle(): Promise<void> {
  const worker = `data:text/javascript,${
    encodeURIComponent("onmessage = () => {}; postMessage(0);")
  }`;
  for (let i = 0; i < IDLE_WORKERS; i++) {
    const { promise, resolve } = Promise.withResolvers<void>();
    new Worker(worker, { type: "module" }).onmessage = () => resolve();
    await promise;
  }
  console.log("ready");
}

if (Deno.args[0] === "sync") sync();
else await idle();
