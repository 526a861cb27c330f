/**
 * `tegula show`: prints the interfaces, routes or neighbours as Tegula has mirrored them, in the
 * manner of `ip address`, `ip route` and `ip neighbour`; with `-j` in iproute2's JSON.
 *
 * @module
 */

import { Control, LIVE_HELP, LIVE_OPTIONS } from "./control.ts";
import { Exit, UserError } from "./errors.ts";
import { parseOptions } from "./options.ts";
import {
  type Entry,
  interfaceEntries,
  interfaceNames,
  neighborEntries,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { type Snapshot, takeSnapshot } from "./snapshot.ts";
import { interfaceText, neighborText, routeText } from "./entry_text.ts";

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
  help: { type: "boolean", short: "h" },
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

/** Lines written with one call. */
const CHUNK = 4096;

/** Prints what `args` name; returns the exit status. */
export async function show(args: string[]): Promise<number> {
  const { values, positionals } = parseOptions(args, {
    command: "show",
    options: OPTIONS,
    positionals: 1,
  });
  if (values.help) {
    console.log(HELP);
    return Exit.ok;
  }
  const what = objectNamed(positionals[0]);
  const live = values.live || values.control !== undefined;
  const entries = live
    ? (await Control.connect(values.control)).list({ do: "show", what })
    : OBJECTS[what].entries(takeSnapshot());
  if (values.json) await writeJson(entries);
  else await writeLines(entries, OBJECTS[what].text);
  return Exit.ok;
}

function* routeEntries({ writer, reader }: Snapshot): Generator<Entry> {
  const nameOf = interfaceNames(reader.interfaces);
  for (const route of writer.rib.routes()) yield routeEntry(route, nameOf);
}

function objectNamed(name: string | undefined): keyof typeof OBJECTS {
  const allowed = Object.keys(OBJECTS) as (keyof typeof OBJECTS)[];
  const found = allowed.find((each) => each === name);
  if (found !== undefined) return found;
  const what = name === undefined ? "show what?" : `cannot show '${name}':`;
  throw new UserError(`${what} ${allowed.join(", ")}`, Exit.usage);
}

type Entries = Iterable<Entry> | AsyncIterable<Entry>;

async function writeLines(entries: Entries, text: (entry: Entry) => string): Promise<void> {
  let lines: string[] = [];
  for await (const entry of entries) {
    if (lines.push(text(entry)) < CHUNK) continue;
    console.log(lines.join("\n"));
    lines = [];
  }
  if (lines.length > 0) console.log(lines.join("\n"));
}

/** One array, an entry a line, written as it comes: a full table is a million entries. */
async function writeJson(entries: Entries): Promise<void> {
  let first = true;
  const text = (entry: Entry) => {
    const line = `${first ? "[" : ","}${JSON.stringify(entry)}`;
    first = false;
    return line;
  };
  await writeLines(entries, text);
  console.log(first ? "[]" : "]");
}
