/**
 * `tegula monitor`: prints what changes in a mirror of the kernel's network state as it is taken in, in
 * the manner of `ip monitor`; also what the kernel withdraws without a word.
 *
 * @module
 */

import { Sync } from "../netbase/layout.ts";
import type { NeighborEntry } from "../netbase/neighbors.ts";
import type { Route } from "../netbase/route.ts";
import type { Change, WatchedInterface, Watcher } from "../netbase/watcher.ts";
import {
  type Entry,
  interfaceEntries,
  interfaceNames,
  neighborEntry,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { interfaceText, neighborText, routeText } from "./entry_text.ts";
import { Exit, UserError } from "./errors.ts";
import { parseOptions } from "./options.ts";
import { type LiveMirror, openMirror } from "./snapshot.ts";

const HELP = `usage: tegula monitor [-j] [interfaces|routes|neighbors|sync]

Mirrors the kernel's network state as 'tegula run' does and prints each change once it is mirrored: when, and how
long it took from the moment that the kernel woke us. Without a word for what to watch, all of it. Needs
no privileges; ends with Ctrl-C.

  interfaces   and their addresses
  routes       of the tables local and main, those too that go without an event
  neighbors    and their states
  sync         whether the mirror is current, and what was read anew

  -j, --json   one JSON object a line
  --help       this`;

const OPTIONS = {
  json: { type: "boolean", short: "j" },
  help: { type: "boolean", short: "h" },
} as const;

const TOPICS = ["interfaces", "routes", "neighbors", "sync"] as const;
type Topic = typeof TOPICS[number];

const TEXTS: { readonly [topic in Topic]: (entry: Entry) => string } = {
  interfaces: interfaceText,
  routes: routeText,
  neighbors: neighborText,
  sync: ({ state, resyncs, overruns }) => `${state} resyncs ${resyncs} overruns ${overruns}`,
};
const SYNC_STATES: { readonly [state: number]: string } = {
  [Sync.empty]: "empty",
  [Sync.syncing]: "syncing",
  [Sync.synced]: "synced",
  [Sync.stale]: "stale",
};

/** POLLIN (poll.h). */
const POLLIN = 1;
/** The longest wait; Ctrl-C ends the process in the middle of one. */
const LONGEST_WAIT_MILLIS = 1000;

/** Prints until it is ended. */
export function monitor(args: string[]): Promise<number> {
  const { values, positionals } = parseOptions(args, {
    command: "monitor",
    options: OPTIONS,
    positionals: 1,
  });
  if (values.help) {
    console.log(HELP);
    return Promise.resolve(Exit.ok);
  }
  const topic = topicNamed(positionals[0]);
  return new Monitor(openMirror(), { topic, json: values.json === true }).run();
}

function topicNamed(name: string | undefined): Topic | null {
  if (name === undefined) return null;
  const found = TOPICS.find((topic) => topic === name);
  if (found !== undefined) return found;
  throw new UserError(`cannot monitor '${name}': ${TOPICS.join(", ")}`, Exit.usage);
}

/** A change that waits to be mirrored. */
interface Event {
  readonly topic: Topic;
  readonly change: Change;
  readonly entry: Entry;
}

class Monitor implements Watcher {
  readonly #live: LiveMirror;
  readonly #topic: Topic | null;
  readonly #json: boolean;
  #events: Event[] = [];
  #nameOf: (ifindex: number) => string;
  #state: number;

  constructor(live: LiveMirror, { topic, json }: { topic: Topic | null; json: boolean }) {
    this.#live = live;
    this.#topic = topic;
    this.#json = json;
    this.#nameOf = interfaceNames(live.reader.interfaces);
    this.#state = live.reader.syncState;
    live.writer.watch(this);
  }

  /** Blocks in the wait for events, so only a signal ends it. */
  run(): never {
    const { library, mirror } = this.#live;
    const pollSet = Int32Array.from(mirror.descriptors.flatMap((fd) => [fd, POLLIN]));
    for (let woken = performance.now();;) {
      for (let work = 1; work > 0;) {
        work = mirror.turn();
        this.#noteState();
      }
      this.#print(woken);
      const due = mirror.nextDue(performance.now());
      const wait = due < 0 ? LONGEST_WAIT_MILLIS : Math.min(due, LONGEST_WAIT_MILLIS);
      library.wait(pollSet, pollSet.length / 2, wait);
      woken = performance.now();
    }
  }

  interface(change: Change, { ifindex }: WatchedInterface): void {
    const { reader } = this.#live;
    // What is removed is there until this call returns; what is new is there already.
    const entry = interfaceEntries(reader).find((each) => each.ifindex === ifindex) ?? { ifindex };
    this.#note("interfaces", change, entry);
    this.#nameOf = interfaceNames(reader.interfaces);
  }

  route(change: Change, route: Route): void {
    this.#note("routes", change, routeEntry(route, this.#nameOf));
  }

  neighbor(change: Change, neighbor: Readonly<NeighborEntry>): void {
    this.#note("neighbors", change, neighborEntry(neighbor, this.#nameOf));
  }

  #note(topic: Topic, change: Change, entry: Entry): void {
    if (this.#topic === null || this.#topic === topic) this.#events.push({ topic, change, entry });
  }

  #noteState(): void {
    const { mirror, reader } = this.#live;
    if (this.#state === reader.syncState) return;
    this.#state = reader.syncState;
    const { resyncs } = mirror.syncCounts;
    const entry = { state: SYNC_STATES[this.#state], resyncs, overruns: mirror.overruns };
    this.#note("sync", "changed", entry);
  }

  #print(woken: number): void {
    const time = new Date().toISOString();
    const latencyMicros = Math.round((performance.now() - woken) * 1000);
    for (const { topic, change, entry } of this.#events.splice(0)) {
      console.log(
        this.#json
          ? JSON.stringify({ time, latencyMicros, topic, change, ...entry })
          : `[${time} +${latencyMicros}us] [${topic.toUpperCase()}] ` +
            `${change === "removed" ? "Deleted " : ""}${TEXTS[topic](entry)}`,
      );
    }
  }
}
