/**
 * The books of a running appliance: what came in was handed on or dropped with a reason, and what
 * apps sent was sent or dropped with a reason. Every test on a real wire ends with this.
 */

import { strict as assert } from "node:assert";
import type { Appliance, Counters } from "../../cli/demo_appliance.ts";
import { NET } from "../../tiles/runtime/counters.ts";
import { eventually } from "./lab.ts";

/** Longer than datagrams may wait for a neighbour. */
const PATIENCE_MILLIS = 6000;

/** Sum of the net tiles' counters whose names match. */
function sum(counters: Counters, names: RegExp): number {
  return Object.keys(NET.help).filter((name) => names.test(name))
    .reduce((total, name) => total + (counters.get(name) ?? 0), 0);
}

/** Both sides of the books. */
function books(counters: Counters) {
  return {
    received: sum(counters, /^rx_(frames|socket)$/),
    delivered: sum(counters, /^(rx_delivered|rx_drop_.*|app_link_full)$/),
    accepted: sum(counters, /^tx_accepted$/),
    sent: sum(counters, /^(tx_frames|tx_socket|tx_drop_.*)$/),
  };
}

/**
 * Asserts that the books balance, once what is on its way, or waits for a neighbour, has come to its
 * end. Returns the counters.
 */
export async function assertBalanced(appliance: Appliance): Promise<Counters> {
  let counters: Counters = new Map();
  await eventually("the counters to balance", async () => {
    counters = await appliance.counters();
    const { received, delivered, accepted, sent } = books(counters);
    return received === delivered && accepted === sent ? true : undefined;
  }, { timeoutMs: PATIENCE_MILLIS }).catch(() => {});
  const { received, delivered, accepted, sent } = books(counters);
  const moved = JSON.stringify([...counters].filter(([, value]) => value !== 0));
  assert.deepEqual({ received, accepted }, { received: delivered, accepted: sent }, moved);
  return counters;
}
