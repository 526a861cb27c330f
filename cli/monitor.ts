/**
 * `tegula monitor`: prints what changes in the mirror of the kernel's network state as it reaches
 * netbase, in the manner of `ip monitor`; also what the kernel withdraws without a word.
 */

import { pollSet } from "../ffi/netlink.ts";
import type { Entry } from "../tiles/netlink/entries.ts";
import { interfaceText, neighborText, routeText } from "./entry_text.ts";
import { Changes, type Topic, TOPICS } from "./changes.ts";
import { command, type Given, word } from "./options.ts";
import { say } from "./output.ts";
import { openMirror } from "./snapshot.ts";

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

const OPTIONS = { json: { type: "boolean", short: "j" } } as const;

const TEXTS: { readonly [topic in Topic]: (entry: Entry) => string } = {
  interfaces: interfaceText,
  routes: routeText,
  neighbors: neighborText,
  sync: ({ state, resyncs, overruns }) => `${state} resyncs ${resyncs} overruns ${overruns}`,
};

/** The longest wait; Ctrl-C ends the process in the middle of one. */
const LONGEST_WAIT_MILLIS = 1000;

export default command({ name: "monitor", help: HELP, options: OPTIONS, positionals: 1 }, run);

/** Blocks in the wait for events, so only a signal ends it, or that nobody reads any more. */
function run({ values, positionals }: Given<typeof OPTIONS>): never {
  const [one] = positionals;
  const topics = one === undefined ? TOPICS : [word(one, { command: "monitor", allowed: TOPICS })];
  const { library, mirror, reader } = openMirror();
  const changes = new Changes(mirror, reader, topics);
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
