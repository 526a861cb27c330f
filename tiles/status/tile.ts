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
import type { StatusPlaces } from "../runtime/permissions.ts";
import type { ServingTile, TileContext, TileKind } from "../runtime/tile.ts";
import { Life, TileReader } from "../runtime/tile_region.ts";
import { Ask, ControlReader } from "../runtime/control.ts";
import { Answers } from "./answers.ts";
import { Capturing, type Listening } from "./capturing.ts";
import { listenControl, serveControl } from "./control_socket.ts";
import { interfaceNames } from "../netlink/entries.ts";
import { listenMetrics, serveMetrics } from "./metrics.ts";
import { MetricsReader } from "../app/metrics.ts";
import { RefusedCalls } from "../runtime/refused_calls.ts";
import { Question } from "../runtime/snapshot.ts";

/** How often it shows that it gets on: several times until it is said to hang (`supervisor.ts`). */
const BEAT_MILLIS = 5000;

/** What the status tile is made with. */
export interface StatusSetup {
  readonly places: StatusPlaces;
  /** Read-only, like all views here. */
  readonly netbase: View;
  readonly control: View;
  readonly snapshot: View;
  /** Refused system calls, by tile. */
  readonly refusedCalls: View;
  /** The capture ring of each net tile. */
  readonly captures: readonly View[];
  readonly tiles: readonly { readonly kind: TileKind; readonly name: string; region: View }[];
  /** The numbers of apps' own (`../app/metrics.ts`), by tile. */
  readonly metrics: readonly { readonly name: string; readonly view: View }[];
  /** Interfaces that frames are taken from. */
  readonly interfaces: readonly string[];
  readonly listen: readonly Listening[];
}

/** Begins to listen. Throws Deno's errors when an address cannot be had. */
export function create({ setup, region, ask, libraries }: TileContext<StatusSetup>): ServingTile {
  const { places, interfaces, listen } = setup;
  const netbase = new NetbaseReader(setup.netbase);
  const tiles = setup.tiles.map(({ kind, name, region }) => ({
    kind,
    name,
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
  const own = { counters, question, capturing };
  const attached = { interfaces, control };
  const answers = new Answers({ netbase, read, tiles, listen, ...attached, ...own });
  const listener = places.control === null ? null : listenControl(places.control);
  const metrics = {
    ...{ netbase, tiles, counters, ...attached },
    refusedCalls: new RefusedCalls(setup.refusedCalls),
    callName: (number: number) => libraries.tile.callName(number),
    own: setup.metrics.map(({ name, view }) => ({ name, reader: new MetricsReader(view) })),
  };
  let metricsListener: Deno.TcpListener | null = null;
  try {
    if (places.metrics !== null) metricsListener = listenMetrics(places.metrics);
  } catch (error) {
    // The process may end before this tile's thread does, and would leave the socket's file.
    listener?.close();
    throw error;
  }
  return {
    descriptors: [],
    async serve() {
      region.life = Life.running;
      setInterval(() => region.quiescent(), BEAT_MILLIS);
      await Promise.all([
        listener && serveControl(listener, { answers, counters }),
        metricsListener && serveMetrics(metricsListener, metrics),
      ]);
    },
  };
}
