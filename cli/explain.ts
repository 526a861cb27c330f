/**
 * `tegula explain`: tells in words what becomes of a datagram to an address, and why.
 */

import { formatAddress } from "../tiles/netlink/addresses.ts";
import { NeighborMap } from "../tiles/netlink/neighbor_map.ts";
import {
  explain as explainFlow,
  type Explanation,
  type Flow,
} from "../tiles/status/explanation.ts";
import { Control, LIVE_HELP, LIVE_OPTIONS } from "./control.ts";
import { Exit } from "./errors.ts";
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
${LIVE_HELP}
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
  const { outcome, steps } = values.live || values.control !== undefined
    ? await askRunning(await Control.connect(values.control), flow)
    : askMirror(flow);
  if (values.json) say(JSON.stringify({ outcome, steps }));
  else {
    say(`${formatAddress(flow.destination)}: ${outcome.type}`);
    for (const { about, says } of steps) say(`  ${about.padEnd(10)} ${says}`);
  }
  return Exit.ok;
}

function askMirror(flow: Flow): Explanation {
  const confirmed = new NeighborMap<number>();
  const { mirror, reader, writer: { rib } } = openMirror({
    neighbors: {
      neighborTold({ ifindex, address, confirmedMillis }) {
        confirmed.set(ifindex, address, confirmedMillis);
      },
      neighborGone() {},
    },
  });
  mirror.close();
  const age = (ifindex: number, address: number) => confirmed.get(ifindex, address) ?? -1;
  return explainFlow({ reader, rib, attached: null, confirmedMillis: age }, flow);
}

async function askRunning(control: Control, flow: Flow): Promise<Explanation> {
  const answer = await control.one({
    do: "explain",
    destination: formatAddress(flow.destination),
    ...(flow.source !== 0 && { source: formatAddress(flow.source) }),
    sport: flow.sourcePort,
    dport: flow.destinationPort,
  });
  return answer as unknown as Explanation;
}

function portOf(text: string, option: string): number {
  return wholeNumber(text, { option, least: 1, most: 65_535 });
}
