/**
 * `tegula show`: prints the interfaces, routes or neighbours of a mirror, as `ip address`, `ip route` and
 * `ip neighbour` do. With `-j` it prints iproute2's JSON.
 */

import { LIVE_OPTIONS, liveControl } from "./control.ts";
import { Exit } from "./errors.ts";
import { command, type Given, JSON_OPTION, say, word } from "./command.ts";
import {
  type Entry,
  interfaceEntries,
  interfaceNames,
  neighborEntries,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { openMirror, type Snapshot } from "./snapshot.ts";
import { interfaceText, neighborText, routeText } from "./format.ts";

const OPTIONS = { json: JSON_OPTION, ...LIVE_OPTIONS } as const;

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

/** How many entries are written by one call. */
const BATCH = 4096;

export default command({
  name: "show",
  usage: ["interfaces|routes|neighbors [-j] [--live]"],
  about:
    "Mirrors the kernel's network state as 'tegula run' does, and prints it. Needs no privileges.",
  words: {
    interfaces: "with their IPv4 addresses, as 'ip address' prints them",
    routes: "of the tables local and main, as 'ip route show table all' prints them",
    neighbors:
      "also those without a MAC address, as 'ip neighbour' prints them; a running tegula " +
      "has those of the interfaces that it sends by",
  },
  options: OPTIONS,
  positionals: 1,
}, run);

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
 * Writes entries as they come, a batch by one call, since a full table has a million of them. JSON is one
 * array with an entry a line.
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
