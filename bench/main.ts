// SPDX-License-Identifier: Apache-2.0
/**
 * `deno task bench [NAME]… [--json]`: runs the named benchmarks, by default all. With `--json` it prints one object a
 * line and nothing else to stdout; without it, a table and a line about the machine.
 */

import { parseArgs } from "node:util";
import { wholeNumber } from "../cli/command.ts";
import { ROOT } from "../ffi/library.ts";
import { machine } from "../scripts/machine.ts";
import {
  AGAINST_OPTIONS,
  type AgainstOptions,
  againstOptions,
  compare,
  MINUTES,
  ROUNDS,
  type Row,
  tableOf,
} from "./against.ts";
import { isWanted, type Report, type Result, type Selection } from "./harness.ts";

const USAGE =
  `usage: deno task bench [netbase] [path] [echo] [dns] [mirror] [solicit] [collide] [handover]
                       [anycast] [memory] [library] [balance] [ntp] [stun] [OPTIONS]

  netbase   nanoseconds per lookup in the tables that net tiles read
  path      nanoseconds per packet through parse, resolve and headers, frames in memory
  echo      packets per second and round trips over a veth pair, beside C, Node, Deno and Bun; the
            same with many peers, ports and routes; the appliance when idle (as root)
  dns       queries per second over a veth pair, and their cost, beside a name server in C (as root)
  mirror    events and routes per second from the kernel to netbase, latency, memory (as root)
  solicit   what a flood of made-up addresses costs the netlink tile and who it serves (as root)
  collide   nanoseconds per use of each table whose keys strangers choose, by keys made to collide
  handover  what clients see of every kind of change and death of a part, by a client that counts each
            answer, at 1,000 requests a second and at half of the maximum (as root)
  anycast   what clients lose when something is done, or happens, to one of three hosts behind a router with
            BGP and ECMP, at 3,000 requests a second (as root, with BIRD)
  memory    of the program and of each app more, and how long a start takes (as root)
  library   nanoseconds per operation of what authors of apps import, beside V8's Map
  balance   datagrams per second and round trips through the load balancer, beside others (as root)
  ntp       offset, jitter and delay of this host's clock as chronyd sees them, beside those of chronyd's
            own server (as root)
  stun      binding requests per second and round trips with 1, 32 and 256 in flight: an app in each
            form and placement, beside Node, Deno and Bun (as root)
  --json    one object a line
  --only REGEX     only cases whose name matches; echo, dns and mirror then skip what those do not need
  --peers A,B      echo and dns: only beside these
  --runs N         echo and dns: rounds that count; handover, anycast, memory: runs of each case
  --seconds N      echo: seconds of \`idle cpu\` and of the loads of \`echo gc\`
  --against REF    this tree beside another commit, which is built in a temporary work tree: the two
                   take turns, figures of a round are a pair; a ratio above 1: this tree is better
  --patch FILE     a change that the other commit needs to run
  --rounds N       rounds at most (${ROUNDS}); with six or more the interval has 95 % certainty
  --minutes N      minutes that each benchmark may take (${MINUTES}); it has fewer rounds then`;

interface Bench {
  run(report: Report, selection: Selection): Promise<void>;
  /** Prints all results as a table, if single rows would be hard to read. */
  tableOf?(results: readonly Result[]): string;
}

/** The benchmarks by name. Each is loaded on its own, so that a broken one does not stop the others. */
const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  netbase: () => import("./netbase.ts"),
  path: () => import("./path.ts"),
  echo: () => import("./echo.ts"),
  dns: () => import("./dns.ts"),
  mirror: () => import("./mirror.ts"),
  solicit: () => import("./solicit.ts"),
  collide: () => import("./collide.ts"),
  handover: () => import("./handover.ts"),
  anycast: () => import("./anycast.ts"),
  memory: () => import("./memory.ts"),
  library: () => import("./library.ts"),
  balance: () => import("./balance.ts"),
  ntp: () => import("./ntp.ts"),
  stun: () => import("./stun.ts"),
};

/** One line about the machine. */
function machineText(): string {
  const { cpu, cores, pku, clocksource, kernel, deno, v8 } = machine();
  return `${cores} × ${cpu} (pku ${pku}, clocksource ${clocksource}), ` +
    `Linux ${kernel}, Deno ${deno}, V8 ${v8}`;
}

