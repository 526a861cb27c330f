/**
 * The app tile: takes bursts of datagrams from each net tile's link, gives them to the app, and hands
 * its answers back. The app sees the memory that the datagrams are in, never the links themselves.
 *
 * @module
 */

import type { View } from "../../ffi/view.ts";
import { APP } from "../runtime/counters.ts";
import type { LinkShape } from "../runtime/link.ts";
import type { Tile, TileContext } from "../runtime/tile.ts";
import type { App, AppFactory } from "./contract.ts";
import { NetSide } from "./net_side.ts";

/** One net tile, as an app tile is joined to it. */
export interface NetJoin {
  /** The region this app writes. */
  readonly own: View;
  /** The region that net tile writes for this app. */
  readonly peer: View;
  /** That net tile's UMEM, read-only. */
  readonly umem: View;
  readonly shape: LinkShape;
  /** That net tile's region, for its sleep word. */
  readonly tile: View;
  readonly eventfd: number;
}

/** What an app tile is made with. */
export interface AppSetup {
  readonly name: string;
  /** URL of the app's module. */
  readonly module: string;
  readonly ports: readonly number[];
  /** Every port served here, by whichever app. */
  readonly served: readonly number[];
  readonly nets: readonly NetJoin[];
  readonly eventfd: number;
}

/** Imports the app's module, makes the app and joins it to its net tiles. */
export async function create(context: TileContext<AppSetup>): Promise<Tile> {
  const { setup } = context;
  const module = await import(setup.module) as { default?: AppFactory };
  if (typeof module.default !== "function") {
    throw new TypeError(`app ${setup.name}: its module has no default export that makes an app`);
  }
  const served = new Set(setup.served);
  const app = await module.default({
    ports: setup.ports,
    serves: (port) => served.has(port),
    log: context.log,
  });
  return new AppTile(app, context);
}

class AppTile implements Tile {
  readonly descriptors: readonly number[];
  readonly #app: App;
  readonly #context: TileContext<AppSetup>;
  readonly #sides: readonly NetSide[];
  readonly #tickMillis: number;
  readonly #errorsSeen = new Set<string>();
  #nextTick: number;

  constructor(app: App, context: TileContext<AppSetup>) {
    const { setup, libraries, region } = context;
    this.#app = app;
    this.#context = context;
    this.descriptors = [setup.eventfd];
    this.#sides = setup.nets.map((join) =>
      new NetSide(join, {
        counters: region.counters,
        wake: () => libraries.tile.wake(join.eventfd),
      })
    );
    this.#tickMillis = app.tick === undefined ? -1 : Math.max(1, app.tickMillis ?? 1000);
    this.#nextTick = performance.now() + this.#tickMillis;
  }

  turn(): number {
    let work = 0;
    for (const side of this.#sides) {
      const count = side.take();
      if (count === 0) continue;
      work += count;
      try {
        this.#app.receive(side.requests, side.answers);
      } catch (error) {
        this.#failed(error);
      }
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
    return this.#tickMillis < 0 ? -1 : Math.max(0, Math.ceil(this.#nextTick - nowMillis));
  }

  clock(nowMillis: number): void {
    if (this.#tickMillis < 0 || nowMillis < this.#nextTick) return;
    this.#nextTick = Math.max(this.#nextTick + this.#tickMillis, nowMillis);
    const side = this.#sides[0];
    side.answers.refresh();
    try {
      this.#app.tick?.(side.answers);
    } catch (error) {
      this.#failed(error);
    }
    side.finish();
  }

  /** Counts an error of the app, and logs it the first time that it says this. */
  #failed(error: unknown): void {
    this.#context.region.counters[APP.index.errors]++;
    const text = error instanceof Error ? error.stack ?? error.message : String(error);
    if (this.#errorsSeen.has(text) || this.#errorsSeen.size >= 64) return;
    this.#errorsSeen.add(text);
    this.#context.log(`the app threw, its datagrams were dropped: ${text}`);
  }
}
