/** What a stop unmaps: nothing that a tile may still come back to. */

import { strict as assert } from "node:assert";
import { openLibraries } from "../../cli/libraries.ts";
import { heapView } from "../../ffi/view.ts";
import { FILTER_BYTES } from "../../ffi/filter.ts";
import { Appliance } from "../../tiles/runtime/appliance.ts";
import type { Attachment } from "../../tiles/runtime/attachment.ts";
import { NO_GRANTS } from "../../tiles/runtime/permissions.ts";
import { planTiles } from "../../tiles/runtime/plan.ts";
import { eventually } from "./eventually.ts";

const APPS = {
  discard: import.meta.resolve("../../tiles/app/discard.ts"),
  late: import.meta.resolve("../fixtures/app/late.ts"),
} as const;

/** Stops an appliance with an app inside its net tile, and returns what became of its interface. */
async function stopped(name: keyof typeof APPS): Promise<string[]> {
  const said: string[] = [];
  const attachment = {
    name: "eth0",
    ifindex: 77,
    filter: heapView(FILTER_BYTES),
    sockets: [],
    serve: () => said.push("serve"),
    detach: () => said.push("detach"),
    close: () => said.push("close"),
  } as unknown as Attachment;
  const busy = Promise.withResolvers<void>();
  const appliance = new Appliance({
    ...openLibraries(),
    attachments: [attachment],
    trustChecksums: false,
    plan: planTiles({ queues: [], cores: 2, apps: 1 }),
    apps: [{
      app: name,
      name,
      module: APPS[name],
      ports: [[7, 7]],
      options: {},
      sendTo: [],
      grants: NO_GRANTS,
      inline: true,
    }],
    sockets: [],
    listeners: { control: null, metrics: null },
    change: () => assert.fail("nobody asks for a change"),
    log: (line) => line.endsWith("busy") && busy.resolve(),
    fatal: (tile, message) => assert.fail(`${tile}: ${message}`),
  });
  await appliance.startMirror();
  await appliance.startTiles([false]);
  if (name === "late") await busy.promise;
  await appliance.stop();
  const then = said.slice();
  // Where a thread still runs as V8 is taken down, the process can end by a fault.
  await eventually("the end of the tiles", () => Promise.resolve(tileThreads() === 0 || undefined));
  return then;
}

/** How many workers of this process have a thread. */
function tileThreads(): number {
  const { stdout } = new Deno.Command("ps", { args: ["-T", "-o", "comm=", "-p", `${Deno.pid}`] })
    .outputSync();
  return new TextDecoder().decode(stdout).split("\n").filter((name) => name.startsWith("worker-"))
    .length;
}

Deno.test("a stop gives the traffic back first, and unmaps rings when all tiles have ended", async () => {
  assert.deepEqual(await stopped("discard"), ["serve", "detach", "close"]);
});

Deno.test("a stop does not unmap the rings of a tile that is late", async () => {
  assert.deepEqual(await stopped("late"), ["serve", "detach"]);
});