function printHuman(result: Result): void {
  const figures = [["tegula", result.tegula] as const, ...Object.entries(result.peers)];
  console.log(`${result.bench}  ${result.case}  (${result.unit}, median of ${result.runs})`);
  for (const [name, figure] of figures) {
    const ratio = name === "tegula"
      ? `spread ${(result.spread * 100).toFixed(0)} %`
      : ratioOf(result, name);
    console.log(`  ${name.padEnd(16)} ${figure.toFixed(1).padStart(10)}   ${ratio}`);
  }
}

/** Tegula's ratio to a peer: the median, and its interval. */
function ratioOf({ ratio, ratioLow, ratioHigh }: Result, name: string): string {
  if (!(name in ratio)) return "";
  const [middle, low, high] = [ratio, ratioLow, ratioHigh].map((all) => all[name].toFixed(2));
  return `tegula is ${middle} × (${low} to ${high})`;
}

function printJson(result: Result): void {
  console.log(JSON.stringify(result));
}

/** The selection by the options. Throws Error if they contradict. */
function selectionOf(values: Partial<Record<keyof Selection, string>>): Selection {
  const { only, peers, runs, seconds } = values;
  if (only !== undefined) new RegExp(only);
  const whole = (value: string, option: string, most: number) =>
    wholeNumber(value, { option, least: 1, most });
  return {
    ...(only !== undefined && { only }),
    ...(peers !== undefined && { peers: peers.split(",") }),
    ...(runs !== undefined && { runs: whole(runs, "runs", 1000) }),
    ...(seconds !== undefined && { seconds: whole(seconds, "seconds", 60) }),
  };
}

/** Compares the benchmarks `names` with another commit. */
async function mainAgainst(
  names: readonly string[],
  { against, selection, json }: {
    readonly against: AgainstOptions;
    readonly selection: Selection;
    readonly json: boolean;
  },
): Promise<number> {
  const { only, runs = 1, seconds } = selection;
  const args = [
    ...["--runs", String(runs), "--peers", "none"],
    ...(only === undefined ? [] : ["--only", only]),
    ...(seconds === undefined ? [] : ["--seconds", String(seconds)]),
  ];
  await compare(names, {
    ...against,
    ...{ root: ROOT, args },
    begin({ own, other, note }) {
      if (json) return console.log(JSON.stringify({ ...machine(), commit: own, against: other }));
      console.log(`${machineText()}\nthis tree: ${own}; against: ${other}`);
      if (note !== "") console.log(note);
    },
    report(rows: readonly Row[], other: string) {
      if (json) rows.forEach((row) => console.log(JSON.stringify(row)));
      else console.log(`\n${tableOf(rows, other)}`);
    },
    progress: (line) => console.error(line),
  });
  return 0;
}

async function main(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
      only: { type: "string" },
      peers: { type: "string" },
      runs: { type: "string" },
      seconds: { type: "string" },
      ...AGAINST_OPTIONS,
    },
  });
  let selection: Selection;
  let against: AgainstOptions | null;
  try {
    selection = selectionOf(values);
    against = againstOptions(values);
  } catch (error) {
    console.error((error as Error).message);
    return 2;
  }
  const print = values.json ? printJson : printHuman;
  const report: Report = (result) => isWanted(result.case, selection) && print(result);
  const unknown = positionals.filter((name) => !(name in BENCHES));
  if (values.help || unknown.length > 0) {
    if (unknown.length > 0) console.error(`no benchmark is called ${unknown.join(", ")}`);
    console.error(USAGE);
    return values.help ? 0 : 2;
  }
  const names = positionals.length > 0 ? positionals : Object.keys(BENCHES);
  if (against !== null) {
    return await mainAgainst(names, { against, selection, json: values.json ?? false });
  }
  if (!values.json) console.log(machineText());
  let status = 0;
  for (const name of names) {
    try {
      const bench = await BENCHES[name]();
      const results: Result[] = [];
      const tabled = bench.tableOf !== undefined && !values.json;
      try {
        await bench.run(tabled ? (result) => results.push(result) : report, selection);
      } finally {
        if (tabled) console.log(bench.tableOf!(results));
      }
    } catch (error) {
      console.error(`${name}: ${error instanceof Error ? error.message : error}`);
      status = 1;
    }
  }
  return status;
}

try {
  Deno.exit(await main(Deno.args));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  Deno.exit(1);
}
