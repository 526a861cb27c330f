/**
 * What a tile is to the runtime: the few calls that its loop makes, and what the tile is given. The
 * loop itself, spinning, sleeping and stop, is `loop.ts`; how a worker becomes a tile is
 * `worker.ts`.
 */

import type { View } from "../../ffi/region.ts";
import type { NetlinkLibrary, Udp } from "../../ffi/sockets.ts";
import type { TileLibrary } from "../../ffi/tile.ts";
import type { XskSlots } from "../../ffi/xsk.ts";
import type { Clock } from "../app/contract.ts";
import type { ControlRequest, Outcome } from "./control.ts";
import type { TileRegion } from "./tile_region.ts";

/** The kinds of tile. An app's runs in a process of its own, or inside a net tile. */
export type TileKind = WorkerKind | "app";
/** Those that run in a worker of the appliance. */
export type WorkerKind = "netlink" | "net" | "status";

/** The native libraries a tile has opened; which ones depends on its kind. */
export interface Libraries {
  readonly tile: TileLibrary;
  readonly netlink?: NetlinkLibrary;
  readonly xsk?: XskSlots;
  readonly udp?: Udp;
  /** Where an app was granted it. */
  readonly clock?: Clock;
}

/** What a tile's `create` is given. */
export interface TileContext<Setup> {
  readonly setup: Setup;
  readonly region: TileRegion;
  readonly libraries: Libraries;
  /** A line for the log, in the tile's name. Never on the data path. */
  log(line: string): void;
  /** Has main put a request into the control region: the status tile's. */
  ask(request: ControlRequest): void;
  /** Hears what main says while it runs: the status tile's, which alone has an event loop. */
  onMessage?(listener: (message: MainMessage) => void): void;
  /**
   * Where a predecessor runs on the same regions: to be awaited before they are touched. Confines the
   * thread, so that it can open nothing from then on and has no descriptors but these. Resolves when the
   * predecessor has ended.
   */
  predecessor?(descriptors: readonly number[]): Promise<void>;
}

/** One tile, as its loop sees it. */
export interface Tile {
  /** Does one burst of work and returns how much it was; 0 when there was none. */
  turn(): number;
  /** Whether anything waits in a link or ring: asked once more after "about to block" was said. */
  pending(): boolean;
  /** Blocks until there is something, or `timeoutMs` passed (-1: no limit); empties its eventfd. */
  wait(timeoutMs: number): void;
  /** About every 100 ms: what is not per burst. `nowMillis` is monotonic. */
  housekeeping?(nowMillis: number): void;
  /** At every look at the clock, at the latest after 256 busy turns or half a second: what `nextDue` spoke of. */
  clock?(nowMillis: number): void;
  /** Milliseconds from `nowMillis` to the next thing it has to do by the clock; -1: nothing. */
  nextDue?(nowMillis: number): number;
  /** Before it ends without draining: writes what its successor needs. No other call but `close` follows. */
  relinquish?(): void;
  /** While stopping: whether nothing is left to do. */
  drained?(): boolean;
  /** Lets go of descriptors that are its own. */
  close?(): void;
  /** The descriptors that `confine()` has to allow. */
  readonly descriptors: readonly number[];
}

/** A tile that has no bursts: it serves who connects, in Deno's event loop, until it is ended. */
export interface ServingTile {
  serve(): Promise<void>;
  readonly descriptors: readonly number[];
}

/** The export of a tile's module. */
export interface TileModule<Setup> {
  create(context: TileContext<Setup>): Tile | ServingTile | Promise<Tile | ServingTile>;
}

/** What main sends to a new worker. Everything in it is plain data. */
export interface BootMessage {
  readonly kind: WorkerKind;
  readonly name: string;
  /** URL of the tile's module. */
  readonly module: string;
  /** Its slot among the observer's counters of refused system calls. */
  readonly slot: number;
  /** The tile's own region, writable. */
  readonly region: View;
  /** The control region, read-only. */
  readonly control: View;
  /** Whether an app inside it was granted the host's clock. */
  readonly clock: boolean;
  /** Whether it reports that it is ready, and takes regions over that outlast a tile: a net tile. */
  readonly beside: boolean;
  /** Whether a predecessor runs on those regions. */
  readonly hasPredecessor: boolean;
  /** Whether it is not to be made before main says so, once its modules are loaded. */
  readonly held: boolean;
  /** Idle turns before its loop blocks. */
  readonly spinTurns: number;
  readonly setup: unknown;
}

/** What main says to a tile. */
export type MainMessage =
  /** To one that is held: to be made. */
  | { readonly type: "make" }
  /** To take no more connections, and end when those that there are have their answers. */
  | { readonly type: "leave" }
  /** What became of the change with this number. */
  | { readonly type: "outcome"; readonly number: number; readonly outcome: Outcome };

/** What a tile reports to main, which believes none of it unseen (`supervisor.ts`). Not on the data path. */
export type TileReport =
  | { readonly type: "started"; readonly thread: number }
  /** It takes over once its predecessor has ended. */
  | { readonly type: "ready" }
  /** It has confined its thread: `observed` where refused system calls are counted. */
  | { readonly type: "running"; readonly landlock: boolean; readonly observed: boolean }
  | { readonly type: "log"; readonly line: string }
  | { readonly type: "ask"; readonly request: ControlRequest }
  | { readonly type: "stopped" }
  /** Its start failed; `app`: because of that app. */
  | { readonly type: "failed"; readonly message: string; readonly app?: string };
