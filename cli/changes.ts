/**
 * What changes in a mirror, each change as an object once it stands in netbase: what `tegula monitor`
 * prints.
 */

import type { InterfaceEntry } from "../netbase/interfaces.ts";
import type { NeighborEntry } from "../netbase/neighbors.ts";
import type { NetbaseReader } from "../netbase/netbase.ts";
import type { Route } from "../netbase/route.ts";
import type { Change, Watcher } from "../netbase/watcher.ts";
import {
  type Entry,
  interfaceEntry,
  neighborEntry,
  routeEntry,
  SYNC_STATES,
} from "../tiles/netlink/entries.ts";
import type { Mirror } from "../tiles/netlink/mirror.ts";

/** What can be watched. */
export const TOPICS = ["interfaces", "routes", "neighbors", "sync"] as const;
export type Topic = typeof TOPICS[number];

/** Notes the changes of a mirror from now on. */
export class Changes implements Watcher {
  readonly #mirror: Mirror;
  readonly #reader: NetbaseReader;
  readonly #topics: readonly Topic[];
  /** Names of interfaces told so far, those too that are gone. */
  readonly #names = new Map<number, string>();
  readonly #nameOf = (ifindex: number) => this.#name(ifindex);
  #state: number;
  /** Changes that netbase does not show yet, and when the first of them was begun with. */
  #unshown: { topic: Topic; change: Change; entry: () => Entry }[] = [];
  #since = -1;

  /** `reader` reads the mirror's own netbase. */
  constructor(mirror: Mirror, reader: NetbaseReader, topics: readonly Topic[]) {
    this.#mirror = mirror;
    this.#reader = reader;
    this.#topics = topics;
    this.#state = reader.syncState;
    mirror.writer.watch.watcher = this;
  }

  /** After each turn of the mirror, which was begun at `began`: what is shown by now. */
  *turn(began: number): Generator<Entry> {
    this.#noteState();
    if (this.#unshown.length === 0) return;
    if (this.#since < 0) this.#since = began;
    if (!this.#mirror.shown) return;
    const time = new Date().toISOString();
    const latencyMicros = Math.round((performance.now() - this.#since) * 1000);
    this.#since = -1;
    // All routes may go at once: each is told before the next is put into words.
    for (const { topic, change, entry } of this.#unshown.splice(0)) {
      yield { topic, change, time, latencyMicros, ...entry() };
    }
  }

  interface(change: Change, link: InterfaceEntry): void {
    this.#names.set(link.ifindex, link.name);
    const { interfaces } = this.#reader;
    const entry = interfaceEntry(link, { nameOf: this.#nameOf, interfaces });
    this.#note("interfaces", change, () => entry);
  }

  route(change: Change, route: Route): void {
    this.#note("routes", change, () => routeEntry(route, this.#nameOf));
  }

  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void {
    const entry = neighborEntry(neighbor, this.#nameOf);
    this.#note("neighbors", change, () => entry);
  }

  #note(topic: Topic, change: Change, entry: () => Entry): void {
    if (this.#topics.includes(topic)) this.#unshown.push({ topic, change, entry });
  }

  #noteState(): void {
    const { syncState } = this.#reader;
    if (this.#state === syncState) return;
    this.#state = syncState;
    const { syncCounts: { resyncs }, overruns } = this.#mirror;
    this.#note("sync", "changed", () => ({ state: SYNC_STATES[syncState], resyncs, overruns }));
  }

  #name(ifindex: number): string {
    let name = this.#names.get(ifindex);
    if (name === undefined) {
      const { interfaces } = this.#reader;
      const record = interfaces.find(ifindex);
      name = record < 0 ? `if${ifindex}` : interfaces.name(record);
      this.#names.set(ifindex, name);
    }
    return name;
  }
}
