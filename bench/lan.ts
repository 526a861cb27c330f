// SPDX-License-Identifier: Apache-2.0
/**
 * A host on a LAN, for lookups of neighbours: netbase with one interface, a connected network and 1,024
 * neighbours in a table of 4,096 slots. Its writer has its own thread (`lan_writer.ts`), like the
 * netlink tile, and changes neighbours on command.
 */

import { heapView, type View } from "../ffi/region.ts";
import { IFF_BROADCAST, IFF_LOWER_UP, IFF_UP } from "../netbase/interfaces.ts";
import { NETBASE_BYTES } from "../netbase/layout.ts";
import { NUD_REACHABLE } from "../netbase/neighbors.ts";
import { NetbaseReader } from "../netbase/netbase.ts";
import type { NetbaseWriter } from "../netbase/netbase_writer.ts";
import * as route from "../netbase/route.ts";
import { TILE_REGION_BYTES, TileRegion } from "../tiles/runtime/tile.ts";
import type { Contestant } from "./harness.ts";

export const IFINDEX = 2;
export const OUR_ADDRESS = 0xc6120001;
const NET = 0xc6120000;
const NET_LENGTH = 15;
/** The first of the neighbours' consecutive addresses. */
export const FIRST_NEIGHBOR = 0xc6130000;
export const NEIGHBORS = 1024;
export const NEIGHBOR_SLOTS = 4096;

/** Changes a second that the writer makes when it is busy. */
export const CHANGES_PER_SECOND = 100_000;
/** The least part of them that makes a measurement valid. */
const LEAST_RATE = 0.95;

/** Words with the writer's command and its number of changes. */
export const Word = { task: 0, changes: 1 } as const;
/** The commands. */
export const Task = { rest: 0, change: 1, end: 2 } as const;

/** The writer's setup. */
export interface LanSetup {
  readonly netbase: View;
  /** Region of the tile that reads. */
  readonly tile: View;
  readonly control: SharedArrayBuffer;
}

/** The LAN as a net tile sees it. */
export class Lan implements Disposable {
  readonly view: View;
  readonly reader: NetbaseReader;
  readonly #worker: Worker;
  readonly #tile: TileRegion;
  readonly #control: Int32Array;

  private constructor(setup: LanSetup, worker: Worker) {
    this.view = setup.netbase;
    this.reader = new NetbaseReader(setup.netbase);
    this.#worker = worker;
    this.#tile = new TileRegion(setup.tile);
    this.#control = new Int32Array(setup.control);
  }

  /** Starts the writer and waits until the LAN is in netbase. */
  static async lay(): Promise<Lan> {
    const setup: LanSetup = {
      netbase: heapView(NETBASE_BYTES),
      tile: heapView(TILE_REGION_BYTES),
      control: new SharedArrayBuffer(8),
    };
    const worker = new Worker(new URL("./lan_writer.ts", import.meta.url), { type: "module" });
    await new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(setup);
    });
    return new Lan(setup, worker);
  }

  /** A quiescent state, as before each burst of a net tile. */
  turn(): void {
    this.#tile.quiescent();
    this.reader.refresh();
  }

  /** Measures `contestant` while neighbours change. */
  whileChanging(contestant: Contestant): Contestant {
    return async () => {
      this.#say(Task.change);
      const before = this.#changes();
      while (this.#changes() === before);
      const [changes, begin] = [this.#changes(), performance.now()];
      const figure = await contestant();
      const rate = (this.#changes() - changes) / (performance.now() - begin) * 1000;
      this.#say(Task.rest);
      if (rate < CHANGES_PER_SECOND * LEAST_RATE) {
        console.error(`the writer made ${Math.round(rate)} changes a second only`);
      }
      return figure;
    };
  }

  [Symbol.dispose](): void {
    this.#say(Task.end);
    this.#worker.terminate();
  }

  #say(task: number): void {
    Atomics.store(this.#control, Word.task, task);
    Atomics.notify(this.#control, Word.task);
  }

  #changes(): number {
    return Atomics.load(this.#control, Word.changes);
  }
}

/** Writes the LAN into netbase. */
export function furnish(writer: NetbaseWriter): void {
  writer.interfaces.put({
    ...{ ifindex: IFINDEX, name: "eth0", mtu: 1500, operstate: 6 },
    flags: IFF_UP | IFF_LOWER_UP | IFF_BROADCAST,
    ...{ macHead: 0x00000002, macTail: 0x0100 },
    ...{ link: 0, master: 0, vlanId: 0, vlanProtocol: 0 },
    addresses: [{
      ...{ local: OUR_ADDRESS, address: OUR_ADDRESS, prefixLength: NET_LENGTH, broadcast: 0 },
      ...{ scope: route.RT_SCOPE_UNIVERSE, secondary: false },
    }],
  });
  const add = (fields: Partial<route.Route>) =>
    writer.rib.add({ ...route.emptyRoute(), ifindex: IFINDEX, ...fields }, route.NLM_F_CREATE);
  add({
    ...{ table: route.RT_TABLE_LOCAL, type: route.RTN_LOCAL, scope: route.RT_SCOPE_HOST },
    ...{ destination: OUR_ADDRESS, prefixLength: 32, source: OUR_ADDRESS },
  });
  add({
    scope: route.RT_SCOPE_LINK,
    ...{ destination: NET, prefixLength: NET_LENGTH, source: OUR_ADDRESS },
  });
  for (let i = 0; i < NEIGHBORS; i++) setNeighbor(writer, i, 0);
  writer.commit();
}

/** Gives the `i`-th neighbour the MAC address of this version. */
export function setNeighbor(writer: NetbaseWriter, i: number, version: number): void {
  writer.neighbors.set({
    ...{ ifindex: IFINDEX, address: FIRST_NEIGHBOR + i, state: NUD_REACHABLE, flags: 0 },
    ...{ macHead: (0x02 | (i << 8)) >>> 0, macTail: version & 0xffff },
  });
}
