/**
 * What changes in the mirror, each change as a line of JSON once it stands in netbase: what `tegula
 * monitor` prints, whether of a mirror of its own or of the appliance's. While nobody watches it costs
 * nothing. The lines that wait to be taken are bounded, and what there is no room for is counted: who
 * is slow to take them holds nobody up.
 */

import type { InterfaceLink } from "../../netbase/interfaces.ts";
import { Sync } from "../../netbase/layout.ts";
import type { NeighborEntry } from "../../netbase/neighbors.ts";
import type { NetbaseReader } from "../../netbase/netbase.ts";
import type { Route } from "../../netbase/route.ts";
import type { Change, Watcher } from "../../netbase/watcher.ts";
import { type Entry, interfaceEntry, neighborEntry, routeEntry } from "./entries.ts";
import type { Mirror } from "./mirror.ts";

/** What can be watched; in a set of them the `n`-th is bit `n`. */
export const TOPICS = ["interfaces", "routes", "neighbors", "sync"] as const;
export type Topic = typeof TOPICS[number];

/** Names of `Sync` (netbase/layout.ts). */
export const SYNC_STATES: { readonly [state: number]: string } = {
  [Sync.empty]: "empty",
  [Sync.syncing]: "syncing",
  [Sync.synced]: "synced",
  [Sync.stale]: "stale",
};

/** Characters of the lines that wait to be taken: some twenty thousand routes. */
const MOST_WAITING = 4 << 20;
/** Characters of a line: an interface with a thousand addresses. */
const MOST_LINE = 128 << 10;

/** How a line begins, so that lines can be told apart without being parsed. */
export function lineStart(topic: Topic): string {
  return `{"topic":"${topic}",`;
}

/** Notes changes for whoever takes them. */
export class Changes implements Watcher {
  readonly #mirror: Mirror;
  readonly #reader: NetbaseReader;
  /** Names of interfaces told so far, those too that are gone. */
  readonly #names = new Map<number, string>();
  readonly #nameOf = (ifindex: number) => this.#name(ifindex);
  #topics = 0;
  #state = 0;
  /** Changes that netbase does not show yet, and when the first of them was begun with. */
  #unshown: { topic: Topic; change: Change; text: string }[] = [];
  #since = -1;
  #lines: string[] = [];
  /** Characters in both. */
  #waiting = 0;
  #lost = 0;

  /** `reader` reads the mirror's own netbase. */
  constructor(mirror: Mirror, reader: NetbaseReader) {
    this.#mirror = mirror;
    this.#reader = reader;
  }

  /** Bits of what is noted; setting them begins, changes or ends it. */
  get topics(): number {
    return this.#topics;
  }

  set topics(topics: number) {
    if (this.#topics === 0) {
      this.#unshown = [];
      this.#lines = [];
      this.#waiting = this.#lost = 0;
      this.#names.clear();
      this.#state = this.#reader.syncState;
    }
    this.#topics = topics;
    this.#mirror.writer.watch(topics === 0 ? null : this);
  }

  /** After each turn of the mirror, which was begun at `began`: what is shown by now becomes lines. */
  turn(began: number): void {
    if (this.#topics === 0) return;
    this.#noteState();
    if (this.#unshown.length === 0) return;
    if (this.#since < 0) this.#since = began;
    if (!this.#mirror.shown) return;
    const time = new Date().toISOString();
    const latencyMicros = Math.round((performance.now() - this.#since) * 1000);
    this.#since = -1;
    for (const { topic, change, text } of this.#unshown) {
      const head = `"change":"${change}","time":"${time}","latencyMicros":${latencyMicros}`;
      const line = `${lineStart(topic)}${head},${text.slice(1)}`;
      this.#lines.push(line);
      this.#waiting += line.length - text.length;
    }
    this.#unshown = [];
  }

  /** Takes the oldest lines, as many as `fits` says yes to, and how many were lost before the rest. */
  take(fits: (line: string) => boolean): { lines: string[]; lost: number; more: boolean } {
    const end = this.#lines.findIndex((line) => !fits(line));
    const lines = this.#lines.splice(0, end < 0 ? this.#lines.length : end);
    for (const line of lines) this.#waiting -= line.length;
    const lost = this.#lost;
    this.#lost = 0;
    return { lines, lost, more: this.#lines.length > 0 };
  }

  interface(change: Change, { ifindex, name }: Readonly<InterfaceLink>): void {
    // What is removed is there until this call returns; what is new is there already.
    const record = this.#reader.interfaces.find(ifindex);
    this.#names.set(ifindex, name);
    this.#note(
      "interfaces",
      change,
      () =>
        record < 0 ? { ifindex } : interfaceEntry(this.#reader.interfaces, record, this.#nameOf),
    );
  }

  route(change: Change, route: Route): void {
    this.#note("routes", change, () => routeEntry(route, this.#nameOf));
  }

  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void {
    this.#note("neighbors", change, () => neighborEntry(neighbor, this.#nameOf));
  }

  #note(topic: Topic, change: Change, entry: () => Entry): void {
    if ((this.#topics & (1 << TOPICS.indexOf(topic))) === 0) return;
    const text = this.#waiting < MOST_WAITING ? JSON.stringify(entry()) : "";
    if (text === "" || text.length > MOST_LINE) {
      this.#lost++;
      return;
    }
    this.#waiting += text.length;
    this.#unshown.push({ topic, change, text });
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
