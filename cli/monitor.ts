// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula monitor`: prints each change of the kernel's network state when netbase shows it, as
 * `ip monitor` does, and also routes that the kernel removes without an event.
 */

import { pollSet } from "../ffi/library.ts";
import type { InterfaceEntry } from "../netbase/interfaces.ts";
import type { NeighborEntry } from "../netbase/neighbors.ts";
import type { Change, ChangeListener } from "../netbase/netbase_writer.ts";
import type { Route } from "../netbase/route.ts";
import {
  type Entry,
  interfaceEntry,
  neighborEntry,
  routeEntry,
  SYNC_STATES,
} from "../tiles/netlink/entries.ts";
import { command, type Given, JSON_OPTION, say, word } from "./command.ts";
import { interfaceText, neighborText, routeText } from "./format.ts";
import { openMirror, type Snapshot } from "./snapshot.ts";

const OPTIONS = { json: { ...JSON_OPTION, help: "print one JSON object a line" } } as const;

/** The topics, and how each is printed. */
const TEXTS = {
  interfaces: interfaceText,
  routes: routeText,
  neighbors: neighborText,
  sync: ({ state, resyncs, overruns }: Entry) => `${state} resyncs ${resyncs} overruns ${overruns}`,
} as const;
type Topic = keyof typeof TEXTS;
const TOPICS = Object.keys(TEXTS) as Topic[];

/** The longest wait; Ctrl-C ends the process in the middle of one. */
const LONGEST_WAIT_MILLIS = 1000;

export default command({
  name: "monitor",
  usage: ["[-j] [interfaces|routes|neighbors|sync]"],
  about:
    `Mirrors the kernel's network state as 'tegula run' does and prints each change once it is mirrored,
with the time and the delay since the kernel's event. By default prints all kinds of changes. Needs no
privileges; Ctrl-C ends it.`,
  words: {
    interfaces: "with their addresses",
    routes: "of the tables local and main, also those that the kernel removes without an event",
    neighbors: "with their states",
    sync: "whether the mirror is in sync, and resyncs",
  },
  options: OPTIONS,
  positionals: 1,
}, run);

/** Blocks while it waits for events. So only a signal ends it, or a write after its reader has gone. */
function run({ values, positionals }: Given<typeof OPTIONS>): never {
  const [one] = positionals;
  const topics = one === undefined ? TOPICS : [word(one, { command: "monitor", allowed: TOPICS })];
  const live = openMirror();
  const { library, mirror } = live;
  const changes = new Changes(live, topics);
  const polled = pollSet(mirror.descriptors);
  const text = values.json ? JSON.stringify : textOf;
  for (;;) {
    const now = performance.now();
    const work = mirror.turn(now);
    for (const entry of changes.turn(now)) say(text(entry));
    if (work > 0) continue;
    const due = mirror.nextDue(now);
    library.wait(polled, due < 0 ? LONGEST_WAIT_MILLIS : Math.min(due, LONGEST_WAIT_MILLIS));
  }
}

function textOf({ topic, change, time, latencyMicros, ...entry }: Entry): string {
  const deleted = change === "removed" ? "Deleted " : "";
  const text = TEXTS[topic as Topic](entry);
  return `[${time} +${latencyMicros}us] [${String(topic).toUpperCase()}] ${deleted}${text}`;
}

/** Collects the changes of a mirror, and yields each as an object once netbase shows it. */
class Changes implements ChangeListener {
  readonly #live: Snapshot;
  readonly #topics: readonly Topic[];
  /** Names of interfaces seen so far, including those that are gone. */
  readonly #names = new Map<number, string>();
  #state: number;
  /** Changes that netbase does not show yet, and when work on the first of them began. */
  #unshown: { topic: Topic; change: Change; entry: () => Entry }[] = [];
  #since = -1;

  constructor(live: Snapshot, topics: readonly Topic[]) {
    this.#live = live;
    this.#topics = topics;
    this.#state = live.reader.syncState;
    live.writer.listeners.current = this;
  }

  /** Called after each turn of the mirror, which began at `began`. Yields the changes that are shown now. */
  *turn(began: number): Generator<Entry> {
    this.#noteState();
    if (this.#unshown.length === 0) return;
    if (this.#since < 0) this.#since = began;
    if (!this.#live.mirror.shown) return;
    const time = new Date().toISOString();
    const latencyMicros = Math.round((performance.now() - this.#since) * 1000);
    this.#since = -1;
    // All routes may go at once. Each is printed before the text of the next is made.
    for (const { topic, change, entry } of this.#unshown.splice(0)) {
      yield { topic, change, time, latencyMicros, ...entry() };
    }
  }

  interface(change: Change, link: InterfaceEntry): void {
    this.#names.set(link.ifindex, link.name);
    const { interfaces } = this.#live.reader;
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
    const { syncState } = this.#live.reader;
    if (this.#state === syncState) return;
    this.#state = syncState;
    const { syncCounts: { resyncs }, overruns } = this.#live.mirror;
    this.#note("sync", "changed", () => ({ state: SYNC_STATES[syncState], resyncs, overruns }));
  }

  #nameOf = (ifindex: number): string => {
    const known = this.#names.get(ifindex);
    if (known !== undefined) return known;
    const { interfaces } = this.#live.reader;
    const record = interfaces.find(ifindex);
    const name = record < 0 ? `if${ifindex}` : interfaces.name(record);
    this.#names.set(ifindex, name);
    return name;
  };
}
