/**
 * The entry of an appliance's process, which the master starts confined (`ffi/process.ts`): maps what it
 * was handed, starts the tiles, and does what the master says until that has it end.
 */

import { openHost } from "../../ffi/host.ts";
import { CHANNEL_DESCRIPTOR, openChannel } from "../../ffi/process.ts";
import { openRegions } from "../../ffi/region.ts";
import { openObserver, openTile } from "../../ffi/tile.ts";
import { Watcher } from "../../ffi/watcher.ts";
import { Appliance } from "./appliance.ts";
import { Ask, type Outcome } from "./control.ts";
import { clipped } from "./console.ts";
import { Handed } from "./handed.ts";
import { checkMtus, InterfaceError, waitForInterfaces } from "./interfaces_ready.ts";
import { type ApplianceOrder, type ApplianceReport, messagesBy } from "./messages.ts";
import { AppError, sentenceOf } from "./thrown.ts";
import type { ApplianceSetup } from "./wiring.ts";

/** Exit statuses (`cli/errors.ts`). */
const [FAILURE, USAGE, INTERFACE] = [1, 2, 4];
const BEAT_MILLIS = 500;

const host = openHost();
const messages = messagesBy<ApplianceReport, ApplianceOrder>(
  openChannel(CHANNEL_DESCRIPTOR),
);
const tile = openTile();
const handed = new Handed<ApplianceSetup>(
  openRegions(),
  Number(Deno.args.at(-1)),
);

/** Lines that the master had no room for. */
let lost = 0;
function log(text: string): void {
  for (const line of text.split("\n")) {
    if (lost > 0 && messages.send({ type: "log", line: `${lost} lines of the log were lost` })) {
      lost = 0;
    }
    if (!messages.send({ type: "log", line: clipped(line) })) lost++;
  }
}

/** Ends the process for a reason that the master is told. */
function fail(error: unknown): never {
  const app = error instanceof AppError ? { app: error.app } : {};
  messages.send({
    type: "failed",
    message: sentenceOf(error),
    status: error instanceof AppError
      ? USAGE
      : error instanceof InterfaceError
      ? INTERFACE
      : FAILURE,
    ...app,
    ...(/^net\d+: RingsLost: /.test(sentenceOf(error)) && { ringsLost: true }),
  });
  Deno.exit(FAILURE);
}

const appliance = new Appliance(handed, {
  host,
  tile,
  observer: openObserver(),
  log,
  fatal: (tile, message) => fail(new Error(`${tile} ended: ${message}`)),
  ask: ({ kind, number }) => {
    messages.send({ type: "ask", what: kind === Ask.reload ? "reload" : "upgrade", number });
  },
});

async function boot(): Promise<void> {
  const { setup: { interfaces, attached } } = handed;
  await appliance.startMirror();
  await waitForInterfaces(appliance.netbase, { names: interfaces, log });
  checkMtus(appliance.netbase, attached.map(({ name }) => name));
  const { ready, running } = appliance.makeTiles();
  await ready;
  messages.send({ type: "ready" });
  await running;
  appliance.settle();
  messages.send({ type: "running" });
}

const handlers: { readonly [type in ApplianceOrder["type"]]: (order: never) => unknown } = {
  go: ({ handedOver }: { handedOver: boolean }) => appliance.go(handedOver),
  leave: async () => {
    messages.send({ type: "left", orderly: await appliance.leave() });
    // The successor serves already.
    await appliance.answered();
    Deno.exit();
  },
  stop: async () => {
    await appliance.stop();
    Deno.exit();
  },
  attached: ({ attached }: { attached: boolean[] }) => appliance.setAttached(attached),
  outcome: ({ number, outcome }: { number: number; outcome: Outcome }) =>
    appliance.setOutcome(number, outcome),
};

/** Does what the master says; ends with it. */
function follow(): void {
  for (let order = messages.receive(); order !== null; order = messages.receive()) {
    if (order === undefined) Deno.exit(FAILURE);
    handlers[order.type](order as never);
  }
}

new Watcher(host, tile).watch(CHANNEL_DESCRIPTOR, follow);
setInterval(() => messages.send({ type: "beat" }), BEAT_MILLIS);
boot().catch(fail);
