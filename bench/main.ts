/**
 * `deno task bench [NAME]… [--json]`: runs the benchmarks named, or all of them. With `--json` one
 * object a line and nothing else on stdout; without it a table, and a line on the machine, since a
 * figure without its machine says little.
 */

import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { wholeNumber } from "../cli/options.ts";
import { isWanted, type Report, type Result, type Selection } from "./harness.ts";

const USAGE =
  `usage: deno task bench [netbase] [path] [echo] [dns] [mirror] [solicit] [collide] [OPTIONS]

  netbase   nanoseconds per lookup in the tables that net tiles read
  path      nanoseconds per packet through parse, resolve and headers, frames in memory
  echo      packets per second and round trips over a veth pair, beside C, Node, Deno and Bun; the
            same with many peers, ports and routes; the appliance when idle (as root)
  dns       queries per second over a veth pair, and their cost, beside a name server in C (as root)
  mirror    events and routes per second from the kernel to netbase, latency, memory (as root)
  solicit   what a flood of made-up addresses costs the netlink tile and who it serves (as root)
  collide   nanoseconds per use of each table whose keys strangers choose, by keys made to collide
  --json    one object a line
  --only REGEX     only cases whose name matches; echo and dns then skip what those do not need
  --peers A,B      echo and dns: only beside these
  --runs N         echo and dns: rounds that count
  --seconds N      echo: seconds of \`idle cpu\` and of the loads of \`echo gc\``;

interface Bench {
  run(report: Report, selection: Selection): Promise<void>;
}

/** The benchmarks by name. Loaded when asked for: one that cannot load does not stop the others. */
const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  netbase: () => import("./netbase.ts"),
  path: () => import("./path.ts"),
  echo: () => import("./echo.ts"),
  dns: () => import("./dns.ts"),
  mirror: () => import("./mirror.ts"),
  solicit: () => import("./solicit.ts"),
  collide: () => import("./collide.ts"),
};

/** One line on where the figures come from. */
function machine(): string {
  const processors = cpus();
  return `${processors.length} × ${processors[0]?.model.trim() ?? "unknown processor"}, ` +
    `Linux ${Deno.osRelease()}, Deno ${Deno.version.deno}, V8 ${Deno.version.v8}`;
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

/** How Tegula stands to a peer: the median of ratios, and the interval that it is in. */
function ratioOf({ ratio, ratioLow, ratioHigh }: Result, name: string): string {
  if (!(name in ratio)) return "";
  const [middle, low, high] = [ratio, ratioLow, ratioHigh].map((all) => all[name].toFixed(2));
  return `tegula is ${middle} × (${low} to ${high})`;
}

function printJson(result: Result): void {
  console.log(JSON.stringify(result));
}

/** What the options select. Throws Error when they do not make sense. */
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
    },
  });
  let selection: Selection;
  try {
    selection = selectionOf(values);
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
  if (!values.json) console.log(machine());
  let status = 0;
  for (const name of positionals.length > 0 ? positionals : Object.keys(BENCHES)) {
    try {
      const bench = await BENCHES[name]();
      await bench.run(report, selection);
    } catch (error) {
      console.error(`${name}: ${error instanceof Error ? error.message : error}`);
      status = 1;
    }
  }
  return status;
}

Deno.exit(await main(Deno.args));
