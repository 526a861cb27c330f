/**
 * `tegula monitor`: prints what changes in the mirror of the kernel's network state as it reaches
 * netbase, in the manner of `ip monitor`; also what the kernel withdraws without a word.
 */

import { pollSet } from "../ffi/netlink.ts";
import { Changes, type Topic, TOPICS } from "../tiles/netlink/changes.ts";
import type { Entry } from "../tiles/netlink/entries.ts";
import { Control, LIVE_HELP, LIVE_OPTIONS } from "./control.ts";
import { interfaceText, neighborText, routeText } from "../tiles/status/entry_text.ts";
import { Exit, UserError } from "./errors.ts";
import { command, type Given } from "./options.ts";
import { say } from "./output.ts";
import { openMirror } from "./snapshot.ts";

const HELP = `usage: tegula monitor [-j] [interfaces|routes|neighbors|sync] [--live]

Mirrors the kernel's network state as 'tegula run' does and prints each change once it is mirrored: when, and how
long it took from the moment that the kernel woke us. Without a word for what to watch, all of it. Needs
no privileges; ends with Ctrl-C.

  interfaces   and their addresses
  routes       of the tables local and main, those too that go without an event
  neighbors    and their states
  sync         whether the mirror is current, and what was read anew

  -j, --json         one JSON object a line
${LIVE_HELP}
  --help             this

A running tegula does not wait for who is slow to read: lines that are lost are counted and told.`;

const OPTIONS = {
  json: { type: "boolean", short: "j" },
  ...LIVE_OPTIONS,
} as const;

const TEXTS: { readonly [topic in Topic]: (entry: Entry) => string } = {
  interfaces: interfaceText,
  routes: routeText,
  neighbors: neighborText,
  sync: ({ state, resyncs, overruns }) => `${state} resyncs ${resyncs} overruns ${overruns}`,
};

/** The longest wait; Ctrl-C ends the process in the middle of one. */
const LONGEST_WAIT_MILLIS = 1000;

export default command({ name: "monitor", help: HELP, options: OPTIONS, positionals: 1 }, run);

async function run({ values, positionals }: Given<typeof OPTIONS>): Promise<number> {
  const topics = topicsNamed(positionals[0]);
  const print = printer(values.json === true);
  if (!values.live && values.control === undefined) followMirror(topics, print);
  const control = await Control.connect(values.control);
  await followRunning(control, topics.length === 1 ? topics[0] : undefined, print);
  return Exit.ok;
}

function topicsNamed(name: string | undefined): readonly Topic[] {
  if (name === undefined) return TOPICS;
  const found = TOPICS.filter((topic) => topic === name);
  if (found.length > 0) return found;
  throw new UserError(`cannot monitor '${name}': ${TOPICS.join(", ")}`, Exit.usage);
}

type Printer = (lines: readonly string[]) => void;

function printer(json: boolean): Printer {
  return (lines) => {
    if (lines.length > 0) say((json ? lines : lines.map(textOf)).join("\n"));
  };
}

function textOf(line: string): string {
  const { topic, change, time, latencyMicros, ...entry } = JSON.parse(line);
  const deleted = change === "removed" ? "Deleted " : "";
  const text = TEXTS[topic as Topic](entry);
  return `[${time} +${latencyMicros}us] [${topic.toUpperCase()}] ${deleted}${text}`;
}

/** Has a mirror of its own. Blocks in the wait for events, so only a signal ends it. */
function followMirror(topics: readonly Topic[], print: Printer): never {
  const { library, mirror, reader } = openMirror();
  const changes = new Changes(mirror, reader);
  changes.topics = topics.reduce((set, topic) => set | (1 << TOPICS.indexOf(topic)), 0);
  const polled = pollSet(mirror.descriptors);
  for (;;) {
    const now = performance.now();
    const work = mirror.turn(now);
    changes.turn(now);
    const { lines, lost } = changes.take(() => true);
    print(lines);
    if (lost > 0) tellLost(lost);
    if (work > 0) continue;
    const due = mirror.nextDue(now);
    const wait = due < 0 ? LONGEST_WAIT_MILLIS : Math.min(due, LONGEST_WAIT_MILLIS);
    library.wait(polled, wait);
  }
}

/** Prints what the appliance tells, until it ends. Throws UserError. */
async function followRunning(
  control: Control,
  what: Topic | undefined,
  print: Printer,
): Promise<void> {
  let told = 0;
  for await (const lines of control.lists({ do: "monitor", what })) {
    print(lines.filter((line) => line.startsWith('{"topic"')));
    for (const line of lines) {
      if (line.startsWith('{"monitoring"')) console.error("monitoring, Ctrl-C ends it");
      if (!line.startsWith('{"lost"')) continue;
      const { lost } = JSON.parse(line);
      if (lost > told) tellLost(lost - told);
      told = lost;
    }
  }
}

function tellLost(count: number): void {
  console.error(`${count} changes are lost: they came faster than they were taken`);
}
