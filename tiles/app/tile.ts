/**
 * The app tile: takes bursts of datagrams from each net tile's link, gives them to the app, and hands
 * its answers back. The app sees the memory that the datagrams are in, never the links themselves.
 */

import { heapView, type View } from "../../ffi/view.ts";
import { AppError, sentenceOf } from "../runtime/thrown.ts";
import type { Tile, TileContext } from "../runtime/tile.ts";
import { METRICS_BYTES, MetricsWriter } from "./metrics.ts";
import { type NetJoin, NetSide } from "./net_side.ts";
import { loadService, type Service, type ServiceSetup } from "./service.ts";
import { AppState } from "./state.ts";

/** What an app tile is made with. */
export interface AppSetup extends ServiceSetup {
  readonly nets: readonly NetJoin[];
  readonly eventfd: number;
  /** Its region for state of its own; left out: it has none. */
  readonly state?: View;
}

/** Imports the app's module, makes the app and joins it to its net tiles. */
export async function create(context: TileContext<AppSetup>): Promise<Tile> {
  const { setup, region, libraries: { clock }, log, turn } = context;
  const state = setup.state && new AppState(setup.state);
  const parts = {
    counters: region.counters,
    ...(clock && { clock }),
    ...(state && { state }),
    log,
  };
  if (turn === undefined) {
    state?.open();
    return new AppTile(await loadService(setup, parts), context);
  }
  const metrics = new MetricsWriter(heapView(METRICS_BYTES));
  const service = await loadService(setup, { ...parts, metrics, beside: true });
  const handedOver = await turn();
  metrics.move(setup.metrics);
  state?.open();
  try {
    service.begin();
  } catch (error) {
    throw new AppError(setup.name, sentenceOf(error));
  }
  return new AppTile(service, context, handedOver);
}

class AppTile implements Tile {
  readonly descriptors: readonly number[];
  readonly #service: Service;
  readonly #context: TileContext<AppSetup>;
  readonly #sides: readonly NetSide[];

  constructor(service: Service, context: TileContext<AppSetup>, handedOver = false) {
    const { setup, libraries, region } = context;
    this.#service = service;
    this.#context = context;
    this.descriptors = [setup.eventfd];
    this.#sides = setup.nets.map((join) =>
      new NetSide(join, {
        counters: region.counters,
        wake: () => libraries.tile.wake(join.eventfd),
        handedOver,
      })
    );
  }

  turn(): number {
    let work = 0;
    for (const side of this.#sides) {
      const count = side.take();
      if (count === 0) continue;
      work += count;
      this.#service.receive(side.requests, side.answers);
      side.finish();
    }
    return work;
  }

  pending(): boolean {
    return this.#sides.some((side) => side.waiting);
  }

  wait(timeoutMs: number): void {
    this.#context.libraries.tile.wait(this.#context.setup.eventfd, timeoutMs);
  }

  nextDue(nowMillis: number): number {
    return this.#service.nextDue(nowMillis);
  }

  clock(nowMillis: number): void {
    const side = this.#sides[0];
    side.answers.refresh();
    if (this.#service.clock(nowMillis, side.answers)) side.finish();
  }
}
