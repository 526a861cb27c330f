// SPDX-License-Identifier: Apache-2.0
/**
 * The balance of a running appliance's counters: in each net tile, every received datagram was
 * delivered or dropped with a reason, and every datagram of an app was sent or dropped with a reason.
 * `labTest` ends every test on a real wire with this check.
 */

import { strict as assert } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import type { Appliance, Counters, LabProcess } from "../../demo/lab.ts";
import { NET } from "../../tiles/runtime/counters.ts";
import { eventually } from "../eventually.ts";

/** Far longer than datagrams may wait for a neighbour. */
const PATIENCE_MILLIS = 20_000;
/** Pause between two attempts, so that a log stays readable. */
const PAUSE_MILLIS = 100;
/** How long to wait for counters: a test may leave an appliance stopped. */
const COUNTERS_MILLIS = 2000;

/** Counters by name, of each tile by its name. */
type Tiles = Record<string, Record<string, number>>;

/** The counters of an appliance's tiles. Throws Error if it does not answer, as `Lines.find` does. */
export async function tileCounters(
  process: LabProcess,
  { timeoutMs }: { timeoutMs?: number } = {},
): Promise<Tiles> {
  const from = process.stderr.all.length;
  process.kill("SIGUSR2");
  const line = await process.stderr.find("counters: ", { from, timeoutMs });
  return JSON.parse(line.slice("counters: ".length));
}

/** The same, or null. */
function readTiles(process: LabProcess): Promise<Tiles | null> {
  return tileCounters(process, { timeoutMs: COUNTERS_MILLIS }).catch(() => null);
}

/** Sum of a net tile's counters whose names match. */
function sum(counters: Record<string, number>, names: RegExp): number {
  return Object.keys(NET.help).filter((name) => names.test(name))
    .reduce((total, name) => total + (counters[name] ?? 0), 0);
}

/** Both sides of the balance of each net tile. */
function books(tiles: Tiles) {
  const net = Object.entries(tiles).filter(([, counters]) => "tx_accepted" in counters);
  const side = (receiving: RegExp, sending: RegExp) =>
    net.map(([tile, counters]) => ({
      tile,
      received: sum(counters, receiving),
      accepted: sum(counters, sending),
    }));
  return {
    came: side(/^rx_(frames|socket)$/, /^tx_accepted$/),
    went: side(/^(rx_delivered|rx_drop_.*)$/, /^(tx_frames|tx_socket|tx_drop_.*)$/),
  };
}

/**
 * Asserts that the counters of appliances left running balance, once all datagrams in flight or waiting
 * for a neighbour are done. An appliance that no longer answers is ignored.
 */
export async function assertLeftBalanced(process: LabProcess): Promise<void> {
  let tiles = await readTiles(process);
  if (tiles === null) return;
  await eventually("the counters to balance", async () => {
    tiles = await readTiles(process) ?? tiles;
    const { came, went } = books(tiles!);
    if (JSON.stringify(came) === JSON.stringify(went)) return true;
    await delay(PAUSE_MILLIS);
  }, { timeoutMs: PATIENCE_MILLIS }).catch(() => {});
  const { came, went } = books(tiles);
  assert.deepEqual(came, went, JSON.stringify(tiles).replaceAll(/"\w+":0,?/g, ""));
}

/** The same for an appliance during a test. Returns its counters. */
export async function assertBalanced(appliance: Appliance): Promise<Counters> {
  await assertLeftBalanced(appliance.process);
  return appliance.counters();
}
