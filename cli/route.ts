/**
 * `tegula route get`: prints the route of a packet to an address, as `ip route get` does. The decision is
 * made by the function that net tiles use, over a new mirror or in a running tegula.
 */

import { parseAddress } from "../tiles/netlink/addresses.ts";
import { decisionEntry, type Entry } from "../tiles/netlink/entries.ts";
import { type Control, LIVE_OPTIONS, liveControl } from "./control.ts";
import { routeText } from "./format.ts";
import { Exit } from "./errors.ts";
import { linesOf } from "./lines.ts";
import { address, command, type Given, JSON_OPTION, say, word } from "./command.ts";
import { openMirror } from "./snapshot.ts";

const OPTIONS = {
  source: {
    type: "string",
    value: "ADDRESS",
    help: "the source address of the datagram; by default the one that would be chosen",
  },
  json: JSON_OPTION,
  ...LIVE_OPTIONS,
} as const;

/** How many addresses are answered and written together. */
const BATCH = 4096;
/** Characters of a line that are passed on. A running tegula limits the length of requests. */
const LONGEST = 256;

/** Returns a decision for each address, in order, or an object with `error` for text that is not one. */
type Answerer = (destinations: readonly string[]) => Entry[] | Promise<Entry[]>;

export default command({
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
  options: OPTIONS,
  positionals: 2,
}, run);

async function run({ values, positionals }: Given<typeof OPTIONS>): Promise<number> {
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
}

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

/** Answers the addresses on standard input. */
async function answerLines(answerer: Answerer): Promise<number> {
  let failed = false;
  let batch: string[] = [];
  async function answer(): Promise<void> {
    const entries = await answerer(batch);
    failed ||= entries.some((entry) => "error" in entry);
    if (entries.length > 0) say(entries.map((entry) => JSON.stringify(entry)).join("\n"));
    batch = [];
  }
  for await (const line of linesOf(Deno.stdin.readable)) {
    if (batch.push(line.trim().slice(0, LONGEST)) === BATCH) await answer();
  }
  await answer();
  return failed ? Exit.failure : Exit.ok;
}

function decisionText({ type, mtu, ...way }: Entry): string {
  const kind = type === "unicast" ? {} : { type };
  return routeText({ ...kind, ...way, flags: [], metrics: mtu === undefined ? [] : [{ mtu }] });
}
