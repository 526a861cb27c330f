/**
 * The status tile: answers operators, over the control socket and as metrics, from what the other
 * tiles show of themselves. It reads netbase and every tile's region, writes none but its own, and is
 * never on the way of a packet.
 *
 * Unlike the other tiles it waits in Deno's event loop. To netbase's writer it is a reader that sleeps
 * but for the moments in which it looks (`read`), so nothing waits for it. To main that says nothing of
 * whether it gets on, so it shows that now and then.
 */

import type { View } from "../../ffi/view.ts";
import { NetbaseReader } from "../../netbase/netbase.ts";
import type { ServingTile, TileContext, TileKind } from "../runtime/tile.ts";
import { Life, TileReader } from "../runtime/tile_region.ts";
import { Ask, ControlReader, type Outcome } from "../runtime/control.ts";
import { Answers, REPLACED } from "./answers.ts";
import { Capturing, type Listening } from "./capturing.ts";
import { listenOn } from "./connections.ts";
import { serveControl } from "./control_socket.ts";
import { interfaceNames } from "../netlink/entries.ts";
import { serveMetrics } from "./metrics.ts";
import { MetricsReader } from "../app/regions.ts";
import { RefusedCalls } from "../runtime/refused_calls.ts";
import { Question } from "../runtime/snapshot.ts";

/** How often it shows that it gets on, and looks whether it does: several times until it is said to hang. */
const BEAT_MILLIS = 2000;

/** What the status tile is made with. */
export interface StatusSetup {
  /**
   * Listening sockets; null: nobody is served there. They stay the caller's, and may be those of a
   * predecessor that still serves: each connection comes to one of both.
   */
  readonly listeners: { readonly control: number | null; readonly metrics: number | null };
  /** Read-only, like all views here. */
  readonly netbase: View;
  readonly control: View;
  readonly snapshot: View;
  /** Refused system calls, by tile; and of apps that are processes by slot. */
  readonly refusedCalls: View;
  readonly refusedCallsOfApps: View;
  /** The capture ring of each net tile. */
  readonly captures: readonly View[];
  readonly tiles: readonly {
    readonly kind: TileKind;
    readonly name: string;
    readonly region: View;
    readonly past: Float64Array;
    /** Of an app that is a process: its slot in `refusedCallsOfApps`. */
    readonly slot?: number;
  }[];
  /** The numbers of apps' own (`../app/regions.ts`), by tile. */
  readonly metrics: readonly { readonly name: string; readonly view: View }[];
  /** Interfaces that frames are taken from. */
  readonly interfaces: readonly string[];
  readonly listen: readonly Listening[];
}

/** Reads which calls were refused to the `i`-th tile. */
function refusedCallsOf({ refusedCalls, refusedCallsOfApps, tiles }: StatusSetup) {
  const [ofTiles, ofApps] = [refusedCalls, refusedCallsOfApps].map((view) =>
    new RefusedCalls(view)
  );
  return {
    of: (i: number) => tiles[i].slot === undefined ? ofTiles.of(i) : ofApps.of(tiles[i].slot),
  };
}

/** Begins to listen. */
export async function create(
  { setup, region, ask, onMessage, libraries }: TileContext<StatusSetup>,
): Promise<ServingTile> {
  const { listeners, interfaces, listen } = setup;
  const netbase = new NetbaseReader(setup.netbase);
  const tiles = setup.tiles.map(({ region, ...tile }) => ({
    ...tile,
    reader: new TileReader(region),
  }));
  function read<T>(look: () => T): T {
    region.awake();
    netbase.refresh();
    try {
      return look();
    } finally {
      region.fallAsleep();
    }
  }
  region.fallAsleep();
  const { counters } = region;
  const question = new Question(setup, ask);
  const control = new ControlReader(setup.control);
  const capturing = new Capturing({
    rings: setup.captures,
    setMode: (mode) => ask({ number: 1, kind: Ask.capture, arguments: [mode] }),
    mode: () => control.captureMode,
    interfaceNames: () => read(() => interfaceNames(netbase.interfaces)),
    listen,
  });
  /** Those who wait for what becomes of a change that they asked for, by its number. */
  const waiting = new Map<number, PromiseWithResolvers<Outcome>>();
  const change = (kind: number, number: number) => {
    const outcome = waiting.get(number) ?? Promise.withResolvers<Outcome>();
    if (!waiting.has(number)) ask({ number, kind, arguments: [] });
    waiting.set(number, outcome);
    return outcome.promise;
  };
  const own = { counters, question, capturing, change };
  const attached = { interfaces, control };
  const answers = new Answers({ netbase, read, tiles, listen, ...attached, ...own });
  const metrics = {
    ...{ netbase, tiles, counters, ...attached },
    refusedCalls: refusedCallsOf(setup),
    callName: (number: number) => libraries.tile.callName(number),
    own: setup.metrics.map(({ name, view }) => ({ name, reader: new MetricsReader(view) })),
  };
  const [controlListener, metricsListener] = await Promise.all(
    [listeners.control, listeners.metrics].map((fd) =>
      fd === null ? null : listenOn(fd, libraries.tile)
    ),
  );
  onMessage?.((message) => {
    if (message.type === "outcome") {
      waiting.get(message.number)?.resolve(message.outcome);
      waiting.delete(message.number);
    } else {
      for (const { reject } of waiting.values()) reject(REPLACED);
      controlListener?.close();
      metricsListener?.close();
    }
  });
  return {
    descriptors: [],
    async serve() {
      region.life = Life.running;
      const stuck = Promise.withResolvers<never>();
      setInterval(() => {
        region.quiescent();
        if (controlListener?.isStuck() || metricsListener?.isStuck()) {
          stuck.reject(new Error("it cannot accept connections; are too many files open?"));
        }
      }, BEAT_MILLIS);
      await Promise.race([
        stuck.promise,
        Promise.all([
          controlListener && serveControl(controlListener, { answers, counters }),
          metricsListener && serveMetrics(metricsListener, metrics),
        ]),
      ]);
    },
  };
}
