/**
 * `tegula route get`: what Tegula would do with a packet to an address, decided by the very function
 * that net tiles use, over a mirror made for the purpose; printed in the manner of `ip route get`.
 *
 * @module
 */

import { parseAddress } from "../tiles/netlink/addresses.ts";
import { DecisionEntries } from "../tiles/status/decision_entry.ts";
import type { Entry } from "../tiles/status/entries.ts";
import { hopText, keywords } from "./entry_text.ts";
import { Exit, UserError } from "./errors.ts";
import { parseOptions } from "./options.ts";
import { takeSnapshot } from "./snapshot.ts";

const HELP = `usage: tegula route get ADDRESS [--source ADDRESS] [-j]

Prints where Tegula would send a datagram to ADDRESS, with the routes that the kernel has now. Needs no
privileges. The type is that of the route (unicast, local, broadcast, multicast, blackhole,
unreachable, prohibit, throw), none without a route, or unsupported for a next hop that Tegula cannot
take, such as an IPv6 gateway.

  --source ADDRESS   the address that the datagram comes from; without it the one that would be chosen
  -j, --json         JSON, with iproute2's names of fields
  --help             this`;

const OPTIONS = {
  source: { type: "string" },
  json: { type: "boolean", short: "j" },
  help: { type: "boolean", short: "h" },
} as const;

/** Runs `tegula route get`; returns the exit status. */
export function route(args: string[]): Promise<number> {
  const { values, positionals } = parseOptions(args, {
    command: "route",
    options: OPTIONS,
    positionals: 2,
  });
  if (values.help) {
    console.log(HELP);
    return Promise.resolve(Exit.ok);
  }
  const [verb, destination] = positionals;
  if (verb !== "get") {
    const what = verb === undefined ? "route what?" : `cannot route '${verb}':`;
    throw new UserError(`${what} get ADDRESS`, Exit.usage);
  }
  const question = {
    destination: addressOf(destination, "the address to route to"),
    source: values.source === undefined ? 0 : addressOf(values.source, "--source"),
  };
  const { reader } = takeSnapshot();
  const entry = new DecisionEntries(reader).entry(question.destination, question.source);
  console.log(values.json ? JSON.stringify(entry) : decisionText(entry));
  return Promise.resolve(Exit.ok);
}

function addressOf(text: string | undefined, what: string): number {
  const address = parseAddress(text ?? "");
  if (address >= 0) return address;
  const given = text === undefined ? "is missing" : `is no IPv4 address: '${text}'`;
  throw new UserError(`${what} ${given} (such as 192.0.2.1)`, Exit.usage);
}

function decisionText(entry: Entry): string {
  const words = [
    ...entry.type === "unicast" ? [] : [entry.type],
    entry.dst,
    ...keywords(entry, [["gateway", "via"], ["dev", "dev"], ["prefsrc", "src"], ["mtu", "mtu"]]),
  ];
  const hops = (entry.nexthops as Entry[] | undefined) ?? [];
  return [words.join(" "), ...hops.map((hop) => `\tnexthop ${hopText(hop)}`)].join("\n");
}
