// SPDX-License-Identifier: Apache-2.0
/**
 * `tegula show`: prints the interfaces, routes or neighbours of a mirror, as `ip address`, `ip route` and
 * `ip neighbour` do. With `-j` it prints iproute2's JSON.
 */

import { parseAddress } from "../netbase/route.ts";
import {
  decisionEntry,
  type Entry,
  interfaceEntries,
  interfaceNames,
  neighborEntries,
  routeEntry,
} from "../tiles/netlink/entries.ts";
import { address, command, Exit, JSON_OPTION, lineBatches, say, word } from "./command.ts";
import { type Control, LIVE_OPTIONS, liveControl } from "./control.ts";
import { routeText, TEXTS } from "./format.ts";
import { openMirror, type Snapshot } from "./snapshot.ts";

const ENTRIES: Record<keyof typeof TEXTS, (mirror: Snapshot) => Iterable<Entry>> = {
  interfaces: ({ reader }) => interfaceEntries(reader),
  routes: routeEntries,
  neighbors: ({ reader }) => neighborEntries(reader),
};

/** How many entries are written by one call. */
const BATCH = 4096;

export const show = command({
  name: "show",
  usage: ["interfaces|routes|neighbors [-j] [--live]"],
  about:
    "Mirrors the kernel's network state as 'tegula run' does, and prints it. Needs no privileges.",
  words: {
    interfaces: "with their IPv4 addresses, as 'ip address' prints them",
    routes: "of the tables local and main, as 'ip route show table all' prints them",
    neighbors:
      "also those without a MAC address, as 'ip neighbour' prints them; a running tegula only " +
      "has those of the interfaces on which it sends",
  },
  options: { json: JSON_OPTION, ...LIVE_OPTIONS },
  positionals: 1,
}, async ({ values, positionals }) => {
  const allowed = ["interfaces", "routes", "neighbors"] as const;
  const what = word(positionals[0], { command: "show", allowed });
  const text = TEXTS[what];
  const json = values.json === true;
  const control = await liveControl(values);
  if (control !== null) {
    const asText = (line: string) => text(JSON.parse(line));
    await print(control.lists({ do: "show", what }), json, json ? (line) => line : asText);
  } else {
    await print(batches(ENTRIES[what](openMirror())), json, json ? JSON.stringify : text);
  }
  return Exit.ok;
});

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
 * Writes entries as they arrive, one call for each batch, since a full table has a million entries.
 * JSON is one array with one entry per line.
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

// `tegula route`: prints the route of a packet.

/** The most characters of a line that are sent. A running tegula limits the length of requests. */
const LONGEST = 256;

/** Returns a decision for each address, in order, or an object with `error` for text that is not one. */
type Answerer = (destinations: readonly string[]) => Entry[] | Promise<Entry[]>;

export const route = command({
  name: "route",
  usage: ["get ADDRESS [--source ADDRESS] [-j] [--live]", "get - [--source ADDRESS] [--live]"],
  about:
    `Prints where Tegula would send a datagram to ADDRESS, by the routes that the kernel has now. Needs
no privileges. The type is that of the route (unicast, local, broadcast, multicast, blackhole, unreachable,
prohibit, throw), "none" without a route, or "unsupported" for a next hop that Tegula cannot use, for example
an IPv6 gateway.

With '-' instead of ADDRESS, reads addresses from standard input, one a line, and prints a line of JSON for
each.`,
  words: { get: "as 'ip route get'" },
  options: {
    source: {
      type: "string",
      value: "ADDRESS",
      help: "the source address of the datagram; by default the one that Tegula would choose",
    },
    json: JSON_OPTION,
    ...LIVE_OPTIONS,
  },
  positionals: 2,
}, async ({ values, positionals }) => {
  const [verb, destination] = positionals;
  word(verb, { command: "route", allowed: ["get"] });
  if (destination !== "-") address(destination, "the address to route to");
  if (values.source !== undefined) address(values.source, "--source");
  const running = await liveControl(values);
  const answerer = running === null ? askMirror(values.source) : askRunning(running, values.source);
  if (destination === "-") return await answerLines(answerer);
  const [entry] = await answerer([destination]);
  say(values.json ? JSON.stringify([entry]) : decisionText(entry));
  return Exit.ok;
});

function askMirror(source: string | undefined): Answerer {
  const { reader } = openMirror();
  const from = source === undefined ? 0 : parseAddress(source);
  return (destinations) =>
    destinations.map((text) => {
      const to = parseAddress(text);
      return to < 0
        ? { error: `no IPv4 address: ${JSON.stringify(text)}` }
        : decisionEntry(reader, to, from);
    });
}

function askRunning(control: Control, source: string | undefined): Answerer {
  return (destinations) =>
    control.each(destinations.map((destination) => ({ do: "route", destination, source })));
}

async function answerLines(answerer: Answerer): Promise<number> {
  let failed = false;
  for await (const lines of lineBatches(Deno.stdin.readable)) {
    const entries = await answerer(lines.map((line) => line.trim().slice(0, LONGEST)));
    failed ||= entries.some((entry) => "error" in entry);
    say(entries.map((entry) => JSON.stringify(entry)).join("\n"));
  }
  return failed ? Exit.failure : Exit.ok;
}

function decisionText({ type, mtu, ...way }: Entry): string {
  const kind = type === "unicast" ? {} : { type };
  return routeText({ ...kind, ...way, flags: [], metrics: mtu === undefined ? [] : [{ mtu }] });
}
