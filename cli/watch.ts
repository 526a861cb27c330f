/**
 * Keeps an eye on AF_XDP for as long as it runs: what the XDP program redirected must be what the
 * rings received. An interface where frames go in and none come out is given back to the kernel.
 *
 * @module
 */

import { type Xsk, XSK_STATISTICS, XskStatistic } from "../ffi/xsk.ts";
import type { Appliance } from "../tiles/runtime/appliance.ts";

const LOOK_MILLIS = 1000;
/** Looks in a row, each with frames redirected and none received, before it is believed. */
const LOOKS = 3;

/** Begins to watch. The timer does not keep the process alive. */
export function watchRings(
  appliance: Appliance,
  { xsk, log }: { xsk: Xsk; log: (line: string) => void },
): void {
  const statistics = new Float64Array(XSK_STATISTICS);
  const watched = appliance.queues().map((queue) => ({
    ...queue,
    redirected: 0,
    received: 0,
    bad: 0,
  }));
  const timer = setInterval(() => {
    for (const each of watched) {
      if (xsk.statistics(each.slot, statistics) < 0) continue;
      const redirected = statistics[XskStatistic.redirected];
      const received = appliance.received(each.netTile) + lost(statistics);
      const stuck = redirected > each.redirected && received === each.received;
      each.bad = stuck ? each.bad + 1 : 0;
      each.redirected = redirected;
      each.received = received;
      if (each.bad < LOOKS) continue;
      log(`${each.interface}: frames are redirected but do not arrive; the kernel has them again`);
      appliance.giveBack(each.interface);
      each.bad = -Infinity;
    }
  }, LOOK_MILLIS);
  Deno.unrefTimer(timer);
}

/** Frames that the socket itself says it dropped: known losses, not a ring that does not work. */
function lost(statistics: Float64Array): number {
  return statistics[XskStatistic.rxDropped] + statistics[XskStatistic.rxRingFull];
}
