/**
 * `tegula explain`: tells in words what becomes of a datagram to an address, and why.
 *
 * @module
 */

import { formatAddress, parseAddress } from "../tiles/netlink/addresses.ts";
import { NeighborMap } from "../tiles/netlink/neighbor_map.ts";
import { Exit, UserError } from "./errors.ts";
import { explain as explainFlow } from "./explanation.ts";
import { parseOptions, wholeNumber } from "./options.ts";
import { openMirror } from "./snapshot.ts";

const HELP = `usage: tegula explain ADDRESS [--source ADDRESS] [--sport PORT] [--dport PORT] [-j]

Tells what becomes of a datagram to ADDRESS, with the routes and neighbours that the kernel has now: which route is
taken and why no other, which hop of several for this flow, the neighbour and its state, and the headers, or
why it is dropped and the command that shows the cause. Needs no privileges.

  --source ADDRESS   the address that it comes from; without it the one that would be chosen
  --sport PORT       the port that it comes from (7), and
  --dport PORT       goes to (50000): with the addresses they choose the hop
  -j, --json         JSON
  --help             this`;

const OPTIONS = {
  source: { type: "string" },
  sport: { type: "string", default: "7" },
  dport: { type: "string", default: "50000" },
  json: { type: "boolean", short: "j" },
  help: { type: "boolean", short: "h" },
} as const;

/** Runs `tegula explain`; returns the exit status. */
export function explain(args: string[]): Promise<number> {
  const { values, positionals } = parseOptions(args, {
    command: "explain",
    options: OPTIONS,
    positionals: 1,
  });
  if (values.help) {
    console.log(HELP);
    return Promise.resolve(Exit.ok);
  }
  const flow = {
    destination: addressOf(positionals[0], "the address to explain"),
    source: values.source === undefined ? 0 : addressOf(values.source, "--source"),
    sourcePort: portOf(values.sport, "sport"),
    destinationPort: portOf(values.dport, "dport"),
  };
  const confirmed = new NeighborMap<number>();
  const live = openMirror({
    neighbors: {
      neighborTold({ ifindex, address, confirmedMillis }) {
        confirmed.set(ifindex, address, confirmedMillis);
      },
      neighborGone() {},
    },
  });
  live.mirror.close();
  const { outcome, steps } = explainFlow(
    { ...live, confirmedMillis: (ifindex, address) => confirmed.get(ifindex, address) ?? -1 },
    flow,
  );
  if (values.json) console.log(JSON.stringify({ outcome, steps }));
  else {
    console.log(`${formatAddress(flow.destination)}: ${outcome.type}`);
    for (const { about, says } of steps) console.log(`  ${about.padEnd(10)} ${says}`);
  }
  return Promise.resolve(Exit.ok);
}

function addressOf(text: string | undefined, what: string): number {
  const address = parseAddress(text ?? "");
  if (address >= 0) return address;
  const given = text === undefined ? "is missing" : `is no IPv4 address: '${text}'`;
  throw new UserError(`${what} ${given} (such as 192.0.2.1)`, Exit.usage);
}

function portOf(text: string, option: string): number {
  return wholeNumber(text, { option, least: 1, most: 65_535 });
}
