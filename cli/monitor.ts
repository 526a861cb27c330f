// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula monitor`: prints each change of the kernel's network state when netbase has it, like `ip
 * monitor`, and also routes that the kernel removes without an event.
 */

import { pollSet } from "../ffi/library.ts";
import type { Change } from "../netbase/netbase_writer.ts";
import {
  type Entry,
  interfaceEntry,
  neighborEntry,
  routeEntry,
  SYNC_STATES,
} from "../tiles/netlink/entries.ts";
import { command, JSON_OPTION, say, word } from "./command.ts";
import { TEXTS } from "./format.ts";
import { openMirror, type Snapshot } from "./snapshot.ts";

/** The topics and their formatters. */
const TOPIC_TEXTS = {
  ...TEXTS,
  sync: ({ state, resyncs, overruns }: Entry) => `${state} resyncs ${resyncs} overruns ${overruns}`,
} as const;
type Topic = keyof typeof TOPIC_TEXTS;
const TOPICS = Object.keys(TOPIC_TEXTS) as Topic[];

/** The longest wait; Ctrl-C ends the process also during a wait. */
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
  options: { json: { ...JSON_OPTION, help: "print one JSON object a line" } },
  positionals: 1,
}, ({ values, positionals }) => {
  const [one] = positionals;
  const topics = one === undefined ? TOPICS : [word(one, { command: "monitor", allowed: TOPICS })];
  const live = openMirror();
  const { library, mirror } = live;
  const changes = changesOf(live, topics);
  const polled = pollSet(mirror.descriptors);
  const text = values.json ? JSON.stringify : textOf;
  // This thread blocks, so only a signal ends it, or a write after its reader is gone.
  for (;;) {
    const now = performance.now();
    const work = mirror.turn(now);
    for (const entry of changes(now)) say(text(entry));
    if (work > 0) continue;
    const due = mirror.nextDue(now);
    library.wait(polled, due < 0 ? LONGEST_WAIT_MILLIS : Math.min(due, LONGEST_WAIT_MILLIS));
  }
});

function textOf({ topic, change, time, latencyMicros, ...entry }: Entry): string {
  const deleted = change === "removed" ? "Deleted " : "";
  const text = TOPIC_TEXTS[topic as Topic](entry);
  return `[${time} +${latencyMicros}us] [${String(topic).toUpperCase()}] ${deleted}${text}`;
}

/**
 * Collects the changes of a mirror. Returns a function to call after each turn of the mirror, with
 * the time at which the turn began: it yields the changes that netbase has by then.
 */
function changesOf({ mirror, reader, writer }: Snapshot, topics: readonly Topic[]) {
  const { interfaces } = reader;
  /** Names of interfaces seen so far, including those that are gone. */
  const names = new Map<number, string>();
  const nameOf = (ifindex: number) =>
    names.getOrInsertComputed(ifindex, () => {
      const record = interfaces.find(ifindex);
      return record < 0 ? `if${ifindex}` : interfaces.name(record);
    });
  let state = reader.syncState;
  /** Changes that netbase does not have yet, and when work on the first of them began. */
  const unshown: { topic: Topic; change: Change; entry: () => Entry }[] = [];
  let since = -1;
  const note = (topic: Topic, change: Change, entry: () => Entry) => {
    if (topics.includes(topic)) unshown.push({ topic, change, entry });
  };
  writer.listeners.current = {
    interface(change, link) {
      names.set(link.ifindex, link.name);
      const entry = interfaceEntry(link, { nameOf, interfaces });
      note("interfaces", change, () => entry);
    },
    route: (change, route) => note("routes", change, () => routeEntry(route, nameOf)),
    neighbor(change, neighbor) {
      const entry = neighborEntry(neighbor, nameOf);
      note("neighbors", change, () => entry);
    },
  };

  return function* (began: number): Generator<Entry> {
    if (state !== reader.syncState) {
      state = reader.syncState;
      const { syncCounts: { resyncs }, overruns } = mirror;
      const entry = { state: SYNC_STATES[state], resyncs, overruns };
      note("sync", "changed", () => entry);
    }
    if (unshown.length === 0) return;
    if (since < 0) since = began;
    if (!mirror.shown) return;
    const time = new Date().toISOString();
    const latencyMicros = Math.round((performance.now() - since) * 1000);
    since = -1;
    // All routes may disappear at once. Each is printed before the next is formatted.
    for (const { topic, change, entry } of unshown.splice(0)) {
      yield { topic, change, time, latencyMicros, ...entry() };
    }
  };
}
