/**
 * `tegula show`: prints the interfaces, routes or neighbours as Tegula has mirrored them, in the
 * manner of `ip address`, `ip route` and `ip neighbour`; with `-j` in iproute2's JSON.
 */

import { LIVE_HELP, LIVE_OPTIONS, liveControl } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, type Given, say, word } from "./command.ts";
import {
  type Entry,
  interfaceEntries,
  interfaceNames,
  neighborEntries,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { openMirror, type Snapshot } from "./snapshot.ts";
import { interfaceText, neighborText, routeText } from "./format.ts";

const HELP = `usage: tegula show interfaces|routes|neighbors [-j] [--live]

Mirrors the kernel's network state as 'tegula run' does, prints it and ends. Needs no privileges.

  interfaces         with their IPv4 addresses, as 'ip address' prints them
  routes             of the tables local and main, as 'ip route show table all' prints them
  neighbors          with a MAC address or without, as 'ip neighbour' prints them; a running tegula
                     keeps those of the interfaces that it sends by

  -j, --json         JSON, with iproute2's names of fields
${LIVE_HELP}
  --help             this`;

const OPTIONS = {
  json: { type: "boolean", short: "j" },
  ...LIVE_OPTIONS,
} as const;

/** What can be shown. */
const OBJECTS = {
  interfaces: {
    entries: ({ reader }: Snapshot): Iterable<Entry> => interfaceEntries(reader),
    text: interfaceText,
  },
  routes: { entries: routeEntries, text: routeText },
  neighbors: {
    entries: ({ reader }: Snapshot): Iterable<Entry> => neighborEntries(reader),
    text: neighborText,
  },
} as const;

/** Entries written with one call. */
const BATCH = 4096;

export default command({ name: "show", help: HELP, options: OPTIONS, positionals: 1 }, run);

async function run({ values, positionals }: Given<typeof OPTIONS>): Promise<number> {
  const allowed = ["interfaces", "routes", "neighbors"] as const;
  const what = word(positionals[0], { command: "show", allowed });
  const { entries, text } = OBJECTS[what];
  const json = values.json === true;
  const control = await liveControl(values);
  if (control !== null) {
    const asText = (line: string) => text(JSON.parse(line));
    await print(control.lists({ do: "show", what }), json, json ? (line) => line : asText);
  } else {
    await print(batches(entries(openMirror())), json, json ? JSON.stringify : text);
  }
  return Exit.ok;
}

function* routeEntries({ writer, reader }: Snapshot): Generator<Entry> {
  const nameOf = interfaceNames(reader.interfaces);
  for (const route of writer.rib.routes()) yield routeEntry(route, nameOf);
}

function* batches(entries: Iterable<Entry>): Generator<Entry[]> {
  let batch: Entry[] = [];
  for (const entry of entries) {
    if (batch.push(entry) < BATCH) continue;
    yield batch;
    batch = [];
  }
  yield batch;
}

/**
 * Writes entries as they come, a batch with one call: a full table is a million of them. In JSON it is one
 * array, an entry a line.
 */
async function print<Item>(
  batches: Iterable<Item[]> | AsyncIterable<Item[]>,
  json: boolean,
  text: (item: Item) => string,
): Promise<void> {
  let first = true;
  for await (const batch of batches) {
    if (batch.length === 0) continue;
    const lines = batch.map((item) => text(item));
    say(json ? `${first ? "[" : ","}${lines.join("\n,")}` : lines.join("\n"));
    first = false;
  }
  if (json) say(first ? "[]" : "]");
}
