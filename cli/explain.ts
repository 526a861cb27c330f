/**
 * `tegula explain`: tells in words what becomes of a datagram to an address, and why.
 */

import { formatAddress } from "../tiles/netlink/addresses.ts";
import { NeighborMap } from "../tiles/netlink/neighbor_map.ts";
import { LIVE_OPTIONS, liveControl } from "./control.ts";
import { Exit } from "./errors.ts";
import { explain, type Explanation, type Flow } from "./explanation.ts";
import { address, command, type Given, wholeNumber } from "./options.ts";
import { say } from "./output.ts";
import { openMirror } from "./snapshot.ts";

const HELP =
  `usage: tegula explain ADDRESS [--source ADDRESS] [--sport PORT] [--dport PORT] [-j] [--live]

Tells what becomes of a datagram to ADDRESS, with the routes and neighbours that the kernel has now: which route is
taken and why no other, which hop of several for this flow, the neighbour and its state, and the headers, or
why it is dropped and the command that shows the cause. Needs no privileges.

  --source ADDRESS   the address that it comes from; without it the one that would be chosen
  --sport PORT       the port that it comes from (7), and
  --dport PORT       goes to (50000): with the addresses they choose the hop
  -j, --json         JSON
  --live             by the interfaces that the running tegula has; without it by all that have
                     Ethernet headers
  --control PATH     the same, of the one with this control socket
  --help             this`;

const OPTIONS = {
  source: { type: "string" },
  sport: { type: "string", default: "7" },
  dport: { type: "string", default: "50000" },
  json: { type: "boolean", short: "j" },
  ...LIVE_OPTIONS,
} as const;

export default command({ name: "explain", help: HELP, options: OPTIONS, positionals: 1 }, run);

async function run({ values, positionals }: Given<typeof OPTIONS>): Promise<number> {
  const flow = {
    destination: address(positionals[0], "the address to explain"),
    source: values.source === undefined ? 0 : address(values.source, "--source"),
    sourcePort: portOf(values.sport, "sport"),
    destinationPort: portOf(values.dport, "dport"),
  };
  const running = await liveControl(values);
  const attached = (await running?.one({ do: "status" }))?.interfaces as string[] | undefined;
  const { outcome, steps } = ask(flow, attached ?? null);
  if (values.json) say(JSON.stringify({ outcome, steps }));
  else {
    say(`${formatAddress(flow.destination)}: ${outcome.type}`);
    for (const { about, says } of steps) say(`  ${about.padEnd(10)} ${says}`);
  }
  return Exit.ok;
}

function ask(flow: Flow, attached: readonly string[] | null): Explanation {
  const confirmed = new NeighborMap<number>();
  const { reader, writer: { rib } } = openMirror({
    neighbors: {
      neighborChanged({ ifindex, address, confirmedMillis }) {
        confirmed.set(ifindex, address, confirmedMillis);
      },
      neighborRemoved() {},
    },
  });
  const age = (ifindex: number, address: number) => confirmed.get(ifindex, address) ?? -1;
  return explain({ reader, rib, attached, confirmedMillis: age }, flow);
}

function portOf(text: string, option: string): number {
  return wholeNumber(text, { option, least: 1, most: 65_535 });
}
