// SPDX-License-Identifier: Apache-2.0
/**
 * The status tile: answers operators, over the control socket and as metrics. It reads netbase and the
 * regions of all tiles, writes only its own region, and handles no packets.
 *
 * Unlike the other tiles it runs in Deno's event loop. For netbase's grace periods it is a reader that
 * sleeps except while it reads (`read`), so nothing waits for it. A timer reports its progress.
 */

import { refusedCalls } from "../../ffi/tile.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import { Ask, ControlReader, type Outcome, questioner } from "../runtime/control.ts";
import { Traffic } from "../net/traffic.ts";
import { HealthReader } from "../runtime/health.ts";
import { Life, type ServingTile, type TileContext, TileReader } from "../runtime/tile.ts";
import type { StatusSetup } from "../runtime/wiring.ts";
import { captureStreams } from "./capture.ts";
import { listenOn } from "./connections.ts";
import { answerLine, REPLACED, serveControl } from "./control.ts";
import { readPage, serveMetrics } from "./metrics.ts";

/** How often it reports progress and checks its listeners: well below the time after which it is hung. */
const BEAT_MILLIS = 2000;
/** Beats until all tiles are compiled and no handover is in progress. */
const BEATS_TO_TRIM = 3;

/** The data for answers on the control socket and for the metrics. */
export type StatusView = ReturnType<typeof viewOf>;

function viewOf({ setup, region, ask, libraries }: TileContext<StatusSetup>) {
  const { interfaces, listen, build } = setup;
  const netbase = new NetbaseReader(setup.netbase);
  const control = new ControlReader(setup.control);
  /** Outcomes of reloads and upgrades that clients wait for, by number. */
  const outcomes = new Map<number, PromiseWithResolvers<Outcome>>();
  return {
    ...{ netbase, control, interfaces, listen, build, outcomes },
    /** Runs `look` while the netlink tile keeps all that it reads from netbase. */
    read<T>(look: () => T): T {
      region.awake();
      netbase.refresh();
      try {
        return look();
      } finally {
        region.fallAsleep();
      }
    },
    counters: region.counters,
    health: new HealthReader(setup.health),
    tiles: setup.tiles.map((tile) => ({ ...tile, reader: new TileReader(tile.region) })),
    /** For data that only the netlink tile has. */
    question: questioner(setup, ask),
    captureStream: captureStreams(setup.captures, listen, {
      get: () => control.captureMode,
      set: (mode) => ask({ number: 1, kind: Ask.capture, arguments: [mode] }),
    }),
    /** Makes the master reload, upgrade, drain or undrain (`Ask`), once for each number. */
    change: (kind: number, number: number): Promise<Outcome> =>
      outcomes.getOrInsertComputed(number, () => {
        ask({ number, kind, arguments: [] });
        return Promise.withResolvers<Outcome>();
      }).promise,
    /** System calls that the filter of the `i`-th tile refused. */
    refusedCalls(i: number) {
      const { slot } = setup.tiles[i];
      return slot === undefined
        ? refusedCalls(setup.refusedCalls, i)
        : refusedCalls(setup.refusedCallsOfApps, slot);
    },
    callName: (number: number) => libraries.tile.callName(number),
    nets: setup.nets.map((net) => ({ ...net, traffic: new Traffic(net.traffic) })),
    custom: setup.metrics,
    page: setup.listeners.metrics === null ? new Map<string, Uint8Array>() : readPage(),
  };
}

export async function create(context: TileContext<StatusSetup>): Promise<ServingTile> {
  const { setup: { listeners }, region, onMessage, libraries } = context;
  const view = viewOf(context);
  const { counters, health, outcomes } = view;
  region.fallAsleep();
  const [controlListener, metricsListener] = await Promise.all(
    [listeners.control, listeners.metrics].map((fd) =>
      fd === null ? null : listenOn(fd, libraries.tile)
    ),
  );
  onMessage?.((message) => {
    if (message.type === "outcome") {
      outcomes.get(message.number)?.resolve(message.outcome);
      outcomes.delete(message.number);
    } else {
      for (const { reject } of outcomes.values()) reject(REPLACED);
      controlListener?.close();
      metricsListener?.close();
    }
  });
  const answer = (line: string) => answerLine(view, line);
  return {
    descriptors: [],
    async serve() {
      region.life = Life.running;
      const stuck = Promise.withResolvers<never>();
      let beats = 0;
      setInterval(() => {
        region.quiescent();
        if (++beats === BEATS_TO_TRIM) libraries.tile.trim();
        health.isFresh(performance.now());
        if (controlListener?.isStuck() || metricsListener?.isStuck()) {
          stuck.reject(new Error("it cannot accept connections; are too many files open?"));
        }
      }, BEAT_MILLIS);
      await Promise.race([
        stuck.promise,
        Promise.all([
          controlListener && serveControl(controlListener, { answer, counters }),
          metricsListener && serveMetrics(metricsListener, view),
        ]),
      ]);
    },
  };
}
